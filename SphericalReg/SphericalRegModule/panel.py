"""The panel: its sections, what runs, and what is said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.mrml.detector import placed_camera
from SphericalRegLib.mrml.frames import browser_of
from SphericalRegLib.mrml.matrices import scene_from_node
from SphericalRegLib.progress import Progress

from .batch_section import BatchSection
from .charts import Charts
from .choices import SCENE
from .dependencies import ensure
from .geometry_section import GeometrySection
from .initial_section import InitialSection
from .inputs_section import InputsSection
from .job import Done, Failed, Message, failure
from .model_section import ModelSection
from .packages_section import PackagesSection
from .prepared import keep, key
from .result_section import ResultSection
from .runner import Runner
from .stages import in_words
from .watch import Watch


class Panel:
    """Connects the widgets to the logic, section by section in the panel's order.

    A section has `update` (the parameters changed), `show_state` (what can be pressed now) and `forget` (the scene goes away).

    Args:
        ui: the widgets by name.
        logic: `SphericalRegLogic`.
    """

    def __init__(self, ui: Any, logic: Any) -> None:
        self.ui, self.logic = ui, logic
        self.parameters: Any = None
        self.runner = Runner(self._on_progress, self._on_end)
        self._parameters_watch = Watch(vtk.vtkCommand.ModifiedEvent, self.update)
        # an X-ray may be chosen before it is filled, and a sequence's proxy shows one frame after the other
        self._xray_watch = Watch(slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, self.update)
        self._updating = False
        self._update_failed = False  # what is wrong is what the last update said
        self.stage = ""  # of what runs, or ran last
        self._details = ""
        self._then: Any = None
        self._failed: Any = None
        self._stopped: Any = None
        self.charts = Charts()
        self.inputs = InputsSection(self)
        self.geometry = GeometrySection(self)
        self.initial = InitialSection(self)
        self.model = ModelSection(self)
        self.result = ResultSection(self)
        self.batch = BatchSection(self)
        self.packages = PackagesSection(self)
        self._sections = (self.inputs, self.geometry, self.model, self.initial, self.result, self.batch, self.packages)
        ui.registerButton.connect("clicked(bool)", self.on_register)
        ui.copyDetailsButton.connect("clicked(bool)", self.on_copy_details)
        ui.progressBar.visible = False
        self.clear_error()

    def close(self) -> None:
        """Let go of everything: the panel goes away."""
        self.runner.abandon()
        for section in self._sections:
            section.forget()
        self.model.close()
        self.batch.close()
        self._parameters_watch.follow(None)
        self._xray_watch.follow(None)
        self.logic.forgetPrepared()

    def setParameters(self, parameters: Any) -> None:
        """Follow a parameter node, or none: then what runs is cancelled, for its scene goes away."""
        self._parameters_watch.follow(parameters)
        self._xray_watch.follow(None)
        if parameters is None:
            self.runner.abandon()
            self._then = self._failed = self._stopped = None  # they know nodes of the scene
            self.logic.forgetPrepared()
            self.ui.statusLabel.text = ""
            self.clear_error()
        self.parameters = None
        self.charts.forget()
        for section in self._sections:
            section.forget()
        self.parameters = parameters
        self.update()
        self.show_state()

    # -- following the parameters

    def update(self, caller: Any = None, event: Any = None) -> None:
        """Bring everything that depends on the parameters up to date."""
        if self._updating or self.parameters is None:
            return
        self._updating = True
        try:
            self._xray_watch.follow(self.parameters.xrayVolume)
            refused = [failed for section in self._sections if (failed := _refusal(section.update)) is not None]  # what one refuses, others follow
            if refused:
                self.show_error(refused[0])
                self._update_failed = True
            elif self._update_failed:
                self.clear_error()
        finally:
            self._updating = False
        self.show_state()

    @property
    def observers(self) -> int:
        """How many the panel and its parts hold now."""
        watches = (self._parameters_watch, self._xray_watch, *self.result.watches)
        return sum(watch.following for watch in watches) + len(self.initial.live.Observations)

    def missing_inputs(self) -> str:
        """What is still to be chosen, or an empty text."""
        p = self.parameters
        if p is None:
            return _("No scene")
        if p.ctVolume is None or p.xrayVolume is None:
            return _("Choose a CT and an X-ray")
        if self.inputs.chosen_parts == ():
            return self.missing_geometry() or _("Tick the parts of the CT that are rendered")
        return self.missing_geometry()

    def missing_geometry(self) -> str:
        """What is still to be known of the X-ray's camera, or an empty text."""
        p = self.parameters
        if p.xrayVolume is None:
            return _("Choose an X-ray")
        if wrong := self.geometry.wrong():
            return wrong
        if p.sddMm <= 0 or min(p.spacingColumnMm, p.spacingRowMm) <= 0:
            return _("Enter the source-to-detector distance and the pixel spacing")
        return ""

    @property
    def working(self) -> bool:
        """Whether anything runs that the panel began: a registration, a training, a batch of folders."""
        return any(runner.busy for runner in (self.runner, self.model.trainer, self.batch.runner))

    def missing(self) -> str:
        """What keeps the registration from starting, or an empty text."""
        p = self.parameters
        if p is not None and p.initial == SCENE and p.placedXray is None:
            return self.missing_inputs() or _("Place the X-ray first, or choose another start")
        return self.missing_inputs() or self.geometry.missing_start() or ("" if p is None else self.model.missing())

    def show_state(self) -> None:
        missing, busy = self.missing(), self.runner.busy
        self.ui.registerButton.text = _("Cancel") if busy else _("Register all frames") if self.inputs.all_frames else _("Register")
        self.ui.registerButton.enabled = busy or not missing
        self.ui.registerButton.toolTip = _("Stop the registration") if busy else missing or _("Find the CT's pose")
        self.ui.progressBar.visible = busy
        for section in self._sections:
            section.show_state(busy)

    # -- jobs

    def run_job(
        self, work: Any, then: Callable[[Any], None], failed: Callable[[Failed], None] | None = None, stopped: Callable[[], None] | None = None
    ) -> None:
        """Run work beside the panel.

        Args:
            work: takes a progress callback; runs in a thread.
            then: takes its value, in the main thread.
            failed: instead of showing the failure.
            stopped: after it was cancelled; says what was done, where that is not nothing.
        """
        self.clear_error()
        self.initial.live.stop()
        self._then, self._failed, self._stopped = then, failed or self.show_error, stopped
        self.ui.progressBar.value, self.stage = 0, ""
        self.runner.start(work)
        self.show_state()

    def _on_progress(self, progress: Progress) -> None:
        self.stage = progress.stage
        self.ui.progressBar.value = round(100 * progress.done / max(progress.total, 1))
        self.ui.statusLabel.text = ", ".join([in_words(progress.stage), *([progress.message] if progress.message else [])])

    def _on_end(self, message: Message) -> None:
        then, failed, stopped = self._then, self._failed, self._stopped
        self._then = self._failed = self._stopped = None
        with self.reporting():
            if isinstance(message, Done):
                self.ui.statusLabel.text = ""
                then(message.value)
            elif isinstance(message, Failed):
                failed(message)
            else:
                self.ui.statusLabel.text = _("Cancelled. Nothing was changed.")
                if stopped is not None:
                    stopped()
        self.update()

    def show_error(self, failed: Failed) -> None:
        """Say what went wrong; the details can be copied."""
        self._update_failed = False
        self._details = failed.details
        self.ui.statusLabel.text = ""
        self.ui.errorLabel.text = failed.sentence
        self.ui.errorFrame.visible = True

    def clear_error(self) -> None:
        self._update_failed = False
        self._details = ""
        self.ui.errorLabel.text = ""
        self.ui.errorFrame.visible = False

    # -- buttons

    def on_register(self, checked: bool = False) -> None:
        """Start, or cancel what runs."""
        if self.runner.busy:
            self.runner.cancel()
            self.ui.registerButton.text = _("Cancelling...")
            self.ui.registerButton.enabled = False
            return
        with self.reporting(self.ui.registerCollapsibleButton):
            ensure()
            if self.inputs.all_frames:
                self._register_run()
            else:
                self._register_one()

    def _register_one(self) -> None:
        from SphericalRegLib.mrml.session import run

        p = self.parameters
        ct, xray, labels, parts, chosen = p.ctVolume, self.initial.target(), p.partsNode, self.inputs.chosen_parts, p.xrayVolume
        self.result.check(ct, xray)
        placed = placed_camera(xray)
        if placed is not None and xray is not chosen and browser_of(xray) is None:
            # as it was loaded, with its mask and its collimator's border, before the detector that was placed
            known, frame, xray, reference = self.geometry.known, self.inputs.frame, chosen, placed.world_from_camera
            initial: Any = np.linalg.inv(reference) @ scene_from_node(ct)
        else:  # an X-ray on a detector brings its camera along, and shows the chosen frame already
            known, frame = (None, None) if placed is not None else (self.geometry.known, self.inputs.frame)
            initial, reference = self.initial.pose(ct, xray, known, frame), None
        request = self.logic.readRequest(ct, xray, frame, geometry=known, initial=initial, **self._choices(labels, parts))
        request = request if reference is None else replace(request, world_from_camera_reference=reference)
        made_from = key(ct, labels, parts, request.device, self.logic.options)

        def show(outcome: Any) -> None:
            self.logic.prepared = keep(outcome.pyramid, made_from)
            self.result.show_outcome(outcome, ct, xray, chosen)

        self.run_job(lambda report: run(request, report), show)

    def _register_run(self) -> None:
        from SphericalRegLib.mrml.run_session import register_run

        p = self.parameters
        ct, xray, labels, parts = p.ctVolume, p.xrayVolume, p.partsNode, self.inputs.chosen_parts
        self.result.check(ct, xray)
        placed = placed_camera(p.placedXray) if p.initial == SCENE else None
        if placed is not None:
            initial, reference = np.linalg.inv(placed.world_from_camera) @ scene_from_node(ct), placed.world_from_camera
        else:
            initial, reference = self.initial.pose(ct, xray, self.geometry.known, 0), None
        request = self.logic.readRun(
            ct, xray, reference=reference, geometry=self.geometry.known, initial=initial, **self._choices(labels, parts)
        )
        made_from = key(ct, labels, parts, request.first.device, self.logic.options)

        def show(frames: Any) -> None:
            pyramid = next(frame.outcome.pyramid for frame in frames if frame.outcome is not None)
            self.logic.prepared = keep(pyramid, made_from)
            self.result.show_run(frames, ct, xray)

        self.run_job(lambda report: register_run(request, report), show)

    def _choices(self, labels: Any, parts: Any) -> dict[str, Any]:
        p = self.parameters
        model = self.model.chosen()
        return {"model": model, "labelsNode": labels, "labels": parts, "maskNode": p.maskVolume, "device": p.device, "seed": p.seed}

    def on_copy_details(self, checked: bool = False) -> None:
        slicer.app.clipboard().setText(f"{self.ui.errorLabel.text}\n\n{self._details}")

    # -- helpers

    def reporting(self, section: Any = None) -> Reporting:
        """A context in which errors are shown in the panel's words: below the section whose button was pressed, or where the last ones stood."""
        if section is not None:
            column, strip = section.parent().layout(), self.ui.statusFrame
            column.removeWidget(strip)
            column.insertWidget(column.indexOf(section) + 1, strip)
        return Reporting(self)


class Reporting:
    """Shows what goes wrong inside the block in the panel, in words."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel

    def __enter__(self) -> None:
        self._panel.clear_error()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        self._panel.show_error(failure(error))
        return True


def _refusal(update: Callable[[], None]) -> Failed | None:
    """What a section's update refuses, if it does."""
    try:
        update()
    except InputError as error:
        return failure(error)
    return None
