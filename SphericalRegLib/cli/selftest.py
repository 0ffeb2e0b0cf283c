"""``sphericalreg selftest``: does it work on this machine?"""

from __future__ import annotations

import typer

from .app import app
from .common import AsJson, Device, Quiet, Seed, print_json, start


@app.command()
def selftest(device: Device = "auto", seed: Seed = 0, as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Check installation, renderer, CPU against GPU and one registration, and measure the speed. About a minute."""
    where = start(device)
    from rich.console import Console
    from rich.table import Table

    from SphericalRegLib.evaluation.selftest import run_selftest

    from .progress_bars import progress_bars

    with progress_bars(quiet) as progress:
        report = run_selftest(where, seed, progress)
    if as_json:
        print_json(report.to_dict())
    else:
        table = Table("check", "result", "what was found", "s")
        colours = {"pass": "green", "FAIL": "bold red", "skipped": "yellow"}
        for check in report.checks:
            table.add_row(check.name, f"[{colours[check.outcome]}]{check.outcome}[/]", check.detail, f"{check.seconds:.1f}")
        console = Console()
        console.print(", ".join(f"{name} {value}" for name, value in report.environment.items()), highlight=False)
        console.print(table)
        console.print("All is well." if report.passed else "Something does not work: please report the whole table.")
    if not report.passed:
        raise typer.Exit(1)
