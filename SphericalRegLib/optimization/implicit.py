"""The derivative of a solution with respect to what the problem depends on, without going back through the iterations.

A solution has J^T r = 0 in the tangent at the pose; by the implicit function theorem d delta / d phi = -H^-1 d(J^T r) / d phi, for anything phi that
r and J depend on (the fixed image, a network's weights, intrinsics). Theseus (Pineda et al., NeurIPS 2022) calls it the implicit backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.optimization.problem import LeastSquaresProblem, LinearizedResidual, as_problem, linearize


def implicit_solution(
    problem: LeastSquaresProblem | LinearizedResidual, solution: Tensor, centre: Tensor, hessian: Tensor | None = None
) -> Tensor:
    """The poses (B, 4, 4) of a converged `solution`, unchanged in value, with the gradient of the solution with respect to the problem.

    One evaluation of the problem at the (detached) solution, followed by the step -H^-1 J^T r, which is zero there while its derivative is the
    theorem's. As H, J^T J is used: exact where the residual is zero at the solution, and otherwise without the term sum_i r_i d2r_i; give `hessian`
    (B, 6, 6), from `exact_hessian` where the problem can be differentiated with respect to the pose, for the exact derivative.
    """
    pose = solution.detach().double()
    model = linearize(as_problem(problem), pose, torch.arange(len(pose), device=pose.device))
    matrix = model.normal_matrix.detach() if hessian is None else hessian.detach()
    delta = -torch.linalg.solve(matrix, model.gradient)
    return retract(pose, delta - delta.detach(), centre)


def exact_hessian(problem: LeastSquaresProblem | LinearizedResidual, pose: Tensor, centre: Tensor) -> Tensor:
    """Derivative (B, 6, 6) of J^T r along the tangents at poses (B, 4, 4): by autograd through the problem, which must depend on the pose smoothly.

    At a solution it is the cost's Hessian. A renderer whose Jacobian is a constant to autograd drops the term sum_i r_i d2r_i here as well.
    """
    start = pose.detach().double()
    index = torch.arange(len(start), device=start.device)
    with torch.enable_grad():
        delta = torch.zeros(len(start), 6, dtype=torch.float64, device=start.device, requires_grad=True)
        gradient = linearize(as_problem(problem), retract(start, delta, centre), index).gradient
        rows = [torch.autograd.grad(gradient[:, k].sum(), delta, retain_graph=True)[0] for k in range(6)]
    return torch.stack(rows, dim=1)
