"""Rigid motions as users give them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.rigid import checked_rigid


def poses(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    out = np.tile(np.eye(4), (count, 1, 1))
    out[:, :3, :3] = Rotation.random(count, random_state=0).as_matrix()
    out[:, :3, 3] = rng.uniform(-900, 900, (count, 3))
    return out


def test_four_decimals_are_enough_and_are_mended():
    for pose in poses(100):
        mended = checked_rigid(np.round(pose, 4).tolist(), "pose")
        np.testing.assert_allclose(mended[:3, :3].T @ mended[:3, :3], np.eye(3), atol=1e-14)
        np.testing.assert_allclose(mended, pose, atol=2e-4)
        np.testing.assert_array_equal(checked_rigid(mended, "pose"), mended)


def test_what_is_given_stays_as_it_is():
    pose = np.round(poses(1)[0], 4)
    before = pose.copy()
    checked_rigid(pose, "pose")
    np.testing.assert_array_equal(pose, before)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(3), r"has shape \(3, 3\), expected 4 x 4"),
        (poses(2), r"has shape \(2, 4, 4\), expected 4 x 4"),
        ([[1.0, 2.0], [3.0]], "is not a matrix of numbers"),
        (None, "is not a matrix of numbers"),
        ([["a"] * 4] * 4, "is not a matrix of numbers"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.diag([1.0, 1, 1, 2]), "last row .*0.0, 2.0.*, expected .*transposed"),
        (np.diag([1.1, 1.1, 1.1, 1]), "not rigid: its 3 x 3 part is off a rotation by 0.21"),
        (np.diag([1.0, 1, -1, 1]), "is a reflection"),
    ],
)
def test_what_is_wrong_is_said(matrix, words):
    with pytest.raises(InputError, match=f"^the pose .*{words}"):
        checked_rigid(matrix, "the pose")
