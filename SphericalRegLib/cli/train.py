"""``sphericalreg train``: encoder and regressor for one CT, or for several."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from SphericalRegLib.devices import resolve_device
from SphericalRegLib.errors import InputError
from SphericalRegLib.models.shipped import model_file
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback
from SphericalRegLib.training.files import check_target

from .app import INTERRUPTED, app
from .common import (
    AsJson,
    BatchSize,
    CameraCase,
    DepthMm,
    Device,
    ImageSize,
    InPlaneDeg,
    InPlaneMm,
    MadeUp,
    PrimaryDeg,
    Quiet,
    SecondaryDeg,
    Seed,
    Settings,
    Views,
    print_json,
    read_ct,
    start,
)
from .piped import progress_lines, stop_when_input_ends
from .settings import with_settings

if TYPE_CHECKING:
    from SphericalRegLib.geometry.camera import Camera
    from SphericalRegLib.models.checkpoint import Model
    from SphericalRegLib.training.options import TrainingOptions
    from SphericalRegLib.training.parallel import Group


@app.command()
def train(
    cts: Annotated[list[str], typer.Argument(metavar="CT...", help="CT files, folders of them, DICOM folders, sample:pelvis or sample:thorax.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="MODEL.safetensors", help="The model; its card is written beside it (.json).")],
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="How long; validation is not counted.")] = 10.0,
    iterations: Annotated[int, typer.Option("--iterations", min=0, help="So many steps in the minutes' place: the same on every machine.")] = 0,
    view: Views = None,
    about: Annotated[Path | None, typer.Option("--about", metavar="FILE", help="Poses about this one (.tfm, .h5, .json), not about views.")] = None,
    primary_deg: PrimaryDeg = 45.0,
    secondary_deg: SecondaryDeg = 25.0,
    in_plane_deg: InPlaneDeg = 10.0,
    in_plane_mm: InPlaneMm = 30.0,
    depth_mm: DepthMm = 100.0,
    label_map: Annotated[Path | None, typer.Option("--labels", metavar="FILE", help="Label map of the CT, for --label.")] = None,
    label: Annotated[list[int] | None, typer.Option("--label", min=0, help="Labels that DRRs show (one bone of several); repeatable.")] = None,
    made_up: MadeUp = 0,
    camera: CameraCase = None,
    field: Annotated[
        float,
        typer.Option("--field", min=0.1, max=1, help="X-rays show down to this share of the camera's field: for other detectors and C-arms."),
    ] = 1.0,
    base: Annotated[Path | None, typer.Option("--base", metavar="MODEL", help="Start from this model, or shipped, not from random weights.")] = None,
    network: Annotated[str, typer.Option("--network", help="tiny, or large: for a GPU.")] = "tiny",
    backbone: Annotated[str | None, typer.Option("--backbone", help="tiny, or the name of a timm CNN; the network's own by default.")] = None,
    image_size: ImageSize = None,
    batch: BatchSize = None,
    accumulate: Annotated[int, typer.Option("--accumulate", min=1, help="Batches whose gradients make one step.")] = 1,
    image_weight: Annotated[float | None, typer.Option("--image-weight", min=0, help="Of the regressor's image loss; 0 leaves it out.")] = None,
    settings: Settings = None,
    precision: Annotated[str, typer.Option("--precision", help="float32 or bfloat16.")] = "float32",
    validations: Annotated[int | None, typer.Option("--validations", min=0, help="How often to validate, evenly over the training.")] = None,
    stop_below_mm: Annotated[float | None, typer.Option("--stop-below-mm", min=0, help="End when the validation's median error is below.")] = None,
    patience: Annotated[int | None, typer.Option("--patience", min=1, help="End after so many validations without a gain.")] = None,
    anatomy: Annotated[str, typer.Option("--anatomy", help="What the CTs show, for the model card; the CTs' names by default.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished training of this model, with the same options.")] = False,
    devices: Annotated[int, typer.Option("--devices", min=1, help="Processes on this machine, each with its GPU (or on the CPU).")] = 1,
    num_nodes: Annotated[int, typer.Option("--num-nodes", min=1, help="Machines.")] = 1,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
    piped: Annotated[bool, typer.Option("--piped", hidden=True)] = False,  # for programs: JSON lines on stderr; closing stdin is Ctrl-C
) -> None:
    """Train a model for one CT (patient-specific) or for several; Ctrl-C saves the state, and --resume goes on."""
    if piped:
        stop_when_input_ends()
    if out.suffix == "":
        out = out.with_suffix(".safetensors")
    check_target(out, resume)
    from SphericalRegLib.imaging.transforms import read_pose
    from SphericalRegLib.models.checkpoint import load_model
    from SphericalRegLib.training.camera import CameraRange
    from SphericalRegLib.training.parallel import ALONE, launch
    from SphericalRegLib.training.patients import made_up_patients
    from SphericalRegLib.training.session import About
    from SphericalRegLib.training.session import train as run
    from SphericalRegLib.training.validation import ValidationOptions

    resolve_device(device, "--device")
    cts = [found for ct in cts for found in ct_files(ct)]
    if (label_map is None) != (not label) or (label_map is not None and len(cts) > 1):
        raise InputError("--labels is a label map for the labels of --label, and for one CT: give both with one CT, or none")
    if about is not None and len(cts) > 1:
        raise InputError("--about is a pose of one CT: give one CT, or named views")
    if view and about is not None:
        raise InputError("--view and --about both say what the poses lie about: give one of them")
    base = None if base is None else model_file(base)
    loaded = None if base is None else load_model(base)
    poses = (tuple(view or ["ap"]), primary_deg, secondary_deg, in_plane_deg, in_plane_mm, depth_mm)
    given = {
        "minutes": minutes,
        "iterations": iterations or None,
        "batch": batch,
        "seed": seed,
        "accumulate": accumulate,
        "image_weight": image_weight,
        "precision": precision,
        "stop_below_mm": stop_below_mm,
        "patience": patience,
        "labels": tuple(label) if label else None,
        "validation": None if validations is None else ValidationOptions(times=validations),
        "cameras": CameraRange(field),
    }
    options = training_options(given, poses, {"backbone": backbone, "image_size": image_size}, loaded, network=network, settings=settings or ())
    if about is not None:
        options = replace(options, poses=replace(options.poses, about=tuple(map(tuple, read_pose(about).tolist()))))
    size = options.encoder.trunk.image_size
    its_camera = loaded.camera if loaded is not None and camera is None else camera_of(camera, size)
    volumes = [read_ct(ct)[0] for ct in cts]
    if label_map is not None:
        volumes = [volumes[0].with_labels(label_map)]
    volumes += [patient for volume in volumes for patient in made_up_patients(volume, made_up)]
    group: Group = ALONE
    if devices * num_nodes > 1:
        launched = launch(devices, num_nodes, resolve_device(device, "--device"))
        group, device = launched, str(launched.device)
    where = start(device)
    from .progress_bars import progress_bars

    origin = About(
        anatomy or ", ".join(dict.fromkeys(volume.name for volume in volumes[: len(cts)])),
        shlex.join(["sphericalreg", *(_without_folders(word, piped) for word in sys.argv[1:] if word not in ("--resume", "--piped"))]),
        "" if base is None else base.name,
    )
    if group.rank > 0:  # it has nothing to say, and ends when the first does
        with suppress(Cancelled):
            run(volumes, its_camera, options, out, about=origin, base=loaded, resume=resume, device=where, group=group)
        return
    with progress_lines() if piped else progress_bars(quiet) as bars, stopped_by_ctrl_c(bars) as progress:
        try:
            model = run(
                volumes, its_camera, options, out, about=origin, base=loaded, resume=resume, device=where, group=group, progress=progress
            )
        except Cancelled:
            print(f"interrupted: the state is saved in {out.with_suffix('.state')}; the same command with --resume goes on", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
    card = model.card
    if as_json:
        print_json({"out": out, "card": card})
    else:
        print(f"{card['iterations']} steps in {card['seconds'] / 60:.1f} min, stopped: {card['stopped']}")
        if card["validation"]:
            print(in_words(card["validation"]))
        print(f"model: {out}\ncard: {out.with_suffix('.json')}")
        print(f"next: sphericalreg register CASE -o RESULT --model {out}")


def _without_folders(word: str, piped: bool) -> str:
    """A word of a command for the card: the files that a program made for it are gone tomorrow, and their folder says nothing."""
    return Path(word).name if piped and Path(word).parent.is_dir() and Path(word).parent != Path() else word


def in_words(figures: dict[str, float]) -> str:
    """The validation's last figures for a terminal."""
    lines = [
        f"validation on X-rays of the same CT at other poses: gradient cosine {figures['cosine']:.2f}",
        f"spherical LM with the starts' spread as a prior: median {figures['start_mm']:.0f} mm before, {figures['mtre_mm']:.2f} mm after it "
        f"(75 %: {figures['mtre_75_mm']:.2f} mm)",
    ]
    if "regressor_deg" in figures:
        lines.insert(1, f"regressor: {figures['regressor_deg']:.1f} deg, {figures['regressor_mm']:.1f} mm (medians)")
    return "\n".join(lines)


