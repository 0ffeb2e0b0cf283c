"""A residual and its pose Jacobian, by forward-mode differentiation along the columns of the image Jacobian."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def along_columns(residual: Callable[[Tensor], Tensor], moving: Tensor, moving_jacobian: Tensor) -> tuple[Tensor, Tensor]:
    """r (B, N) = residual(moving (B, H, W)) and J (B, N, 6) of the image Jacobian (B, H, W, 6), all six columns at once.

    Autograd, where it is on, goes through both.
    """

    def along(tangent: Tensor) -> tuple[Tensor, Tensor]:
        value, column = torch.func.jvp(residual, (moving,), (tangent,))  # type: ignore[misc]  # no third value without has_aux
        return value, column

    values, columns = torch.func.vmap(along, out_dims=(None, 0))(moving_jacobian.movedim(-1, 0))  # type: ignore[arg-type]  # None: not batched
    return values, columns.movedim(0, -1)
