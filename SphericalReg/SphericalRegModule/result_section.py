"""The panel's part with the result: pictures, verdict, undo, export."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.mrml.detector import placed_camera
from SphericalRegLib.mrml.frames import browser_of
from SphericalRegLib.mrml.provenance import result_of

from . import scene_view, xray_view
from .blink import Blink
from .choices import OVERLAY
from .undo import Before, go_back, stand
from .watch import Watch

if TYPE_CHECKING:
    from .panel import Panel

COLOURED = "SphericalReg comparison"
MOST_UNDOS = 20


class ResultSection:
    """Shows one outcome at a time, or those of a run, frame by frame."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui = panel, panel.ui
        self.watch = Watch(slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, self._on_drr)
        self.blink = Blink(self._show_blink)
        self._outcome: Any = None
        self._frames: Sequence[Any] = ()
        self._run: Any = None
        self._undo: list[tuple[Before, Any]] = []
        self._shown: tuple[Any, ...] = ()
        self._moved: Any = None
        self._shown_from: tuple[Any, Any] = (None, None)
        self.ui.undoButton.connect("clicked(bool)", self.on_undo)
        self.ui.exportButton.connect("clicked(bool)", self.on_export)
        self.ui.blinkButton.connect("toggled(bool)", self.on_blink)

    def forget(self) -> None:
        """The scene or the panel goes away."""
        self.ui.blinkButton.checked = False
        self.blink.stop()
        self.watch.follow(None)
        self._forget_outcome()
        self._undo, self._shown, self._moved = [], (), None
        self.ui.verdictLabel.text = ""

    def _forget_outcome(self) -> None:
        self._outcome, self._frames, self._run = None, (), None

    def show_state(self, busy: bool) -> None:
        parameters = self.panel.parameters
        self.ui.undoButton.enabled = bool(self._undo) and not busy
        self.ui.exportButton.enabled = self.outcome is not None and not busy
        self.ui.blinkButton.enabled = parameters is not None and parameters.placedXray is not None and parameters.drrVolume is not None

    def update(self) -> None:
        """Another picture, opacity or mover was chosen."""
        p = self.panel.parameters
        chosen = (p.picture, p.drrOpacity)
        if p.placedXray is not None and chosen != self._shown and not self.blink.on:
            self.show_pictures()
        if self._moved is not None and p.moveXray != self._moved and not self.panel.runner.busy:
            self._show_again()

    @property
    def outcome(self) -> Any:
        """The outcome that is shown now: of the frame in sight, where there are several; None if there is none."""
        if self._run is None:
            return self._outcome
        number = max(0, self._run.browser.GetSelectedItemNumber())
        return self._frames[number].outcome if number < len(self._frames) else None

    # -- an outcome

    def show_outcome(self, outcome: Any, ct: Any, xray: Any) -> None:
        """Write an outcome into the scene and show it."""
        self._undo = [*self._undo, (stand(ct, self.panel.parameters), None)][-MOST_UNDOS:]
        self._write(ct, xray, outcome=outcome)

    def show_run(self, frames: Sequence[Any], ct: Any, xray: Any) -> None:
        """Write the outcomes of a run's frames into the scene and show the frame that the browser has selected."""
        p = self.panel.parameters
        again = p.outputTransform is not None and browser_of(p.outputTransform) is not None
        before = stand(ct, p)
        self._write(ct, xray, frames=frames)
        self._undo = [] if again else [*self._undo, (before, self._run)][-MOST_UNDOS:]  # frames that were written over cannot be brought back

    def _write(self, ct: Any, xray: Any, outcome: Any = None, frames: Sequence[Any] = ()) -> None:
        from SphericalRegLib.mrml.run_session import write_run
        from SphericalRegLib.mrml.session import ResultNodes, write_outcome

        p = self.panel.parameters
        existing = ResultNodes(p.outputTransform, p.placedXray, p.drrVolume)
        self._forget_outcome()
        modified = p.StartModify()
        if frames:
            self._run = write_run(slicer.mrmlScene, frames, ct, xray, existing, p.framesTable, move_xray=p.moveXray)
            p.framesTable = self._run.table
            nodes = self._run.shown
        else:
            nodes = write_outcome(slicer.mrmlScene, outcome, ct, xray, existing, move_xray=p.moveXray)
        p.outputTransform, p.placedXray, p.drrVolume, p.placedFrom = nodes.transform, nodes.xray, nodes.drr, p.xrayVolume
        self._outcome, self._frames, self._moved = outcome, frames, p.moveXray
        self._shown_from = (ct, xray)
        p.EndModify(modified)
        for node in (nodes.xray, nodes.drr):
            xray_view.set_window(node)
        self.watch.follow(p.drrVolume)
        self._say()
        xray_view.show_layout()
        self.show_pictures(fit=True)
        self._plot()
        scene_view.show_scene(ct)

    def _show_again(self) -> None:
        """The same outcome with the other one moved, CT or X-ray."""
        before, run = self._undo[-1] if self._undo else (None, None)
        outcome, frames, (ct, xray) = self._outcome, self._frames, self._shown_from
        self._moved = self.panel.parameters.moveXray
        if before is None or run is not self._run or not all(slicer.mrmlScene.IsNodePresent(node) for node in (ct, xray)):
            return
        self._take_back()
        (self.show_run if frames else self.show_outcome)(frames or outcome, ct, xray)

    def _on_drr(self, caller: Any, event: str) -> None:
        """Another frame of a run is shown, or a live DRR."""
        if self.panel.parameters is None:
            return
        if self._run is not None:
            self._say()
        if self.panel.parameters.picture in xray_view.COLOURED:
            self.show_pictures()

    def _say(self) -> None:
        result = result_of(self.panel.parameters.outputTransform)
        words = [] if result is None else [in_words(result)]
        if self._run is not None:
            failed = sum(frame.outcome is None for frame in self._frames)
            words.insert(0, _("{count} frames registered, {failed} failed; this one:").format(count=len(self._frames) - failed, failed=failed))
            if self.outcome is None:
                number = max(0, self._run.browser.GetSelectedItemNumber())
                words[1:] = [_("It was not registered: {reason} The frame before it is shown.").format(reason=self._frames[number].error)]
        self.ui.verdictLabel.text = " ".join(words)

    # -- pictures

    def show_pictures(self, fit: bool = False) -> None:
        """What the X-ray view shows, as chosen."""
        p = self.panel.parameters
        if p.placedXray is None:
            return
        coloured = slicer.mrmlScene.GetFirstNodeByName(COLOURED)
        if coloured is None and p.picture in xray_view.COLOURED:
            coloured = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", COLOURED)
        xray_view.show(p.picture, p.placedXray, p.drrVolume, coloured, p.drrOpacity)
        self._shown = (p.picture, p.drrOpacity)
        xray_view.look_at(p.placedXray, fit)
        placed = placed_camera(p.placedXray)
        if placed is not None:
            scene_view.show_camera(placed)

    def _show_blink(self, opacity: float) -> None:
        p = self.panel.parameters
        if p is not None and p.placedXray is not None:
            xray_view.show(OVERLAY, p.placedXray, p.drrVolume, None, opacity)

    def on_blink(self, checked: bool = False) -> None:
        """Show X-ray and DRR in turn, or go back to the chosen picture."""
        if checked:
            self.blink.start()
            return
        self.blink.stop()
        if self.panel.parameters is not None:
            self.show_pictures()

    def _plot(self) -> None:
        """Cost of each iteration, relative to the start of its stage; of a run, the similarity of each frame."""
        if self._run is not None:
            scores = [(number, frame.outcome.result.score) for number, frame in enumerate(self._frames) if frame.outcome is not None]
            self.panel.charts.show("run", np.array(scores), [_("frame"), _("similarity")], _("Similarity"))
            return
        stages = self._outcome.result.stages
        costs = [np.array(stage.costs) / stage.costs[0] for stage in stages if stage.costs and stage.costs[0] > 0]
        if costs:
            relative = np.concatenate(costs)
            table = np.column_stack((np.arange(len(relative)), relative))
            self.panel.charts.show("costs", table, [_("iteration"), _("cost, relative to the start of its stage")], _("Convergence"))

    # -- buttons

    def on_undo(self, checked: bool = False) -> None:
        """Back to where CT and X-ray stood before the last registration."""
        with self.panel.reporting():
            self._take_back()
            self._moved = None
            self.ui.verdictLabel.text = _("Back at the previous pose.")
            if self.panel.parameters.placedXray is not None:
                self.show_pictures(fit=True)
            else:
                xray_view.empty()
                scene_view.remove_camera()
        self.panel.update()

    def _take_back(self) -> None:
        from SphericalRegLib.mrml.run_session import remove_run

        before, run = self._undo.pop()
        self.watch.follow(None)
        self.ui.blinkButton.checked = False
        self._forget_outcome()
        if run is not None:
            remove_run(slicer.mrmlScene, run)
            self.panel.parameters.framesTable = None
        go_back(before, self.panel.parameters)

    def on_export(self, checked: bool = False) -> None:
        """Write the result's folder beside the panel."""
        folder = self.ui.exportPathLineEdit.currentPath
        outcome, run = self.outcome, self._run
        with self.panel.reporting():
            if not folder:
                raise InputError(_("Choose a folder to export to first."))
            names = (self.panel.parameters.ctVolume.GetName(), self.panel.parameters.xrayVolume.GetName())
            rows = None
            if run is not None:
                from SphericalRegLib.mrml.frames import run_of
                from SphericalRegLib.mrml.run_session import run_rows

                known = run_of(self.panel.parameters.xrayVolume)
                rows = None if known is None else run_rows(self._frames, known)

            def write(report: Any) -> str:
                from SphericalRegLib.imaging.case import View
                from SphericalRegLib.imaging.transforms import write_transform
                from SphericalRegLib.mrml.provenance import transform_of
                from SphericalRegLib.progress import Progress
                from SphericalRegLib.visualization.output import write_result_folder

                from .batch import write_rows

                report(Progress("export", 0, 1))
                views = (View(outcome.radiograph, np.eye(4)),)
                write_result_folder(outcome.result, outcome.pyramid, views, folder, title=f"{names[0]} to {names[1]}")
                write_transform(Path(folder) / "ct_to_xray.h5", transform_of(outcome.result))
                if rows is not None:
                    write_rows(Path(folder) / "frames.csv", rows)
                return folder

            self.panel.run_job(write, self._exported)

    def _exported(self, folder: str) -> None:
        self.ui.statusLabel.text = _("Exported to {folder}.").format(folder=folder)


def in_words(result: Any) -> str:
    """The result in some sentences: similarity, what is known of the error, what to do."""
    from SphericalRegLib.registration.spread import spread

    off = spread(result)
    words = [
        _("Similarity {score:.3f} after {seconds:.1f} s, verdict: {verdict}.").format(
            score=result.score, seconds=result.seconds, verdict=result.verdict
        ),
        _(
            "Error estimate, not calibrated: {turn:.2f} degrees, {across:.2f} mm across the beam, {along:.2f} mm along it (one standard deviation, "
            "from the residual's curvature; it does not know of a wrong minimum)."
        ).format(turn=off.rotation_deg, across=off.across_beam_mm, along=off.along_beam_mm),
    ]
    if result.predicted_target_error_mm is not None:
        words.append(_("Predicted target error {error:.1f} mm.").format(error=result.predicted_target_error_mm))
    return " ".join([*words, _("Look at the overlay before trusting the pose."), *result.notes])
