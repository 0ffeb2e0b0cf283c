"""The DRR follows the CT and the X-ray while they are moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.util import VTKObservationMixin

DRAG_PX = 256
STILL_MS = 250


class LiveDRR(VTKObservationMixin):
    """Calls for a coarse DRR on every change of place, and for a fine one when the hand stops.

    Changes that come while a call is pending are taken together; a pending call is never put off, so a long drag is followed throughout.

    Args:
        render: takes the length of the image's longer side in pixels, or None for all of them.
    """

    def __init__(self, render: Callable[[int | None], None]) -> None:
        VTKObservationMixin.__init__(self)
        self._render = render
        self._nodes: tuple[Any, ...] = ()
        self._coarse, self._fine = qt.QTimer(), qt.QTimer()
        for timer, wait_ms, call in ((self._coarse, 0, self._render_coarse), (self._fine, STILL_MS, self._render_fine)):
            timer.setSingleShot(True)
            timer.setInterval(wait_ms)
            timer.connect("timeout()", call)

    def follow(self, *nodes: Any) -> None:
        """Follow these volume nodes, and no others."""
        if nodes == self._nodes:
            return
        self.stop()
        self._nodes = nodes
        for node in nodes:
            self.addObserver(node, slicer.vtkMRMLTransformableNode.TransformModifiedEvent, self._on_moved)

    def stop(self) -> None:
        """Follow nothing, and drop what is pending."""
        self.removeObservers()
        self._nodes = ()
        self._coarse.stop()
        self._fine.stop()

    @property
    def following(self) -> bool:
        return bool(self.Observations)

    def _on_moved(self, caller: Any, event: str) -> None:
        if not self._coarse.isActive():
            self._coarse.start()
        self._fine.start()

    def _render_coarse(self) -> None:
        self._render(DRAG_PX)

    def _render_fine(self) -> None:
        self._render(None)
