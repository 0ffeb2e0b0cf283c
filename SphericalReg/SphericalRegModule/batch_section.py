"""The panel's part for many cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError

from .batch import COLUMNS, batch_of_folders
from .dependencies import ensure

if TYPE_CHECKING:
    from .panel import Panel


class BatchSection:
    """A folder of cases, a button, a table."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui = panel, panel.ui
        self.ui.batchButton.connect("clicked(bool)", self.on_batch)

    def show_state(self, busy: bool) -> None:
        self.ui.batchButton.enabled = not busy

    def on_batch(self, checked: bool = False) -> None:
        folder, out = self.ui.batchInputPathLineEdit.currentPath, self.ui.batchOutputPathLineEdit.currentPath
        with self.panel.reporting():
            if not folder or not out:
                raise InputError(_("Choose a folder of cases and a folder for the results first."))
            ensure()
            device, seed = self.panel.parameters.device, self.panel.parameters.seed
            self.panel.start(lambda report: batch_of_folders([Path(folder)], out, device, seed, report), self.show_rows)

    def show_rows(self, rows: list[dict[str, Any]]) -> None:
        """Fill the table."""
        table = self.ui.batchTable
        table.setColumnCount(len(COLUMNS))
        table.setHorizontalHeaderLabels(list(COLUMNS))
        table.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, key in enumerate(COLUMNS):
                table.setItem(number, column, qt.QTableWidgetItem(_cell(row[key])))
        failed = sum(row["error"] is not None for row in rows)
        self.ui.statusLabel.text = _("{count} cases, {failed} failed.").format(count=len(rows), failed=failed)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
