"""A pose from paired landmarks: points of the CT and the pixels where the X-ray shows them (perspective-n-point).

Three landmarks have up to four poses that fit exactly, so four or more are asked for. `geometry.p3p` solves triples of them; the starts that fit all
landmarks best are refined on the reprojection error (Levenberg-Marquardt, MINPACK), and the best minimum is kept. A second, different minimum that
fits as well as chance allows is an error, not a coin toss: planar landmarks have one where the perspective is weak.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from scipy.linalg import block_diag
from scipy.optimize import least_squares
from scipy.special import fdtri

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.distances import rotation_angle
from SphericalRegLib.geometry.p3p import poses_from_three
from SphericalRegLib.geometry.se3 import hat, orthonormalise, retract, so3_exp, so3_right_jacobian

FEWEST = 4
CORNERS = 8
"""Triples are taken of at most this many landmarks, those that lie furthest apart."""
STARTS = 6
"""Starts that are refined, the best first: more than the four poses that fit three landmarks."""
COLLINEAR = 0.02
"""Spread across a line by spread along it, under which the rotation about the line is not seen."""
SINGULAR = 1e-3
"""Weakest by strongest motion of the landmarks in the image (a radian counts as their spread), under which the pose is not determined."""
SAME_POSE_DEG = 3.0
"""Poses turned by less than this to each other count as one: whichever is taken, a registration from it finds the same."""
CONFIDENCE = 0.95
"""Of the F test that says whether one minimum fits better than another by more than chance."""
FLAT = 0.1
"""Spread off a plane by spread along it, under which a message blames the plane."""
EVALUATIONS = 300
"""Per start: half of them take 9, one in a hundred 32, the longest of two thousand took 171."""
NEAREST_MM = 1.0
"""Depth that landmarks at or behind the source are given: their pixels are far off then, not nowhere."""
NOTHING_PX = 1e-6
"""Residuals below are round-off."""


@dataclass(frozen=True, eq=False)
class LandmarkPose:
    """A pose and how well it fits its landmarks.

    Attributes:
        camera_from_world: (4, 4) float64.
        residual_px: (N,) distance in the image between a landmark's projection and its pixel.
        residual_mm: (N,) distance between a landmark and its pixel's ray: the same at the landmark.
        covariance: (6, 6) of the tangent (omega, v), rad and mm, world axes, on the right, about `centre`, as the residuals have it: the depth along
            the beam is the least certain.
        centre: (3,) mm, of that tangent.
        hint: what is odd about the fit, in a sentence; empty if nothing is.
    """

    camera_from_world: np.ndarray
    residual_px: np.ndarray
    residual_mm: np.ndarray
    covariance: np.ndarray
    centre: np.ndarray
    hint: str = ""

    @property
    def rms_px(self) -> float:
        return _rms(self.residual_px)

    @property
    def rms_mm(self) -> float:
        return _rms(self.residual_mm)


@dataclass(frozen=True, eq=False)
class _Minimum:
    pose: np.ndarray
    rms_px: float


def pose_from_landmarks(points_ras_mm: Any, pixels: Any, camera: Camera, centre: Any = None) -> LandmarkPose:
    """The pose at which landmarks of the CT project onto their pixels.

    Args:
        points_ras_mm: (N, 3) in the world, N >= 4.
        pixels: (N, 2), column and row in the image as seen from the source, in the same order.
        camera: of that image.
        centre: (3,) world, mm, of the covariance's tangent; the landmarks' mean by default.

    Returns:
        The pose with its residuals. Its `hint` says so if a mirrored X-ray would fit far better, or if the landmarks come out beyond the detector.

    Raises:
        InputError: fewer than four landmarks, numbers that do not pair up or are not finite, landmarks nearly on a line, landmarks in a plane (or too
            few) with two poses that fit alike, landmarks that do not determine a pose, or no pose with the landmarks before the source.
    """
    points, where, centre = _checked(points_ras_mm, pixels, centre)
    best = _solve(points, where, camera)
    residual = _project(best.pose, points, camera) - where
    freedom = 2 * len(points) - 6
    slope = _image_jacobian(best.pose, points, centre, camera)
    covariance = np.linalg.inv(slope.T @ slope) * (residual**2).sum() / freedom
    return LandmarkPose(
        best.pose,
        np.linalg.norm(residual, axis=1),
        _distance_to_rays(best.pose, points, where, camera),
        covariance,
        centre,
        _hint(best, points, where, camera),
    )


def _checked(points_ras_mm: Any, pixels: Any, centre: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    points, where = (_numbers(values, width, name) for values, width, name in ((points_ras_mm, 3, "in the CT"), (pixels, 2, "in the X-ray")))
    if len(points) != len(where):
        raise InputError(f"Landmarks come in pairs, but there are {len(points)} in the CT and {len(where)} in the X-ray.")
    if len(points) < FEWEST:
        more = " (three have up to four poses that fit exactly)" if len(points) == 3 else ""
        raise InputError(f"A pose needs at least {FEWEST} pairs of landmarks{more}, but there are {len(points)}.")
    along, across, _ = _spread(points)
    if across <= COLLINEAR * along:
        raise InputError(
            f"The landmarks lie nearly on a line ({across:.1f} mm off it, {along:.1f} mm along it), so the rotation about it cannot be seen: "
            "choose at least one that is well off that line."
        )
    middle = points.mean(0) if centre is None else np.asarray(centre, np.float64)
    if middle.shape != (3,) or not np.isfinite(middle).all():
        raise InputError(f"The centre must be three finite numbers (RAS, mm), but it is {middle.tolist()}.")
    return points, where, middle


def _numbers(values: Any, width: int, name: str) -> np.ndarray:
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"The landmarks {name} must be numbers, {width} each.") from None
    if array.ndim != 2 or array.shape[1] != width:
        raise InputError(f"The landmarks {name} must have {width} numbers each, but their shape is {array.shape}.")
    if not np.isfinite(array).all():
        raise InputError(f"The landmarks {name} must be finite, but number {int(np.argmin(np.isfinite(array).all(1))) + 1} is not.")
    return array


def _solve(points: np.ndarray, where: np.ndarray, camera: Camera) -> _Minimum:
    """The best minimum of the reprojection error; raises InputError where it is none or not the only one."""
    minima = _minima(points, where, camera)
    if not minima:
        raise InputError("No pose puts the landmarks onto their pixels before the source: check their order and the X-ray's geometry.")
    best = minima[0]
    slope = _image_jacobian(best.pose, points, points.mean(0), camera)
    strengths = np.linalg.svd(slope / np.repeat([_spread(points)[0], 1.0], 3), compute_uv=False)
    if strengths[-1] <= SINGULAR * strengths[0]:
        raise InputError(
            "The landmarks do not determine the pose: they lie too close together, or on a line with the source; choose others further apart."
        )
    others = [other for other in minima[1:] if _angle_deg(best.pose, other.pose) > SAME_POSE_DEG]
    if others and others[0].rms_px <= _chance(len(points)) * best.rms_px + NOTHING_PX:
        raise InputError(_two_poses(points, best, others[0]))
    return best


def _minima(points: np.ndarray, where: np.ndarray, camera: Camera) -> list[_Minimum]:
    """Minima of the reprojection error, the best first; every start has all landmarks before the source, and so has every minimum."""
    ranked = sorted(_starts(points, where, camera), key=lambda pose: _rms(_project(pose, points, camera) - where))
    found = [_refine(pose, points, where, camera) for pose in _different(ranked, STARTS)]
    if found:
        best = min(found, key=lambda minimum: minimum.rms_px)
        found.append(_refine(_reversed(best.pose, points), points, where, camera))
    return sorted((one for one in found if (_in_camera(one.pose, points)[:, 2] > 0).all()), key=lambda minimum: minimum.rms_px)


def _starts(points: np.ndarray, where: np.ndarray, camera: Camera) -> list[np.ndarray]:
    rays = camera.back_project(where)
    rays = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    triples = (list(triple) for triple in combinations(_corners(points), 3))
    poses = (pose for triple in triples for pose in poses_from_three(points[triple], rays[triple]))
    return [pose for pose in poses if (_in_camera(pose, points)[:, 2] > 0).all()]


def _corners(points: np.ndarray) -> list[int]:
    """Indices of the landmarks that lie furthest apart: each next one is the furthest from those before."""
    chosen = [int(np.argmax(np.linalg.norm(points - points.mean(0), axis=1)))]
    distance = np.full(len(points), math.inf)
    while len(chosen) < min(CORNERS, len(points)):
        distance = np.minimum(distance, np.linalg.norm(points - points[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distance)))
    return chosen


def _different(poses: Iterable[np.ndarray], count: int) -> list[np.ndarray]:
    kept: list[np.ndarray] = []
    for pose in poses:
        if len(kept) < count and all(_angle_deg(pose, other) > SAME_POSE_DEG for other in kept):
            kept.append(pose)
    return kept


def _reversed(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The pose at which the landmarks' best plane is tilted the other way: a plane looks nearly the same then, seen from afar."""
    middle = points.mean(0)
    normal = np.linalg.svd(points - middle)[2][2]
    place = _in_camera(pose, middle)
    sight = place / np.linalg.norm(place)
    turned = np.eye(4)
    turned[:3, :3] = _mirror(sight) @ pose[:3, :3] @ _mirror(normal)
    turned[:3, 3] = place - turned[:3, :3] @ middle
    return turned


