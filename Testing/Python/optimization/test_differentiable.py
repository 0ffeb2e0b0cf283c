"""Gradients through Levenberg-Marquardt: unrolled steps and the implicit derivative, against finite differences on analytic residuals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from SphericalRegLib.geometry.se3 import local, retract
from SphericalRegLib.optimization.implicit import exact_hessian, implicit_solution
from SphericalRegLib.optimization.levenberg_marquardt import LMOptions, levenberg_marquardt

F64 = torch.float64
TIGHT = LMOptions(max_iterations=60, step_tolerance_rad=1e-13, step_tolerance_mm=1e-11, cost_tolerance=1e-16, gradient_tolerance=1e-13)


def differences(function, x: torch.Tensor, h: float) -> torch.Tensor:
    """Derivative (outputs, inputs) of a function of x by central differences."""
    columns = []
    for k in range(x.numel()):
        step = torch.zeros(x.numel(), dtype=x.dtype)
        step[k] = h
        step = step.reshape(x.shape)
        columns.append((function(x + step) - function(x - step)).flatten() / (2 * h))
    return torch.stack(columns, dim=-1)


def jacobian(function, x: torch.Tensor) -> torch.Tensor:
    """The same by autograd."""
    return torch.autograd.functional.jacobian(function, x).reshape(-1, x.numel())


@pytest.mark.parametrize("iterations", [1, 3])
def test_unrolled_steps_pass_gradcheck_in_image_start_and_points(scene, iterations):
    s = scene(batch=2, points=5, noise=2.0)
    options = replace(TIGHT, max_iterations=iterations)

    def run(observed, points, shift):
        problem = type(s.problem)(points, observed)
        result = levenberg_marquardt(problem, retract(s.start, shift, s.centre), s.centre, options)
        return local(s.truth, result.pose, s.centre) * torch.tensor([100.0] * 3 + [1.0] * 3, dtype=F64), result.cost

    inputs = (s.problem.observed, s.problem.points, torch.zeros(2, 6, dtype=F64))
    assert torch.autograd.gradcheck(run, tuple(x.clone().requires_grad_() for x in inputs), eps=1e-5, atol=1e-4, rtol=1e-4, fast_mode=True)


def test_unrolled_gradient_goes_through_rejected_steps(scene):
    """A start with rejected steps: masks frozen, so the derivative is still that of what was run."""
    s = scene(batch=8, degrees=80.0, mm=100.0, noise=1.0, seed=3)
    options = replace(TIGHT, max_iterations=4)
    with torch.no_grad():
        result = levenberg_marquardt(s.problem, s.start, s.centre, options)
    rejected = (result.history.poses[1:] == result.history.poses[:-1]).flatten(2).all(-1)
    element = int(rejected.any(0).nonzero()[0])

    def run(observed):
        problem = replace(s.problem, observed=observed)
        result = levenberg_marquardt(problem, s.start[element : element + 1], s.centre, options)
        return local(s.start[element : element + 1], result.pose, s.centre)

    observed = s.problem.observed[element : element + 1].clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (observed,), eps=1e-4, atol=1e-4, rtol=1e-3, fast_mode=True)


def test_no_graph_is_kept_unless_asked_for(scene):
    s = scene(batch=2)
    result = levenberg_marquardt(s.problem, s.start, s.centre)
    assert not result.pose.requires_grad
    observed = s.problem.observed.clone().requires_grad_()
    result = levenberg_marquardt(replace(s.problem, observed=observed), s.start, s.centre)
    assert result.pose.requires_grad
    assert not result.history.poses.requires_grad
    assert not result.history.costs.requires_grad


def test_a_failed_element_does_not_spoil_the_gradient_of_the_others(scene):
    s = scene(batch=3)
    observed = s.problem.observed.clone()
    observed[1] = torch.nan
    observed.requires_grad_()
    result = levenberg_marquardt(replace(s.problem, observed=observed), s.start, s.centre)
    (gradient,) = torch.autograd.grad(result.pose.sum(), observed)
    assert torch.isfinite(gradient).all()
    assert gradient[1].abs().max() == 0
    assert gradient[0].abs().max() > 0


def solve(problem, scene):
    with torch.no_grad():
        return levenberg_marquardt(problem, scene.start, scene.centre, TIGHT).pose


def test_implicit_gradient_is_that_of_solving_again(scene):
    """With noise J^T J is not the Hessian: the exact one gives the derivative of the solution, J^T J an approximation of it."""
    s = scene(batch=1, points=4, noise=8.0)

    def solution(observed):
        return local(s.truth, solve(replace(s.problem, observed=observed), s), s.centre)

    expected = differences(solution, s.problem.observed, 1e-2)
    pose = solve(s.problem, s)
    hessian = exact_hessian(s.problem, pose, s.centre)
    assert torch.allclose(hessian, hessian.mT, rtol=1e-6, atol=1e-6 * hessian.abs().max().item())

    def implicit(observed, h=hessian):
        return local(s.truth, implicit_solution(replace(s.problem, observed=observed), pose, s.centre, h), s.centre)

    scale = expected.abs().amax(1, keepdim=True)
    exact = jacobian(implicit, s.problem.observed)
    assert ((exact - expected) / scale).abs().max() < 1e-5
    gauss_newton = jacobian(lambda observed: implicit(observed, None), s.problem.observed)
    error = ((gauss_newton - expected) / scale).abs().max()
    assert 1e-3 < error < 0.3


def test_gauss_newton_hessian_is_exact_without_residual(scene):
    s = scene(batch=2, points=5)
    pose = solve(s.problem, s)
    exact = exact_hessian(s.problem, pose, s.centre)
    assert torch.allclose(exact, _normal(s, pose), rtol=1e-6, atol=1e-6 * exact.abs().max().item())

    def implicit(observed):
        return implicit_solution(replace(s.problem, observed=observed), pose, s.centre)[:, :3]

    def again(observed):
        return solve(replace(s.problem, observed=observed), s)[:, :3]

    expected = differences(again, s.problem.observed, 1e-3)
    got = jacobian(implicit, s.problem.observed)
    assert (got - expected).abs().max() < 1e-5 * expected.abs().max()


def _normal(s, pose):
    _, j = s.problem.residual_and_jacobian(pose, torch.arange(len(pose)))
    return j.mT @ j


def test_implicit_and_unrolled_agree_at_convergence(scene):
    s = scene(batch=2, points=6)
    observed = s.problem.observed.clone().requires_grad_()
    weight = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=F64)
    unrolled = levenberg_marquardt(replace(s.problem, observed=observed), s.start, s.centre, TIGHT)
    (through_steps,) = torch.autograd.grad((weight * unrolled.pose).sum(), observed)
    solution = implicit_solution(replace(s.problem, observed=observed), unrolled.pose, s.centre)
    assert torch.equal(solution.detach()[:, :3, :3], unrolled.pose.detach()[:, :3, :3])
    assert torch.allclose(solution, unrolled.pose, atol=1e-12)
    (at_solution,) = torch.autograd.grad((weight * solution).sum(), observed)
    assert torch.allclose(through_steps, at_solution, rtol=1e-5, atol=1e-7 * at_solution.abs().max().item())


def test_training_through_the_optimiser_learns_a_weight(scene):
    """Two points have been observed wrongly; weights learned through LM, from the pose error alone, come to ignore them."""
    s = scene(batch=4, points=8, degrees=3.0, mm=5.0)
    observed = s.problem.observed.clone()
    observed[:, :2] += 30.0 * torch.randn(4, 2, 2, generator=torch.Generator().manual_seed(2), dtype=F64)
    problem = replace(s.problem, observed=observed)
    logits = torch.zeros(8, dtype=F64, requires_grad=True)

    def weighted(poses):
        r, j = problem.residual_and_jacobian(poses, torch.arange(len(poses)))
        w = torch.sigmoid(logits).repeat_interleave(2)
        return w * r, w[:, None] * j

    optimizer = torch.optim.Adam([logits], lr=0.5)
    losses = []
    for _ in range(15):
        # all elements stay in the batch, so that row b is element b
        result = levenberg_marquardt(weighted, s.start, s.centre, replace(TIGHT, max_iterations=3))
        loss = (local(s.truth, result.pose, s.centre) * torch.tensor([100.0] * 3 + [1.0] * 3, dtype=F64)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    assert logits[:2].max() < logits[2:].min()
