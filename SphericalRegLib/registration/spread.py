"""How far a pose may be off, in the units that people think in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .result import RegistrationResult


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a pose, from its covariance: compared with errors on simulated X-rays alone, and blind to a wrong local minimum.

    Attributes:
        rotation_deg: of the angle, about all axes together.
        across_beam_mm: of the CT's centre, in the plane of the detector.
        along_beam_mm: of the CT's centre, along the central ray.
    """

    rotation_deg: float
    across_beam_mm: float
    along_beam_mm: float


def spread(result: RegistrationResult) -> Spread:
    """The covariance's rotations and shifts; a shift v along world axes is R v in the camera's, where z runs along the beam."""
    rotation, shift = result.camera_from_world[:3, :3], result.covariance[3:, 3:]
    across_1, across_2, along = (_variance(shift, axis) for axis in rotation)
    turn = np.sqrt(np.trace(result.covariance[:3, :3]))
    return Spread(float(np.degrees(turn)), float(np.sqrt(across_1 + across_2)), float(np.sqrt(along)))


def _variance(covariance: np.ndarray, axis: np.ndarray) -> float:
    """Variance along an axis (3,) of unit length; where a component that the axis has is not determined, infinite."""
    blind = ~np.isfinite(np.diag(covariance))
    if (np.abs(axis[blind]) > 1e-6).any():
        return float("inf")
    seen = axis[~blind]
    return float(seen @ covariance[np.ix_(~blind, ~blind)] @ seen)
