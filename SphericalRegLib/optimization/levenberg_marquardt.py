"""Batched Levenberg-Marquardt on SE(3), differentiable through its steps.

Each element b minimises 1/2 |r_b|^2 by (J^T J + lambda D) delta = -J^T r with Marquardt's scaling D = diag(J^T J), which makes the method invariant
to the residual's scale and to radians versus millimetres; the step is retracted on the right about the centre (`geometry.se3.retract`) and accepted
by the gain ratio, actual over predicted decrease. Nocedal and Wright, "Numerical Optimization", 2nd ed., chapter 10.3; More, "The
Levenberg-Marquardt algorithm: implementation and theory", 1978; Marquardt, 1963.

Differentiable: where the residual, the Jacobian or the initial poses require gradients, the resulting `pose`, `cost` and `normal_matrix` carry them
through all steps, with the accept masks and the damping held as they were (they are piecewise constant, so this is the exact derivative of what was
run). `optimization.implicit` gives the derivative at the solution without the steps. Otherwise run under `torch.no_grad()`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.optimization.problem import (
    LeastSquaresProblem,
    Linearization,
    LinearizedResidual,
    as_problem,
    check_start,
    linearize,
)
from SphericalRegLib.optimization.result import OptimizationResult, Recorder, Status, statuses
from SphericalRegLib.progress import Progress, ProgressCallback

STAGE = "Levenberg-Marquardt"

ROUNDING = torch.finfo(torch.float64).eps
"""Relative; where a step promises less than this the cost has ceased to fall: what it does is rounding, and differs between processors."""


@dataclass(frozen=True)
class LMOptions:
    """Settings of `levenberg_marquardt`; the starting values are those that libraries agree on.

    Attributes:
        max_iterations: steps tried per element, accepted or not.
        initial_lambda, lambda_decrease, lambda_increase, min_lambda, max_lambda: the damping, divided after an accepted step and multiplied after
            a rejected one, then at least to where it changes the step: the least eigenvalue of the scaled system.
        accept_ratio: least gain ratio of a step that is taken.
        diagonal_floor: D is kept above this fraction of its largest entry, rotation and translation apart, so that a direction that nothing
            depends on stays where it is.
        gradient_tolerance: largest cosine between the residual and a column of J at a solution.
        step_tolerance_rad, step_tolerance_mm: a step below both is the last.
        cost_tolerance: relative decrease, both predicted and actual, below which the cost has ceased to fall; so it has, whatever this is, where the
            predicted one is below the cost's rounding. A rejected step that promised no more has stalled: shorter ones promise less.
        undamped_below: steps converge by the last two tolerances only at a lambda below this: a short step of a heavily damped system is no sign of
            a minimum.
    """

    max_iterations: int = 20
    initial_lambda: float = 1e-3
    lambda_decrease: float = 9.0
    lambda_increase: float = 11.0
    min_lambda: float = 1e-7
    max_lambda: float = 1e7
    accept_ratio: float = 0.1
    diagonal_floor: float = 1e-6
    gradient_tolerance: float = 1e-8
    step_tolerance_rad: float = 1e-6
    step_tolerance_mm: float = 1e-4
    cost_tolerance: float = 1e-7
    undamped_below: float = 1.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) >= 0:
                raise InputError(f"LMOptions.{item.name} must not be negative, but it is {getattr(self, item.name)}.")
        if not self.min_lambda <= self.initial_lambda <= self.max_lambda or self.lambda_decrease <= 1 or self.lambda_increase <= 1:
            raise InputError("LMOptions needs min_lambda <= initial_lambda <= max_lambda, and factors of lambda greater than one.")


def levenberg_marquardt(
    problem: LeastSquaresProblem | LinearizedResidual,
    initial: Tensor,
    centre: Tensor,
    options: LMOptions = LMOptions(),
    progress: ProgressCallback | None = None,
) -> OptimizationResult:
    """Minimises B least-squares problems at once, each with its own damping.

    Args:
        problem: residuals and Jacobians (`LeastSquaresProblem`), or a callable poses (M, 4, 4) -> (r (M, N), J (M, N, 6)) that treats all
            elements alike. Elements that have finished are not evaluated any more.
        initial: camera_from_world (B, 4, 4).
        centre: (3,) point of the world, mm, about which tangents turn.
        options: see `LMOptions`.
        progress: called after every iteration with the best element so far; may raise `Cancelled`.

    Raises:
        InputError: for initial poses or residuals of a wrong shape.
        Cancelled: out of `progress`.
    """
    problem = as_problem(problem)
    pose = check_start(initial)
    everyone = torch.arange(len(pose), device=pose.device)
    model = linearize(problem, pose, everyone)
    least_rows = model.rows // 2  # a pose that loses more than half of the rows is no better, whatever its cost
    damping = torch.full_like(model.cost.detach(), options.initial_lambda)
    code = torch.where(torch.isfinite(model.cost), int(Status.RUNNING), int(Status.FAILED))
    code = torch.where((code == Status.RUNNING) & _stationary(model, options), int(Status.CONVERGED_GRADIENT), code)
    iterations = torch.zeros_like(everyone)
    recorder = Recorder()
    recorder.add(pose, model.cost, damping, len(pose))

    for iteration in range(options.max_iterations):
        index = torch.nonzero(code == Status.RUNNING)[:, 0]
        if len(index) == 0:
            break
        here = model.of(index)
        delta, predicted = damped_step(here, damping[index], options.diagonal_floor)
        trial = retract(pose[index], delta, centre)
        there, step = _judge(problem, trial, index, here, _Step(delta.detach(), predicted.detach(), damping[index]), least_rows[index], options)

        taken = index[step.accepted]
        pose = pose.index_put((taken,), trial[step.accepted])
        model = model.with_at(taken, there)
        code = code.index_put((index,), _verdict(here.cost.detach(), step, model.of(index), options))
        damping = damping.index_put((index,), _next_damping(here, step, options))
        iterations = iterations.index_add(0, index, torch.ones_like(index))
        recorder.add(pose, model.cost, damping, len(index))
        if progress is not None:
            best = int(model.cost.detach().argmin())
            progress(Progress(STAGE, iteration + 1, options.max_iterations, "", float(model.cost[best]), pose[best].detach()))

    return OptimizationResult(pose, model.cost, statuses(code), iterations, recorder.history(), model.normal_matrix, model.weighted)


def damped_step(model: Linearization, damping: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """(delta (M, 6), predicted decrease of the cost (M,)) of (H + lambda D) delta = -g; nan where the system has no solution.

    The system is solved in the variables sqrt(D) delta, where H has a unit diagonal: its condition number is then below 6 / lambda, whatever the
    units and the rank.
    """
    scale = marquardt_scale(model.normal_matrix, floor)
    system = _scaled(model.normal_matrix, scale)
    gradient = scale * model.gradient
    damped = system + torch.diag_embed(damping[:, None].expand_as(gradient))
    factor, info = torch.linalg.cholesky_ex(damped)
    scaled = torch.cholesky_solve(-gradient[..., None], factor)[..., 0]
    scaled = torch.where((info == 0)[:, None], scaled, torch.nan)
    predicted = 0.5 * (scaled * (damping[:, None] * scaled - gradient)).sum(-1)
    return scale * scaled, predicted


def marquardt_scale(normal_matrix: Tensor, floor: float) -> Tensor:
    """1 / sqrt(D) (M, 6), D = diag(H) kept above `floor` times its largest entry, for rotation and translation apart (they have other units)."""
    diagonal = normal_matrix.diagonal(dim1=-2, dim2=-1).unflatten(-1, (2, 3))
    largest = diagonal.amax(-1, keepdim=True).detach()
    least = torch.where(largest > 0, floor * largest, 1.0).clamp_min(torch.finfo(torch.float64).tiny)
    return torch.maximum(diagonal, least).rsqrt().flatten(-2)


def _scaled(normal_matrix: Tensor, scale: Tensor) -> Tensor:
    return normal_matrix * scale[:, :, None] * scale[:, None, :]


@dataclass(frozen=True)
class _Step:
    """One step of M elements, as numbers: nothing here carries a gradient, which is what freezes the masks."""

    delta: Tensor  # (M, 6)
    predicted: Tensor  # (M,) decrease of the cost by the quadratic model
    damping: Tensor  # (M,)

    def judged(self, actual: Tensor, options: LMOptions) -> _JudgedStep:
        accepted = (self.predicted > 0) & (actual > options.accept_ratio * self.predicted)
        return _JudgedStep(self.delta, self.predicted, self.damping, actual, accepted)


@dataclass(frozen=True)
class _JudgedStep(_Step):
    actual: Tensor  # (M,) decrease of the cost; -inf where it cannot be told
    accepted: Tensor  # (M,) bool


def _judge(
    problem: LeastSquaresProblem, trial: Tensor, index: Tensor, here: Linearization, step: _Step, least_rows: Tensor, options: LMOptions
) -> tuple[Linearization, _JudgedStep]:
    """(the model at the trial poses that are accepted, the judged step); no trial pose is linearized twice."""
    usable = torch.nonzero(torch.isfinite(trial.detach()).all(-1).all(-1))[:, 0]
    actual = torch.full_like(step.predicted, -torch.inf)
    before = here.cost.detach()[usable]
    there = _linearize_any(problem, trial[usable], index[usable])
    cost = there.cost.detach() * here.rows[usable] / there.rows.clamp_min(1)  # costs of different numbers of rows are compared per row
    actual[usable] = torch.where(there.rows > least_rows[usable], before - cost, -torch.inf)
    judged = step.judged(actual, options)
    return there.of(torch.nonzero(judged.accepted[usable])[:, 0]), judged


def _next_damping(here: Linearization, step: _JudgedStep, options: LMOptions) -> Tensor:
    """(M,) after a step from `here`. Below the least eigenvalue of the scaled system the damping hardly changes the step: a rejected one would come
    again."""
    rejected = torch.nonzero(~step.accepted)[:, 0]
    normal_matrix = here.normal_matrix.detach()[rejected]
    system = _scaled(normal_matrix, marquardt_scale(normal_matrix, options.diagonal_floor))
    least = torch.linalg.eigvalsh(system.nan_to_num(0.0, 0.0, 0.0))[:, 0]
    following = step.damping / options.lambda_decrease
    following[rejected] = torch.maximum(step.damping[rejected] * options.lambda_increase, least)
    return following.clamp(options.min_lambda, options.max_lambda)


def _linearize_any(problem: LeastSquaresProblem, poses: Tensor, index: Tensor) -> Linearization:
    """`linearize`, which spares the problem an empty batch."""
    if len(poses):
        return linearize(problem, poses, index)
    return Linearization(poses.new_empty(0), index.new_empty(0), index.new_empty(0), poses.new_empty(0, 6), poses.new_empty(0, 6, 6))


def _verdict(cost: Tensor, step: _JudgedStep, now: Linearization, options: LMOptions) -> Tensor:
    """Status codes (M,) after a step from poses of this `cost` (M,) to `now`."""
    undamped = step.damping <= options.undamped_below
    flat = torch.maximum(step.predicted, step.actual.abs()) <= options.cost_tolerance * cost
    flat |= step.predicted <= ROUNDING * cost
    short = (step.delta[:, :3].norm(dim=-1) <= options.step_tolerance_rad) & (step.delta[:, 3:].norm(dim=-1) <= options.step_tolerance_mm)
    futile = torch.isfinite(step.actual) & (step.predicted <= options.cost_tolerance * cost)
    code = torch.where(~step.accepted & (futile | (step.damping >= options.max_lambda)), int(Status.STALLED), int(Status.RUNNING))
    code = torch.where(undamped & flat, int(Status.CONVERGED_COST), code)
    code = torch.where(undamped & short, int(Status.CONVERGED_STEP), code)
    return torch.where(step.accepted & _stationary(now, options), int(Status.CONVERGED_GRADIENT), code)


def _stationary(model: Linearization, options: LMOptions) -> Tensor:
    """Whether the residual is orthogonal to every column of J (M,): |J_i . r| <= tolerance |J_i| |r|."""
    length = (2.0 * model.cost.detach()).sqrt()[:, None] * model.normal_matrix.detach().diagonal(dim1=-2, dim2=-1).sqrt()
    return (model.gradient.detach().abs() <= options.gradient_tolerance * length).all(-1)
