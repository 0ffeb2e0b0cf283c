"""A CT with labels for those of its parts that are to be rendered."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import SimpleITK as sitk
import vtk
from vtk.util import numpy_support

from ..errors import InputError
from ..imaging.grid import place
from ..imaging.volume import Volume
from .matrices import from_vtk, node_from_voxel, placed_in
from .parts import is_segmentation, segment_ids
from .voxels import voxels

CHOSEN = 1
"""The label that chosen segments have in a `Volume`."""


def with_parts(volume: Volume, ct: Any, node: Any, chosen: Collection[int | str] | None) -> tuple[Volume, tuple[int, ...] | None]:
    """A CT with labels for its chosen parts, and those of the labels that are to be rendered.

    Where the CT and the labels have different parent transforms these are honoured, so that a part lies where the scene shows it.

    Args:
        volume: the CT's values.
        ct: the CT's node.
        node: a label map, or a segmentation.
        chosen: keys of parts; of a segmentation, names too. None: all that the labels say, and for a label map also what lies outside them.

    Raises:
        InputError: a part that is not there, a segment without voxels, labels that lie outside the CT, transforms that are not linear.
    """
    ct_from_node = placed_in(ct, node)
    if not is_segmentation(node):
        labels = sitk.GetImageFromArray(np.ascontiguousarray(voxels(node)))
        return volume.with_labels(place(labels, ct_from_node @ node_from_voxel(node))), _numbers(chosen)
    union = np.zeros(volume.shape, dtype=np.uint8, order="F")
    for mask, node_from_mask in _masks(node, segment_ids(node, chosen)):
        placed = volume.with_labels(place(sitk.GetImageFromArray(mask), ct_from_node @ node_from_mask))
        np.maximum(union, placed.labels, out=union)  # type: ignore[arg-type]
    return replace(volume, labels=union), (CHOSEN,)


def _masks(node: Any, ids: Iterable[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """One mask (K, J, I) uint8 for each image that holds some of the segments, and the matrix (4, 4) node_from_voxel of its first voxel on."""
    shared: dict[int, tuple[Any, list[int]]] = {}
    for key in ids:
        image = node.GetBinaryLabelmapInternalRepresentation(key)
        segment = node.GetSegmentation().GetSegment(key)
        if image is None or image.IsEmpty():
            raise InputError(
                f"The segment {segment.GetName()!r} of {node.GetName()!r} has no voxels: in the Segmentations module, create its binary labelmap."
            )
        shared.setdefault(id(image), (image, []))[1].append(segment.GetLabelValue())
    masks = []
    for image, values in shared.values():
        columns, rows, slices = image.GetDimensions()
        stored = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(slices, rows, columns)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        first = np.eye(4)
        first[:3, 3] = image.GetExtent()[::2]
        masks.append((_is_any(stored, values), from_vtk(matrix) @ first))
    return masks


def _is_any(stored: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """`CHOSEN` where one of the values is stored, else 0; (K, J, I) uint8."""
    if stored.dtype.kind != "u":
        return np.isin(stored, values).astype(np.uint8) * CHOSEN
    chosen = np.isin(np.arange(int(stored.max()) + 1), values).astype(np.uint8) * CHOSEN
    return chosen[stored]  # several times as fast


def _numbers(chosen: Collection[int | str] | None) -> tuple[int, ...] | None:
    if chosen is None:
        return None
    if not all(str(value).strip().isdigit() for value in chosen):
        raise InputError(f"The labels are {', '.join(map(str, chosen))}; expected whole numbers such as: 1, 2.")
    return tuple(sorted(int(value) for value in chosen))
