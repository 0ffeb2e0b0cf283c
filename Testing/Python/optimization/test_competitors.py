"""Gauss-Newton, SGD, Adam and L-BFGS: the same problems and the same result type as Levenberg-Marquardt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.distances import double_geodesic
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.optimization.first_order import FirstOrderOptions, chart_gradient, first_order
from SphericalRegLib.optimization.gauss_newton import GaussNewtonOptions, full_step, gauss_newton
from SphericalRegLib.optimization.levenberg_marquardt import levenberg_marquardt
from SphericalRegLib.optimization.problem import linearize
from SphericalRegLib.optimization.result import Status
from SphericalRegLib.progress import Cancelled

F64 = torch.float64
ORIGIN = torch.zeros(3, dtype=F64)


def test_gauss_newton_solves_a_quadratic_in_one_step(quadratic):
    residual, matrix, offset = quadratic([3, 4, 5])
    result = gauss_newton(residual, torch.eye(4, dtype=F64)[None], ORIGIN)
    expected = torch.linalg.lstsq(matrix[:, 3:], -offset).solution
    assert (result.history.poses[1, 0, :3, 3] - expected).abs().max() < 1e-13
    assert result.status[0] == Status.CONVERGED_STEP
    assert result.iterations[0] == 2  # the second step is the short one


@pytest.mark.parametrize("columns", [[4], [3, 5], []])
def test_gauss_newton_survives_rank_deficiency(quadratic, columns):
    residual, matrix, offset = quadratic(columns)
    result = gauss_newton(residual, torch.eye(4, dtype=F64)[None], ORIGIN)
    expected = torch.zeros(6, dtype=F64)
    if columns:
        expected[columns] = torch.linalg.lstsq(matrix[:, columns], -offset).solution
    assert (result.pose[0, :3, 3] - expected[3:]).abs().max() < 1e-12
    assert result.status[0] == Status.CONVERGED_STEP


def test_full_step_is_the_pseudo_inverse_in_scaled_variables(scene):
    s = scene(batch=3, noise=1.0)
    model = linearize(s.problem, s.start, torch.arange(3))
    expected = torch.linalg.solve(model.normal_matrix, -model.gradient)
    assert torch.allclose(full_step(model.gradient, model.normal_matrix), expected, rtol=1e-7)


def test_gauss_newton_agrees_with_levenberg_marquardt(scene):
    s = scene(batch=4, noise=1.0)
    expected = levenberg_marquardt(s.problem, s.start, s.centre)
    result = gauss_newton(s.problem, s.start, s.centre)
    assert double_geodesic(result.pose, expected.pose, s.centre, 500.0).max() < 1e-3
    assert torch.allclose(result.cost, expected.cost, rtol=1e-6)
    assert torch.allclose(result.normal_matrix, expected.normal_matrix, rtol=1e-4)
    assert len(result.history.costs) == result.iterations.max() + 1


def test_gauss_newton_keeps_the_last_pose_that_had_a_residual(scene):
    s = scene(batch=2)
    observed = s.problem.observed.clone()
    observed[0] = torch.nan
    calls = []

    def residual_and_jacobian(poses, index):
        r, j = replace(s.problem, observed=observed).residual_and_jacobian(poses, index)
        calls.append(len(poses))
        return (r, j) if len(calls) == 1 else (r * torch.nan, j)

    problem = replace(s.problem)
    object.__setattr__(problem, "residual_and_jacobian", residual_and_jacobian)
    result = gauss_newton(problem, s.start, s.centre)
    assert result.status == (Status.FAILED, Status.STALLED)
    assert torch.equal(result.pose, s.start)
    assert calls == [2, 1]


def test_chart_gradient_is_the_derivative_in_the_fixed_chart(scene):
    s = scene(batch=3, noise=1.0)
    delta = 0.3 * torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=F64) * torch.tensor([1, 1, 1, 30, 30, 30], dtype=F64)
    model = linearize(s.problem, retract(s.start, delta, s.centre), torch.arange(3))
    delta.requires_grad_()
    cost = 0.5 * s.problem.residual(retract(s.start, delta, s.centre), s.problem.observed).square().sum()
    (expected,) = torch.autograd.grad(cost, delta)
    assert torch.allclose(chart_gradient(model.gradient, delta.detach()), expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("options", "tolerance_mm"),
    [
        (FirstOrderOptions("adam", max_iterations=500, decay=0.985), 0.5),
        (FirstOrderOptions("lbfgs", max_iterations=60), 1e-3),
        (FirstOrderOptions("sgd", max_iterations=500, learning_rate=5e-4, decay=1.0), 0.5),
    ],
    ids=lambda value: getattr(value, "method", None),
)
def test_first_order_methods_reach_the_solution(scene, options, tolerance_mm):
    s = scene(batch=2, degrees=3.0, mm=5.0)
    result = first_order(s.problem, s.start, s.centre, options)
    assert double_geodesic(s.start, s.truth, s.centre, 100.0).min() > 3.0
    assert double_geodesic(result.pose, s.truth, s.centre, 100.0).max() < tolerance_mm
    assert result.history.poses.shape[1:] == (2, 4, 4)
    assert torch.equal(result.history.poses[-1], result.pose)
    assert result.history.evaluations[-1] == len(s.problem.asked)  # nothing is asked for that is not counted
    if options.method != "lbfgs":  # one for each step, and one at the start
        assert result.history.evaluations[-1] == 2 + result.iterations.sum()


@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_batch_equals_one_by_one(scene, method):
    s = scene(batch=3, degrees=3.0, mm=5.0, noise=1.0)
    options = FirstOrderOptions(method, max_iterations=15)
    together = first_order(s.problem, s.start, s.centre, options)
    for element in range(3):
        problem = replace(s.problem, observed=s.problem.observed[element : element + 1])
        alone = first_order(problem, s.start[element : element + 1], s.centre, options)
        assert torch.allclose(alone.pose[0], together.pose[element], atol=1e-8)


@pytest.mark.parametrize("method", ["adam", "lbfgs", "sgd"])
def test_elements_that_have_finished_or_failed_do_not_move(scene, method):
    s = scene(batch=3)
    observed = s.problem.observed.clone()
    observed[1] = torch.nan
    start = torch.stack((s.truth[0], s.start[1], s.start[2]))
    result = first_order(replace(s.problem, observed=observed), start, s.centre, FirstOrderOptions(method, max_iterations=5, learning_rate=1e-3))
    assert torch.allclose(result.pose[:2], start[:2], atol=1e-9)
    assert result.status[1] == Status.FAILED
    assert not torch.equal(result.pose[2], start[2])


@pytest.mark.parametrize("run", [gauss_newton, first_order])
def test_cancellation(scene, run):
    s = scene(batch=2)

    def cancel(report):
        raise Cancelled

    with pytest.raises(Cancelled):
        run(s.problem, s.start, s.centre, progress=cancel)


def test_unknown_method_and_iteration_limit(scene):
    with pytest.raises(InputError, match=r"'newton' is unknown: expected one of sgd, adam, lbfgs"):
        FirstOrderOptions("newton")
    s = scene(batch=1)
    assert gauss_newton(s.problem, s.start, s.centre, GaussNewtonOptions(max_iterations=1)).status[0] == Status.MAX_ITERATIONS
    assert first_order(s.problem, s.start, s.centre, FirstOrderOptions(max_iterations=1)).status[0] == Status.MAX_ITERATIONS