Poses = tuple[tuple[str, ...], float, float, float, float, float]
"""The first fields of the pose range: views, C-arm angles, turn in the image plane (deg), shifts across and along the central ray (mm)."""


def training_options(
    given: dict[str, Any],
    poses: Poses | None,
    trunk: dict[str, Any],
    base: Model | None,
    *,
    network: str = "tiny",
    settings: Sequence[str] = (),
) -> TrainingOptions:
    """What is not given is left as the library has it; a base brings its own networks.

    Args:
        given: fields of `TrainingOptions`; None leaves them.
        poses: the beginning of the pose range.
        trunk: fields of the networks' trunk; None leaves them.
        base: a model to start from.
        network: one of `models.trunk.NETWORKS`.
        settings: see `with_settings`; they come last.

    Raises:
        InputError: an unknown view, network or backbone, an image size that the encoder cannot take, networks other than the base's, or as
            `with_settings`.
    """
    import torch

    from SphericalRegLib.models.trunk import NETWORKS, ImageTrunk
    from SphericalRegLib.training.options import TrainingOptions

    if network not in NETWORKS:
        raise InputError(f"--network is {network!r}; expected one of {', '.join(NETWORKS)}")

    known = {name: value for name, value in given.items() if value is not None}
    options = TrainingOptions(**known)
    if poses is not None:
        options = replace(options, poses=type(options.poses)(*poses))
    changed = {name: value for name, value in trunk.items() if value is not None}
    if base is not None:
        if changed or network != "tiny":
            names = ", ".join("--" + name.replace("_", "-") for name in (*changed, *(["network"] if network != "tiny" else [])))
            raise InputError(f"{names} cannot be chosen with --base, which brings its networks")
        its_own = options.based_on(base)
        options = with_settings(its_own, settings)
        if (options.encoder, options.regressor) != (its_own.encoder, its_own.regressor):
            raise InputError("--set cannot change the networks with --base, which brings its own")
        return options
    assert options.regressor is not None
    its_trunk = replace(NETWORKS[network], **changed)
    options = replace(options, encoder=replace(options.encoder, trunk=its_trunk), regressor=replace(options.regressor, trunk=its_trunk))
    options = with_settings(options, settings)
    for its_trunk in dict.fromkeys(part.trunk for part in (options.encoder, options.regressor) if part is not None):
        name, size = its_trunk.backbone, its_trunk.image_size
        try:
            ImageTrunk(its_trunk)(torch.zeros(1, 1, size, size))
        except RuntimeError as error:
            raise InputError(f"backbone {name!r} cannot be used at {size} pixels: {error}.") from None
    return options


