"""Named views and C-arm angles: where source and detector stand around the patient.

World is RAS (+x to the patient's right, +y anterior, +z to the head). All views put `centre` on the central ray, the camera's z axis, which meets the
detector in the principal point, at `sod_fraction` of the source-to-detector distance from the source; the head is up in the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import make_transform

NAMED_VIEWS: tuple[str, ...] = ("ap", "pa", "left", "right")
"""ap, pa: the beam's direction (ap: source in front of the patient). left, right: the side that the detector is on."""

_PRIMARY_DEG = {"pa": 0.0, "left": 90.0, "ap": 180.0, "right": -90.0}


def named_view(name: str, camera: Camera, centre: Tensor | Sequence[float], sod_fraction: float = 0.75) -> Tensor:
    """camera_from_world (4, 4) float64 of one of `NAMED_VIEWS`; `centre` (3,) in world coordinates, mm. Raises InputError for another name."""
    return c_arm_view(0.0, 0.0, camera, centre, sod_fraction, base=name)


def c_arm_view(
    primary_deg: float | Tensor,
    secondary_deg: float | Tensor,
    camera: Camera,
    centre: Tensor | Sequence[float],
    sod_fraction: float = 0.75,
    base: str = "pa",
) -> Tensor:
    """camera_from_world (..., 4, 4) float64 of a C-arm's angles in degrees, two numbers or tensors (...).

    With base "pa" these are DICOM's Positioner Primary Angle (0018,1510) and Secondary Angle (0018,1511) (PS3.3, C.8.7.5.1.2): they say where the
    *detector* is. Primary turns it in the transaxial plane: 0 before the chest, +90 on the patient's left (LAO positive), -90 on the right (RAO),
    180 behind the back. Secondary tilts it from there towards the head (cranial positive, +90 above the head) or the feet (caudal negative).
    The detector's direction from the centre is thus cos(s) (cos(p) anterior + sin(p) left) + sin(s) superior. Another `base` is where primary = 0
    starts from: base "ap" adds 180 degrees. Raises InputError for an unknown base, angles that are not finite, and a fraction outside (0, 1).
    """
    if base not in NAMED_VIEWS:
        raise InputError(f"View {base!r} is unknown: expected one of {', '.join(NAMED_VIEWS)}.")
    if not 0 < sod_fraction < 1:
        raise InputError(f"sod_fraction must lie between 0 and 1 (the centre between source and detector), but it is {sod_fraction}.")
    position = torch.as_tensor(centre, dtype=torch.float64)
    if position.shape != (3,) or not bool(torch.isfinite(position).all()):
        raise InputError(f"The centre of a view must be three finite numbers (RAS, mm), but it is {position.tolist()}.")
    angles = [torch.as_tensor(angle, dtype=torch.float64, device=position.device) for angle in (primary_deg, secondary_deg)]
    if not all(bool(torch.isfinite(angle).all()) for angle in angles):
        raise InputError(f"C-arm angles must be finite, but they are {primary_deg} and {secondary_deg}.")

    primary, secondary = (torch.deg2rad(angle)[..., None] for angle in torch.broadcast_tensors(_PRIMARY_DEG[base] + angles[0], angles[1]))
    right, anterior, superior = torch.eye(3, dtype=torch.float64, device=position.device)
    horizontal = _cos(primary) * anterior - _sin(primary) * right
    beam = _cos(secondary) * horizontal + _sin(secondary) * superior
    down = _sin(secondary) * horizontal - _cos(secondary) * superior
    rotation = torch.stack((torch.linalg.cross(down, beam), down, beam), dim=-2) + 0.0  # no negative zeros
    translation = torch.tensor([0.0, 0.0, sod_fraction * camera.sdd_mm], dtype=torch.float64, device=position.device)
    return make_transform(rotation, translation - rotation @ position)


def _cos(angle: Tensor) -> Tensor:
    return _sin(angle + math.pi / 2)


def _sin(angle: Tensor) -> Tensor:
    """sin, exact at the multiples of 90 degrees, so that a named view has no 1e-17 in it."""
    quarter = angle / (math.pi / 2)
    return torch.where((quarter - quarter.round()).abs() < 1e-12, angle.sin().round(), angle.sin())
