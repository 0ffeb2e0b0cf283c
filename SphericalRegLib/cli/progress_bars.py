"""Progress on stderr: what is done, how fast, how long it will take still."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.progress import ProgressColumn as Column
from rich.table import Column as TableColumn
from rich.text import Text

from SphericalRegLib.progress import Progress, ProgressCallback, silent


class RateColumn(Column):
    """Steps a second, or seconds a step where that is the readable number."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="progress.data.speed")


@contextmanager
def progress_bars(quiet: bool = False) -> Iterator[ProgressCallback]:
    """A callback for long work that draws one bar per stage; nothing on stdout."""
    if quiet:
        yield silent
        return
    def whole() -> TableColumn:
        return TableColumn(no_wrap=True)

    columns = (
        TextColumn("{task.description}", table_column=whole()),
        BarColumn(bar_width=16),
        MofNCompleteColumn(table_column=whole()),
        RateColumn(table_column=whole()),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=whole()),
        # last, as it is what a narrow terminal may cut off
        TextColumn("{task.fields[message]}", table_column=TableColumn(no_wrap=True, overflow="ellipsis", ratio=1)),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def finish() -> None:
            """A stage that needed fewer steps than it might have taken is done all the same."""
            for task in bars.tasks:
                bars.update(task.id, total=task.completed)

        def report(progress: Progress) -> None:
            if progress.stage not in tasks:
                finish()
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total, message="")
            bars.update(tasks[progress.stage], completed=progress.done, total=progress.total, message=progress.message)

        yield report
        finish()
