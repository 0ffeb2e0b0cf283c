"""The panel's inputs: which frame of a run, which parts of the CT."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

from SphericalRegLib.mrml.detector import CAMERA
from SphericalRegLib.mrml.frames import Run, run_of
from SphericalRegLib.mrml.parts import Part, parts_of, state_of

if TYPE_CHECKING:
    from .panel import Panel


class InputsSection:
    """Keeps the frame's number in step with the sequence browser, and the list of parts with what is in the scene."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui = panel, panel.ui
        self.run: Run | None = None
        self._shown_frame: tuple[str, int] | None = None
        self._parts: tuple[Part, ...] = ()
        self._parts_state: Any = None
        self.ui.partsListWidget.connect("itemChanged(QListWidgetItem*)", self.on_part_ticked)
        self.forget()

    def forget(self) -> None:
        """The scene goes away."""
        self.run, self._shown_frame = None, None
        self._fill_parts((), set())
        self._parts_state = None

    def show_state(self, busy: bool) -> None:
        several = self.run is not None
        self.ui.frameSpinBox.enabled = several and not busy and not self.all_frames
        self.ui.allFramesCheckBox.enabled = several and not busy
        self.ui.partsListWidget.visible = bool(self._parts)

    def guess(self) -> None:
        """Choose the first CT and the first X-ray of the scene where none is chosen: no label maps, no colours, no images of this module's."""
        p = self.panel.parameters
        known = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")  # and what is derived from it
        plain = [node for node in known if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetAttribute(CAMERA)]
        volumes = [node for node in plain if node.GetImageData()]
        if not p.ctVolume:
            p.ctVolume = next((node for node in volumes if min(node.GetImageData().GetDimensions()) > 1), None)
        if not p.xrayVolume:
            p.xrayVolume = next((node for node in volumes if node.GetImageData().GetDimensions()[2] == 1), None)

    def update(self) -> None:
        """Another X-ray, frame, label map or segmentation."""
        self._update_run()
        self._update_parts()

    # -- frames

    @property
    def all_frames(self) -> bool:
        """Whether all frames of a run are to be registered."""
        return self.run is not None and self.panel.parameters is not None and self.panel.parameters.allFrames

    @property
    def frame(self) -> int | None:
        """The slice to be registered; None for a single image, and for a sequence, whose proxy shows the frame already."""
        return self.panel.parameters.frame if self.run is not None and self.run.sequence is None else None

    def _update_run(self) -> None:
        p = self.panel.parameters
        xray = p.xrayVolume
        self.run = None if xray is None else run_of(xray)
        if self.run is None:
            self.ui.frameCountLabel.text, self._shown_frame = "", None
            return
        self.ui.frameCountLabel.text = _("of 0 to {last}").format(last=self.run.count - 1)
        self.ui.frameSpinBox.maximum = max(0, self.run.count - 1)
        chosen, selected = min(p.frame, self.run.count - 1), self.run.selected()
        before = self._shown_frame
        if selected is not None and (before is None or before != (xray.GetID(), selected)):
            chosen = selected  # the browser was moved, or the run is new here
        elif selected is not None and chosen != selected:
            self.run.browser.SetSelectedItemNumber(chosen)
        if p.frame != chosen:
            p.frame = chosen
        self._shown_frame = (xray.GetID(), chosen)
        if before is not None and before != self._shown_frame:
            self.panel.initial.refresh_placed()

    # -- parts

    @property
    def chosen_parts(self) -> tuple[int | str, ...] | None:
        """Labels or segment IDs that are rendered; None where no label map or segmentation is chosen."""
        if self.panel.parameters.partsNode is None:
            return None
        return tuple(json.loads(self.panel.parameters.chosenParts or "[]"))

    def _update_parts(self) -> None:
        p = self.panel.parameters
        node = p.partsNode
        state = None if node is None else (state_of(node), p.chosenParts)
        if state == self._parts_state:
            return
        known = () if node is None else parts_of(node)
        chosen = [] if node is None else json.loads(p.chosenParts or "[]")
        keys = [part.key for part in known]
        kept = [key for key in chosen if key in keys]
        if kept != chosen and node is not None:
            p.chosenParts = json.dumps(kept)
        self._fill_parts(known, set(kept))
        self._parts_state = None if node is None else (state[0], p.chosenParts)  # type: ignore[index]

    def _fill_parts(self, known: tuple[Part, ...], ticked: set[Any]) -> None:
        self._parts = known
        parts = self.ui.partsListWidget
        parts.blockSignals(True)
        parts.clear()
        for part in known:
            item = qt.QListWidgetItem(part.name)
            item.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            item.setCheckState(qt.Qt.Checked if part.key in ticked else qt.Qt.Unchecked)
            parts.addItem(item)
        parts.blockSignals(False)

    def on_part_ticked(self, item: Any) -> None:
        """A part is rendered or not any more."""
        parts = self.ui.partsListWidget
        chosen = [part.key for number, part in enumerate(self._parts) if parts.item(number).checkState() == qt.Qt.Checked]
        if self.panel.parameters is not None:
            self.panel.parameters.chosenParts = json.dumps(chosen)
