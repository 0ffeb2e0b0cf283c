"""Landmarks: control points of Markups nodes as points of a CT and as pixels of an X-ray."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from .matrices import scene_from_node, scene_from_voxel

OFF_PLANE_MM = 2.0
"""Points that somebody put onto an image lie on it to within rounding; of several slices, they lie on the nearest."""


def scene_points(markups: Any) -> np.ndarray:
    """(N, 3) of the control points that have a place, mm, in the scene.

    Raises:
        InputError: a point that was listed and never placed.
    """
    places = []
    for number in range(markups.GetNumberOfControlPoints()):
        if markups.GetNthControlPointPositionStatus(number) != markups.PositionDefined:
            raise InputError(f"Point {markups.GetNthControlPointLabel(number)!r} of {markups.GetName()!r} has no place yet.")
        place = [0.0, 0.0, 0.0]
        markups.GetNthControlPointPositionWorld(number, place)
        places.append(place)
    return np.array(places, dtype=np.float64).reshape(-1, 3)


def points_of_ct(markups: Any, ct: Any) -> np.ndarray:
    """(N, 3) in the CT's own frame, mm: where the points lie in the CT as the scene shows both.

    Raises:
        InputError: see `scene_points`, or a transform that is not linear.
    """
    ct_from_scene = np.linalg.inv(scene_from_node(ct))
    return scene_points(markups) @ ct_from_scene[:3, :3].T + ct_from_scene[:3, 3]


def pixels_on(markups: Any, image: Any, frame: int | None = None) -> np.ndarray | None:
    """(N, 2), column and row of an image node's voxels, if all points lie on the image; None if they do not.

    Args:
        markups: the points.
        image: the image's node.
        frame: which slice of several, from 0; None: the first one.

    Raises:
        InputError: see `scene_points`.
    """
    scene_from_pixel = scene_from_voxel(image)
    pixel_from_scene = np.linalg.inv(scene_from_pixel)
    voxels = scene_points(markups) @ pixel_from_scene[:3, :3].T + pixel_from_scene[:3, 3]
    columns, rows, slices = image.GetImageData().GetDimensions()
    step = np.linalg.norm(scene_from_pixel[:3, 2])
    off = np.abs(voxels[:, 2] - (frame or 0)) * step
    inside = (voxels[:, :2] > -1).all() and (voxels[:, :2] < (columns, rows)).all()
    return voxels[:, :2] if inside and (off < (OFF_PLANE_MM if slices == 1 else step / 2)).all() else None


def put_on(markups: Any, image: Any, pixels: np.ndarray) -> None:
    """Move the points to these pixels (N, 2) of an image node, where that lies in the scene now."""
    scene_from_pixel = scene_from_voxel(image)
    for number, (column, row) in enumerate(pixels):
        markups.SetNthControlPointPositionWorld(number, *(scene_from_pixel @ [column, row, 0, 1])[:3].tolist())
