"""How long work reports where it is, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Cancelled(Exception):
    """Raised out of a progress callback to stop the work that called it."""


@dataclass(frozen=True)
class Progress:
    """One report: `done` of `total` steps of `stage`; `pose` (4, 4) is the best camera_from_world so far, where there is one."""

    stage: str
    done: int
    total: int
    message: str = ""
    cost: float | None = None
    pose: Tensor | None = None


ProgressCallback = Callable[[Progress], None]
"""Called several times a second by long work; raises `Cancelled` to stop it."""


def silent(_: Progress) -> None:
    """The callback of those who do not want to know."""


def pace(seconds: float, done: int, total: int) -> str:
    """Rate and time left in words, e.g. "3.1 s each, 1 min 20 s left", after `done` of `total` equal steps took `seconds` together."""
    if done < 1:
        return ""
    each = seconds / done
    left = clock(each * max(total - done, 0))
    return f"{each:.2g} s each, {left} left" if each < 100 else f"{each:.0f} s each, {left} left"


def clock(seconds: float) -> str:
    """A duration in words: "20 s", "1 min 20 s", "2 h 5 min"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
