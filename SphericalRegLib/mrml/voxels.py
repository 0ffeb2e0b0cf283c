"""The numbers in a volume node."""

from __future__ import annotations

from typing import Any

import numpy as np
import vtk
from vtk.util import numpy_support

from ..errors import InputError
from .matrices import to_vtk


def voxels(node: Any) -> np.ndarray:
    """Values (K, J, I), or (K, J, I, components), of a volume node: a view into the node's memory, valid while the node keeps it.

    Raises:
        InputError: the node holds no image.
    """
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        raise InputError(f"The volume {node.GetName()!r} holds no image: load it first, or choose another one.")
    columns, rows, slices = image.GetDimensions()
    components = image.GetNumberOfScalarComponents()
    values = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars())
    return values.reshape((slices, rows, columns) if components == 1 else (slices, rows, columns, components))


def set_voxels(node: Any, values: np.ndarray, node_from_voxel: np.ndarray) -> None:
    """Give a volume node values (K, J, I) or (K, J, I, components), copied, and its IJKToRAS matrix (4, 4), in one modification."""
    values = np.ascontiguousarray(values)
    slices, rows, columns = values.shape[:3]
    image = vtk.vtkImageData()
    image.SetDimensions(columns, rows, slices)
    flat = values.reshape(-1) if values.ndim == 3 else values.reshape(-1, values.shape[3])
    image.GetPointData().SetScalars(numpy_support.numpy_to_vtk(flat, deep=True, array_type=numpy_support.get_vtk_array_type(values.dtype)))
    was_modifying = node.StartModify()
    try:
        node.SetIJKToRASMatrix(to_vtk(node_from_voxel))
        node.SetAndObserveImageData(image)
    finally:
        node.EndModify(was_modifying)
