"""Where the CT stands before the camera, as transform nodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from .matrices import scene_from_node, scene_from_transform, to_vtk


def pose_of(ct: Any, world_from_camera: np.ndarray) -> np.ndarray:
    """camera_from_world (4, 4) of a CT node as the scene shows it, before a camera at `world_from_camera` (4, 4).

    Raises:
        InputError: the CT's parent transforms are not linear.
    """
    return np.linalg.inv(world_from_camera) @ scene_from_node(ct)


def move_ct(ct: Any, transform: Any, scene_from_ct: np.ndarray) -> None:
    """Put the CT where `scene_from_ct` (4, 4) takes its own RAS frame, by a linear transform node.

    The transform becomes the CT's parent, below the parents that the CT had, which keep their meaning; it takes up the difference to them. Where the
    CT had none, its toParent matrix is `scene_from_ct` itself: world_from_camera_reference @ camera_from_world for a registered pose.

    Raises:
        InputError: a parent that is not linear, or the transform already stands above the CT's parent.
    """
    parent = ct.GetParentTransformNode()
    if parent is not transform:
        if parent is not None and is_above(transform, parent):
            raise InputError(f"The transform {transform.GetName()!r} stands above the CT's own parent transform: choose another one for the result.")
        scene_from_node(ct)  # refuse what is not linear before anything is changed
        transform.SetAndObserveTransformNodeID(None if parent is None else parent.GetID())
    above = transform.GetParentTransformNode()
    scene_from_above = np.eye(4) if above is None else scene_from_transform(above)
    transform.SetMatrixTransformToParent(to_vtk(np.linalg.inv(scene_from_above) @ scene_from_ct))
    if parent is not transform:
        ct.SetAndObserveTransformNodeID(transform.GetID())


def is_above(transform: Any, node: Any) -> bool:
    """Whether a transform is among the parents of a node, or the node itself."""
    while node is not None:
        if node is transform:
            return True
        node = node.GetParentTransformNode()
    return False
