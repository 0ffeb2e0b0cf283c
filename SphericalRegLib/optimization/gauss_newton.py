"""Gauss-Newton: full steps, no damping, no acceptance test; for comparison."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.optimization.levenberg_marquardt import marquardt_scale
from SphericalRegLib.optimization.problem import LeastSquaresProblem, LinearizedResidual, as_problem, check_start, linearize
from SphericalRegLib.optimization.result import OptimizationResult, Recorder, Status, statuses
from SphericalRegLib.progress import Progress, ProgressCallback

STAGE = "Gauss-Newton"


@dataclass(frozen=True)
class GaussNewtonOptions:
    """`step_tolerance_*`: a step below both is the last. `rank_tolerance`: eigenvalues of the scaled J^T J below this fraction count as zero."""

    max_iterations: int = 20
    step_tolerance_rad: float = 1e-6
    step_tolerance_mm: float = 1e-4
    rank_tolerance: float = 1e-10


def gauss_newton(
    problem: LeastSquaresProblem | LinearizedResidual,
    initial: Tensor,
    centre: Tensor,
    options: GaussNewtonOptions = GaussNewtonOptions(),
    progress: ProgressCallback | None = None,
) -> OptimizationResult:
    """Arguments and result as `levenberg_marquardt`. An element whose residual is lost on the way keeps its last finite pose and is STALLED."""
    problem = as_problem(problem)
    pose = check_start(initial).detach().clone()
    everyone = torch.arange(len(pose), device=pose.device)
    with torch.no_grad():
        model = linearize(problem, pose, everyone)
        code = torch.where(torch.isfinite(model.cost), int(Status.RUNNING), int(Status.FAILED))
        iterations = torch.zeros_like(everyone)
        recorder = Recorder()
        recorder.add(pose, model.cost, torch.zeros_like(model.cost), len(pose))
        for iteration in range(options.max_iterations):
            index = torch.nonzero(code == Status.RUNNING)[:, 0]
            if len(index) == 0:
                break
            step = full_step(model.gradient[index], model.normal_matrix[index], options.rank_tolerance)
            trial = retract(pose[index], step, centre)
            there = linearize(problem, trial, index)
            usable = torch.isfinite(there.cost)
            kept = index[usable]
            pose[kept] = trial[usable]
            model = model.with_at(kept, there.of(usable))
            short = (step[:, :3].norm(dim=-1) <= options.step_tolerance_rad) & (step[:, 3:].norm(dim=-1) <= options.step_tolerance_mm)
            code[index[short]] = int(Status.CONVERGED_STEP)
            code[index[~usable]] = int(Status.STALLED)
            iterations[index] += 1
            recorder.add(pose, model.cost, torch.zeros_like(model.cost), len(index))
            if progress is not None:
                best = int(model.cost.argmin())
                progress(Progress(STAGE, iteration + 1, options.max_iterations, "", float(model.cost[best]), pose[best]))
    return OptimizationResult(pose, model.cost, statuses(code), iterations, recorder.history(), model.normal_matrix, model.weighted)


def full_step(gradient: Tensor, normal_matrix: Tensor, rank_tolerance: float = 1e-10) -> Tensor:
    """-H^+ g (M, 6), the pseudo-inverse taken in the variables in which H has a unit diagonal, so that it knows no units."""
    scale = marquardt_scale(normal_matrix, 1e-12)
    system = normal_matrix * scale[:, :, None] * scale[:, None, :]
    inverse = torch.linalg.pinv(system, rtol=rank_tolerance, hermitian=True)
    return -scale * (inverse @ (scale * gradient)[..., None])[..., 0]
