"""How wrong a pose is: four things are called "mTRE", and only the first is one.

Poses are camera_from_world (..., 4, 4), fiducials (N, 3) in world mm; leading shapes broadcast; results (...) float64. With x a fiducial, T the true
and T' the estimated pose:

(a) `mtre_3d`: mean |T' x - T x|, mm. The strict one, our primary number.
(b) `mrpe`: project x under each pose, lift it to the detector plane, bring each point back to the CT's frame with the inverse of *its own* pose,
    mean distance there, mm. Blind to roll about the principal axis, which moves the point and its frame alike.
(c) `mrpe_scaled`: (b) times the pixel spacing although it is in mm already, as DiffPose published its "mTRE" (issue 27 of its repository).
(d) `mpe_2d`: mean distance of the two projections on the detector, mm.

An error that is not finite (a failed case) counts as worse than any limit in shares and percentiles: failures are not left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.distances import in_plane_and_depth, mean_displacement, rotation_angle
from SphericalRegLib.geometry.se3 import invert, transform_points


def mtre_3d(truth: Tensor, estimate: Tensor, fiducials: Tensor) -> Tensor:
    """(a) Mean 3D displacement of the fiducials, mm."""
    return mean_displacement(truth.double(), estimate.double(), fiducials.double())


def mrpe(truth: Tensor, estimate: Tensor, fiducials: Tensor, camera: Camera) -> Tensor:
    """(b) Mean re-projection distance, mm: on the detector plane as each pose places it in the CT's frame."""

    def lifted(pose: Tensor) -> Tensor:
        return _move(invert(pose), camera.back_project(camera.project(_move(pose, fiducials))))

    return (lifted(estimate) - lifted(truth)).norm(dim=-1).mean(-1)


def mrpe_scaled(truth: Tensor, estimate: Tensor, fiducials: Tensor, camera: Camera) -> Tensor:
    """(c) `mrpe` times the mean pixel spacing in mm: no length at all, kept to compare with published figures."""
    return mrpe(truth, estimate, fiducials, camera) * (sum(camera.pixel_spacing_mm) / 2)


def mpe_2d(truth: Tensor, estimate: Tensor, fiducials: Tensor, camera: Camera) -> Tensor:
    """(d) Mean distance of the fiducials' projections on the detector, mm."""
    spacing = torch.tensor(camera.pixel_spacing_mm, dtype=torch.float64, device=estimate.device)
    offset = camera.project(_move(estimate, fiducials)) - camera.project(_move(truth, fiducials))
    return (offset * spacing).norm(dim=-1).mean(-1)


def rotation_error_deg(truth: Tensor, estimate: Tensor) -> Tensor:
    """Angle between the two rotations, degrees."""
    return torch.rad2deg(rotation_angle(truth.double(), estimate.double()))


def translation_error_mm(truth: Tensor, estimate: Tensor, centre: Tensor) -> Tensor:
    """Displacement of the CT's centre (3,), mm: unlike the difference of the translation columns it does not depend on the world's origin."""
    return mean_displacement(truth.double(), estimate.double(), centre[None].double())


@dataclass(frozen=True)
class PoseErrors:
    """All errors of one pose; lengths in mm, except (c)."""

    mtre_3d: float
    mrpe: float
    mrpe_scaled: float
    mpe_2d: float
    in_plane: float
    depth: float
    rotation_deg: float
    translation: float

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


FAILED = PoseErrors(*[math.inf] * 8)
"""Of a case without an estimate."""


def pose_errors(truth: np.ndarray, estimate: np.ndarray, fiducials: np.ndarray, camera: Camera, centre: np.ndarray) -> PoseErrors:
    """All errors of one estimate: poses (4, 4), fiducials (N, 3) and the CT's centre (3,) in world mm."""
    true, found, points, middle = (torch.from_numpy(np.array(a, dtype=np.float64)) for a in (truth, estimate, fiducials, centre))
    in_plane, depth = in_plane_and_depth(true, found, points, middle)
    errors = (
        mtre_3d(true, found, points),
        mrpe(true, found, points, camera),
        mrpe_scaled(true, found, points, camera),
        mpe_2d(true, found, points, camera),
        in_plane,
        depth,
        rotation_error_deg(true, found),
        translation_error_mm(true, found, middle),
    )
    # A fiducial that an estimate puts behind the source has no projection: that is a failure of (b)-(d), not a missing value.
    return PoseErrors(*(value if math.isfinite(value := float(error)) else math.inf for error in errors))


@dataclass(frozen=True)
class Summary:
    """Distribution of one error over cases; percentiles in the error's unit, shares in [0, 1].

    Attributes:
        count: number of cases, failed ones included.
        p25, p50, p75, p95: percentiles; infinite where a failed case reaches into them.
        below_1mm: success rate SMSR.
        below_2mm: share below 2 mm.
        above_10mm: gross failure rate GFR, failed cases included.
        failed: number of cases without an estimate.
    """

    count: int
    p25: float
    p50: float
    p75: float
    p95: float
    below_1mm: float
    below_2mm: float
    above_10mm: float
    failed: int

    def to_dict(self) -> dict[str, float | int]:
        return asdict(self)


def summarise(errors: Iterable[float]) -> Summary:
    """Summary of errors in mm; nan and infinity count as failed.

    Raises:
        ValueError: without any error.
    """
    values = np.array(list(errors), dtype=np.float64)
    if not len(values):
        raise ValueError("there is nothing to summarise")
    failed = ~np.isfinite(values)
    values[failed] = np.inf
    return Summary(
        count=len(values),
        p25=_percentile(values, 25),
        p50=_percentile(values, 50),
        p75=_percentile(values, 75),
        p95=_percentile(values, 95),
        below_1mm=float((values < 1.0).mean()),
        below_2mm=float((values < 2.0).mean()),
        above_10mm=float((values > 10.0).mean()),
        failed=int(failed.sum()),
    )


def _percentile(values: np.ndarray, q: float) -> float:
    """Linear interpolation as numpy's, but infinite (not nan) between infinite values."""
    ordered = np.sort(values)
    position = q / 100 * (len(ordered) - 1)
    low = math.floor(position)
    share = position - low
    if share == 0.0 or ordered[low] == ordered[min(low + 1, len(ordered) - 1)]:
        return float(ordered[low])
    return float((1 - share) * ordered[low] + share * ordered[low + 1])


def _move(pose: Tensor, points: Tensor) -> Tensor:
    """Points (..., N, 3) under poses (..., 4, 4), float64."""
    return transform_points(pose.double(), points.double())
