"""The panel's part with the result: pictures, verdict, undo, export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.mrml.belongings import carry, lying_in
from SphericalRegLib.mrml.detector import placed_camera
from SphericalRegLib.mrml.frames import browser_of
from SphericalRegLib.mrml.poses import is_moved
from SphericalRegLib.mrml.provenance import RESULT, TABLE, XRAY, belong, may_hold, result_of
from SphericalRegLib.mrml.tables import fill_table
from SphericalRegLib.registration.result import distinct

from . import layout, scene_view, xray_view
from .blink import Blink
from .choices import OVERLAY
from .undo import Before, belongings, go_back, show_handles, stand
from .verdict import back_to, in_words, moved_off
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
        moved = slicer.vtkMRMLTransformableNode.TransformModifiedEvent
        self._ct_watch, self._detector_watch = Watch(moved, self._on_moved), Watch(moved, self._on_moved)
        self.blink = Blink(self._show_blink)
        self._outcome: Any = None
        self._frames: Sequence[Any] = ()
        self._run: Any = None
        self._undo: list[tuple[Before, Any, tuple[Any, ...]]] = []  # how it stood, the run, the nodes that were made
        self._shown: tuple[Any, ...] = ()
        self._moved: Any = None
        self._shown_from: tuple[Any, Any, Any] = (None, None, None)
        self._written: tuple[Any, Any, Any] | None = None
        self._result: Any = None  # what the transform carries that is spoken of
        self._off = ""
        self._undo_words, self._undo_tip = self.ui.undoButton.text, self.ui.undoButton.toolTip
        self._export_tip = self.ui.exportButton.toolTip
        self.ui.undoButton.connect("clicked(bool)", self.on_undo)
        self.ui.exportButton.connect("clicked(bool)", self.on_export)
        self.ui.blinkButton.connect("toggled(bool)", self.on_blink)
        self.ui.layoutButton.connect("clicked(bool)", self.on_layout)
        self._tell("", "")

    def forget(self) -> None:
        """The scene or the panel goes away."""
        self.ui.blinkButton.checked = False
        self.blink.stop()
        for watch in self.watches:
            watch.follow(None)
        self._forget_outcome()
        self._undo, self._shown, self._moved, self._result, self._off = [], (), None, None, ""
        self._tell("", "")

    @property
    def watches(self) -> tuple[Watch, ...]:
        """All observers of this section."""
        return self.watch, self._ct_watch, self._detector_watch

    def _forget_outcome(self) -> None:
        self._outcome, self._frames, self._run, self._written = None, (), None, None
        self._shown_from = (None, None, None)

    def show_state(self, busy: bool) -> None:
        parameters = self.panel.parameters
        back = bool(self._off) and self._result is not None
        self.ui.undoButton.enabled = (back or bool(self._undo)) and not busy
        self.ui.undoButton.text = _("Back to the result") if back else self._undo_words
        self.ui.undoButton.toolTip = _("Put the CT back to where the registration found it.") if back else self._undo_tip
        known = self.outcome is not None or (self._run is None and self._result is not None and all(node is not None for node in self._about()))
        self.ui.exportButton.enabled = known and not self._off and not busy
        self.ui.exportButton.toolTip = (
            _("The CT was moved since: go back to the result, or register again, before it is exported.") if self._off else self._export_tip
        )
        self.ui.blinkButton.enabled = parameters is not None and parameters.placedXray is not None and parameters.drrVolume is not None

    def update(self) -> None:
        """Another picture, opacity or mover was chosen."""
        p = self.panel.parameters
        chosen = (p.picture, p.drrOpacity)
        if p.placedXray is not None and chosen != self._shown and not self.blink.on:
            self.show_pictures()
        if self._moved is not None and p.moveXray != self._moved and not self.panel.runner.busy:
            self._show_again()
        self.watch.follow(p.drrVolume)
        if p.ctVolume is not None and is_moved(p.ctVolume):  # what is chosen by now goes with it from here on
            carry(p.ctVolume, [each for each in lying_in(p.ctVolume, belongings(p.ctVolume, p)) if each.at_home])
        self._say()

    @property
    def outcome(self) -> Any:
        """The outcome that is shown now: of the frame in sight, where there are several; None if there is none."""
        if self._run is None:
            return self._outcome
        number = self._run.selected()
        return None if number is None else self._frames[number].outcome

    # -- an outcome

    def existing(self, ct: Any, xray: Any) -> Any:
        """ResultNodes: what a result of a CT and an X-ray is written to, as far as it is there. What another pair was written to is left alone."""
        from SphericalRegLib.mrml.session import ResultNodes

        p = self.panel.parameters
        return ResultNodes(*(_for_pair(node, ct, xray) for node in (p.outputTransform, p.placedXray, p.drrVolume)))

    def check(self, ct: Any, xray: Any) -> None:
        """Refuse before any long work what its result could not be written to.

        Raises:
            InputError: see `mrml.session.check_writable`.
        """
        from SphericalRegLib.mrml.session import check_writable

        check_writable(ct, xray, self.existing(ct, xray), move_xray=self.panel.parameters.moveXray)

    def show_outcome(self, outcome: Any, ct: Any, xray: Any, chosen: Any) -> None:
        """Write an outcome into the scene and show it; `chosen` is the X-ray as it was loaded."""
        before = stand(ct, self.panel.parameters)
        made = self._write(ct, xray, chosen, outcome=outcome)
        self._undo = [*self._undo, (before, None, made)][-MOST_UNDOS:]

    def was_placed(self, before: Before, made: tuple[Any, ...]) -> None:
        """The X-ray was placed, which can be undone like a registration; `made` are the nodes that it took."""
        carry(before.ct, before.along)
        self._undo = [*self._undo, (before, None, made)][-MOST_UNDOS:]
        self._moved = None  # an outcome of before is not shown again with the other one moved
        self.panel.show_state()

    def show_run(self, frames: Sequence[Any], ct: Any, xray: Any) -> None:
        """Write the outcomes of a run's frames into the scene and show the frame that the browser has selected."""
        p, existing = self.panel.parameters, self.existing(ct, xray)
        again = any(node is not None and browser_of(node) is not None for node in (existing.transform, existing.xray, existing.drr))
        table = _for_pair(p.framesTable, ct, xray) if again else None
        before = stand(ct, p)
        try:
            made = self._write(ct, xray, xray, frames=frames, table=table)
        except InputError as error:  # the run was removed meanwhile: what its frames took long to find is kept
            from SphericalRegLib.mrml.run_session import run_rows

            p.framesTable = table or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", f"{xray.GetName()} poses")
            fill_table(p.framesTable, run_rows(frames, None))
            belong(p.framesTable, TABLE, ct, xray)
            raise InputError(_("{error} The poses are in the table {table}.").format(error=error, table=p.framesTable.GetName())) from None
        self._undo = [] if again else [*self._undo, (before, self._run, made)][-MOST_UNDOS:]  # frames that were written over cannot be brought back

    def _write(self, ct: Any, xray: Any, chosen: Any, outcome: Any = None, frames: Sequence[Any] = (), table: Any = None) -> tuple[Any, ...]:
        """Returns the nodes that were made."""
        from SphericalRegLib.mrml.run_session import write_run
        from SphericalRegLib.mrml.session import write_outcome

        p, existing = self.panel.parameters, self.existing(ct, xray)
        along = belongings(ct, p)
        self._forget_outcome()
        with slicer.util.NodeModify(p):
            if frames:
                self._run = write_run(slicer.mrmlScene, frames, ct, xray, existing, table, move_xray=p.moveXray, along=along)
                p.framesTable = self._run.table
                nodes = self._run.shown
            else:
                nodes = write_outcome(slicer.mrmlScene, outcome, ct, xray, existing, move_xray=p.moveXray, along=along)
            p.outputTransform, p.placedXray, p.drrVolume, p.placedFrom = nodes.transform, nodes.xray, nodes.drr, chosen
            self._outcome, self._frames, self._moved = outcome, frames, p.moveXray
            self._shown_from = (ct, xray, chosen)
            self._written = (nodes.transform, ct, nodes.xray)
        show_handles(nodes.transform, False)  # a stray drag would move the CT off its result
        for node in (nodes.xray, nodes.drr):
            xray_view.set_window(node)
        self._say()
        layout.show_layout()
        self.show_pictures(fit=True)
        self._plot()
        scene_view.show_scene(ct)
        known = (existing.transform, existing.xray, existing.drr, xray)
        return tuple(node for node in (nodes.transform, nodes.xray, nodes.drr) if not any(node is one for one in known))

    def _show_again(self) -> None:
        """The same outcome with the other one moved, CT or X-ray."""
        before, run, _made = self._undo[-1] if self._undo else (None, None, ())
        outcome, frames, (ct, xray, chosen) = self._outcome, self._frames, self._shown_from
        self._moved = self.panel.parameters.moveXray
        if before is None or run is not self._run or not all(slicer.mrmlScene.IsNodePresent(node) for node in (ct, xray)):
            return
        self._take_back()
        if frames:
            self.show_run(frames, ct, xray)
        else:
            self.show_outcome(outcome, ct, xray, chosen)

    def _on_drr(self, caller: Any, event: str) -> None:
        """Another frame of a run is shown, or a live DRR."""
        if self.panel.parameters is None:
            return
        if self._run is not None:
            self._say()
        if self.panel.parameters.picture in xray_view.COLOURED:
            self.show_pictures()

    def _on_moved(self, caller: Any, event: str) -> None:
        """CT or X-ray went elsewhere."""
        if self.panel.parameters is not None:
            self._say()
            self.show_state(self.panel.runner.busy)

    def _about(self) -> tuple[Any, Any, Any]:
        """Transform, CT and X-ray on its detector of what is said: those that were written last, else as they are chosen."""
        p = self.panel.parameters
        if self._written is not None and all(slicer.mrmlScene.IsNodePresent(node) for node in self._written):
            return self._written
        return (None, None, None) if p is None else (p.outputTransform, p.ctVolume, p.placedXray)

    def _say(self) -> None:
        """What is known of the result that the transform carries, and first of all what speaks against it."""
        transform, ct, detector = self._about()
        result = self._result = None if transform is None else result_of(transform)
        known = result is not None and ct is not None and detector is not None
        self._ct_watch.follow(ct if known else None)
        self._detector_watch.follow(detector if known else None)
        drr = self.panel.parameters.drrVolume
        marked = drr if drr is not None and drr.GetAttribute(RESULT) else None
        self._off = moved_off(result, transform, ct, detector, marked) if known else ""
        doubts = [self._off] if self._off else []
        if result is not None and result.doubt:
            doubts.insert(0, _("Doubtful: {doubt}. Look at the images before it is used.").format(doubt=result.doubt))
        words = [] if result is None else [in_words(result)]
        if self._run is not None:
            failed = sum(frame.outcome is None for frame in self._frames)
            doubtful = sum(frame.outcome is not None and frame.outcome.result.doubt is not None for frame in self._frames)
            summary = _("{count} frames registered, {failed} failed, {doubtful} doubtful; this one:")
            words.insert(0, summary.format(count=len(self._frames) - failed, failed=failed, doubtful=doubtful))
            number = self._run.selected()
            if number is not None and self.outcome is None:
                words[1:] = [_("It was not registered: {reason} The frame before it is shown.").format(reason=self._frames[number].error)]
                doubts = []
        self._tell(" ".join(doubts), " ".join(words))

    def _tell(self, doubts: str, words: str) -> None:
        self.ui.doubtLabel.text, self.ui.verdictLabel.text = doubts, words
        self.ui.doubtLabel.visible = bool(doubts)

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
        """Cost over the iterations of each stage, relative to its start; of a run, the similarity of each frame."""
        if self._run is not None:
            scores = [(number, frame.outcome.result.score) for number, frame in enumerate(self._frames) if frame.outcome is not None]
            self.panel.charts.show("run", np.array(scores), [_("frame"), _("similarity")], _("Similarity"))
            return
        stages = [stage for stage in self._outcome.result.stages if stage.costs and stage.costs[0] > 0]
        if stages:
            table = np.full((max(len(stage.costs) for stage in stages), 1 + len(stages)), np.nan)  # shorter stages end before the table does
            table[:, 0] = np.arange(len(table))
            for column, stage in enumerate(stages, start=1):
                table[: len(stage.costs), column] = np.array(stage.costs) / stage.costs[0]
            names = distinct([stage.name for stage in stages])
            self.panel.charts.show("costs", table, [_("iteration"), *names], _("Cost, relative to each stage's start"))

    # -- buttons

    def on_layout(self, checked: bool = False) -> None:
        """Show the views of this module, with what belongs there."""
        with self.panel.reporting(self.ui.resultCollapsibleButton):
            layout.show_layout()
            self.show_pictures(fit=True)

    def on_undo(self, checked: bool = False) -> None:
        """Back to the result, where something was moved since; else to where CT and X-ray stood before the last registration or placement."""
        with self.panel.reporting(self.ui.resultCollapsibleButton):
            if self._off and self._result is not None:
                self._back_to_result()
                return
            self._take_back()
            self._moved = None
            self.ui.statusLabel.text = _("Back at the previous pose.")
            if self.panel.parameters.placedXray is not None:
                self.show_pictures(fit=True)
            else:
                xray_view.empty()
                scene_view.remove_camera()
        self.panel.update()

    def _back_to_result(self) -> None:
        p, about = self.panel.parameters, self._about()
        back_to(self._result, *about)
        show_handles(about[0], False)
        if p.ctVolume is not None and p.placedXray is not None:
            self.panel.initial.render()
        self.panel.update()
        self.ui.statusLabel.text = _("Back at the result.")

    def _take_back(self) -> None:
        from SphericalRegLib.mrml.run_session import remove_run

        before, run, made = self._undo.pop()
        self.watch.follow(None)
        self.ui.blinkButton.checked = False
        self._forget_outcome()
        if run is not None:
            remove_run(slicer.mrmlScene, run)
        go_back(before, self.panel.parameters, made)

    def on_export(self, checked: bool = False) -> None:
        """Write the result's folder beside the panel."""
        folder = self.ui.exportPathLineEdit.currentPath
        run, written = self._run, list[bool]()
        with self.panel.reporting(self.ui.resultCollapsibleButton):
            if not folder:
                raise InputError(_("Choose a folder to export to first."))
            outcome, names = self._to_export()
            chosen, rows = self._shown_from[2], None
            if run is not None:
                from SphericalRegLib.mrml.frames import run_of
                from SphericalRegLib.mrml.run_session import run_rows

                known = run_of(chosen)
                rows = None if known is None else run_rows(self._frames, known)

            def write(report: Any) -> str:
                from SphericalRegLib.imaging.case import View
                from SphericalRegLib.imaging.transforms import write_transform
                from SphericalRegLib.mrml.provenance import transform_of
                from SphericalRegLib.progress import Progress
                from SphericalRegLib.visualization.output import write_result_folder

                from .batch import write_rows

                report(Progress("export", 0, 1))
                result, pyramid, radiograph = outcome()
                report(Progress("export", 0, 1))
                write_result_folder(result, pyramid, (View(radiograph, np.eye(4)),), folder, title=f"{names[0]} to {names[1]}")
                write_transform(Path(folder) / "ct_to_xray.h5", transform_of(result))
                if rows is not None:
                    write_rows(Path(folder) / "frames.csv", rows)
                written.append(True)
                return folder

            def stopped() -> None:
                words = _("Cancelled too late: {folder} is written.") if written else _("Cancelled. Nothing was written.")
                self.ui.statusLabel.text = words.format(folder=folder)

            self.panel.run_job(write, self._exported, stopped=stopped)

    def _to_export(self) -> tuple[Callable[[], tuple[Any, Any, Any]], tuple[str, str]]:
        """What gives the result, the prepared CT and the radiograph, for a worker thread; and the names of CT and X-ray.

        An outcome of this session is at hand; of a scene that was loaded the nodes are read again, and the result has no history.
        """
        known = self.outcome
        if known is not None:
            ct, _xray, chosen = self._shown_from  # another CT or X-ray may be chosen by now
            return lambda: (known.result, known.pyramid, known.radiograph), (ct.GetName(), chosen.GetName())
        from SphericalRegLib.registration.pipeline import prepare
        from SphericalRegLib.registration.resolution import VolumePyramid

        p, result = self.panel.parameters, self._result
        transform, ct, detector = self._about()
        labels = {"labelsNode": p.partsNode, "labels": self.panel.inputs.chosen_parts}
        request = self.panel.logic.readRequest(ct, detector, device=p.device, **labels)

        def outcome() -> tuple[Any, Any, Any]:
            given = request.ct
            pyramid = given if isinstance(given, VolumePyramid) else prepare(given, request.options, request.device)
            return result, pyramid, request.radiograph

        return outcome, (ct.GetName(), transform.GetAttribute(XRAY) or detector.GetName())

    def _exported(self, folder: str) -> None:
        self.ui.statusLabel.text = _("Exported to {folder}.").format(folder=folder)


def _for_pair(node: Any, ct: Any, xray: Any) -> Any:
    """The node, if it may be filled for a CT and an X-ray; else None."""
    return node if node is not None and may_hold(node, ct, xray) else None
