"""What every similarity offers: a residual vector, its Jacobian, and a score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from typing_extensions import Self


class Similarity(Protocol):
    """Compares moving images (B, H, W) with a fixed image that is bound, with its mask, at construction.

    The squared residual is a cost: 2 N (1 - score) for the correlations of this package and stacks of them, with N the number of pixels in the fixed
    image's mask, whatever part of it `over` leaves. So poses with different valid regions stay comparable, and a shrinking region is no gain in
    itself; where it leaves very little, the score is lower than that. `Robust` bounds each entry of that residual: its cost is smaller and has no
    such tie to its score, which stays the inner one.
    """

    def residual(self, moving: Tensor) -> Tensor:
        """r (B, N)."""
        ...

    def residual_and_jacobian(self, moving: Tensor, moving_jacobian: Tensor) -> tuple[Tensor, Tensor]:
        """r (B, N) and dr (B, N, 6), from the moving images and their Jacobian (B, H, W, 6) by the pose (omega, v)."""
        ...

    def score(self, moving: Tensor) -> Tensor:
        """(B,), higher is better, comparable between poses; in [-1, 1] for correlations."""
        ...

    def over(self, valid: Tensor) -> Self:
        """The same similarity of B moving images of which only the pixels `valid` (B, H, W), bool or weights in [0, 1], mean something.

        They count as constant in the pose. The fixed image over them is worked out here, once, however often a residual is asked for then. A second
        `over` takes the place of the first.
        """
        ...

    def of(self, index: Tensor) -> Self:
        """That of the moving images `index` (M,) alone, int64, of those that `over` was told of."""
        ...
