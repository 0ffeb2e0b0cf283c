"""``sphericalreg benchmark training``, ``patients``, ``methods``, ``optimisers``, ``backbones``, ``ablation`` and ``curves``: what the method's
parts bring."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from SphericalRegLib.errors import InputError
from SphericalRegLib.models.shipped import model_file

from .benchmark import benchmark
from .common import (
    AsJson,
    BatchSize,
    CameraCase,
    DepthMm,
    Device,
    ImageSize,
    InPlaneDeg,
    InPlaneMm,
    Level,
    MadeUp,
    ModelFile,
    NeededModel,
    PrimaryDeg,
    Quiet,
    Recompute,
    SecondaryDeg,
    Seed,
    Settings,
    StartDeg,
    StartMm,
    Views,
    check_output_folder,
    print_json,
    read_ct,
    read_model,
    start,
)
from .train import camera_of, stopped_by_ctrl_c, training_options

if TYPE_CHECKING:
    from SphericalRegLib.evaluation.tables import Table

# The library's own lists would bring PyTorch along, and --help would wait for it: a test compares them.
METHOD_NAMES = "full, no model, anchored LM, spherical LM, spherical MAP, spherical Adam, intensity LM, NCC LM, mNCC Adam"
OPTIMISER_NAMES = "lm, gauss-newton, lbfgs, adam, sgd"
VARIANT_NAMES = (
    "base, anchor + gradient, through LM, gradient alone, gradient + magnitude, gradient + magnitude + through LM, "
    "gradient + magnitude + pairs, cosine, euclidean, K = 1, K = 4, K = 64, anchored LM, gauss-newton, lbfgs, adam, sgd, no model"
)

CT = Annotated[str, typer.Argument(metavar="CT", help="A CT file, a DICOM folder, sample:pelvis or sample:thorax.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for models, tables and figures; a later run goes on where this one stopped.")]
TablesOut = Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and figures; a later run goes on where this one stopped.")]
StartSpreads = Annotated[
    list[str] | None,
    typer.Option(
        "--spread",
        metavar="DEG/MM",
        help="Standard deviations of the starts per axis, as 15/30, or none: no initial pose; may be repeated. By default 5/10 to 20/40.",
    ),
]
Iterations = Annotated[int, typer.Option("--iterations", min=0, help="So many steps of each training in the minutes' place.")]


@benchmark.command()
def training(
    ct: CT,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for table and JSON; without it they are printed alone.")] = None,
    steps: Annotated[int, typer.Option("--steps", "-n", min=1, help="Steps of each kind.")] = 10,
    backbone: Annotated[str | None, typer.Option("--backbone", help="tiny, or the name of a timm CNN.")] = None,
    camera: CameraCase = None,
    image_size: ImageSize = None,
    batch: BatchSize = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """X-rays a second of a training's steps, beside a plain loop that renders with DiffDRR, in one run."""
    if out is not None:
        check_output_folder(out)
    from SphericalRegLib.evaluation.benchmark_training import run_training_benchmark

    from .progress_bars import progress_bars

    options = training_options({"batch": batch, "seed": seed}, None, {"backbone": backbone, "image_size": image_size}, None)
    its_camera = camera_of(camera, options.encoder.trunk.image_size)
    where = start(device)
    volume, _ = read_ct(ct)
    with progress_bars(quiet) as bars, stopped_by_ctrl_c(bars) as progress:
        done = run_training_benchmark(volume, its_camera, options, steps, device=where, progress=progress)
    written = [] if out is None else done.write(out)
    if as_json:
        print_json({**done.to_dict(), "ratio": done.ratio, "out": out, "files": written})
        return
    print(done.table().to_text() + f"\nmedians of {done.steps} steps of {done.batch} X-rays, {done.device}, {done.threads} threads")
    print("not compared: diffdrr is not installed" if done.ratio is None else f"our encoder's training sees {done.ratio:.1f} x the X-rays")
    print("".join(f"{path}\n" for path in written), end="")


