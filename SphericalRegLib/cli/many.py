"""``sphericalreg batch`` and ``evaluate``: many cases, without and with their truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import app
from .common import (
    AsJson,
    Device,
    Initial,
    Labels,
    ModelFile,
    Quiet,
    Recompute,
    Seed,
    check_output_folder,
    print_json,
    read_model,
    read_start,
    registration_options,
    start,
)

if TYPE_CHECKING:
    from SphericalRegLib.evaluation.protocol import BatchOptions
    from SphericalRegLib.evaluation.runs import Record

Cases = Annotated[list[Path], typer.Argument(metavar="CASES...", help="Case folders, or folders of case folders.")]


@app.command()
def batch(
    cases: Cases,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results and the table; a later run goes on where this one stopped.")],
    initial: Initial = None,
    model: ModelFile = None,
    label: Labels = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="All files of `register` for each case, or result.json alone.")] = True,
    recompute: Recompute = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Register many cases; no truth is needed or read. Writes batch.csv and batch.md."""
    found = _found(cases, out)
    options = _options(initial, model, label, device, seed, pictures, recompute)
    from SphericalRegLib.evaluation import protocol

    from .progress_bars import progress_bars

    with progress_bars(quiet) as progress:
        records, table = protocol.register_folders(found, out, options, progress, then=protocol.batch)
    if as_json:
        print_json({"out": out, "cases": [asdict(record) for record in records], "failed": _failed(records)})
    else:
        print(table.to_text() + f"\ntable: {out / 'batch.md'}")
    if _failed(records):
        raise typer.Exit(1)


@app.command()
def evaluate(
    cases: Cases,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results and tables; a later run goes on where this one stopped.")],
    initial: Initial = None,
    model: ModelFile = None,
    label: Labels = None,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="All files of `register` for each case, or result.json alone.")] = False,
    recompute: Recompute = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Register many cases without their truth, then compare with truth.json. Writes evaluation.md, cases.csv, summary.csv, evaluation.json."""
    found = _found(cases, out)
    options = _options(initial, model, label, device, seed, pictures, recompute)
    from SphericalRegLib.evaluation import protocol

    from .progress_bars import progress_bars

    with progress_bars(quiet) as progress:
        evaluation = protocol.register_folders(found, out, options, progress, then=protocol.evaluate)
    if as_json:
        summary = {key: value if math.isfinite(value) else None for key, value in evaluation.summary.to_dict().items()}
        errors = [error.to_dict() for error in evaluation.errors]
        rows = [{**asdict(record), "errors": values} for record, values in zip(evaluation.records, errors)]
        print_json({"out": out, "mtre_3d": summary, "cases": rows, "failed": _failed(evaluation.records)})
    else:
        print(evaluation.summary_table.to_text() + f"\ntables: {out / 'evaluation.md'}, {out / 'cases.csv'}")
    if _failed(evaluation.records):
        raise typer.Exit(1)


def _found(cases: list[Path], out: Path) -> list[Path]:
    """The case folders; what is wrong with them, or with the output's folder, is said before PyTorch is loaded for the rest."""
    check_output_folder(out)
    from SphericalRegLib.evaluation.runs import find_cases

    return find_cases(cases)


def _options(
    initial: str | None, model: Path | None, label: list[int] | None, device: str, seed: int, pictures: bool, recompute: bool
) -> BatchOptions:
    """What the options of both commands mean; loads what they name."""
    begin = read_start(initial)
    network = read_model(model, begin)
    where = start(device)
    from SphericalRegLib.evaluation.protocol import BatchOptions

    return BatchOptions(begin, network, where, seed, registration_options(label), pictures, recompute)


def _failed(records: Sequence[Record]) -> int:
    return sum(record.error is not None for record in records)
