"""How things stood before a registration or a placement, and back there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from SphericalRegLib.mrml.belongings import Lying, carry, lying_in, put_back
from SphericalRegLib.mrml.detector import PlacedCamera, is_mirrored, placed_camera, set_image
from SphericalRegLib.mrml.matrices import from_vtk, to_vtk
from SphericalRegLib.mrml.provenance import pair_of, refer
from SphericalRegLib.mrml.removing import remove
from SphericalRegLib.mrml.voxels import voxels

from .choices import SCENE


@dataclass(frozen=True)
class Said:
    """Attributes and description of a node, and the CT and the X-ray that it is of."""

    attributes: dict[str, str]
    description: str | None
    pair: tuple[Any, Any]


@dataclass(frozen=True, eq=False)
class Stood:
    """A transform node as it was: its own parent, its toParent matrix (4, 4), what it said of itself, and whether its handles were shown."""

    node: Any
    parent_id: str | None
    to_parent: np.ndarray
    said: Said
    handles: bool


@dataclass(frozen=True, eq=False)
class Image:
    """An image on a placed detector as it was."""

    node: Any
    parent_id: str | None
    pixels: np.ndarray
    placed: PlacedCamera
    mirrored: bool
    said: Said


@dataclass(frozen=True, eq=False)
class Before:
    """CT, transform, placed X-ray, DRR, table and chosen start before a registration or a placement; None for nodes that were made by it."""

    ct: Any
    ct_parent_id: str | None
    transform: Stood | None
    xray: Image | None
    drr: Image | None
    placed_from: Any
    table: Any
    initial: str
    along: tuple[Lying, ...]


def stand(ct: Any, parameters: Any) -> Before:
    """How a CT and the nodes of a parameter node stand now."""
    transform = parameters.outputTransform
    stood = None
    if transform is not None:
        matrix = to_vtk(np.eye(4))
        transform.GetMatrixTransformToParent(matrix)
        stood = Stood(transform, transform.GetTransformNodeID(), from_vtk(matrix), _said(transform), handles_shown(transform))
    images = _image(parameters.placedXray), _image(parameters.drrVolume)
    kept = parameters.placedFrom, parameters.framesTable, parameters.initial
    return Before(ct, ct.GetTransformNodeID(), stood, *images, *kept, lying_in(ct, belongings(ct, parameters)))


def go_back(before: Before, parameters: Any, made: Sequence[Any]) -> None:
    """Restore what there was, and remove `made`, the nodes that were made since: others may be chosen by now. What belongs to the CT goes along."""
    scene = slicer.mrmlScene
    lying = lying_in(before.ct, {*belongings(before.ct, parameters), *(each.node for each in before.along)})
    with slicer.util.NodeModify(parameters):
        for name, was in (("outputTransform", before.transform), ("placedXray", before.xray), ("drrVolume", before.drr)):
            setattr(parameters, name, was.node if was is not None and scene.IsNodePresent(was.node) else None)
        for name, node in (("placedFrom", before.placed_from), ("framesTable", before.table)):
            setattr(parameters, name, node if node is not None and scene.IsNodePresent(node) else None)
        if parameters.initial == SCENE:  # what was placed is the start no more; another one is the user's choice since
            parameters.initial = before.initial
    if before.transform is not None and scene.IsNodePresent(before.transform.node):
        before.transform.node.SetAndObserveTransformNodeID(before.transform.parent_id)
        before.transform.node.SetMatrixTransformToParent(to_vtk(before.transform.to_parent))
        _say(before.transform.node, before.transform.said)
        show_handles(before.transform.node, before.transform.handles)
    if scene.IsNodePresent(before.ct):
        before.ct.SetAndObserveTransformNodeID(before.ct_parent_id)
        carry(before.ct, lying)
        home = {each.node.GetID() for each in lying if each.at_home}  # what was moved by hand since stays where it is
        put_back(each for each in before.along if scene.IsNodePresent(each.node) and each.node.GetID() in home)
    for image in (before.xray, before.drr):
        if image is not None and scene.IsNodePresent(image.node):
            image.node.SetAndObserveTransformNodeID(image.parent_id)
            set_image(image.node, image.pixels, image.placed, mirrored=image.mirrored)
            _say(image.node, image.said)
    for node in reversed(made):  # images first: they may hang under the transform
        if scene.IsNodePresent(node):
            remove(scene, node)


def belongings(ct: Any, parameters: Any) -> tuple[Any, ...]:
    """What is chosen with a CT and stays with it where it goes: the node of its bones and the points in it; either may be None."""
    return (parameters.partsNode, parameters.ctPoints) if parameters.ctVolume is ct else ()


def handles_shown(transform: Any) -> bool:
    """Whether a transform node can be moved by hand in the views."""
    display = transform.GetDisplayNode()
    return display is not None and bool(display.GetEditorVisibility())


def show_handles(transform: Any, shown: bool) -> None:
    """Let a transform node be moved by hand in the views, or not."""
    if shown and transform.GetDisplayNode() is None:
        transform.CreateDefaultDisplayNodes()
    if transform.GetDisplayNode() is not None:
        transform.GetDisplayNode().SetEditorVisibility(shown)


def _image(node: Any) -> Image | None:
    placed = None if node is None else placed_camera(node)
    return None if placed is None else Image(node, node.GetTransformNodeID(), voxels(node)[0].copy(), placed, is_mirrored(node), _said(node))


def _said(node: Any) -> Said:
    return Said({name: node.GetAttribute(name) for name in node.GetAttributeNames()}, node.GetDescription(), pair_of(node))


def _say(node: Any, said: Said) -> None:
    for name in [name for name in node.GetAttributeNames() if name not in said.attributes]:
        node.RemoveAttribute(name)
    for name, value in said.attributes.items():
        node.SetAttribute(name, value)
    node.SetDescription(said.description)
    refer(node, *said.pair)
