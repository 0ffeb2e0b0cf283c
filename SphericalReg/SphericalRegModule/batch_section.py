"""The panel's part for many cases: pairs of nodes, or a folder of cases; a table of results."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.files import require_writable_folder
from SphericalRegLib.imaging.starts import Start
from SphericalRegLib.mrml.tables import fill_table
from SphericalRegLib.progress import Progress

from .batch import COLUMNS, PAIRS_TABLE, batch_of_folders, row, write_rows
from .choices import ALL_VIEWS, ANGLES, ASK_MODEL, SCENE, XRAY_SAYS
from .dependencies import ensure
from .job import Done, Failed, Message, failure
from .prepared import keep, key
from .runner import Runner
from .stages import in_words
from .undo import belongings

if TYPE_CHECKING:
    from .panel import Panel

CT_ROLE, XRAY_ROLE = "BatchCT{number}", "BatchXRay{number}"
"""Node references of the parameter node, one pair of them for each pair: a node that leaves the scene takes its pair along."""


class BatchSection:
    """Pairs and cases to be registered, and what came of them."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui = panel, panel.ui
        self.runner = Runner(self._on_progress, self._on_end)  # of a folder of cases, which is none of the scene's business; pairs take the panel's
        self._out, self._reached = "", Progress("register", 0, 0)
        self._same_scene = False  # as when the folder was begun
        self._queue: list[tuple[Any, Any]] = []
        self._rows: list[dict[str, Any]] = []
        self._count, self._began = 0, 0.0
        self._made_from: Any = None
        self._listed: list[tuple[str, str]] = []
        self.ui.batchButton.connect("clicked(bool)", self.on_folder)
        self.ui.addPairButton.connect("clicked(bool)", self.on_add_pair)
        self.ui.removePairButton.connect("clicked(bool)", self.on_remove_pair)
        self.ui.pairsButton.connect("clicked(bool)", self.on_pairs)
        self._say("")

    def forget(self) -> None:
        """The scene goes away; a folder of cases is worked through all the same."""
        self._queue, self._rows, self._listed = [], [], []
        self._same_scene = False
        for table in (self.ui.pairsTable, self.ui.batchTable):
            table.setRowCount(0)
        if not self.runner.busy:
            self._say("")

    def close(self) -> None:
        """The panel goes away: a folder of cases is left where it is, and can be gone on with."""
        self.runner.abandon()

    def show_state(self, busy: bool) -> None:
        p, working = self.panel.parameters, self.runner.busy
        self.ui.batchProgressBar.visible = working
        self.ui.batchButton.text = _("Cancel") if working else _("Register cases")
        self.ui.batchButton.enabled = working or (not busy and p is not None)
        self.ui.addPairButton.enabled = not busy and p is not None and p.ctVolume is not None and p.xrayVolume is not None
        self.ui.removePairButton.enabled = not busy and bool(self._listed)
        self.ui.pairsButton.enabled = not busy and not working and bool(self._listed)  # both fill one table

    def update(self) -> None:
        """List the pairs that the parameter node refers to."""
        listed = [(ct.GetName(), xray.GetName()) for ct, xray in self.pairs()]
        if listed != self._listed:
            self._listed = listed
            fill(self.ui.pairsTable, (_("CT"), _("X-ray")), listed)

    # -- pairs of nodes

    def pairs(self) -> list[tuple[Any, Any]]:
        """(CT node, X-ray node) of each pair; those that lost a node are left out."""
        return [(ct, xray) for _number, ct, xray in self._references() if ct is not None and xray is not None]

    def _references(self) -> list[tuple[int, Any, Any]]:
        node = self.panel.parameters.parameterNode
        roles: list[str] = []
        node.GetNodeReferenceRoles(roles)
        numbers = sorted(int(role.removeprefix("BatchCT")) for role in roles if role.startswith("BatchCT"))
        return [
            (n, node.GetNodeReference(CT_ROLE.format(number=n)), node.GetNodeReference(XRAY_ROLE.format(number=n))) for n in numbers
        ]

    def on_add_pair(self, checked: bool = False) -> None:
        """Note the CT and the X-ray that are chosen now."""
        p = self.panel.parameters
        if (p.ctVolume, p.xrayVolume) in self.pairs():
            self.ui.statusLabel.text = _("This pair is in the list already.")
            return
        number = max((known for known, _ct, _xray in self._references()), default=0) + 1
        p.parameterNode.SetNodeReferenceID(CT_ROLE.format(number=number), p.ctVolume.GetID())
        p.parameterNode.SetNodeReferenceID(XRAY_ROLE.format(number=number), p.xrayVolume.GetID())
        self.panel.update()

    def on_remove_pair(self, checked: bool = False) -> None:
        """Strike the chosen pair off the list, or the last one."""
        complete = [number for number, ct, xray in self._references() if ct is not None and xray is not None]
        at = self.ui.pairsTable.currentRow()
        number = complete[at if 0 <= at < len(complete) else -1]
        for role in (CT_ROLE, XRAY_ROLE):
            self.panel.parameters.parameterNode.RemoveNodeReferenceIDs(role.format(number=number))
        self.panel.update()

    def on_pairs(self, checked: bool = False) -> None:
        """Register all pairs, one after the other."""
        with self.panel.reporting(self.ui.batchCollapsibleButton):
            if self.panel.parameters.initial == SCENE:
                raise InputError(_("Choose another start for the pairs: where the CT stands in the scene belongs to one X-ray."))
            self._check_model()
            ensure()
            if out := self.ui.batchOutputPathLineEdit.currentPath:
                require_writable_folder(Path(out), "the folder of results")
            self._queue, self._rows = self.pairs(), []
            self._count = len(self._queue)
            self._next()

    def _next(self) -> None:
        from SphericalRegLib.mrml.session import check_writable, run

        p = self.panel.parameters
        while self._queue:
            ct, xray = self._queue[0]
            self._began = time.perf_counter()
            try:
                check_writable(ct, xray, move_xray=p.moveXray)
                initial = self.panel.initial.pose(ct, xray)
                model = self.panel.model.chosen()
                request = self.panel.logic.readRequest(ct, xray, initial=initial, model=model, device=p.device, seed=p.seed)
                self._made_from = key(ct, None, None, request.device, self.panel.logic.options)
            except InputError as error:
                self._pair_failed(failure(error), go_on=False)
                continue
            title = _("pair {number} of {count}").format(number=self._count - len(self._queue) + 1, count=self._count)

            def work(report: Any, request: Any = request, title: str = title) -> Any:
                return run(request, lambda step: report(replace(step, stage=f"{title}, {step.stage}")))

            self.panel.run_job(work, self._pair_done, self._pair_failed, self._pairs_stopped)
            return
        self._finish()

    def _pair_done(self, outcome: Any) -> None:
        from SphericalRegLib.mrml.session import write_outcome

        ct, xray = self._queue.pop(0)
        seconds = time.perf_counter() - self._began
        self.panel.logic.prepared = keep(outcome.pyramid, self._made_from)
        try:
            p = self.panel.parameters
            write_outcome(slicer.mrmlScene, outcome, ct, xray, move_xray=p.moveXray, along=belongings(ct, p))
            self._rows.append(row(_name(ct, xray), outcome.result.to_dict(), seconds, None))
        except InputError as error:
            self._rows.append(row(_name(ct, xray), {}, seconds, str(error)))
        self._next()

    def _pair_failed(self, failed: Failed, go_on: bool = True) -> None:
        ct, xray = self._queue.pop(0)
        self._rows.append(row(_name(ct, xray), {}, time.perf_counter() - self._began, failed.sentence))
        if go_on:
            self._next()

    def _pairs_stopped(self) -> None:
        self._queue = []
        self._finish()
        self.ui.statusLabel.text = _("Cancelled after {count} of {all} pairs.").format(count=len(self._rows), all=self._count)

    def _finish(self) -> None:
        words = self._fill(self._rows)
        self._to_scene(self._rows)  # first: the file may not be writable
        self.ui.statusLabel.text = words
        folder = self.ui.batchOutputPathLineEdit.currentPath
        if folder and self._rows:
            write_rows(Path(folder) / PAIRS_TABLE, self._rows)

    # -- a folder of cases

    def on_folder(self, checked: bool = False) -> None:
        """Register every case of a folder, or cancel that; the scene stays as it is."""
        if self.runner.busy:
            self.runner.cancel()
            self.ui.batchButton.text = _("Cancelling...")
            self.ui.batchButton.enabled = False
            return
        folder, out = self.ui.batchInputPathLineEdit.currentPath, self.ui.batchOutputPathLineEdit.currentPath
        with self.panel.reporting(self.ui.batchCollapsibleButton):
            if not folder or not out:
                raise InputError(_("Choose a folder of cases and a folder for the results first."))
            initial = self._start()
            self._check_model()
            ensure()
            p = self.panel.parameters
            chosen = {"initial": initial, "model": self.panel.model.file(), "device": p.device, "seed": p.seed, "options": self.panel.logic.options}
            self._out, self._reached, self._same_scene = out, Progress("register", 0, 0), True
            self.ui.batchProgressBar.value = 0
            self._say("")

            def work(report: Any) -> Any:
                def note(step: Progress) -> None:
                    if step.stage == "register":  # the cases', between those of each registration; kept first, for a cancel ends the report
                        self._reached = step
                    report(replace(step, done=self._reached.done, total=self._reached.total, message=self._reached.message))

                return batch_of_folders([Path(folder)], out, note, **chosen)

            self.runner.start(work)
        self.panel.show_state()

    def _start(self) -> Any:
        """Where each case starts. As for one X-ray, what a case says goes before what the panel chose; a view or angles that somebody chose stay.

        Raises:
            InputError: the CT's place in the scene, of which cases know nothing.
        """
        p = self.panel.parameters
        if p.initial == SCENE:
            raise InputError(_("Choose another start for the cases: where the CT stands in the scene belongs to one X-ray."))
        if p.initial in (ALL_VIEWS, XRAY_SAYS, ASK_MODEL):  # the model is asked, or all views are tried, where a case says nothing
            return None
        return Start("pa", p.primaryDeg, p.secondaryDeg) if p.initial == ANGLES else p.initial

    def _check_model(self) -> None:
        if missing := self.panel.model.missing():
            raise InputError(missing)

    def _on_progress(self, step: Progress) -> None:
        self.ui.batchProgressBar.value = round(100 * step.done / max(step.total, 1))
        stage = [] if step.stage == "register" else [in_words(step.stage)]
        self._say(", ".join([_("{done} of {all} cases done").format(done=step.done, all=step.total), step.message, *stage]))

    def _on_end(self, message: Message) -> None:
        if isinstance(message, Done):
            self._say(self._fill(message.value))
            if self._same_scene:
                self._to_scene(message.value)
        elif isinstance(message, Failed):
            self._say("")
            self.panel.show_error(message)
        else:
            words = _("Cancelled after {done} of {all} cases. Their results stay in {folder}; the next run goes on there.")
            self._say(words.format(done=self._reached.done, all=self._reached.total, folder=self._out))
        self.panel.update()
        self.panel.show_state()

    def _say(self, text: str) -> None:
        self.ui.batchLabel.text = text
        self.ui.batchLabel.visible = bool(text)

    # -- results

    def _fill(self, rows: list[dict[str, Any]]) -> str:
        """Fill the table in the panel; says how many there are."""
        titles = {
            "name": _("name"),
            "verdict": _("verdict"),
            "error": _("error"),
            "score": _("score"),
            "doubt": _("doubt"),
            "seconds": _("seconds"),
        }
        fill(self.ui.batchTable, [titles[key] for key in COLUMNS], [[_cell(line[key]) for key in COLUMNS] for line in rows])
        failed = sum(line["error"] is not None for line in rows)
        return _("{count} registrations, {failed} failed.").format(count=len(rows), failed=failed)

    def _to_scene(self, rows: list[dict[str, Any]]) -> None:
        """Fill the table in the scene."""
        p = self.panel.parameters
        if rows:
            p.batchTable = p.batchTable or slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", _("SphericalReg batch"))
            fill_table(p.batchTable, rows)


def fill(table: Any, titles: Any, lines: Any) -> None:
    """Show texts in a QTableWidget."""
    table.setColumnCount(len(titles))
    table.setHorizontalHeaderLabels(list(titles))
    table.setRowCount(len(lines))
    for number, line in enumerate(lines):
        for column, text in enumerate(line):
            item = qt.QTableWidgetItem(text)
            item.setToolTip(text)  # a reason is longer than a column
            table.setItem(number, column, item)
    table.resizeColumnsToContents()


def _name(ct: Any, xray: Any) -> str:
    return f"{ct.GetName()}, {xray.GetName()}"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
