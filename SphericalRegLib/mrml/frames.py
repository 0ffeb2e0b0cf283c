"""Fluoroscopy runs: an X-ray node that is the proxy of a sequence, or one with several slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..imaging.pixels import StoredImage
from .xrays import stored_image


@dataclass(frozen=True, eq=False)
class Run:
    """The frames of an X-ray node.

    Attributes:
        browser: the vtkMRMLSequenceBrowserNode whose proxy the node is, or None where its slices are the frames.
        sequence: the vtkMRMLSequenceNode behind it, or None.
        count: number of frames.
    """

    browser: Any
    sequence: Any
    count: int

    @property
    def index_values(self) -> tuple[str, ...]:
        """Where each frame lies in its sequence, as text: a time, or its number."""
        if self.sequence is None:
            return tuple(str(number) for number in range(self.count))
        return tuple(self.sequence.GetNthIndexValue(number) for number in range(self.count))

    @property
    def index_title(self) -> str:
        """What the index values are, with their unit: "time [s]"."""
        name, unit = ("frame", "") if self.sequence is None else (self.sequence.GetIndexName() or "index", self.sequence.GetIndexUnit() or "")
        return f"{name} [{unit}]" if unit else name

    def selected(self) -> int | None:
        """The frame that a sequence's proxy shows now; None for slices."""
        return None if self.browser is None else max(0, int(self.browser.GetSelectedItemNumber()))


def browser_of(node: Any) -> tuple[Any, Any] | None:
    """The sequence browser that a node is a proxy of, and its sequence there; None for any other node."""
    scene = node.GetScene()
    for number in range(0 if scene is None else scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(number, "vtkMRMLSequenceBrowserNode")
        sequence = browser.GetSequenceNode(node)
        if sequence is not None:
            return browser, sequence
    return None


def run_of(xray: Any) -> Run | None:
    """The frames of an X-ray node; None for a single image."""
    found = browser_of(xray)
    if found is not None:
        browser, sequence = found
        return Run(browser, sequence, sequence.GetNumberOfDataNodes())
    slices = 0 if xray.GetImageData() is None else xray.GetImageData().GetDimensions()[2]
    return Run(None, None, slices) if slices > 1 else None


def lasting(node: Any) -> Any:
    """Where attributes of a node last: a proxy's are replaced with those of each frame that is shown, so its sequence stands for it."""
    found = browser_of(node)
    return node if found is None else found[1]


def stored_frame(xray: Any, frame: int | None) -> StoredImage:
    """The grey values of one frame, copied; None: of the single image, or of the frame that a sequence's proxy shows.

    Raises:
        InputError: see `stored_image`, or a frame that is not there.
    """
    run = run_of(xray)
    if frame is None or run is None or run.sequence is None:
        return stored_image(xray, frame)
    if not 0 <= frame < run.count:
        raise InputError(f"The X-ray {xray.GetName()!r} has no frame {frame}; expected 0 to {run.count - 1}.")
    return stored_image(run.sequence.GetNthDataNode(frame))


def read_frames(xray: Any) -> tuple[StoredImage, ...]:
    """The grey values of all frames, copied.

    Raises:
        InputError: a single image, or a frame that cannot be used.
    """
    run = run_of(xray)
    if run is None:
        raise InputError(f"The X-ray {xray.GetName()!r} is a single image; expected a run of several frames.")
    return tuple(stored_frame(xray, number) for number in range(run.count))
