"""Following one object's event, and letting go of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Watch:
    """An observer on one object at a time. Once it lets go it holds no reference; slicer.util.VTKObservationMixin.removeObserver does.

    Args:
        event: of VTK or MRML.
        callback: takes the caller and the event.
    """

    def __init__(self, event: Any, callback: Callable[[Any, Any], None]) -> None:
        self._event, self._callback = event, callback
        self._object: Any = None
        self._tag: Any = None

    def follow(self, thing: Any) -> None:
        """Follow this object, or none, and no other."""
        if thing is self._object:
            return
        if self._object is not None:
            self._object.RemoveObserver(self._tag)
        self._object = thing
        self._tag = None if thing is None else thing.AddObserver(self._event, self._callback)

    @property
    def following(self) -> bool:
        return self._object is not None