def ct_files(text: str) -> list[str]:
    """The CTs that an argument names: itself, or what a folder holds, CT files or folders (of DICOM slices) alone. Of a case folder, whose label map
    and X-ray may be files of the same kinds, it is the CT."""
    from SphericalRegLib.imaging.case import CT_SUFFIXES, find_case_files

    folder = Path(text)
    if not folder.is_dir():
        return [text]
    with suppress(InputError):  # it is none
        return [str(find_case_files(folder).ct)]
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    files = [path for path in inside if path.is_file()]
    cts = [path for path in files if path.name.lower().endswith(CT_SUFFIXES) and not path.name.lower().startswith("labels.")]
    return [str(path) for path in cts or (inside if inside and not files else [folder])]


def camera_of(case: Path | None, size: int) -> Camera:
    """That of a case's first X-ray, or of the simulator's flat panel, with the training's pixels."""
    from SphericalRegLib.imaging.case import find_case_files, view_geometry
    from SphericalRegLib.imaging.radiograph import Radiograph
    from SphericalRegLib.simulation.cases import flat_panel
    from SphericalRegLib.training.camera import training_camera

    if case is None:
        return training_camera(flat_panel(), size)
    view = find_case_files(case).views[0]
    return training_camera(Radiograph.read(view.xray, view_geometry(view, 1), mask=view.mask).camera, size)


@contextmanager
def stopped_by_ctrl_c(progress: ProgressCallback) -> Iterator[ProgressCallback]:
    """Once work has begun, Ctrl-C ends it at its next report, where its state is whole, and not in the middle of a step; pressed again, at once."""
    begun = pressed = False

    def press(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed or not begun:
            raise KeyboardInterrupt
        pressed = True

    def report(step: Progress) -> None:
        nonlocal begun
        begun = True
        progress(step)
        if pressed:
            raise Cancelled

    before = signal.signal(signal.SIGINT, press)
    try:
        yield report
    finally:
        signal.signal(signal.SIGINT, before)
