"""What an optimiser is given: a batch of nonlinear least-squares problems in the pose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import retract

ROWS_AT_ONCE, LEAST_ROWS = 2**14, 2**10
"""Rows that are summed at a time on a CPU: of all elements together, and at least of each of them."""

LinearizedResidual = Callable[[Tensor], tuple[Tensor, Tensor]]
"""poses (M, 4, 4) -> (r (M, N), J (M, N, 6)): the same problem for every pose, as in a multi-start on one X-ray."""


@runtime_checkable
class LeastSquaresProblem(Protocol):
    """A batch of B problems: element b minimises 1/2 |r_b(pose)|^2.

    `residual_and_jacobian(poses, index)` gets M <= B poses (camera_from_world (M, 4, 4), float64) and the problems (M,) (int64) that they belong
    to: elements that have finished are not asked for again. It gives r (M, N) and J = dr/d delta (M, N, 6), with delta = (omega, v), rad and mm in
    world axes, applied on the right about the optimiser's centre (`geometry.se3.retract`). A row that is not finite counts as missing.
    """

    def residual_and_jacobian(self, poses: Tensor, index: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class SharedProblem:
    """One residual for every element of the batch."""

    residual: LinearizedResidual

    def residual_and_jacobian(self, poses: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.residual(poses)


def as_problem(problem: LeastSquaresProblem | LinearizedResidual) -> LeastSquaresProblem:
    """A plain callable becomes a problem shared by all elements."""
    return problem if isinstance(problem, LeastSquaresProblem) else SharedProblem(problem)


def differentiated(residual: Callable[[Tensor], Tensor], centre: Tensor) -> LinearizedResidual:
    """The linearized form of a residual (4, 4) -> (N,) of one pose, by forward-mode automatic differentiation over the tangent about `centre`."""

    def along_tangent(pose: Tensor) -> tuple[Tensor, Tensor]:
        def step(delta: Tensor) -> tuple[Tensor, Tensor]:
            value = residual(retract(pose, delta, centre))
            return value, value

        jacobian, value = torch.func.jacfwd(step, has_aux=True)(pose.new_zeros(6))
        return value, jacobian

    return torch.func.vmap(along_tangent)


@dataclass(frozen=True)
class Linearization:
    """The quadratic model 1/2 |r + J delta|^2 at M poses, float64; sums run over the rows that are finite."""

    cost: Tensor  # (M,) 1/2 |r|^2; inf where no row is finite
    rows: Tensor  # (M,) int64, number of finite rows
    weighted: Tensor  # (M,) int64, how many of them say something: the rows of masked pixels are zero, and so is their derivative
    gradient: Tensor  # (M, 6) J^T r
    normal_matrix: Tensor  # (M, 6, 6) J^T J

    def of(self, index: Tensor) -> Linearization:
        """That of the elements `index` (K,) alone; a mask (M,) of bool does as well."""
        return Linearization(*(getattr(self, item.name)[index] for item in fields(self)))

    def with_at(self, index: Tensor, values: Linearization) -> Linearization:
        """With `values` in the place of the elements `index` (K,); out of place, so that gradients flow."""
        return Linearization(*(getattr(self, item.name).index_put((index,), getattr(values, item.name)) for item in fields(self)))


def linearize(problem: LeastSquaresProblem, poses: Tensor, index: Tensor) -> Linearization:
    """The normal equations at poses (M, 4, 4) of the problems `index` (M,). Raises InputError where the problem's shapes are wrong."""
    residual, jacobian = problem.residual_and_jacobian(poses, index)
    if residual.ndim != 2 or len(residual) != len(poses) or jacobian.shape != (*residual.shape, 6):
        raise InputError(
            f"A residual must come as (M, N) with a Jacobian (M, N, 6) for M = {len(poses)} poses, "
            f"but the shapes are {tuple(residual.shape)} and {tuple(jacobian.shape)}."
        )
    rows = torch.full((len(residual),), residual.shape[1], device=residual.device)
    model = _normal_equations(residual, jacobian, rows)
    # what is not finite shows in the sums: the rows are looked at only then
    if bool((torch.isfinite(model.cost.detach()) & torch.isfinite(model.normal_matrix.detach()).all(-1).all(-1) & (rows > 0)).all()):
        return model
    finite = torch.isfinite(residual) & torch.isfinite(jacobian).all(-1)
    return _normal_equations(torch.where(finite, residual, 0.0), torch.where(finite[..., None], jacobian, 0.0), finite.sum(-1))


def _normal_equations(residual: Tensor, jacobian: Tensor, rows: Tensor) -> Linearization:
    """Sums over some rows at a time, so that what is made of them in float64 stays in the processor's cache."""
    on_cpu = residual.device.type == "cpu"
    at_once = max(LEAST_ROWS, ROWS_AT_ONCE // max(1, len(residual))) if on_cpu else residual.shape[1]
    parts = [_sums(*chunk) for chunk in zip(residual.split(at_once, dim=1), jacobian.split(at_once, dim=1))]
    square, weighted, gradient, normal_matrix = (torch.stack(part).sum(0) for part in zip(*parts))
    return Linearization(torch.where(rows > 0, 0.5 * square, torch.inf), rows, weighted, gradient, normal_matrix)


def _sums(residual: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """|r|^2 (M,), rows that say something (M,), J^T r (M, 6), J^T J (M, 6, 6)."""
    r, j = residual.double(), jacobian.double()
    transposed = j.transpose(-1, -2)
    return r.square().sum(-1), _weighted(r.detach(), j.detach()), (transposed @ r[..., None])[..., 0], transposed @ j


def _weighted(r: Tensor, j: Tensor) -> Tensor:
    """How many rows (M,) are not zero with all their derivatives."""
    silent = r == 0
    # Most often these are the masked pixels: one product says so.
    if not bool((silent.to(j)[:, None] @ j.abs()).any()):
        return torch.count_nonzero(r, dim=-1)
    return (~silent | (j != 0).any(-1)).sum(-1)


def check_start(initial: Tensor) -> Tensor:
    """Initial poses (B, 4, 4) in float64, or InputError."""
    if initial.ndim != 3 or initial.shape[-2:] != (4, 4):
        raise InputError(f"Initial poses must come as a batch (B, 4, 4), but the shape is {tuple(initial.shape)}.")
    if not bool(torch.isfinite(initial).all()):
        raise InputError("Initial poses must hold finite numbers only.")
    return initial.double()
