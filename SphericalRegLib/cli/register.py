"""``sphericalreg register``: one case."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from SphericalRegLib.progress import Progress

from .app import app
from .common import (
    AsJson,
    Device,
    Frame,
    Initial,
    Labels,
    Mirrored,
    ModelFile,
    Quiet,
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


@app.command()
def register(
    case: Annotated[Path, typer.Argument(metavar="CASE", help="A case folder: ct, xray, geometry.json.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the result.")],
    initial: Initial = None,
    model: ModelFile = None,
    label: Labels = None,
    mirrored: Mirrored = None,
    frame: Frame = None,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Register a case's CT to its X-ray (or its X-rays, jointly).

    Writes result.json, ct_to_xray.tfm (for 3D Slicer), drr.nrrd, overlay.png, difference.png, convergence.png and report.html.
    """
    check_output_folder(out)
    from SphericalRegLib.imaging.case import find_case_files, load_case, pose_to_start_from
    from SphericalRegLib.imaging.geometry_values import told
    from SphericalRegLib.visualization.result_folder import refuse_case

    refuse_case(out)
    find_case_files(case)  # a mistyped folder is said before PyTorch is loaded for the rest
    begin = read_start(initial)
    network = read_model(model, begin)
    where = start(device)
    loaded = load_case(case, told(mirrored, frame, "command line"))
    pose = pose_to_start_from(begin, loaded)
    from SphericalRegLib.registration.pipeline import prepare
    from SphericalRegLib.registration.pipeline import register as run
    from SphericalRegLib.visualization.output import describe_inputs, write_result_folder

    from .progress_bars import progress_bars

    options = registration_options(label)
    with progress_bars(quiet) as progress:
        pyramid = prepare(loaded.volume, options, where)
        result = run(pyramid, loaded.views, pose, model=network, options=options, device=where, seed=seed, progress=progress)
        given = {name: value for name, value in (("mirrored", mirrored), ("frame", frame)) if value is not None}
        result = with_hint(replace(result, options={**result.options, **given}), loaded)
        inputs = describe_inputs(loaded.volume, loaded.views)
        command = shlex.join(["sphericalreg", *sys.argv[1:]])
        progress(Progress("pictures and report", 0, 1))
        write_result_folder(result, pyramid, loaded.views, out, title=f"Registration of {loaded.name}", command=command, inputs=inputs)
        progress(Progress("pictures and report", 1, 1))
    if as_json:
        print_json({"out": out, **result.summary()})
    else:
        print(in_words(result, out))


def with_hint(result: RegistrationResult, case: Case) -> RegistrationResult:
    """With a note where a result is doubtful and the commonest cause of that was assumed: which way round the X-ray is stored."""
    known = [view.radiograph.known.mirrored for view in case.views]
    if result.doubt is None or not any(value is None or value.is_default for value in known):
        return result
    return replace(result, notes=(*result.notes, "Nobody said which way round the X-ray is stored: --mirrored tries it the other way."))


def in_words(result: RegistrationResult, out: Path) -> str:
    """A few lines for a terminal, a doubt first."""
    lines = [] if result.doubt is None else [f"DOUBTFUL: {result.doubt}"]
    lines += [f"score {result.score:.3f} after {result.seconds:.1f} s, verdict {result.verdict}: look at the overlay before trusting the pose"]
    lines += [f"note: {note}" for note in result.notes]
    lines += [f"{name}: {out / file}" for name, file in (("pose", "result.json"), ("for Slicer", "ct_to_xray.tfm"), ("report", "report.html"))]
    return "\n".join(lines)
