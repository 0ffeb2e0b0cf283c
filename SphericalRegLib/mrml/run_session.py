"""All frames of a run, registered one after the other: each starts from the pose of the one before.

As in `session`, `read_run` and `write_run` belong to the thread that owns the scene, and `register_run` touches nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..imaging.geometry_values import GeometryValues
from ..imaging.pixels import StoredImage
from ..progress import Progress, ProgressCallback, silent
from .detector import placed_camera
from .frames import Run, browser_of, read_frames, run_of
from .provenance import TABLE, belong
from .removing import remove
from .session import Outcome, Request, ResultNodes, check_writable, read_request, run, write_outcome
from .tables import fill_table, result_row
from .xrays import Exposure, exposure_of

ROLES = ("pose", "X-ray", "DRR")


@dataclass(frozen=True, eq=False)
class RunRequest:
    """All that the registration of a run needs; nothing in it belongs to the scene.

    Attributes:
        first: the request for the first frame; the other frames differ in the image and in the start.
        exposure: how frames become radiographs.
        frames: their grey values.
    """

    first: Request
    exposure: Exposure
    frames: tuple[StoredImage, ...]


@dataclass(frozen=True, eq=False)
class FrameOutcome:
    """One frame: its outcome, or why there is none."""

    outcome: Outcome | None
    seconds: float
    error: str | None = None


@dataclass(frozen=True, eq=False)
class RunNodes:
    """The nodes that show the registration of a run.

    Attributes:
        shown: the CT's transform, the X-ray on its detector and the DRR, of the frame that the browser shows.
        browser: the vtkMRMLSequenceBrowserNode that they are proxies in.
        sequences: the vtkMRMLSequenceNodes behind them.
        table: a vtkMRMLTableNode with one row a frame.
        index_values: of all frames, those that were not registered included; None where the browser is the X-ray's, whose items are the frames.
    """

    shown: ResultNodes
    browser: Any
    sequences: tuple[Any, ...]
    table: Any
    index_values: tuple[str, ...] | None

    def selected(self) -> int | None:
        """The number of the frame that the browser is at; None where it is at something else.

        Items of the run's own browser are registered frames alone, so that an item's number is not its frame's.
        """
        item, master = max(0, int(self.browser.GetSelectedItemNumber())), self.browser.GetMasterSequenceNode()
        if self.index_values is None:
            return item
        value = None if master is None else master.GetNthIndexValue(item)
        return self.index_values.index(value) if value in self.index_values else None


def read_run(
    ct: Any, xray: Any, *, geometry: GeometryValues | None = None, mask: Any = None, reference: np.ndarray | None = None, **keywords: Any
) -> RunRequest:
    """Read the inputs of a run's registration from the scene.

    Args:
        ct, xray, geometry, mask: as of `read_request`; the X-ray as it was loaded, with all its frames.
        reference: world_from_camera_reference (4, 4); None: at the inverse of the initial pose.
        keywords: further arguments of `read_request`.

    Raises:
        InputError: a single image, a frame that cannot be used, or as `read_request`.
    """
    if placed_camera(xray) is not None:
        raise InputError(f"The X-ray {xray.GetName()!r} lies on a detector already; expected the run as it was loaded.")
    frames = read_frames(xray)
    first = read_request(ct, xray, geometry=geometry, mask=mask, frame=0, **keywords)
    first = first if reference is None else replace(first, world_from_camera_reference=reference)
    return RunRequest(first, exposure_of(xray, geometry, mask=mask), frames)


def register_run(request: RunRequest, progress: ProgressCallback = silent) -> tuple[FrameOutcome, ...]:
    """Register every frame. The first one starts as the request says, each later one at the pose before it; the camera stands still.

    A frame that is refused has its reason in its place, and the next one starts at the last pose that was found.

    Raises:
        InputError: no frame could be registered; the first one's reason.
        Cancelled: out of `progress`.
    """
    here, found = request.first, list[FrameOutcome]()
    for number, stored in enumerate(request.frames):
        began, count = time.perf_counter(), len(request.frames)

        def report(step: Progress, number: int = number, count: int = count) -> None:
            share = step.done / max(step.total, 1)
            progress(replace(step, stage=f"frame {number + 1} of {count}, {step.stage}", done=round(100 * (number + share)), total=100 * count))

        try:
            outcome = run(replace(here, radiograph=request.exposure.radiograph(stored)), report)
        except InputError as error:
            found.append(FrameOutcome(None, time.perf_counter() - began, str(error)))
            continue
        found.append(FrameOutcome(outcome, time.perf_counter() - began))
        result = outcome.result
        here = replace(
            here, ct=outcome.pyramid, initial=result.camera_from_world, world_from_camera_reference=result.world_from_camera_reference
        )
    if all(frame.outcome is None for frame in found):
        raise InputError(found[0].error or f"The X-ray {request.exposure.name!r} has no frame.")
    return tuple(found)


def write_run(
    scene: Any,
    frames: Sequence[FrameOutcome],
    ct: Any,
    xray: Any,
    shown: ResultNodes | None = None,
    table: Any = None,
    *,
    move_xray: bool = False,
    along: Collection[Any] = (),
) -> RunNodes:
    """Show the registration of a run: the transform, the X-ray on its detector and the DRR become proxies of sequences in the run's own browser.

    A frame without an outcome is left out of the sequences, so that the browser goes on showing the frame before it.

    Args:
        scene: where nodes are added.
        frames: what `register_run` found.
        ct, xray: nodes.
        shown: nodes to be filled instead of new ones.
        table: a vtkMRMLTableNode to be filled instead of a new one.
        move_xray, along: as of `write_outcome`.

    Raises:
        InputError: see `session.check_writable`, or frames that were removed since; then the scene is as it was.
    """
    check_writable(ct, xray, shown, move_xray=move_xray)
    known = run_of(xray)
    if known is None or known.count != len(frames):
        raise InputError(f"The X-ray {xray.GetName()!r} has not the {len(frames)} frames any more: its sequence was changed meanwhile.")
    nodes = ResultNodes() if shown is None else shown
    browser = known.browser or _own_browser(scene, nodes.transform, f"{xray.GetName()} frames")
    for node in (nodes.transform, nodes.xray, nodes.drr):
        if node is not None and browser.GetSequenceNode(node) is not None:
            browser.SetSaveChanges(browser.GetSequenceNode(node), False)  # what is written now is not an edit of the frame that is shown
    sequences: tuple[Any, ...] = ()
    for value, frame in zip(known.index_values, frames):
        if frame.outcome is None:
            continue
        nodes = write_outcome(scene, frame.outcome, ct, xray, nodes, move_xray=move_xray, along=along)
        parts = (nodes.transform, nodes.xray, nodes.drr)
        if not sequences:
            sequences = tuple(_empty_sequence(scene, browser, node, f"{xray.GetName()} {role}", known) for node, role in zip(parts, ROLES))
        for sequence, node in zip(sequences, parts):
            sequence.SetDataNodeAtValue(node, value)
    for sequence, node in zip(sequences, (nodes.transform, nodes.xray, nodes.drr)):
        if browser.GetSequenceNode(node) is not sequence:
            browser.AddProxyNode(node, sequence, False)
    browser.SetSelectedItemNumber(max(0, browser.GetSelectedItemNumber()))  # first: at no item, a browser that saves makes up a first one
    browser.Modified()  # the proxies show the selected frame
    for sequence in sequences:
        browser.SetSaveChanges(sequence, True)  # a pose that is changed by hand, or found anew, is kept with its frame
    table = table or scene.AddNewNodeByClass("vtkMRMLTableNode", f"{xray.GetName()} poses")
    fill_table(table, run_rows(frames, known))
    belong(table, TABLE, ct, xray)
    return RunNodes(nodes, browser, sequences, table, None if known.browser is not None else known.index_values)


def run_rows(frames: Sequence[FrameOutcome], known: Run | None) -> list[dict[str, Any]]:
    """One row a frame for the results table; without the run, whose sequence is gone, the frames have their numbers alone."""
    index = () if known is None or known.sequence is None else known.index_values
    rows = []
    for number, frame in enumerate(frames):
        result = {} if frame.outcome is None else frame.outcome.result.to_dict()
        where = {known.index_title: index[number]} if known is not None and index else {}
        rows.append({"frame": number, **where, **result_row(result, frame.seconds, frame.error)})
    return rows


def remove_run(scene: Any, nodes: RunNodes) -> None:
    """Take a run's sequences out of its browser and out of the scene, its table too; the nodes that are shown stay."""
    for sequence in nodes.sequences:
        nodes.browser.RemoveSynchronizedSequenceNode(sequence.GetID())
        remove(scene, sequence)
    remove(scene, nodes.table)
    if nodes.browser.GetNumberOfSynchronizedSequenceNodes(True) == 0:
        scene.RemoveNode(nodes.browser)


def _own_browser(scene: Any, transform: Any, name: str) -> Any:
    """A browser for frames that are slices of one volume: that of an earlier registration, or a new one."""
    found = None if transform is None else browser_of(transform)
    return scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", name) if found is None else found[0]


def _empty_sequence(scene: Any, browser: Any, node: Any, name: str, known: Run) -> Any:
    """The sequence behind a node, emptied, or a new one with the run's index."""
    sequence = browser.GetSequenceNode(node)
    if sequence is not None:
        sequence.RemoveAllDataNodes()
        return sequence
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", name)
    if known.sequence is not None:
        for property_name in ("IndexName", "IndexUnit", "IndexType", "NumericIndexValueTolerance"):
            getattr(sequence, f"Set{property_name}")(getattr(known.sequence, f"Get{property_name}")())
    else:
        sequence.SetIndexName("frame")
        sequence.SetIndexUnit("")
    return sequence
