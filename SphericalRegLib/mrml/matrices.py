"""VTK's matrices and NumPy's, and where a node stands in the scene."""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk

from ..errors import InputError


def from_vtk(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """(4, 4) float64, a copy."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def to_vtk(matrix: np.ndarray) -> vtk.vtkMatrix4x4:
    """From (4, 4)."""
    made = vtk.vtkMatrix4x4()
    made.DeepCopy(np.asarray(matrix, dtype=np.float64).ravel().tolist())
    return made


def scene_from_node(node: Any) -> np.ndarray:
    """(4, 4): what the node's parent transforms, all of them, do to it; the identity where it has none.

    Raises:
        InputError: one of them is not linear.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    return scene_from_transform(parent)


def scene_from_transform(transform: Any) -> np.ndarray:
    """(4, 4): what a transform node and its parents do to a node under it.

    Raises:
        InputError: one of them is not linear.
    """
    if not transform.IsTransformToWorldLinear():
        raise InputError(
            f"The transform {transform.GetName()!r}, or one above it, is not linear; expected rigid or affine ones: harden it first "
            "(Data module, right-click the volume's transform, Harden transform)."
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return from_vtk(matrix)


def placed_in(ct: Any, node: Any) -> np.ndarray:
    """ct_from_node (4, 4): where a node's own frame lies in a CT's own frame, as the scene shows both.

    Raises:
        InputError: a parent transform of one of them is not linear.
    """
    return np.linalg.inv(scene_from_node(ct)) @ scene_from_node(node)


def node_from_voxel(node: Any) -> np.ndarray:
    """(4, 4): IJKToRAS of a volume node, without its parent transforms."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return from_vtk(matrix)


def scene_from_voxel(node: Any) -> np.ndarray:
    """(4, 4): IJKToRAS of a volume node, its parent transforms included."""
    return scene_from_node(node) @ node_from_voxel(node)
