"""Robust residuals: what a few outlying pixels (other bones, tools, markers) can do is bounded."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import InputError
from .base import Similarity

if TYPE_CHECKING:
    from typing_extensions import Self

# Each loss rho(u) behaves as u^2 near zero. (rho, rho' / (2 u)): the second is the weight of iteratively re-weighted least squares.
Loss = Callable[[Tensor], tuple[Tensor, Tensor]]


def huber(u: Tensor) -> tuple[Tensor, Tensor]:
    """Quadratic to |u| = 1.345, then linear (95 % efficiency for normal noise)."""
    k, size = 1.345, u.abs()
    inside = size <= k
    return torch.where(inside, u.square(), 2 * k * size - k * k), torch.where(inside, 1.0, k / size.clamp_min(k))


def cauchy(u: Tensor) -> tuple[Tensor, Tensor]:
    """c^2 log(1 + (u / c)^2), c = 2.385."""
    squared = (u / 2.385).square()
    return 2.385**2 * torch.log1p(squared), 1 / (1 + squared)


def tukey(u: Tensor) -> tuple[Tensor, Tensor]:
    """Biweight: constant from |u| = 4.685 on, so that far outliers have no influence at all."""
    inside = (1 - (u / 4.685).square()).clamp_min(0)
    return 4.685**2 / 3 * (1 - inside**3), inside.square()


LOSSES: dict[str, Loss] = {"huber": huber, "cauchy": cauchy, "tukey": tukey}


class Robust:
    """Another similarity with a robust loss on each entry of its residual.

    r becomes sign(r) s sqrt(rho(r / s)), so that the plain sum of squares *is* the robust cost and any least-squares solver applies; its gradient is
    that of iteratively re-weighted least squares (Triggs et al., Bundle Adjustment, 1999, section 4.3; Zach, ECCV 2014). The scale s is the median
    absolute deviation of the counted entries over .6745, per image; it counts as constant in the pose.

    Args:
        inner: the similarity whose residual is made robust.
        loss: "huber", "cauchy" or "tukey".
        scale: fixes s for all poses, so that costs compare; None measures it anew at each evaluation.
    """

    def __init__(self, inner: Similarity, loss: str = "tukey", scale: float | None = None) -> None:
        if loss not in LOSSES:
            raise InputError(f"Unknown robust loss {loss!r}; expected one of {', '.join(LOSSES)}.")
        if scale is not None and not scale > 0:
            raise InputError(f"The scale of a robust loss is {scale}; expected a positive number.")
        self._inner = inner
        self._loss = LOSSES[loss]
        self._scale = scale

    def residual(self, moving: Tensor) -> Tensor:
        """See `Similarity.residual`."""
        return self._robustify(self._inner.residual(moving))[0]

    def residual_and_jacobian(self, moving: Tensor, moving_jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """See `Similarity.residual_and_jacobian`; exact but for the scale, which counts as constant."""
        residual, jacobian = self._inner.residual_and_jacobian(moving, moving_jacobian)
        residual, slope = self._robustify(residual)
        return residual, slope[..., None] * jacobian

    def score(self, moving: Tensor) -> Tensor:
        """The inner score: the robust cost has a scale of its own at each pose, the correlation compares poses."""
        return self._inner.score(moving)

    def over(self, valid: Tensor) -> Self:
        """See `Similarity.over`."""
        return self._with(self._inner.over(valid))

    def of(self, index: Tensor) -> Self:
        """See `Similarity.of`."""
        return self._with(self._inner.of(index))

    def _with(self, inner: Similarity) -> Self:
        other = copy(self)
        other._inner = inner
        return other

    def _robustify(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """The robust residual and its derivative by the plain one, (B, N) both."""
        scale = mad_scale(residual) if self._scale is None else residual.new_tensor(self._scale)
        u = residual / scale
        rho, weight = self._loss(u)
        root = rho.sqrt()
        near = root < 1e-6
        robust = torch.where(near, u, torch.sign(u) * root)
        slope = torch.where(near, 1.0, weight * u.abs() / root.clamp_min(1e-12))
        return robust * scale, slope


def mad_scale(residual: Tensor) -> Tensor:
    """(B, 1) median absolute deviation over .6745 of the entries of `residual` (B, N) that are not exactly zero: those outside the mask are."""
    size = torch.where(residual == 0, torch.nan, residual.detach().abs())
    scale = size.nanmedian(dim=1, keepdim=True).values / 0.6745
    return torch.where(torch.isfinite(scale) & (scale > 0), scale, 1.0)
