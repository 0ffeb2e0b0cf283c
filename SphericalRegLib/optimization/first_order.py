"""Gradient descent, Adam and L-BFGS behind the interface of `levenberg_marquardt`; for comparison.

`torch.optim` moves x (B, 6), with delta = x * unit a tangent about the *initial* pose, and gets the exact gradient of the cost in this fixed chart,
so that momentum and curvature gathered on the way stay meaningful. The gradient is J^T r: the same image Jacobian that LM uses, no autograd graph.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import retract, so3_exp, so3_right_jacobian
from SphericalRegLib.optimization.problem import LeastSquaresProblem, Linearization, LinearizedResidual, as_problem, check_start, linearize
from SphericalRegLib.optimization.result import OptimizationResult, Recorder, Status, concatenate, statuses
from SphericalRegLib.progress import Progress, ProgressCallback

METHODS = ("sgd", "adam", "lbfgs")


@dataclass(frozen=True)
class FirstOrderOptions:
    """Settings of `first_order`.

    Attributes:
        method: "sgd" (with momentum), "adam" or "lbfgs" (strong Wolfe line search; one iteration may take several evaluations).
        max_iterations: iterations per element.
        learning_rate: in units of x. Adam moves by about this many units per iteration at first; L-BFGS wants 1; SGD's depends on the residual.
        rotation_unit_rad, translation_unit_mm: what one unit of x means: without it radians and millimetres would get the same step.
        momentum: of SGD.
        decay: the learning rate falls by this factor per iteration (not L-BFGS).
        step_tolerance_rad, step_tolerance_mm: a step below both is the last.
        gradient_tolerance: largest cosine between the residual and a column of J at a solution.
    """

    method: str = "adam"
    max_iterations: int = 200
    learning_rate: float = 1.0
    rotation_unit_rad: float = 0.01
    translation_unit_mm: float = 1.0
    momentum: float = 0.9
    decay: float = 0.98
    step_tolerance_rad: float = 1e-6
    step_tolerance_mm: float = 1e-4
    gradient_tolerance: float = 1e-8

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"The optimiser {self.method!r} is unknown: expected one of {', '.join(METHODS)}.")


def first_order(
    problem: LeastSquaresProblem | LinearizedResidual,
    initial: Tensor,
    centre: Tensor,
    options: FirstOrderOptions = FirstOrderOptions(),
    progress: ProgressCallback | None = None,
) -> OptimizationResult:
    """Arguments and result as `levenberg_marquardt`; the pose is the last iterate, as these methods leave it. STALLED: the residual was lost."""
    initial = check_start(initial).detach()
    with torch.no_grad():
        if options.method != "lbfgs":
            return _descend(as_problem(problem), initial, torch.arange(len(initial), device=initial.device), centre, options, progress)
        # L-BFGS shares its line search between all its variables: one optimiser for each element
        elements = torch.arange(len(initial), device=initial.device).split(1)
        return concatenate([_descend(as_problem(problem), initial[element], element, centre, options, progress) for element in elements])


def _descend(
    problem: LeastSquaresProblem, initial: Tensor, names: Tensor, centre: Tensor, options: FirstOrderOptions, progress: ProgressCallback | None
) -> OptimizationResult:
    """All elements of `initial` (B, 4, 4) with one optimiser; `names` (B,) are their indices in the problem."""
    unit = initial.new_tensor([options.rotation_unit_rad] * 3 + [options.translation_unit_mm] * 3)
    x = torch.zeros(len(initial), 6, dtype=torch.float64, device=initial.device, requires_grad=True)
    pose, model = initial, linearize(problem, initial, names)
    code = torch.where(torch.isfinite(model.cost), int(Status.RUNNING), int(Status.FAILED))
    iterations = torch.zeros_like(names)
    undamped = torch.zeros_like(model.cost)
    recorder = Recorder()
    recorder.add(pose, model.cost, undamped, len(pose))
    counter = _Counter()
    known = x.detach().clone()  # where `model` was linearised

    @torch.no_grad()
    def evaluate() -> float:
        """Total cost of the running elements; leaves the gradient in x.grad."""
        index = torch.nonzero(code == Status.RUNNING)[:, 0]
        delta = (x * unit)[index]
        if torch.equal(x, known):  # where the iteration before has ended
            cost, slope = model.cost[index], model.gradient[index]
        else:
            there = linearize(problem, retract(initial[index], delta, centre), names[index])
            cost, slope = there.cost, there.gradient
            counter.poses += len(index)
        gradient = chart_gradient(slope, delta) * unit
        x.grad = torch.zeros_like(x).index_put((index,), torch.where(torch.isfinite(cost)[:, None], gradient, 0.0))
        return float(cost.sum())

    optimizer = _OPTIMIZERS[options.method]([x], options)
    for iteration in range(options.max_iterations):
        running = code == Status.RUNNING
        if not bool(running.any()):
            break
        before = x.detach().clone()
        counter.poses = 0
        optimizer.step(evaluate)
        x.copy_(torch.where(running[:, None] & torch.isfinite(x).all(-1, keepdim=True), x, before))  # momentum must not move who has finished
        delta = x * unit
        pose = retract(initial, delta, centre)
        index = torch.nonzero(running)[:, 0]
        model = model.with_at(index, linearize(problem, pose[index], names[index]))
        known = x.detach().clone()
        counter.poses += len(index)
        code = torch.where(running, _verdict(model, delta - before * unit, options), code)
        iterations += running
        recorder.add(pose, model.cost, undamped, counter.poses)
        if options.method != "lbfgs":
            for group in optimizer.param_groups:
                group["lr"] *= options.decay
        if progress is not None:
            best = int(torch.nan_to_num(model.cost, nan=torch.inf).argmin())
            progress(Progress(options.method, iteration + 1, options.max_iterations, "", float(model.cost[best]), pose[best]))
    return OptimizationResult(pose.detach(), model.cost, statuses(code), iterations, recorder.history(), model.normal_matrix, model.weighted)


def chart_gradient(gradient: Tensor, delta: Tensor) -> Tensor:
    """J^T r (M, 6) at retract(pose, delta), turned into the derivative with respect to delta (M, 6) itself.

    A change e of omega turns the pose by J_r(omega) e on its right, one of v shifts it by exp(-omega) e along its own world axes.
    """
    omega = delta[:, :3]
    rotation = (so3_right_jacobian(omega).transpose(-1, -2) @ gradient[:, :3, None])[..., 0]
    translation = (so3_exp(omega) @ gradient[:, 3:, None])[..., 0]
    return torch.cat((rotation, translation), dim=-1)


@dataclass
class _Counter:
    poses: int = 0


def _verdict(model: Linearization, step: Tensor, options: FirstOrderOptions) -> Tensor:
    short = (step[:, :3].norm(dim=-1) <= options.step_tolerance_rad) & (step[:, 3:].norm(dim=-1) <= options.step_tolerance_mm)
    length = (2.0 * model.cost).sqrt()[:, None] * model.normal_matrix.diagonal(dim1=-2, dim2=-1).sqrt()
    stationary = (model.gradient.abs() <= options.gradient_tolerance * length).all(-1)
    code = torch.where(short, int(Status.CONVERGED_STEP), int(Status.RUNNING))
    code = torch.where(stationary, int(Status.CONVERGED_GRADIENT), code)
    return torch.where(torch.isfinite(model.cost), code, int(Status.STALLED))


def _sgd(parameters: list[Tensor], options: FirstOrderOptions) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=options.learning_rate, momentum=options.momentum)


def _adam(parameters: list[Tensor], options: FirstOrderOptions) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=options.learning_rate)


def _lbfgs(parameters: list[Tensor], options: FirstOrderOptions) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(parameters, lr=options.learning_rate, max_iter=1, history_size=10, line_search_fn="strong_wolfe")


_OPTIMIZERS: dict[str, Callable[[list[Tensor], FirstOrderOptions], torch.optim.Optimizer]] = {"sgd": _sgd, "adam": _adam, "lbfgs": _lbfgs}
