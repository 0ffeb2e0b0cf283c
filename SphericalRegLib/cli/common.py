"""What the commands share: options, the device, seeds, what goes to stdout."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from SphericalRegLib.devices import resolve_device
from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.files import require_writable_folder

if TYPE_CHECKING:
    from SphericalRegLib.imaging.volume import Volume
    from SphericalRegLib.models.checkpoint import Model
    from SphericalRegLib.registration.options import RegistrationOptions

SAMPLE = "sample:"

Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N. auto takes a GPU where there is one (on Apple machines the CPU).")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of everything random: the same seed gives the same result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout; everything else goes to stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Initial = Annotated[
    str | None,
    typer.Option(
        "--initial",
        metavar="ap|pa|left|right|regressor|FILE",
        help="Where to start: a named view, a pose in a .tfm, .h5 or .json file (result.json of an earlier registration, too), or what the model's "
        "regressor says, whatever the case says.",
    ),
]
MODEL = "MODEL.safetensors|shipped"
ModelFile = Annotated[
    Path | None,
    typer.Option("--model", metavar=MODEL, help="A model of this CT (`sphericalreg train`; shipped: the pelvis's): no initial pose is needed then."),
]
NeededModel = Annotated[Path, typer.Option("--model", metavar=MODEL, help="A model of the cases' CT; shipped: that of the sample pelvis.")]

Labels = Annotated[
    list[int] | None,
    typer.Option(
        "--label", metavar="N", min=0, help="Render only this label of labels.* (one bone of several); may be repeated. Without it, the whole CT."
    ),
]

# What may be tried of the case's X-rays, whatever the case and headers say.
Mirrored = Annotated[
    bool | None, typer.Option("--mirrored/--no-mirrored", help="Whether X-rays are stored as seen from the detector's side, whatever the case says.")
]
Frame = Annotated[int | None, typer.Option("--frame", min=0, help="Of X-rays with several frames, from 0, whatever the case says.")]

Recompute = Annotated[bool, typer.Option("--recompute", help="Forget what an earlier run left in the output folder.")]
StartDeg = Annotated[float, typer.Option("--start-deg", min=0, help="Standard deviation of a start about each axis, degrees.")]
StartMm = Annotated[float, typer.Option("--start-mm", min=0, help="Standard deviation of a start along each axis, mm.")]
Level = Annotated[str, typer.Option("--level", help="clean, realistic or hard: how far the X-ray is from a DRR.")]

# Of a training.
ImageSize = Annotated[int | None, typer.Option("--image-size", min=32, max=512, help="Side of the images, pixels; a multiple of 8.")]
BatchSize = Annotated[int | None, typer.Option("--batch", min=1, help="X-rays per step.")]

# The poses that a model is trained for, about its views.
Views = Annotated[list[str] | None, typer.Option("--view", help="ap, pa, left or right: the views that poses lie about; may be repeated.")]
PrimaryDeg = Annotated[float, typer.Option("--primary-deg", min=0, max=180, help="+- C-arm angle LAO/RAO.")]
SecondaryDeg = Annotated[float, typer.Option("--secondary-deg", min=0, max=90, help="+- C-arm angle cranial/caudal.")]
InPlaneDeg = Annotated[float, typer.Option("--in-plane-deg", min=0, max=180, help="+- turn about the central ray.")]
InPlaneMm = Annotated[float, typer.Option("--in-plane-mm", min=0, max=500, help="+- shift across the central ray.")]
DepthMm = Annotated[float, typer.Option("--depth-mm", min=0, max=500, help="+- shift along the central ray.")]
MadeUp = Annotated[int, typer.Option("--made-up", min=0, help="So many made-up patients beside each CT: bent, stretched, of another density.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other option of a training, as loss.gradient=0.3; may be repeated (docs/method.md)."),
]
CameraCase = Annotated[Path | None, typer.Option("--camera", metavar="CASE", help="A case folder whose X-ray's geometry is trained with.")]


def start(device: str) -> str:
    """The torch device that a ``--device`` option means, with the renderer's runtime started for it.

    Raises:
        InputError: a word that is no device, or a GPU that is not there.
    """
    where = resolve_device(device, "--device")
    import warp

    warp.config.log_level = warp.LOG_WARNING
    if where != "cpu":
        warp.init()
        return where
    # Without a GPU driver Warp says so on every start, straight to the process's stderr: no news to somebody who computes on the CPU.
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            warp.init()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        for line in said.read().decode("utf-8", "replace").splitlines():
            if "CUDA driver" not in line:
                print(line, file=sys.stderr)
    return where


def read_ct(text: str) -> tuple[Volume, Path | None]:
    """The CT that a command names, and its path: None for a sample CT (``sample:pelvis``, ``sample:thorax``).

    Raises:
        InputError: as `Volume.read` does.
    """
    from SphericalRegLib.imaging.samples import sample_volume
    from SphericalRegLib.imaging.volume import Volume

    if text.startswith(SAMPLE):
        return sample_volume(text.removeprefix(SAMPLE)), None
    return Volume.read(text), Path(text)


def read_start(initial: str | None) -> Any:
    """What ``--initial`` means: a view's name or "regressor" as it is, a pose (4, 4) from a file, or None.

    Raises:
        InputError: neither a named view nor a readable file.
    """
    from SphericalRegLib.geometry.views import NAMED_VIEWS
    from SphericalRegLib.imaging.case import REGRESSOR
    from SphericalRegLib.imaging.transforms import read_pose

    if initial is None or initial == REGRESSOR or initial in NAMED_VIEWS:
        return initial
    if not Path(initial).exists():
        words = ", ".join((*NAMED_VIEWS, REGRESSOR))
        raise InputError(f"--initial is {initial!r}, which is neither one of {words} nor an existing .tfm, .h5 or .json file")
    return read_pose(initial)


def read_model(path: Path | None, begin: Any) -> Model | None:
    """The model that ``--model`` names, on the CPU; `begin` is what `read_start` made of ``--initial``.

    Raises:
        InputError: as `load_model` and `check_start` do.
    """
    from SphericalRegLib.imaging.case import check_start

    model = None
    if path is not None:
        from SphericalRegLib.models.checkpoint import load_model
        from SphericalRegLib.models.shipped import model_file

        model = load_model(model_file(path))
    check_start(begin, model)
    return model


def registration_options(labels: list[int] | None) -> RegistrationOptions | None:
    """What the options of a registration on the command line mean; None: as the library has them."""
    if not labels:
        return None
    from SphericalRegLib.registration.options import RegistrationOptions

    return RegistrationOptions(labels=tuple(sorted(set(labels))))


def print_json(result: Any) -> None:
    """One JSON document on stdout; numbers that JSON does not know (NaN, infinity) become null."""
    print(json.dumps(_plain(result), indent=2, allow_nan=False))


def check_output_folder(path: Path) -> Path:
    """A folder that can be written to, or can be made; nothing is made yet.

    Raises:
        InputError: it, or its nearest existing parent, is a file or may not be written to.
    """
    require_writable_folder(path, "output folder")
    return path


def check_figure(path: Path, what: str) -> Path:
    """A file that a figure can be written to; nothing is made yet.

    Raises:
        InputError: another suffix than .png, or as `check_output_folder`.
    """
    if path.suffix.lower() != ".png":
        raise InputError(f"{what} would be written to {path}; expected a name that ends in .png")
    check_output_folder(path.parent)
    return path


@contextmanager
def removed_if_empty(out: Path) -> Iterator[None]:
    """Work that makes the folder `out` and is refused before anything lies in it leaves no trace of it."""
    existed = out.exists()
    try:
        yield
    finally:
        if not existed and out.is_dir() and not any(out.iterdir()):
            out.rmdir()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return str(value) if isinstance(value, Path) else value