def _mirror(normal: np.ndarray) -> np.ndarray:
    return np.eye(3) - 2 * np.outer(normal, normal)


def _refine(start: np.ndarray, points: np.ndarray, where: np.ndarray, camera: Camera) -> _Minimum:
    """Follow the reprojection error down, in the project's chart at `start` about the landmarks' mean."""
    centre = points.mean(0)

    def pose_at(step: np.ndarray) -> np.ndarray:
        return retract(torch.from_numpy(start), torch.from_numpy(step), torch.from_numpy(centre)).numpy()

    def residual(step: np.ndarray) -> np.ndarray:
        return (_project(pose_at(step), points, camera) - where).ravel()

    def jacobian(step: np.ndarray) -> np.ndarray:
        omega = torch.from_numpy(step[:3])
        chart = block_diag(so3_right_jacobian(omega).numpy(), so3_exp(omega).numpy().T)  # a change of the step, seen from where it leads
        return _image_jacobian(pose_at(step), points, centre, camera) @ chart

    found = least_squares(residual, np.zeros(6), jacobian, method="lm", x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14, max_nfev=EVALUATIONS)
    pose = orthonormalise(torch.from_numpy(pose_at(found.x))).numpy()
    return _Minimum(pose, _rms(_project(pose, points, camera) - where))


