"""``sphericalreg batch`` and ``evaluate``: many cases, without and with their truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from SphericalRegLib.imaging.case import Case
    from SphericalRegLib.registration.result import RegistrationResult

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
    (records, table), failed = _run(False, cases, out, initial, model, label, pictures, recompute, device, seed, quiet)
    if as_json:
        print_json({"out": out, "cases": [asdict(record) for record in records], "failed": failed(records)})
    else:
        print(table.to_text() + f"\ntable: {out / 'batch.md'}")
    if failed(records):
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
    evaluation, failed = _run(True, cases, out, initial, model, label, pictures, recompute, device, seed, quiet)
    if as_json:
        summary = {key: value if math.isfinite(value) else None for key, value in evaluation.summary.to_dict().items()}
        errors = [error.to_dict() for error in evaluation.errors]
        rows = [{**asdict(record), "errors": values} for record, values in zip(evaluation.records, errors)]
        print_json({"out": out, "mtre_3d": summary, "cases": rows, "failed": failed(evaluation.records)})
    else:
        print(evaluation.summary_table.to_text() + f"\ntables: {out / 'evaluation.md'}, {out / 'cases.csv'}")
    if failed(evaluation.records):
        raise typer.Exit(1)


def _run(
    with_truth: bool,
    cases: list[Path],
    out: Path,
    initial: str | None,
    model: Path | None,
    label: list[int] | None,
    pictures: bool,
    recompute: bool,
    device: str,
    seed: int,
    quiet: bool,
) -> tuple[Any, Callable[[Any], int]]:
    """What both commands do: find the cases, register each, and count what failed."""
    check_output_folder(out)
    from SphericalRegLib.evaluation.runs import find_cases

    found = find_cases(cases)  # before PyTorch is loaded for the rest
    begin = read_start(initial)
    network = read_model(model, begin)
    where = start(device)
    from SphericalRegLib.evaluation import protocol
    from SphericalRegLib.evaluation.registrar import CaseRegistrar
    from SphericalRegLib.evaluation.runs import complete_results
    from SphericalRegLib.imaging.files import write_json
    from SphericalRegLib.visualization.output import describe_inputs, write_result_folder

    from .progress_bars import progress_bars

    registrar = CaseRegistrar(begin, model=network, device=where, seed=seed, options=registration_options(label))
    options = registrar.options if network is None else {**registrar.options, "model": network.identity}

    def write(result: RegistrationResult, case: Case, folder: Path) -> None:
        if pictures:
            inputs, pyramid = describe_inputs(case.volume, case.views), registrar.prepared(case)
            write_result_folder(result, pyramid, case.views, folder, title=f"Registration of {case.name}", inputs=inputs)
        else:
            write_json(folder / "result.json", result.to_dict())

    with progress_bars(quiet) as progress:
        run: Callable[..., Any] = protocol.evaluate if with_truth else protocol.batch
        done = run(found, out, registrar, options=options, recompute=recompute, write=write, progress=progress)
        if pictures:
            complete_results(done.records if with_truth else done[0], out, write, progress)
    return done, lambda records: sum(record.error is not None for record in records)
