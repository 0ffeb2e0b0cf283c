"""The optimisers behind one name each, with the time of every iteration: what experiments compare."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.optimization.first_order import FirstOrderOptions, first_order
from SphericalRegLib.optimization.gauss_newton import GaussNewtonOptions, gauss_newton
from SphericalRegLib.optimization.levenberg_marquardt import LMOptions, levenberg_marquardt
from SphericalRegLib.optimization.problem import LeastSquaresProblem, LinearizedResidual, as_problem, linearize
from SphericalRegLib.optimization.result import OptimizationResult
from SphericalRegLib.progress import Progress, ProgressCallback

Optimiser = Callable[[LeastSquaresProblem, Tensor, Tensor, int, ProgressCallback], OptimizationResult]
"""(problem, initial (B, 4, 4), centre (3,), iterations, progress) -> result."""

STEP_RAD, STEP_MM, COST = 1e-5, 1e-3, 1e-6
"""When all of them count a search as over."""


@dataclass(frozen=True)
class Trace:
    """One search, entry 0 the start: poses (K + 1, 4, 4), costs and seconds since the start (K + 1,); `evaluations` of the problem in all."""

    poses: np.ndarray
    costs: np.ndarray
    seconds: np.ndarray
    evaluations: int


def trace(
    name: str, problem: LeastSquaresProblem | LinearizedResidual, start: Tensor, centre: Tensor, iterations: int, progress: ProgressCallback
) -> Trace:
    """Search from one start (4, 4) with the optimiser of that name.

    Raises:
        InputError: an unknown optimiser.
    """
    optimiser = optimiser_named(name)
    times = [0.0]
    began = time.perf_counter()

    def report(step: Progress) -> None:
        times.append(time.perf_counter() - began)
        progress(step)

    with torch.no_grad():
        history = optimiser(as_problem(problem), start[None], centre, iterations, report).history
    count = min(len(times), len(history.poses))
    poses, costs = history.poses[:count, 0].cpu().numpy(), history.costs[:count, 0].cpu().numpy()
    return Trace(poses, costs, np.array(times[:count]), int(history.evaluations[count - 1]))


def optimiser_named(name: str) -> Optimiser:
    """Raises InputError for an unknown name."""
    if name not in OPTIMISERS:
        raise InputError(f"The optimiser {name!r} is unknown; expected one of {', '.join(OPTIMISERS)}.")
    return OPTIMISERS[name]


def _levenberg_marquardt(
    problem: LeastSquaresProblem, initial: Tensor, centre: Tensor, iterations: int, progress: ProgressCallback
) -> OptimizationResult:
    options = LMOptions(iterations, step_tolerance_rad=STEP_RAD, step_tolerance_mm=STEP_MM, cost_tolerance=COST)
    return levenberg_marquardt(problem, initial, centre, options, progress)


def _gauss_newton(problem: LeastSquaresProblem, initial: Tensor, centre: Tensor, iterations: int, progress: ProgressCallback) -> OptimizationResult:
    return gauss_newton(problem, initial, centre, GaussNewtonOptions(iterations, STEP_RAD, STEP_MM), progress)


def _first_order(method: str) -> Optimiser:
    def run(problem: LeastSquaresProblem, initial: Tensor, centre: Tensor, iterations: int, progress: ProgressCallback) -> OptimizationResult:
        plain = FirstOrderOptions(method, iterations, step_tolerance_rad=STEP_RAD, step_tolerance_mm=STEP_MM)
        # Gradient descent has no scale of its own. The textbook's step is 1 / L, L the largest curvature at the start; momentum adds steps up.
        rate = (1 - plain.momentum) / _largest_curvature(problem, initial, plain) if method == "sgd" else plain.learning_rate
        options = FirstOrderOptions(method, iterations, rate, step_tolerance_rad=STEP_RAD, step_tolerance_mm=STEP_MM)
        return first_order(problem, initial, centre, options, progress)

    return run


def _largest_curvature(problem: LeastSquaresProblem, initial: Tensor, options: FirstOrderOptions) -> float:
    model = linearize(problem, initial.double(), torch.arange(len(initial), device=initial.device))
    unit = initial.new_tensor([options.rotation_unit_rad] * 3 + [options.translation_unit_mm] * 3, dtype=torch.float64)
    return max(float(torch.linalg.eigvalsh(model.normal_matrix * unit[:, None] * unit).max()), 1e-12)


OPTIMISERS: dict[str, Optimiser] = {
    "lm": _levenberg_marquardt,
    "gauss-newton": _gauss_newton,
    "lbfgs": _first_order("lbfgs"),
    "adam": _first_order("adam"),
    "sgd": _first_order("sgd"),
}