def _image_jacobian(pose: np.ndarray, points: np.ndarray, centre: np.ndarray, camera: Camera) -> np.ndarray:
    """(2 N, 6) px of the tangent (omega, v) about `centre`."""
    rotation = pose[:3, :3]
    turn = -rotation @ hat(torch.from_numpy(points - centre)).numpy()
    moved = np.concatenate((turn, np.broadcast_to(rotation, turn.shape)), axis=2)
    place = _in_camera(pose, points)
    depth = _depth(place)[:, None, None]
    across = moved[:, :2] - place[:, :2, None] / depth * moved[:, 2:]
    return (np.array(camera.focal_length_px)[:, None] / depth * across).reshape(-1, 6)


def _project(pose: np.ndarray, points: np.ndarray, camera: Camera) -> np.ndarray:
    """Pixels (N, 2). Behind the source they are nowhere; here they are far off, so that a step that leads there is refused."""
    place = _in_camera(pose, points)
    return camera.project(np.concatenate((place[:, :2], _depth(place)[:, None]), axis=1))


def _depth(place: np.ndarray) -> np.ndarray:
    return np.maximum(place[:, 2], NEAREST_MM)


def _in_camera(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ pose[:3, :3].T + pose[:3, 3]


def _distance_to_rays(pose: np.ndarray, points: np.ndarray, where: np.ndarray, camera: Camera) -> np.ndarray:
    rays = camera.back_project(where)
    return np.linalg.norm(np.cross(_in_camera(pose, points), rays / np.linalg.norm(rays, axis=1, keepdims=True)), axis=1)


def _spread(points: np.ndarray) -> np.ndarray:
    """Root mean square distances (3,) from the mean along the principal axes, the largest first."""
    return np.linalg.svd(points - points.mean(0), compute_uv=False) / math.sqrt(len(points))


def _angle_deg(a: np.ndarray, b: np.ndarray) -> float:
    return math.degrees(float(rotation_angle(torch.from_numpy(a), torch.from_numpy(b))))


def _rms(residual: np.ndarray) -> float:
    """Root mean square over the landmarks of residuals (N,) or (N, 2)."""
    return math.sqrt(float((residual**2).sum()) / len(residual))


def _chance(count: int) -> float:
    """How many times larger than another a root mean square residual of `count` landmarks may be by chance (the F distribution's quantile)."""
    freedom = 2 * count - 6
    return math.sqrt(float(fdtri(freedom, freedom, CONFIDENCE)))


def _two_poses(points: np.ndarray, best: _Minimum, other: _Minimum) -> str:
    along, _, off_plane = _spread(points)
    flat = off_plane <= FLAT * along
    plane = f"The landmarks lie nearly in a plane ({off_plane:.1f} mm off it, {along:.1f} mm along it)"
    shape, cure = (plane, "choose one more, well off that plane") if flat else (f"{len(points)} landmarks are too few here", "choose more")
    return (
        f"{shape}: two poses, {_angle_deg(best.pose, other.pose):.0f} degrees apart, fit them alike (residuals of {best.rms_px:.1f} and "
        f"{other.rms_px:.1f} pixels); {cure}."
    )


def _hint(best: _Minimum, points: np.ndarray, where: np.ndarray, camera: Camera) -> str:
    flipped = np.stack((camera.columns - 1 - where[:, 0], where[:, 1]), axis=1)
    mirrored = _minima(points, flipped, camera.flip_columns())
    if mirrored and _chance(len(points)) * mirrored[0].rms_px + NOTHING_PX < best.rms_px:
        return (
            f"A mirrored X-ray fits the landmarks far better ({mirrored[0].rms_px:.1f} instead of {best.rms_px:.1f} pixels): "
            'the image may be shown mirrored (set "mirrored" in its geometry).'
        )
    if (_in_camera(best.pose, points)[:, 2] > camera.sdd_mm).any():
        return "Landmarks come out beyond the detector: check the source-to-detector distance and the pixel spacing."
    return ""
