"""A covariance in degrees and millimetres."""

from __future__ import annotations

import numpy as np
import pytest

from SphericalRegLib.registration.result import RegistrationResult
from SphericalRegLib.registration.spread import spread


def with_covariance(rotation: np.ndarray, covariance: np.ndarray) -> RegistrationResult:
    pose = np.eye(4)
    pose[:3, :3] = rotation
    return RegistrationResult(pose, covariance, np.zeros(3), 0.5, (), (), pose, pose)


def test_the_beam_is_the_cameras_axis() -> None:
    """The camera looks along world A: an error along A is one of depth, one along R or S is seen."""
    looking_along_a = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    off = spread(with_covariance(looking_along_a, np.diag([0, 0, 0, 0.3**2, 5.0**2, 0.4**2])))
    assert off.along_beam_mm == pytest.approx(5.0)
    assert off.across_beam_mm == pytest.approx(0.5)
    assert off.rotation_deg == 0


def test_rotations_add_up_whatever_their_axes() -> None:
    variances = np.radians([0.1, 0.2, 0.2]) ** 2
    off = spread(with_covariance(np.eye(3), np.diag([*variances, 0, 0, 0])))
    assert off.rotation_deg == pytest.approx(0.3)


def test_correlated_shifts_are_turned_with_the_camera() -> None:
    """Sampled: errors drawn from the covariance, seen by the camera."""
    rng = np.random.default_rng(4)
    factor = rng.normal(size=(6, 6))
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    turn *= np.linalg.det(turn)
    off = spread(with_covariance(turn, factor @ factor.T))
    seen = rng.normal(size=(200_000, 6)) @ factor.T @ np.vstack((np.zeros((3, 3)), turn.T))
    assert off.along_beam_mm == pytest.approx(seen[:, 2].std(), rel=0.02)
    assert off.across_beam_mm == pytest.approx(np.sqrt((seen[:, :2] ** 2).sum(1).mean()), rel=0.02)


def test_what_nothing_depends_on_is_infinite() -> None:
    off = spread(with_covariance(np.eye(3), np.diag([1e-6, 1e-6, 1e-6, 0.1, 0.1, np.inf])))
    assert off.along_beam_mm == np.inf
    assert np.isfinite(off.across_beam_mm)
