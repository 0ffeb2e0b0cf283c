"""``sphericalreg panel``: registered cases in one figure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .common import AsJson, Device, Quiet, check_figure, print_json, start


@app.command()
def panel(
    cases: Annotated[list[Path], typer.Argument(metavar="CASES...", help="Case folders, or folders of case folders.")],
    results: Annotated[Path, typer.Option("--results", metavar="FOLDER", help="What batch, evaluate or register wrote for these cases.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.png", help="The figure.")] = Path("panel.png"),
    most: Annotated[int, typer.Option("--most", min=1, help="Draw so many cases at most.")] = 6,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw X-ray, DRR at the estimate, overlay and difference map of registered cases; with their truth in red where a truth.json is there."""
    check_figure(out, "the figure")
    from SphericalRegLib.evaluation.panel import panel_rows
    from SphericalRegLib.evaluation.runs import find_cases
    from SphericalRegLib.visualization.figures import write_figure
    from SphericalRegLib.visualization.panel import qualitative_panel

    from .progress_bars import progress_bars

    found = find_cases(cases)
    where = start(device)
    with progress_bars(quiet) as progress:
        rows = panel_rows(found[:most], results, device=where, progress=progress)
    write_figure(qualitative_panel(rows), out)
    if as_json:
        print_json({"out": out, "rows": [row.label for row in rows]})
    else:
        print(out)
