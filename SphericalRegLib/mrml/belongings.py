"""What goes where a CT goes: the bones and the points that belong to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .matrices import placed_in, to_vtk


@dataclass(frozen=True, eq=False)
class Lying:
    """How a node lies in a CT: `ct_from_node` (4, 4), from the node's own frame to the CT's; and under which transform, by its ID."""

    node: Any
    ct_from_node: np.ndarray
    parent_id: str | None

    @property
    def at_home(self) -> bool:
        """Whether both frames are the same."""
        return np.allclose(self.ct_from_node, np.eye(4), rtol=0, atol=1e-6)


def lying_in(ct: Any, nodes: Iterable[Any]) -> tuple[Lying, ...]:
    """How nodes lie in a CT as the scene shows both, to be asked before the CT is moved.

    Args:
        ct: the CT's node.
        nodes: a segmentation, a label map, markups; None, and what is under a transform that is not linear, is left out.

    Returns:
        Of the nodes, and of those segmentations that were drawn on the CT and share its frame: they would be left behind unnoticed.
    """
    if ct.GetScene() is None or not _is_linear(ct):
        return ()
    given = {node.GetID(): node for node in nodes if node is not None and node.GetScene() is ct.GetScene()}
    drawn = {node.GetID(): node for node in _drawn_on(ct)}
    lying = [Lying(node, placed_in(ct, node), node.GetTransformNodeID()) for node in {**drawn, **given}.values() if _is_linear(node)]
    return tuple(each for each in lying if each.at_home or each.node.GetID() in given)


def carry(ct: Any, lying: Iterable[Lying]) -> None:
    """Bring nodes along to where the CT was moved: under its parent, and into its own frame.

    A node that had another frame is changed as hardening changes it: where its voxels or points are, never what they are.
    """
    for each in lying:
        if not each.at_home:
            each.node.ApplyTransformMatrix(to_vtk(each.ct_from_node))
        each.node.SetAndObserveTransformNodeID(ct.GetTransformNodeID())


def put_back(lying: Iterable[Lying]) -> None:
    """The inverse of `carry` for nodes that had another frame than their CT, and have its frame now: they lie as they lay, under what they were."""
    for each in lying:
        if not each.at_home:
            each.node.ApplyTransformMatrix(to_vtk(np.linalg.inv(each.ct_from_node)))
            each.node.SetAndObserveTransformNodeID(each.parent_id)


def _drawn_on(ct: Any) -> list[Any]:
    """The segmentations whose source volume is the CT, as Slicer keeps it with them."""
    scene, kind = ct.GetScene(), "vtkMRMLSegmentationNode"
    nodes = [scene.GetNthNodeByClass(number, kind) for number in range(scene.GetNumberOfNodesByClass(kind))]
    return [node for node in nodes if node.GetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole()) == ct.GetID()]


def _is_linear(node: Any) -> bool:
    parent = node.GetParentTransformNode()
    return parent is None or bool(parent.IsTransformToWorldLinear())