@benchmark.command()
def patients(
    cts: Annotated[list[str], typer.Argument(metavar="CT...", help="CT files, DICOM folders or sample:pelvis; each is left out once.")],
    out: Out,
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="Of the training on the other patients.")] = 10.0,
    tune: Annotated[list[float] | None, typer.Option("--tune", min=0.01, help="Minutes on the new patient; may be repeated. 1, 2 and 5.")] = None,
    made_up: MadeUp = 8,
    cases: Annotated[int, typer.Option("--cases", "-n", min=1, help="X-rays of each new patient to register.")] = 10,
    view: Views = None,
    primary_deg: PrimaryDeg = 45.0,
    secondary_deg: SecondaryDeg = 25.0,
    in_plane_deg: InPlaneDeg = 10.0,
    in_plane_mm: InPlaneMm = 30.0,
    depth_mm: DepthMm = 100.0,
    image_size: ImageSize = None,
    batch: BatchSize = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """A model of other patients on a new one, fine-tuned on it, and one trained on it alone. One CT: the new patient is made up from it."""
    check_output_folder(out)
    from SphericalRegLib.evaluation.benchmark_patients import PatientsOptions, run_patients_benchmark

    from .progress_bars import progress_bars

    poses = (tuple(view or ["ap"]), primary_deg, secondary_deg, in_plane_deg, in_plane_mm, depth_mm)
    training = training_options({"minutes": minutes, "batch": batch, "seed": seed}, poses, {"image_size": image_size}, None)
    options = PatientsOptions(training, made_up, tuple(tune or PatientsOptions().minutes), cases)
    camera = camera_of(None, training.encoder.trunk.image_size)
    where = start(device)
    volumes = [read_ct(ct)[0] for ct in cts]
    with progress_bars(quiet) as bars, stopped_by_ctrl_c(bars) as progress:
        done = run_patients_benchmark(volumes, camera, out, options, device=where, progress=progress)
    _say(done.table(), done.write(out), as_json)


