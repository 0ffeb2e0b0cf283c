"""A first pose from landmarks that were set in the CT and in the X-ray."""

from __future__ import annotations

from typing import Any

import numpy as np
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.mrml.detector import placed_camera
from SphericalRegLib.mrml.landmarks import pixels_on, points_of_ct


def landmark_pose(ct: Any, xray: Any, placed: Any, ct_points: Any, xray_points: Any, geometry: Any = None, frame: int | None = None) -> Any:
    """The pose at which the CT's points project onto the X-ray's, in the same order.

    Args:
        ct: the CT's node.
        xray: the X-ray's node as it was loaded.
        placed: the X-ray on its detector, if it stands there; the points may be on either.
        ct_points, xray_points: vtkMRMLMarkupsFiducialNode.
        geometry, frame: of the X-ray, as `SphericalRegLogic.register` takes them.

    Returns:
        `geometry.pnp.LandmarkPose`.

    Raises:
        InputError: points that do not lie on the X-ray, or do not determine a pose.
    """
    from SphericalRegLib.geometry.pnp import pose_from_landmarks

    from .rendering import centre_of, radiograph_of

    there = None if placed is None else pixels_on(xray_points, placed)
    if there is not None:
        camera = placed_camera(placed).camera  # type: ignore[union-attr]
        pixels = there
    else:
        stored = pixels_on(xray_points, xray, frame)
        if stored is None:
            words = _("The points of {points} do not all lie on the X-ray {xray}: set them in the view that shows it.")
            if frame is not None:
                words = _("The points of {points} do not all lie on frame {frame} of the X-ray {xray}: set them in the view that shows it.")
            raise InputError(words.format(points=xray_points.GetName(), xray=xray.GetName(), frame=frame))
        radiograph = radiograph_of(xray, geometry, frame)
        camera = radiograph.camera
        last = camera.columns - 1
        pixels = np.column_stack((last - stored[:, 0], stored[:, 1])) if radiograph.mirrored else stored
    return pose_from_landmarks(points_of_ct(ct_points, ct), pixels, camera, centre_of(ct))


def in_words(found: Any, names: list[str]) -> str:
    """How well each landmark fits."""
    each = ", ".join(f"{name} {off:.1f}" for name, off in zip(names, found.residual_px))
    words = _("Landmarks fit to {px:.1f} px, {mm:.1f} mm at the landmark (root mean square); each in px: {each}.")
    return " ".join([words.format(px=found.rms_px, mm=found.rms_mm, each=each), *([found.hint] if found.hint else [])])
