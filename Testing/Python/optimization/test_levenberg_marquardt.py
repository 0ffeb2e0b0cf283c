"""Batched Levenberg-Marquardt: against SciPy, batch against one by one, singular systems, statuses, what it evaluates, cancellation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.distances import double_geodesic
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.optimization.levenberg_marquardt import LMOptions, damped_step, levenberg_marquardt, marquardt_scale
from SphericalRegLib.optimization.problem import LeastSquaresProblem, Linearization, SharedProblem, differentiated, linearize
from SphericalRegLib.optimization.result import Status, concatenate
from SphericalRegLib.progress import Cancelled, Progress

F64 = torch.float64
ORIGIN = torch.zeros(3, dtype=F64)
TIGHT = LMOptions(max_iterations=100, step_tolerance_rad=1e-12, step_tolerance_mm=1e-10, cost_tolerance=1e-15, gradient_tolerance=1e-12)


def identity(batch: int = 1) -> torch.Tensor:
    return torch.eye(4, dtype=F64).repeat(batch, 1, 1)


def test_problems_are_recognised(scene):
    assert isinstance(scene().problem, LeastSquaresProblem)
    assert not isinstance(lambda poses: poses, LeastSquaresProblem)


def test_the_hand_written_jacobian_is_that_of_automatic_differentiation(scene):
    s = scene(batch=1)
    residual, jacobian = s.problem.residual_and_jacobian(s.start, torch.tensor([0]))
    automatic = differentiated(lambda pose: s.problem.residual(pose, s.problem.observed[0]), s.centre)(s.start)
    assert torch.allclose(residual, automatic[0], atol=1e-10)
    assert torch.allclose(jacobian, automatic[1], atol=1e-9)


def test_finds_the_truth_from_a_far_start(scene):
    s = scene(batch=16, degrees=15.0, mm=30.0)
    result = levenberg_marquardt(s.problem, s.start, s.centre)
    assert double_geodesic(s.start, s.truth, s.centre, 500.0).min() > 50.0
    assert double_geodesic(result.pose, s.truth, s.centre, 500.0).max() < 1e-6
    assert all(status.converged for status in result.status)
    assert result.iterations.max() <= 10


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_scipy_on_noisy_projections(scene, seed):
    s = scene(batch=1, noise=1.5, seed=seed)

    def residual(delta):
        pose = retract(s.start, torch.from_numpy(delta)[None], s.centre)
        return s.problem.residual(pose, s.problem.observed)[0].numpy()

    expected = least_squares(residual, np.zeros(6), method="lm", x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14)
    result = levenberg_marquardt(s.problem, s.start, s.centre, TIGHT)
    assert result.cost.item() == pytest.approx(expected.cost, rel=1e-10)
    solution = retract(s.start, torch.from_numpy(expected.x)[None], s.centre)
    assert double_geodesic(result.pose, solution, s.centre, 500.0).item() < 1e-4
    assert result.status[0].converged


@pytest.mark.parametrize("seed", range(4))
def test_a_search_ends_at_the_rounding_of_the_cost_whatever_the_tolerances(scene, seed):
    s = scene(batch=1, noise=1.5, seed=seed)
    none = replace(TIGHT, step_tolerance_rad=0.0, step_tolerance_mm=0.0, cost_tolerance=0.0, gradient_tolerance=0.0)
    result = levenberg_marquardt(s.problem, s.start, s.centre, none)
    assert result.status[0] == Status.CONVERGED_COST and result.iterations[0] < 15


def test_batch_equals_one_by_one_and_each_element_has_its_own_image(scene):
    s = scene(batch=6, noise=1.0, degrees=15.0, mm=40.0)
    together = levenberg_marquardt(s.problem, s.start, s.centre)
    for element in range(6):
        alone = levenberg_marquardt(replace(s.problem, observed=s.problem.observed[element : element + 1]), s.start[element : element + 1], s.centre)
        assert torch.allclose(alone.pose[0], together.pose[element], atol=1e-9)
        assert alone.iterations[0] == together.iterations[element]
        assert alone.status[0] == together.status[element]


def test_finished_elements_cost_nothing(scene):
    s = scene(batch=3)
    start = torch.stack((s.truth[0], s.start[1], s.start[2]))
    result = levenberg_marquardt(s.problem, start, s.centre)
    assert result.status[0] == Status.CONVERGED_GRADIENT
    assert result.iterations[0] == 0
    asked = torch.bincount(torch.tensor(s.problem.asked))
    assert torch.equal(asked, result.iterations + 1)
    assert result.history.evaluations[-1] == len(s.problem.asked)


def test_invariant_to_units_and_to_the_residuals_scale(scene):
    s = scene(batch=2, noise=1.0)

    def scaled(poses, index):
        residual, jacobian = s.problem.residual_and_jacobian(poses, index)
        return 1e-6 * residual, 1e-6 * jacobian

    plain = levenberg_marquardt(s.problem, s.start, s.centre)
    problem = replace(s.problem)
    object.__setattr__(problem, "residual_and_jacobian", scaled)
    result = levenberg_marquardt(problem, s.start, s.centre)
    assert torch.equal(plain.iterations, result.iterations)
    assert torch.allclose(plain.pose, result.pose, atol=1e-8)
    model = linearize(s.problem, s.start, torch.arange(2))
    units = torch.tensor([57.3] * 3 + [0.1] * 3, dtype=F64)  # degrees and centimetres
    other = Linearization(model.cost, model.rows, model.weighted, model.gradient / units, model.normal_matrix / units[:, None] / units)
    damping = torch.full((2,), 0.37, dtype=F64)
    assert torch.allclose(damped_step(model, damping, 1e-6)[0], damped_step(other, damping, 1e-6)[0] / units, rtol=1e-9)


def test_damped_step_solves_marquardts_system(scene):
    s = scene(batch=3, noise=1.0)
    model = linearize(s.problem, s.start, torch.arange(3))
    damping = torch.tensor([1e-7, 1e-2, 10.0], dtype=F64)
    step, predicted = damped_step(model, damping, 1e-6)
    damped = model.normal_matrix + damping[:, None, None] * torch.diag_embed(model.normal_matrix.diagonal(dim1=1, dim2=2))
    assert torch.allclose(step, torch.linalg.solve(damped, -model.gradient), rtol=1e-7)
    after = 0.5 * (step[:, None] @ model.normal_matrix @ step[..., None])[:, 0, 0] + (model.gradient * step).sum(-1)
    assert torch.allclose(predicted, -after, rtol=1e-7)


def test_a_quadratic_is_solved_in_one_step(quadratic):
    residual, matrix, offset = quadratic([3, 4, 5])
    options = LMOptions(initial_lambda=1e-7)
    result = levenberg_marquardt(residual, identity(), ORIGIN, options)
    expected = torch.linalg.lstsq(matrix[:, 3:], -offset).solution
    assert (result.history.poses[1, 0, :3, 3] - expected).abs().max() < 1e-6
    assert (result.pose[0, :3, 3] - expected).abs().max() < 1e-6
    assert torch.equal(result.pose[0, :3, :3], torch.eye(3, dtype=F64))  # nothing depends on the rotation: it stays
    assert result.status[0].converged


@pytest.mark.parametrize("columns", [[4], [3, 5], []])
def test_directions_that_nothing_depends_on_stay_where_they_are(quadratic, columns):
    residual, matrix, offset = quadratic(columns)
    result = levenberg_marquardt(residual, identity(), ORIGIN)
    assert torch.isfinite(result.pose).all()
    assert result.status[0].converged
    still = [c for c in range(3, 6) if c not in columns]
    assert torch.equal(result.pose[0, :3, 3][[c - 3 for c in still]], torch.zeros(len(still), dtype=F64))
    if columns:
        expected = torch.linalg.lstsq(matrix[:, columns], -offset).solution
        assert (result.pose[0, :3, 3][[c - 3 for c in columns]] - expected).abs().max() < 1e-5


def test_equal_columns_give_the_shortest_of_the_solutions(quadratic):
    residual, matrix, offset = quadratic([3, 4])
    matrix[:, 4] = matrix[:, 3]
    result = levenberg_marquardt(residual, identity(), ORIGIN)
    a = matrix[:, 3]
    expected = -(a @ offset) / (a @ a) / 2
    assert (result.pose[0, :2, 3] - expected).abs().max() < 1e-5
    assert result.status[0].converged


def test_marquardt_scale_has_a_floor_for_each_unit():
    matrix = torch.diag(torch.tensor([1e6, 0.0, 1.0, 1e-4, 4e-4, 0.0], dtype=F64))[None]
    scale = marquardt_scale(matrix, 1e-6)
    assert torch.allclose(scale[0] ** -2, torch.tensor([1e6, 1.0, 1.0, 1e-4, 4e-4, 4e-10], dtype=F64))
    assert torch.equal(marquardt_scale(torch.zeros(1, 6, 6, dtype=F64), 1e-6), torch.ones(1, 6, dtype=F64))


def test_rows_that_are_not_finite_are_left_out(scene):
    s = scene(batch=2)
    observed = s.problem.observed.clone()
    observed[0, :5] = torch.nan
    observed[1, 3, 0] = torch.inf
    result = levenberg_marquardt(replace(s.problem, observed=observed), s.start, s.centre)
    assert double_geodesic(result.pose, s.truth, s.centre, 500.0).max() < 1e-6
    assert result.rows.tolist() == [30, 39]


def test_losing_most_rows_is_no_improvement(quadratic):
    """A pose at which nearly everything is missing has a small sum of squares; it must not be taken for a good one."""
    residual, _, _ = quadratic([3, 4, 5])

    def vanishing(poses):
        r, j = residual(poses)
        gone = poses[:, :3, 3].norm(dim=-1) > 1e-3
        r = r.clone()
        r[gone, 1:] = torch.nan
        r[gone, 0] = 0.0
        return r, j

    result = levenberg_marquardt(vanishing, identity(), ORIGIN, LMOptions(max_iterations=40))
    assert result.rows[0] == 30
    assert result.pose[0, :3, 3].norm() <= 1e-3


def test_costs_are_compared_per_row(quadratic):
    residual, _, _ = quadratic([3, 4, 5])

    def thinning(poses):
        """Away from the start a quarter of the rows is missing: the sum of squares falls, the fit does not get any better."""
        r, j = residual(poses)
        r = r.clone()
        r[:] = 1.0
        away = poses[:, :3, 3].norm(dim=-1) > 0
        r[away, ::4] = torch.nan
        return r, j

    result = levenberg_marquardt(thinning, identity(), ORIGIN, LMOptions(max_iterations=40))
    assert torch.equal(result.pose, identity())
    assert result.rows[0] == 30


def test_failed_elements_leave_the_others_alone(scene):
    s = scene(batch=3)
    observed = s.problem.observed.clone()
    observed[1] = torch.nan
    result = levenberg_marquardt(replace(s.problem, observed=observed), s.start, s.centre)
    assert [status == Status.FAILED for status in result.status] == [False, True, False]
    assert torch.equal(result.pose[1], s.start[1])
    assert result.cost[1] == torch.inf
    assert result.rows[1] == 0
    assert double_geodesic(result.pose, s.truth, s.centre, 500.0)[[0, 2]].max() < 1e-6
    assert result.best() in (0, 2)


def test_a_residual_without_a_downhill_step_stalls(quadratic):
    residual, _, _ = quadratic([3, 4, 5])

    def wrong_sign(poses):
        r, j = residual(poses)
        return r, -j

    result = levenberg_marquardt(wrong_sign, identity(), ORIGIN, LMOptions(max_iterations=40))
    assert result.status[0] == Status.STALLED
    assert torch.equal(result.pose, identity())
    assert result.history.lambdas.max() == 1e7


def test_a_rejected_step_that_promised_next_to_nothing_is_the_last(quadratic):
    residual, _, _ = quadratic([3, 4, 5])

    def wrong_sign(poses):
        r, j = residual(poses)
        return r, -j

    def steps(tolerance):
        result = levenberg_marquardt(wrong_sign, identity(), ORIGIN, LMOptions(max_iterations=40, cost_tolerance=tolerance))
        assert result.status[0] == Status.STALLED
        return int(result.iterations[0])

    assert steps(1e-2) < steps(1e-4) < steps(1e-9)


def test_a_rejected_step_that_could_not_be_judged_is_not_the_last(scene):
    s = scene(batch=1, degrees=1.0, mm=2.0)

    def short_steps_only(poses):
        r, j = s.problem.residual_and_jacobian(poses, torch.zeros(len(poses), dtype=torch.int64))
        far = double_geodesic(poses, s.start.expand_as(poses), s.centre, 500.0) > 1e-3
        return torch.where(far[:, None], torch.nan, r), j

    result = levenberg_marquardt(short_steps_only, s.start, s.centre, LMOptions(max_iterations=12, cost_tolerance=0.9))
    assert result.cost[0] < result.history.costs[0, 0]


def test_an_element_whose_normal_matrix_overflows_leaves_the_others_alone(quadratic):
    residual, _, _ = quadratic([3, 4, 5])

    def one_overflows(poses):
        r, j = residual(poses)
        j = j.clone()
        j[poses[:, 0, 3] > 50, :, 3] *= 1e160  # finite, but its square is not
        return r, j

    start = identity(2)
    start[1, 0, 3] = 100.0
    result = levenberg_marquardt(one_overflows, start, ORIGIN)
    assert result.status[0].converged and result.status[1] == Status.STALLED


def test_after_a_rejected_step_the_damping_is_one_that_changes_the_step(scene):
    s = scene(batch=2)

    def wrong_sign(poses):
        r, j = s.problem.residual_and_jacobian(poses, torch.arange(2)[: len(poses)])
        return r, -j

    result = levenberg_marquardt(wrong_sign, s.start, s.centre, LMOptions(max_iterations=1, initial_lambda=1e-6))
    scale = marquardt_scale(result.normal_matrix, LMOptions().diagonal_floor)
    least = torch.linalg.eigvalsh(result.normal_matrix * scale[:, :, None] * scale[:, None, :])[:, 0]
    assert (least > 1e-5).all()
    torch.testing.assert_close(result.history.lambdas[1], least)


@pytest.mark.parametrize("at_once", [1, 7, 100])
def test_normal_equations_are_the_same_by_parts(at_once, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    r, j = torch.randn(3, 50, generator=generator), torch.randn(3, 50, 6, generator=generator)
    r[:, ::5], j[:, ::10] = 0.0, 0.0
    monkeypatch.setattr("SphericalRegLib.optimization.problem.ROWS_AT_ONCE", 3 * at_once)
    monkeypatch.setattr("SphericalRegLib.optimization.problem.LEAST_ROWS", 1)
    model = linearize(SharedProblem(lambda poses: (r, j)), identity(3), torch.arange(3))
    torch.testing.assert_close(model.normal_matrix, j.double().mT @ j.double())
    torch.testing.assert_close(model.gradient, (j.double().mT @ r.double()[..., None])[..., 0])
    torch.testing.assert_close(model.cost, 0.5 * r.double().square().sum(-1))
    assert model.weighted.tolist() == [45] * 3 and model.rows.tolist() == [50] * 3  # a residual of zero that depends on the pose says something


def test_a_residual_that_breaks_away_from_the_start_stalls(scene):
    s = scene(batch=1)

    def breaking(poses):
        r, j = s.problem.residual_and_jacobian(poses, torch.zeros(len(poses), dtype=torch.int64))
        broken = (poses != s.start).flatten(1).any(-1)
        return torch.where(broken[:, None], torch.nan, r), j

    result = levenberg_marquardt(breaking, s.start, s.centre, LMOptions(max_iterations=40))
    assert result.status[0] == Status.STALLED
    assert torch.equal(result.pose, s.start)


def test_statuses(scene):
    s = scene(batch=1, noise=1.0)

    def status(**changes):
        return levenberg_marquardt(s.problem, s.start, s.centre, replace(TIGHT, **changes)).status[0]

    assert status(max_iterations=2) == Status.MAX_ITERATIONS
    assert status(gradient_tolerance=1e-5) == Status.CONVERGED_GRADIENT
    assert status(gradient_tolerance=0.0, step_tolerance_rad=1e-4, step_tolerance_mm=1e-1) == Status.CONVERGED_STEP
    assert status(gradient_tolerance=0.0, cost_tolerance=1e-4) == Status.CONVERGED_COST
    assert levenberg_marquardt(s.problem, s.start, s.centre, LMOptions(max_iterations=0)).status[0] == Status.MAX_ITERATIONS
    assert not Status.STALLED.converged


def test_history_falls_and_ends_at_the_result(scene):
    s = scene(batch=5, degrees=20.0, mm=50.0, noise=1.0)
    result = levenberg_marquardt(s.problem, s.start, s.centre)
    history = result.history
    assert history.poses.shape == (len(history.costs), 5, 4, 4)
    assert torch.equal(history.poses[0], s.start)
    assert torch.equal(history.poses[-1], result.pose)
    assert torch.equal(history.costs[-1], result.cost)
    assert (history.costs.diff(dim=0) <= 0).all()
    assert len(history.costs) == result.iterations.max() + 1
    assert (history.lambdas >= 1e-7).all()
    again = linearize(s.problem, result.pose, torch.arange(5))
    assert torch.allclose(again.normal_matrix, result.normal_matrix)
    assert torch.allclose(again.cost, result.cost)


def test_deterministic(scene):
    s = scene(batch=5, degrees=20.0, mm=50.0, noise=1.0)
    first, second = (levenberg_marquardt(s.problem, s.start, s.centre) for _ in range(2))
    assert torch.equal(first.pose, second.pose)
    assert torch.equal(first.history.costs, second.history.costs)


def test_float32_problems_are_solved_in_float64(scene):
    s = scene(batch=2)

    def single(poses):
        r, j = s.problem.residual_and_jacobian(poses, torch.arange(len(poses)))
        return r.float(), j.float()

    result = levenberg_marquardt(single, s.start[:1].float(), s.centre.float())
    assert result.pose.dtype == F64
    assert double_geodesic(result.pose, s.truth[:1], s.centre, 500.0).item() < 1e-3


def test_progress_and_cancellation(scene):
    s = scene(batch=3)
    reports: list[Progress] = []
    result = levenberg_marquardt(s.problem, s.start, s.centre, progress=reports.append)
    assert [report.done for report in reports] == list(range(1, len(result.history.costs)))
    assert reports[-1].cost == result.cost.min()
    assert torch.equal(reports[-1].pose, result.pose[result.cost.argmin()])

    def cancel(report: Progress) -> None:
        if report.done == 2:
            raise Cancelled

    s.problem.asked.clear()
    with pytest.raises(Cancelled):
        levenberg_marquardt(s.problem, s.start, s.centre, progress=cancel)
    assert len(s.problem.asked) == 9


def test_results_are_joined(scene):
    s = scene(batch=3)
    parts = [levenberg_marquardt(replace(s.problem, observed=s.problem.observed[i : i + 1]), s.start[i : i + 1], s.centre) for i in range(3)]
    joined = concatenate(parts)
    together = levenberg_marquardt(s.problem, s.start, s.centre)
    assert torch.allclose(joined.history.costs, together.history.costs, atol=1e-9)
    assert joined.status == together.status
    assert joined.history.evaluations[-1] == together.history.evaluations[-1]


def test_wrong_shapes_are_named(scene):
    s = scene()
    with pytest.raises(InputError, match=r"batch \(B, 4, 4\), but the shape is \(4, 4\)"):
        levenberg_marquardt(s.problem, s.start[0], s.centre)
    with pytest.raises(InputError, match="finite"):
        levenberg_marquardt(s.problem, s.start * torch.nan, s.centre)
    with pytest.raises(InputError, match=r"shapes are \(4, 3\) and \(4, 3, 5\)"):
        levenberg_marquardt(lambda poses: (torch.zeros(4, 3), torch.zeros(4, 3, 5)), s.start, s.centre)
    with pytest.raises(InputError, match="initial_lambda"):
        LMOptions(initial_lambda=-1.0)
    with pytest.raises(InputError, match="greater than one"):
        LMOptions(lambda_increase=0.5)


def test_an_empty_batch_is_no_error(scene):
    s = scene()
    result = levenberg_marquardt(s.problem, s.start[:0], s.centre)
    assert result.pose.shape == (0, 4, 4)
    assert result.status == ()
