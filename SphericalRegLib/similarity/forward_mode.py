"""A function of what depends on the pose, and its pose Jacobian, by forward-mode differentiation along the columns of that one's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor


def along_columns(function: Callable[[Tensor], Tensor], moving: Tensor, moving_jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """f(moving) and its derivative (..., 6) along the six columns of the Jacobian (B, ..., 6) of moving images or embeddings (B, ...), all at once.

    Autograd, where it is on, goes through both.
    """
    _load_quietly()

    def along(tangent: Tensor) -> tuple[Tensor, Tensor]:
        value, column = torch.func.jvp(function, (moving,), (tangent,))  # type: ignore[misc]  # no third value without has_aux
        return value, column

    values, columns = torch.func.vmap(along, out_dims=(None, 0))(moving_jacobian.movedim(-1, 0))  # type: ignore[arg-type]  # None: not batched
    return values, columns.movedim(0, -1)


@cache
def _load_quietly() -> None:
    """The first forward-mode derivative of a process loads parts of torch that warn of torch's own deprecations: no news to our users."""
    with warnings.catch_warnings(), torch.autograd.forward_ad.dual_level():
        warnings.filterwarnings("ignore", message=".*is deprecated", category=FutureWarning)
        torch.autograd.forward_ad.make_dual(torch.zeros(1), torch.ones(1))
