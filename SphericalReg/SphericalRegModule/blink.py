"""X-ray and DRR in turn, for the eye to see what jumps."""

from __future__ import annotations

from collections.abc import Callable

import qt

BLINK_MS = 600


class Blink:
    """Shows X-ray and DRR in turn.

    Args:
        show: takes the DRR's opacity, 0 or 1.
    """

    def __init__(self, show: Callable[[float], None]) -> None:
        self._show = show
        self._drr = False
        self._timer = qt.QTimer()
        self._timer.setInterval(BLINK_MS)
        self._timer.connect("timeout()", self._turn)

    @property
    def on(self) -> bool:
        return bool(self._timer.isActive())

    def start(self) -> None:
        self._timer.start()

    def stop(self) -> None:
        self._timer.stop()

    def _turn(self) -> None:
        self._drr = not self._drr
        self._show(float(self._drr))
