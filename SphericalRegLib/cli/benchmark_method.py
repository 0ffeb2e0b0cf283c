"""``sphericalreg benchmark optimisers``, ``backbones`` and ``ablation``: what the method's parts bring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .benchmark import benchmark
from .common import AsJson, Device, Quiet, Seed, check_output_folder, model_name, print_json, start

Recompute = Annotated[bool, typer.Option("--recompute", help="Forget what an earlier run left in the output folder.")]


@benchmark.command()
def optimisers(
    cases: Annotated[list[Path], typer.Argument(metavar="CASES...", help="Case folders with truth.json of one CT, or folders of them.")],
    model: Annotated[Path, typer.Option("--model", metavar="MODEL.safetensors", help="A model of the cases' CT.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and figures; a later run goes on where this one stopped.")],
    method: Annotated[list[str] | None, typer.Option("--method", help="SIMILARITY:OPTIMISER, as in spherical:lm; may be repeated.")] = None,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Of each search, at most.")] = 100,
    starts: Annotated[int, typer.Option("--starts", "-n", min=1, help="Starts of each case.")] = 2,
    start_deg: Annotated[float, typer.Option("--start-deg", min=0, help="Standard deviation of a start about each axis, degrees.")] = 10.0,
    start_mm: Annotated[float, typer.Option("--start-mm", min=0, help="Standard deviation of a start along each axis, mm.")] = 20.0,
    recompute: Recompute = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Error and similarity over iterations and seconds: LM, Gauss-Newton, L-BFGS, Adam and SGD on the spherical similarity, LM on NCC."""
    check_output_folder(out)
    from SphericalRegLib.evaluation.benchmark_optimisers import DEFAULT_METHODS, OptimiserOptions, run_optimiser_benchmark
    from SphericalRegLib.evaluation.capture_range import StartSpread
    from SphericalRegLib.evaluation.runs import find_cases
    from SphericalRegLib.models.checkpoint import load_model

    from .progress_bars import progress_bars

    options = OptimiserOptions(tuple(method or DEFAULT_METHODS), iterations, StartSpread(starts, start_deg, start_mm, seed))
    network, found = load_model(model), find_cases(cases)
    where = start(device)
    with progress_bars(quiet) as progress:
        done = run_optimiser_benchmark(
            found, network, out, options, model_name=model_name(model), device=where, recompute=recompute, progress=progress
        )
    files = done.write(out)
    table = done.table()
    if as_json:
        print_json({"files": files, "methods": [dict(zip(table.columns, row)) for row in table.rows]})
    else:
        print(table.to_text() + "".join(f"\n{path}" for path in files))