@benchmark.command()
def methods(
    cases: Annotated[list[Path], typer.Argument(metavar="CASES...", help="Case folders with truth.json, or folders of them.")],
    out: TablesOut,
    model: ModelFile = None,
    method: Annotated[list[str] | None, typer.Option("--method", help=f"One of {METHOD_NAMES}; may be repeated. All by default.")] = None,
    spread: StartSpreads = None,
    recompute: Recompute = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Whole registrations from the same starts: ours with and without a model, its parts alone, plain LM on NCC, Adam on multi-scale NCC."""
    check_output_folder(out)
    spreads = [_spread(text) for text in spread or []]
    from SphericalRegLib.evaluation.benchmark_methods import METHODS, SPREADS, MethodsOptions, run_methods_benchmark
    from SphericalRegLib.evaluation.runs import find_cases

    from .progress_bars import progress_bars

    network = read_model(model, None)
    possible = [name for name, of in METHODS.items() if network is not None or not of.needs_model]
    options = MethodsOptions(tuple(method or possible), tuple(spreads or SPREADS), seed)
    found = find_cases(cases)
    where = start(device)
    with progress_bars(quiet) as progress:
        done = run_methods_benchmark(found, out, options, model=network, device=where, recompute=recompute, progress=progress)
    _say(done.table(), done.write(out), as_json, done.notes)


def _spread(text: str) -> tuple[float, float] | None:
    if text == "none":
        return None
    try:
        deg, mm = map(float, text.split("/"))
    except ValueError:
        raise InputError(f"--spread is {text!r}, expected degrees and mm as in 15/30, or none") from None
    return deg, mm


@benchmark.command()
def optimisers(
    cases: Annotated[list[Path], typer.Argument(metavar="CASES...", help="Case folders with truth.json of one CT, or folders of them.")],
    model: NeededModel,
    out: TablesOut,
    method: Annotated[
        list[str] | None, typer.Option("--method", help=f"SIMILARITY:OPTIMISER, as in anchored:lm, of {OPTIMISER_NAMES}; may be repeated.")
    ] = None,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Of each search, at most.")] = 100,
    starts: Annotated[int, typer.Option("--starts", "-n", min=1, help="Starts of each case.")] = 2,
    start_deg: StartDeg = 10.0,
    start_mm: StartMm = 20.0,
    recompute: Recompute = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Error and similarity over iterations and seconds: LM, Gauss-Newton, L-BFGS, Adam and SGD on the spherical similarity, LM on NCC."""
    check_output_folder(out)
    from SphericalRegLib.evaluation.benchmark_optimisers import OptimiserOptions, methods_for, run_optimiser_benchmark
    from SphericalRegLib.evaluation.capture_range import StartSpread
    from SphericalRegLib.evaluation.runs import find_cases
    from SphericalRegLib.models.checkpoint import load_model

    from .progress_bars import progress_bars

    network, found = load_model(model_file(model)), find_cases(cases)
    options = OptimiserOptions(tuple(method or methods_for(network)), iterations, StartSpread(starts, start_deg, start_mm, seed))
    where = start(device)
    with progress_bars(quiet) as progress:
        done = run_optimiser_benchmark(found, network, out, options, device=where, recompute=recompute, progress=progress)
    _say(done.table(), done.write(out), as_json, done.notes)


@benchmark.command()
def backbones(
    ct: CT,
    out: Out,
    backbone: Annotated[list[str] | None, typer.Option("--backbone", help="tiny, or the name of a timm CNN; may be repeated.")] = None,
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="Of each training.")] = 10.0,
    iterations: Iterations = 0,
    validations: Annotated[int, typer.Option("--validations", min=1, help="Points of each curve.")] = 20,
    criterion_mm: Annotated[float, typer.Option("--criterion-mm", min=0, help="Median error after spherical LM to measure the time to.")] = 5.0,
    regressor_criterion_mm: Annotated[float, typer.Option("--regressor-criterion-mm", min=0, help="The same of the regressor alone.")] = 20.0,
    view: Views = None,
    primary_deg: PrimaryDeg = 45.0,
    secondary_deg: SecondaryDeg = 25.0,
    in_plane_deg: InPlaneDeg = 10.0,
    in_plane_mm: InPlaneMm = 30.0,
    depth_mm: DepthMm = 100.0,
    camera: CameraCase = None,
    image_size: ImageSize = None,
    batch: BatchSize = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Training time to a stated error, and the error that a given time leaves, for several image backbones."""
    check_output_folder(out)
    from SphericalRegLib.evaluation.benchmark_backbones import DEFAULT_BACKBONES, BackboneOptions, run_backbone_benchmark
    from SphericalRegLib.training.validation import ValidationOptions

    from .progress_bars import progress_bars

    poses = (tuple(view or ["ap"]), primary_deg, secondary_deg, in_plane_deg, in_plane_mm, depth_mm)
    given = {"minutes": minutes, "iterations": iterations or None, "batch": batch, "seed": seed, "validation": ValidationOptions(times=validations)}
    training = training_options(given, poses, {"image_size": image_size}, None)
    options = BackboneOptions(tuple(backbone or DEFAULT_BACKBONES), training, criterion_mm, regressor_criterion_mm)
    its_camera = camera_of(camera, training.encoder.trunk.image_size)
    where = start(device)
    volume, _ = read_ct(ct)
    with progress_bars(quiet) as bars, stopped_by_ctrl_c(bars) as progress:
        done = run_backbone_benchmark(volume, its_camera, out, options, device=where, progress=progress)
    _say(done.table(), done.write(out), as_json)


@benchmark.command()
def ablation(
    ct: CT,
    out: Out,
    variant: Annotated[list[str] | None, typer.Option("--variant", help=f"One of {VARIANT_NAMES}; may be repeated. All by default.")] = None,
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="Of each training.")] = 10.0,
    iterations: Iterations = 0,
    cases: Annotated[int, typer.Option("--cases", "-n", min=1, help="Simulated X-rays to judge on.")] = 20,
    level: Level = "realistic",
    view: Views = None,
    primary_deg: PrimaryDeg = 20.0,
    secondary_deg: SecondaryDeg = 20.0,
    in_plane_deg: InPlaneDeg = 15.0,
    in_plane_mm: InPlaneMm = 25.0,
    depth_mm: DepthMm = 50.0,
    image_size: ImageSize = None,
    batch: BatchSize = None,
    settings: Settings = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What each choice brings: the embedding's space, the loss's terms, K, the optimiser; each trained alike and judged on the same X-rays."""
    check_output_folder(out)
    from dataclasses import replace

    from SphericalRegLib.evaluation.benchmark_ablation import VARIANTS, AblationOptions, run_ablation
    from SphericalRegLib.simulation.cases import SimulationOptions
    from SphericalRegLib.simulation.difficulty import difficulty

    from .progress_bars import progress_bars

    views = tuple(view or ["ap"])
    poses = (views, primary_deg, secondary_deg, in_plane_deg, in_plane_mm, depth_mm)
    given = {"minutes": minutes, "iterations": iterations or None, "batch": batch, "seed": seed}
    training = replace(training_options(given, poses, {"image_size": image_size}, None, settings=settings or ()), regressor=None)
    simulation = SimulationOptions(level=difficulty(level), views=views, seed=seed)
    options = AblationOptions(tuple(variant or VARIANTS), training, simulation, cases, seed=seed)
    camera = camera_of(None, training.encoder.trunk.image_size)
    where = start(device)
    volume, _ = read_ct(ct)
    with progress_bars(quiet) as bars, stopped_by_ctrl_c(bars) as progress:
        done = run_ablation(volume, camera, out, options, device=where, progress=progress)
    _say(done.table(), done.write(out), as_json)


