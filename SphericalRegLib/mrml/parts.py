"""Parts of a CT, one bone of several: the values of a label map or the segments of a segmentation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .matrices import node_from_voxel, placed_in
from .voxels import voxels


@dataclass(frozen=True)
class Part:
    """Something of a CT that can be rendered alone.

    Attributes:
        key: what identifies it in its node: a label's number, or a segment's ID.
        name: for people.
    """

    key: int | str
    name: str


def is_segmentation(node: Any) -> bool:
    return bool(node.IsA("vtkMRMLSegmentationNode"))


def parts_of(node: Any) -> tuple[Part, ...]:
    """Parts that a vtkMRMLLabelMapVolumeNode or a vtkMRMLSegmentationNode holds, in their order; none for an empty one."""
    if is_segmentation(node):
        segments = node.GetSegmentation()
        keys = [segments.GetNthSegmentID(number) for number in range(segments.GetNumberOfSegments())]
        return tuple(Part(key, segments.GetSegment(key).GetName() or key) for key in keys)
    if node.GetImageData() is None:
        return ()
    display = node.GetDisplayNode()
    colours = None if display is None else display.GetColorNode()
    return tuple(Part(value, _label_name(value, colours)) for value in _present(voxels(node)))


def state_of(node: Any) -> tuple[Any, ...]:
    """What changes when the content of a volume, a label map or a segmentation does, or where it lies in the node's own frame.

    A linear transform that is hardened, for one, changes a volume's IJKToRAS matrix and leaves its image alone.
    """
    if not is_segmentation(node):
        return (node.GetID(), 0 if node.GetImageData() is None else node.GetImageData().GetMTime(), *node_from_voxel(node).ravel().tolist())
    images = (node.GetBinaryLabelmapInternalRepresentation(part.key) for part in parts_of(node))
    return (node.GetID(), node.GetSegmentation().GetMTime(), *(0 if image is None else image.GetMTime() for image in images))


def state_in(ct: Any, node: Any) -> tuple[Any, ...]:
    """What changes when a label map's or a segmentation's content does, or where it lies in a CT.

    Raises:
        InputError: a parent transform of one of them is not linear.
    """
    return (*state_of(node), *placed_in(ct, node).round(6).ravel().tolist())  # rounded: both may move together, which is no change


def segment_ids(node: Any, chosen: Collection[int | str] | None) -> tuple[str, ...]:
    """IDs of the chosen segments, given by ID or by name; None: of all.

    Raises:
        InputError: a segment that is not there, or none at all.
    """
    known = parts_of(node)
    if not known:
        raise InputError(f"The segmentation {node.GetName()!r} has no segment.")
    if chosen is None:
        return tuple(str(part.key) for part in known)
    by_name = {part.name: str(part.key) for part in known}
    found = tuple(str(wanted) if node.GetSegmentation().GetSegment(str(wanted)) else by_name.get(str(wanted), "") for wanted in chosen)
    for wanted, key in zip(chosen, found):
        if not key:
            raise InputError(f"The segmentation {node.GetName()!r} has no segment {wanted!r}; it has {', '.join(map(repr, by_name))}.")
    if not found:
        raise InputError(f"No segment of {node.GetName()!r} was chosen; expected at least one.")
    return found


def _present(labels: np.ndarray) -> list[int]:
    """Values other than 0, ascending; slice by slice, which takes no memory to speak of."""
    found: set[int] = set()
    for part in labels:
        found.update(np.flatnonzero(np.bincount(part.ravel())).tolist() if part.min() >= 0 else np.unique(part).tolist())
    return sorted(int(value) for value in found if value)


def _label_name(value: int, colours: Any) -> str:
    name = "" if colours is None else colours.GetColorName(value) or ""
    return f"{value}: {name}" if name and name not in ("(none)", str(value)) else str(value)
