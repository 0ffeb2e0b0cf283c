"""Where the CT stands before the camera, as transform nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from .matrices import scene_from_node, scene_from_transform, to_vtk
from .provenance import ROLE

POSE = "transform"
"""The `ROLE` of a transform that a registration made."""


def pose_of(ct: Any, world_from_camera: np.ndarray) -> np.ndarray:
    """camera_from_world (4, 4) of a CT node as the scene shows it, before a camera at `world_from_camera` (4, 4).

    Raises:
        InputError: the CT's parent transforms are not linear.
    """
    return np.linalg.inv(world_from_camera) @ scene_from_node(ct)


def move_ct(ct: Any, transform: Any, scene_from_ct: np.ndarray) -> None:
    """Put the CT where `scene_from_ct` (4, 4) takes its own RAS frame, by a linear transform node.

    The transform becomes the CT's parent, below the parents that the CT had, which keep their meaning; it takes up the difference to them. Where the
    CT had none, its toParent matrix is `scene_from_ct` itself: world_from_camera_reference @ camera_from_world for a registered pose. The transform
    of an earlier registration is no such parent: the new one takes its place.

    Raises:
        InputError: a parent that is not linear, or the transform already stands above the CT's parent.
    """
    scene_from_node(ct)  # refuse what is not linear before anything is changed
    hang(ct, transform)
    set_scene_matrix(transform, scene_from_ct)


def hang(node: Any, transform: Any) -> None:
    """Put a node under a transform, and that under the parents which the node had; nothing for a node that is under it already.

    Raises:
        InputError: the transform stands above the node's parent.
    """
    if node.GetParentTransformNode() is transform:
        return
    parent = parent_to_keep(node, transform)
    if parent is not transform:
        transform.SetAndObserveTransformNodeID(None if parent is None else parent.GetID())
    node.SetAndObserveTransformNodeID(transform.GetID())


def parent_to_keep(node: Any, transform: Any) -> Any:
    """The parent that a node keeps when `hang` puts it under a transform, or None: transforms of earlier registrations are passed over.

    Raises:
        InputError: the transform stands above that parent.
    """
    parent = node.GetParentTransformNode()
    while parent is not None and parent is not transform and parent.GetAttribute(ROLE) == POSE:
        parent = parent.GetParentTransformNode()
    if parent is not None and parent is not transform and is_above(transform, parent):
        raise InputError(f"The transform {transform.GetName()!r} stands above the parent of {node.GetName()!r}: choose another one for the result.")
    return parent


def is_moved(ct: Any) -> bool:
    """Whether a CT hangs under the transform of a registration or a placement."""
    parent = ct.GetParentTransformNode()
    return parent is not None and parent.GetAttribute(ROLE) == POSE


def release(node: Any, transform: Any) -> None:
    """Take a node from under a transform, to where it is without that; nothing for a node that is not under it."""
    if node is not None and transform is not None and node.GetParentTransformNode() is transform:
        node.SetAndObserveTransformNodeID(transform.GetTransformNodeID())


def set_scene_matrix(transform: Any, matrix: np.ndarray) -> None:
    """Give a transform the toParent matrix with which it does to the nodes under it what `matrix` (4, 4) says, its parents included."""
    above = transform.GetParentTransformNode()
    scene_from_above = np.eye(4) if above is None else scene_from_transform(above)
    transform.SetMatrixTransformToParent(to_vtk(np.linalg.inv(scene_from_above) @ matrix))


def is_above(transform: Any, node: Any) -> bool:
    """Whether a transform is among the parents of a node, or the node itself."""
    while node is not None:
        if node is transform:
            return True
        node = node.GetParentTransformNode()
    return False