@benchmark.command()
def curves(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Models, .safetensors with their cards; shipped: the pelvis's.")],
    out: TablesOut,
    case: Annotated[
        list[Path] | None,
        typer.Option("--case", help="Case folder with truth.json, or a folder of them, that each model registers as well; may be repeated."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help=f"One of {METHOD_NAMES}; may be repeated. By default full and anchored LM.")
    ] = None,
    spread: StartSpreads = None,
    over_steps: Annotated[
        bool, typer.Option("--over-steps", help="Figures over steps of training, which are the same on every machine, not over minutes.")
    ] = False,
    recompute: Recompute = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """What training time has bought: the validations of trained models side by side, from their cards, and registrations with them. Nothing is
    trained."""
    check_output_folder(out)
    spreads = [_spread(text) for text in spread or []]
    from SphericalRegLib.evaluation.benchmark_methods import SPREADS, MethodsOptions
    from SphericalRegLib.evaluation.curves import CAPTURE_METHODS, capture_curves, training_curves
    from SphericalRegLib.evaluation.runs import find_cases
    from SphericalRegLib.visualization.trainings import EFFORTS

    from .progress_bars import progress_bars

    if not case and (method or spread):
        raise InputError("--method and --spread are of registrations, but no --case says which X-rays to register.")
    options = MethodsOptions(tuple(method or CAPTURE_METHODS), tuple(spreads or SPREADS), seed)
    effort = EFFORTS["steps" if over_steps else "minutes"]
    trained = training_curves([model_file(path) for path in models], effort)
    found = find_cases(case) if case else []
    written = trained.write(out)  # at once, whatever becomes of the registrations
    if not found:
        _say(trained.table(), written, as_json)
        return
    where = start(device)
    with progress_bars(quiet) as progress:
        done = capture_curves(trained.models, found, out, options, device=where, recompute=recompute, progress=progress, effort=effort)
    _say(done.table(), [*written, *done.write(out)], as_json, done.notes)


def _say(table: Table, files: list[Path], as_json: bool, notes: tuple[str, ...] = ()) -> None:
    """The table and where it was written to (the first file's folder has them all); notes go to stderr, whatever is printed."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    if as_json:
        print_json({"out": files[0].parent, "files": files, "rows": [dict(zip(table.columns, row)) for row in table.rows]})
    else:
        print(table.to_text() + "".join(f"\n{path}" for path in files))
