"""What every optimiser gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import torch
from torch import Tensor


class Status(IntEnum):
    """Why an element of the batch stopped."""

    RUNNING = 0
    CONVERGED_GRADIENT = 1  # the residual is orthogonal to the Jacobian's columns
    CONVERGED_STEP = 2  # the step is shorter than asked for
    CONVERGED_COST = 3  # the cost has ceased to fall
    MAX_ITERATIONS = 4
    STALLED = 5  # no step lowers the cost, or none that promises more than the tolerance does
    FAILED = 6  # no finite residual at the start

    @property
    def converged(self) -> bool:
        return self in (Status.CONVERGED_GRADIENT, Status.CONVERGED_STEP, Status.CONVERGED_COST)


@dataclass(frozen=True)
class History:
    """What happened at each of K iterations; entry 0 is the start. Elements that have finished repeat their last entry."""

    poses: Tensor  # (K + 1, B, 4, 4)
    costs: Tensor  # (K + 1, B)
    lambdas: Tensor  # (K + 1, B), the damping that the *next* step uses; zero where an optimiser has none
    evaluations: Tensor  # (K + 1,) poses evaluated so far, all elements together

    def of(self, index: Tensor) -> History:
        """That of the elements `index` (M,), in that order; `evaluations` stay those of all."""
        return replace(self, poses=self.poses[:, index], costs=self.costs[:, index], lambdas=self.lambdas[:, index])


@dataclass(frozen=True)
class OptimizationResult:
    """B poses and how they were found; tensors on the device of the initial poses, float64 but where integers are named."""

    pose: Tensor  # (B, 4, 4) camera_from_world
    cost: Tensor  # (B,) 1/2 |r|^2 over the finite rows
    status: tuple[Status, ...]  # B
    iterations: Tensor  # (B,) int64, steps tried
    history: History
    normal_matrix: Tensor  # (B, 6, 6) J^T J at `pose`; (omega, v), rad and mm, world axes about the centre
    rows: Tensor  # (B,) int64, finite residual rows at `pose` that say something: the zero rows of masked pixels do not count

    def of(self, index: Tensor) -> OptimizationResult:
        """That of the elements `index` (M,), in that order."""
        return OptimizationResult(
            self.pose[index],
            self.cost[index],
            tuple(self.status[i] for i in index.tolist()),
            self.iterations[index],
            self.history.of(index),
            self.normal_matrix[index],
            self.rows[index],
        )

    def best(self) -> int:
        """Index of the element with the lowest cost per residual row."""
        return int(torch.nan_to_num(self.cost / self.rows, nan=torch.inf).argmin())


@dataclass
class Recorder:
    """Gathers a `History`, detached from any graph."""

    poses: list[Tensor] = field(default_factory=list)
    costs: list[Tensor] = field(default_factory=list)
    lambdas: list[Tensor] = field(default_factory=list)
    evaluations: list[int] = field(default_factory=list)

    def add(self, pose: Tensor, cost: Tensor, damping: Tensor, evaluations: int) -> None:
        self.poses.append(pose.detach().clone())
        self.costs.append(cost.detach().clone())
        self.lambdas.append(damping.detach().clone())
        self.evaluations.append((self.evaluations[-1] if self.evaluations else 0) + evaluations)

    def history(self) -> History:
        return History(torch.stack(self.poses), torch.stack(self.costs), torch.stack(self.lambdas), torch.tensor(self.evaluations))


def statuses(codes: Tensor) -> tuple[Status, ...]:
    """The integer codes (B,) as `Status`; what still runs has used up its iterations."""
    return tuple(Status.MAX_ITERATIONS if code == Status.RUNNING else Status(code) for code in codes.tolist())


def concatenate(results: Sequence[OptimizationResult]) -> OptimizationResult:
    """One result of several: the elements side by side; shorter histories repeat their last entry."""
    length = max(len(result.history.costs) for result in results)

    def joined(name: str) -> Tensor:
        parts = [getattr(result.history, name) for result in results]
        return torch.cat([torch.cat((part, part[-1:].expand(length - len(part), *part.shape[1:]))) for part in parts], dim=1)

    counts = [result.history.evaluations for result in results]
    evaluations = torch.stack([torch.cat((c, c[-1:].expand(length - len(c)))) for c in counts]).sum(0)
    return OptimizationResult(
        pose=torch.cat([result.pose for result in results]),
        cost=torch.cat([result.cost for result in results]),
        status=tuple(status for result in results for status in result.status),
        iterations=torch.cat([result.iterations for result in results]),
        history=History(joined("poses"), joined("costs"), joined("lambdas"), evaluations),
        normal_matrix=torch.cat([result.normal_matrix for result in results]),
        rows=torch.cat([result.rows for result in results]),
    )
