"""Several similarities as one least-squares problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from .base import Similarity

if TYPE_CHECKING:
    from typing_extensions import Self


class Stacked:
    """The residuals of several similarities of the *same* image, one below the other: costs and scores add with their weights.

    For one image at several window sizes this is the multi-scale correlation (mNCC) of DiffPose (Gopalakrishnan et al., CVPR 2024). For several
    views, whose images differ, stack at the level of poses: see `SphericalRegLib.registration.problem`.

    Args:
        parts: similarities bound to the same fixed image.
        weights: one positive weight a part; equal by default. They are scaled to a sum of 1.
    """

    def __init__(self, parts: Sequence[Similarity], weights: Sequence[float] | None = None) -> None:
        weights = [1.0] * len(parts) if weights is None else list(weights)
        if not parts or len(weights) != len(parts) or min(weights) <= 0:
            raise InputError(f"A stack of {len(parts)} similarities has weights {weights}; expected one positive weight for each of at least one.")
        self._parts = tuple(parts)
        self._weights = tuple(weight / sum(weights) for weight in weights)

    def residual(self, moving: Tensor) -> Tensor:
        """See `Similarity.residual`."""
        return torch.cat([math.sqrt(weight) * part.residual(moving) for part, weight in self._pairs()], dim=1)

    def residual_and_jacobian(self, moving: Tensor, moving_jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """See `Similarity.residual_and_jacobian`."""
        results = [part.residual_and_jacobian(moving, moving_jacobian) for part in self._parts]
        roots = [math.sqrt(weight) for weight in self._weights]
        residual = torch.cat([root * r for root, (r, _) in zip(roots, results)], dim=1)
        return residual, torch.cat([root * j for root, (_, j) in zip(roots, results)], dim=1)

    def score(self, moving: Tensor) -> Tensor:
        """The weighted mean of the parts' scores."""
        return torch.stack([weight * part.score(moving) for part, weight in self._pairs()]).sum(0)

    def over(self, valid: Tensor) -> Self:
        """See `Similarity.over`."""
        return self._with([part.over(valid) for part in self._parts])

    def of(self, index: Tensor) -> Self:
        """See `Similarity.of`."""
        return self._with([part.of(index) for part in self._parts])

    def _with(self, parts: Sequence[Similarity]) -> Self:
        other = copy(self)
        other._parts = tuple(parts)
        return other

    def _pairs(self) -> zip[tuple[Similarity, float]]:
        return zip(self._parts, self._weights)
