"""The part of an X-ray in which the CT can appear: what lies elsewhere only costs time and misleads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..geometry.camera import NEAREST_MM, Camera
from ..geometry.se3 import transform_points
from ..imaging.case import View
from ..imaging.radiograph import Radiograph

LEAST_PX = 24
"""A region is at least this large, or as large as the image."""


def crop_to_content(radiograph: Radiograph, poses: Tensor, corners: Tensor, margin_mm: float) -> Radiograph:
    """The X-ray cropped to where the CT's box can be projected to.

    Args:
        radiograph: the X-ray.
        poses: camera_from_world (B, 4, 4) that are thought possible.
        corners: (8, 3) of the box of the CT's content, world mm.
        margin_mm: added around, measured at the CT.

    Raises:
        InputError: all of the box lies behind the source or its projection does not meet the image, whichever of the poses is taken.
    """
    low, high, in_front, meets = _extent(radiograph, poses, corners, margin_mm)
    if not bool(in_front.any()):
        raise InputError(f"X-ray {radiograph.name!r}: the CT lies behind the X-ray source at the initial pose; expected it in front.")
    if not bool(meets.any()):
        raise InputError(
            f"X-ray {radiograph.name!r}: the projection of the CT falls outside the image at the initial pose; "
            "expected them to meet: do the initial pose and the geometry belong to this view?"
        )
    columns, rows = radiograph.camera.size_px
    # One wild pose of many must not blow the region up: the 95th percentile of each side holds the rest.
    low, high = low[meets], high[meets]
    left, top = torch.quantile(low, 0.05, dim=0).tolist()
    right, bottom = torch.quantile(high, 0.95, dim=0).tolist()
    left, right = _interval(left, right, columns)
    top, bottom = _interval(top, bottom, rows)
    return radiograph.crop(left, top, right - left, bottom - top)


def visible(radiograph: Radiograph, poses: Tensor, corners: Tensor) -> Tensor:
    """Poses (B,) bool at which some of the CT's box lies in front of the source and its projection meets the image; arguments as of
    `crop_to_content`."""
    return _extent(radiograph, poses, corners, 0.0)[3]


def visible_in_all(views: Sequence[View], camera1_from_world: Tensor, corners: Tensor) -> Tensor:
    """Poses (B,) bool of the first camera at which every view can show the CT; `corners` as of `crop_to_content`."""
    keep = torch.ones(len(camera1_from_world), dtype=torch.bool, device=camera1_from_world.device)
    for view in views:
        relation = torch.as_tensor(view.camera_from_camera1, dtype=torch.float64, device=camera1_from_world.device)
        keep &= visible(view.radiograph, relation @ camera1_from_world, corners)
    return keep


def _extent(radiograph: Radiograph, poses: Tensor, corners: Tensor, margin_mm: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sides of the box's projection, low and high (B, 2) pixels; whether any of it lies in front of the source, and whether that meets the image."""
    points = transform_points(poses, corners)
    in_front = torch.isfinite(points).all(-1).all(-1) & (points[..., 2].amax(-1) > NEAREST_MM)
    points = torch.where(in_front[:, None, None], points, points.new_tensor([0.0, 0.0, NEAREST_MM]))
    if bool((points[..., 2] < NEAREST_MM).any()):
        points = _cut_before_the_source(points)
    pixels = radiograph.camera.project(points)
    margin = margin_mm * radiograph.camera.sdd_mm / points[..., 2].mean(-1) / min(radiograph.camera.pixel_spacing_mm)
    low = pixels.amin(-2) - margin[:, None]
    high = pixels.amax(-2) + margin[:, None]
    size = high.new_tensor(radiograph.camera.size_px)
    return low, high, in_front, in_front & ((high > 0) & (low < size - 1)).all(-1)


def _cut_before_the_source(points: Tensor) -> Tensor:
    """Corners (B, N, 3) of boxes in the camera, of each of which some lie in front of the source -> points (B, N^2, 3) whose hull is the part of it
    that does: a long CT's far end may reach behind a source that looks at the other one steeply."""
    first, second = points[:, :, None].expand(-1, -1, points.shape[1], -1), points[:, None].expand(-1, points.shape[1], -1, -1)
    z_1, z_2 = first[..., 2:], second[..., 2:]
    # Any two corners' segment is cut where it leaves what lies in front; where both are behind, some corner in front stands for it.
    share = torch.where(z_1 < NEAREST_MM, (NEAREST_MM - z_1) / (z_2 - z_1), 0.0)
    foremost = points.gather(1, points[..., 2].argmax(1)[:, None, None].expand(-1, 1, 3))[:, :, None]
    cut = torch.where(torch.maximum(z_1, z_2) < NEAREST_MM, foremost, first + share * (second - first))
    return cut.flatten(1, 2)


def pixel_at_ct(camera: Camera, camera_from_world: Tensor, centre: Tensor) -> float:
    """Size of a pixel measured at the CT's centre (3,), mm, at the first of poses (B, 4, 4)."""
    depth = float((camera_from_world[0] @ torch.cat((centre, centre.new_ones(1))))[2])
    return max(camera.pixel_spacing_mm) * max(depth, 0.1 * camera.sdd_mm) / camera.sdd_mm


def at_resolution(radiograph: Radiograph, longer_side_px: int) -> Radiograph:
    """The X-ray on square pixels, `longer_side_px` along its longer side (in mm), never enlarged."""
    camera = radiograph.camera
    width, height = (n * s for n, s in zip(camera.size_px, camera.pixel_spacing_mm))
    pixel = max(max(width, height) / longer_side_px, *camera.pixel_spacing_mm)
    return radiograph.resize(max(8, round(width / pixel)), max(8, round(height / pixel)))


def _interval(low: float, high: float, size: int) -> tuple[int, int]:
    """Whole pixels [low, high) inside [0, size), at least LEAST_PX long where the image allows."""
    least = min(LEAST_PX, size)
    low, high = min(max(low, 0), size - least), max(min(high, size), least)
    middle = (low + high) / 2
    if high - low < least:
        low, high = middle - least / 2, middle + least / 2
    first = max(0, math.floor(low))
    last = min(size, max(math.ceil(high), first + least))
    return min(first, last - least), last
