"""The peak of the scores along depth, on scores that are known."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import registration_phantom as phantom
from test_pipeline import QUICK, start

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import local, retract
from SphericalRegLib.imaging.case import View
from SphericalRegLib.registration.options import DEFAULT_STAGES, Stage
from SphericalRegLib.registration.pipeline import prepare, register
from SphericalRegLib.registration.smoothed_depth import DEPTHS, smoothed_depths

TRUE, CENTRE = phantom.true_pose(), torch.as_tensor(phantom.ct().centre_ras_mm)
RAY = TRUE[2, :3]


class Rough:
    """A quadratic score of the tangent about the truth, with ripples along depth."""

    centre = CENTRE

    def __init__(
        self, normal_matrix: torch.Tensor, ripple: float = 0.0, sign: float = -1.0, noise: float = 0.0, nothing: bool = False
    ) -> None:
        self.normal_matrix, self.ripple, self.sign, self.noise, self.nothing = normal_matrix, ripple, sign, noise, nothing
        self.asked: list[int] = []

    def held_score(self, poses: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        self.asked += index.tolist()
        off = local(TRUE.expand_as(poses), poses, CENTRE)
        score = self.sign * 0.5 * torch.einsum("bi,ij,bj->b", off, self.normal_matrix, off)
        if self.noise:
            score = self.noise * torch.randn(score.shape, dtype=score.dtype, generator=torch.Generator().manual_seed(3))
        score = score + self.ripple * torch.sin(2 * math.pi * (off[:, 3:] @ RAY) / 1.3)
        return torch.full_like(score, math.nan) if self.nothing else score


def normal_matrix() -> torch.Tensor:
    """Depth known ten times worse than the rest, and mixed with a turn (a radian weighs 100 mm) and a shift."""
    generator = torch.Generator().manual_seed(2)
    mixed = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    matrix = mixed @ mixed.T + 3 * torch.eye(6, dtype=torch.float64)
    depth = torch.cat((torch.zeros(3, dtype=torch.float64), RAY))
    flat = torch.eye(6, dtype=torch.float64) - 0.9 * torch.outer(depth, depth)
    scale = torch.diag(torch.tensor([100.0] * 3 + [1.0] * 3).double())
    return scale @ flat @ matrix @ flat @ scale


def conditional(depth_mm: float, matrix: torch.Tensor) -> torch.Tensor:
    """The pose that is best at a depth beside the true one."""
    ray = torch.cat((torch.zeros(3, dtype=torch.float64), RAY))
    along = torch.linalg.solve(matrix, ray)
    return retract(TRUE, depth_mm * along / (ray @ along), CENTRE)


@pytest.mark.parametrize("depth", [0.0, 1.4, -3.0])
def test_the_peak_is_found_with_all_that_goes_with_depth(depth: float) -> None:
    matrix = normal_matrix()
    found = smoothed_depths(Rough(matrix), conditional(depth, matrix)[None], matrix[None], 4.0)
    torch.testing.assert_close(found[0], TRUE, atol=1e-2, rtol=0)


def test_ripples_are_averaged_over() -> None:
    matrix = normal_matrix()
    bend = 1.0 / float(torch.linalg.inv(matrix)[3:, 3:] @ RAY @ RAY)
    problem = Rough(matrix, ripple=0.5 * bend * 0.7**2)
    starts = torch.stack([conditional(depth, matrix) for depth in (1.3, -1.3, 2.6)])
    found = smoothed_depths(problem, starts, matrix.expand(3, 6, 6), 4.0)
    off = local(TRUE.expand(3, 4, 4), found, CENTRE)[:, 3:] @ RAY
    assert float(off.abs().max()) < 0.4
    assert problem.asked == [element for element in range(3) for _ in range(DEPTHS)]


@pytest.mark.parametrize("problem", [{"sign": 1.0}, {"sign": 0.0}, {"noise": 1e-7}, {"nothing": True}], ids=["a valley", "flat", "noise", "no score"])
def test_without_a_peak_a_pose_stays(problem: dict) -> None:
    matrix = normal_matrix()
    begin = conditional(1.0, matrix)[None]
    torch.testing.assert_close(smoothed_depths(Rough(matrix, **problem), begin, matrix[None], 4.0), begin, rtol=0, atol=0)


def blind_to_a_turn(share: float) -> torch.Tensor:
    """A normal matrix that hardly knows a turn that depth is mixed with."""
    turn = torch.tensor([0.6, 0.0, 0.8, *(0.002 * RAY).tolist()]).double()
    blind = torch.eye(6, dtype=torch.float64) - (1 - share) * torch.outer(turn, turn) / turn.square().sum()
    return blind @ normal_matrix() @ blind


MODELS = {"singular": torch.zeros(6, 6).double(), "no number": torch.full((6, 6), math.nan).double()}
MODELS |= {"almost singular": blind_to_a_turn(1e-9), "nearly blind to a turn": blind_to_a_turn(1e-5)}


@pytest.mark.parametrize("matrix", MODELS.values(), ids=MODELS.keys())
def test_without_a_quadratic_model_a_pose_stays(matrix: torch.Tensor) -> None:
    begin = conditional(1.0, normal_matrix())[None]
    torch.testing.assert_close(smoothed_depths(Rough(normal_matrix()), begin, matrix[None], 4.0), begin, rtol=0, atol=0)


def test_a_peak_out_of_reach_is_not_followed() -> None:
    matrix = normal_matrix()
    begin = conditional(9.0, matrix)[None]
    torch.testing.assert_close(smoothed_depths(Rough(matrix), begin, matrix[None], 4.0), begin, rtol=0, atol=0)


def test_a_stage_does_it_for_one_view() -> None:
    pyramid, radiograph, near = prepare(phantom.ct()), phantom.radiograph(TRUE), start(0.01, -0.01, 0.01, 1.0, -1.0, 1.0).numpy()

    def found(reach: float):
        stages = (Stage(96, iterations=12, smooth_depth_mm=reach),)
        return register(pyramid, radiograph, near, options=replace(QUICK, stages=stages, multi_start=None, second_start=None, closer_start=None))

    plain, smooth = found(0.0), found(4.0)
    step = local(torch.as_tensor(plain.camera_from_world), torch.as_tensor(smooth.camera_from_world), CENTRE)
    assert 1e-3 < abs(float(step[3:] @ RAY)) < 4 and abs(float(step[3:] @ RAY)) > 0.9 * float(step[3:].norm())
    assert phantom.target_error(smooth.camera_from_world, TRUE) < 1.0
    assert smooth.score == pytest.approx(plain.score, abs=0.02)
    before, record = plain.stages[-1], smooth.stages[-1]
    assert record.costs[:-1] == before.costs and record.costs[-1] == pytest.approx(before.costs[-1], rel=0.02)
    for pose in (record.poses[-1], smooth.hypotheses[0].camera_from_world):
        np.testing.assert_array_equal(pose, smooth.camera_from_world)
    assert not np.array_equal(plain.covariance, smooth.covariance)  # as it is where the pose is


def test_several_views_know_their_depth() -> None:
    side = phantom.true_pose("left")
    views = [View(phantom.radiograph(TRUE), np.eye(4)), View(phantom.radiograph(side, seed=1), (side @ torch.linalg.inv(TRUE)).numpy())]
    near = start(0.01, -0.01, 0.01, 1.0, -1.0, 1.0).numpy()
    options = replace(QUICK, multi_start=None, second_start=None, closer_start=None)
    a, b = (
        register(prepare(phantom.ct()), views, near, options=replace(options, stages=(Stage(96, iterations=12, smooth_depth_mm=reach),)))
        for reach in (0.0, 4.0)
    )
    np.testing.assert_array_equal(a.camera_from_world, b.camera_from_world)
    assert a.stages[-1].costs == b.stages[-1].costs


def test_the_last_stage_does_it_and_a_reach_is_no_number_below_zero() -> None:
    assert [stage.smooth_depth_mm for stage in DEFAULT_STAGES] == [0.0, 0.0, 4.0]
    for reach in (-1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="of depth; expected 0 or more"):
            Stage(96, smooth_depth_mm=reach)
