"""A first guess of the pose from what a header knows: the C-arm's angles or the name of a view."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from SphericalRegLib.geometry.camera import Camera

PATIENT_DIRECTIONS_RAS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "H": (0, 0, 1), "F": (0, 0, -1)}


@dataclass(frozen=True)
class Start:
    """Where the detector stands: C-arm angles in degrees from a base view, as ``geometry.views.c_arm_view`` takes them."""

    base: str
    primary_deg: float = 0.0
    secondary_deg: float = 0.0

    def __str__(self) -> str:
        if not (self.primary_deg or self.secondary_deg):
            return self.base
        across = f"{'LAO' if self.primary_deg >= 0 else 'RAO'} {abs(self.primary_deg):g}"
        along = f"{'cranial' if self.secondary_deg >= 0 else 'caudal'} {abs(self.secondary_deg):g}"
        return f"{self.base}, {across}, {along} degrees"

    def beam_ras(self) -> np.ndarray:
        """(3,) unit vector from source to detector, in RAS: that of `geometry.views.c_arm_view`, without torch (a test holds them together)."""
        zero = {"pa": 0.0, "left": 90.0, "ap": 180.0, "right": -90.0}[self.base]
        primary, secondary = math.radians(zero + self.primary_deg), math.radians(self.secondary_deg)
        flat = math.cos(secondary)
        return np.array([-math.sin(primary) * flat, math.cos(primary) * flat, math.sin(secondary)])

    def pose(
        self, camera: Camera, centre_ras_mm: np.ndarray, sod_mm: float | None = None, image_down: str | None = None
    ) -> np.ndarray:
        """camera_from_world (4, 4) float64 with ``centre_ras_mm`` on the central ray.

        Args:
            camera: of the un-mirrored image.
            sod_mm: source to centre; three quarters of the SDD where it is not known.
            image_down: the patient direction (one of RLAPHF) in which the image's columns run; by default the head is up. The view is turned
                about its central ray by a multiple of 90 degrees to fit.
        """
        from SphericalRegLib.geometry.views import c_arm_view

        fraction = sod_fraction(sod_mm, camera)
        pose = c_arm_view(self.primary_deg, self.secondary_deg, camera, centre_ras_mm.tolist(), fraction, base=self.base).numpy().copy()
        if image_down is None:
            return pose
        direction = np.array(PATIENT_DIRECTIONS_RAS[image_down], dtype=float)
        turned = [_quarter_turns(k) @ pose for k in range(4)]
        return max(turned, key=lambda candidate: float(candidate[1, :3] @ direction))


def sod_fraction(sod_mm: float | None, camera: Camera) -> float:
    """Where a view puts the object's centre between source (0) and detector (1): three quarters of the way where the distance is not known."""
    return 0.75 if sod_mm is None else min(max(sod_mm / camera.sdd_mm, 0.05), 0.95)


def _quarter_turns(count: int) -> np.ndarray:
    """About camera z, exact."""
    c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[count % 4]
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float)
