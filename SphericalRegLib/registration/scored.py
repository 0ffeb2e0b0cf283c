"""Poses with what a similarity says of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .problem import MultiViewProblem


@dataclass(frozen=True)
class Scored:
    """Poses (B, 4, 4) of the first camera with their scores (B,), best first."""

    poses: Tensor
    scores: Tensor

    @classmethod
    def sorted(cls, poses: Tensor, scores: Tensor) -> Scored:
        """In any order; a score that is no number is the worst."""
        order = best_first(scores)
        return cls(poses[order], scores[order])

    @classmethod
    def merged(cls, parts: Sequence[Scored]) -> Scored:
        return cls.sorted(torch.cat([part.poses for part in parts]), torch.cat([part.scores for part in parts]))


def scored(problem: MultiViewProblem, poses: Tensor) -> Scored:
    """Poses (B, 4, 4), maybe none, by a problem's score."""
    return Scored.sorted(poses, problem.score(poses) if len(poses) else poses.new_zeros(0))


def best_first(scores: Tensor) -> Tensor:
    """Indices of scores (B,) in falling order; those that are no number come last, equal ones stay as they are."""
    return scores.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
