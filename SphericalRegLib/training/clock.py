"""How much of a training lies behind, by time or by steps, and whether its validations say that it is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .options import TrainingOptions


@dataclass(frozen=True)
class Clock:
    """By steps where the options count them, by time otherwise.

    Attributes:
        options: see `TrainingOptions`.
        share, seconds: how much lay behind, and after how much time, when the training was resumed.
    """

    options: TrainingOptions
    share: float = 0.0
    seconds: float = 0.0

    def share_done(self, steps: int, seconds: float) -> float:
        """In [0, 1], after so many steps and so much time in all. With other minutes than before a resume, what is left of the training takes what is
        left of them."""
        if self.options.iterations is not None:
            return steps / self.options.iterations
        left = 60 * self.options.minutes - self.seconds
        return min(1.0, self.share + (1 - self.share) * (seconds - self.seconds) / left) if left > 0 else 1.0


def why_stop(errors: Sequence[float], options: TrainingOptions, begins: float) -> str:
    """Why a training ends early, or an empty text.

    Args:
        errors: the validations' median errors since the encoder's turn began, mm: of the encoder alone, as the similarity stays what it was while the
            regressor has its turn.
        options: `stop_below_mm` and `patience`.
        begins: share of the training after which that turn begins.
    """
    if options.stop_below_mm is not None and errors and errors[-1] < options.stop_below_mm:
        return f"the validation's median error fell below {options.stop_below_mm:g} mm"
    late = len(errors) > options.validation.times * (1 - begins) / 2
    if options.patience is None or not late or len(errors) <= options.patience:
        return ""
    if min(errors[-options.patience :]) >= min(errors[: -options.patience]):
        return f"the validation's median error did not fall for {options.patience} validations"
    return ""
