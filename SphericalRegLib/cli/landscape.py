"""``sphericalreg landscape``: the similarity around the true pose."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from SphericalRegLib.models.shipped import model_file

from .app import app
from .common import AsJson, Device, NeededModel, Quiet, check_output_folder, print_json, start


@app.command()
def landscape(
    case: Annotated[Path, typer.Argument(metavar="CASE", help="A case folder with truth.json.")],
    model: NeededModel,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for figures and tables.")],
    rotation_deg: Annotated[float, typer.Option("--rotation-deg", min=0.1, max=90, help="How far to turn, in either direction.")] = 30.0,
    translation_mm: Annotated[float, typer.Option("--translation-mm", min=0.1, max=500, help="How far to shift, in either direction.")] = 60.0,
    rho_mm: Annotated[float, typer.Option("--rho-mm", min=10, max=5000, help="Length of a radian in SO(4).")] = 100.0,
    line_points: Annotated[int, typer.Option("--line-points", min=3, help="Samples of a line.")] = 61,
    plane_points: Annotated[int, typer.Option("--plane-points", min=3, help="Samples along each side of a plane.")] = 31,
    similarity: Annotated[list[str] | None, typer.Option("--similarity", help="Shown beside the spherical one; may be repeated.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Draw the spherical similarity and NCC around the truth of a case, along the coordinates of se(3) and of SO(4): lines and planes."""
    check_output_folder(out)
    from SphericalRegLib.evaluation.landscape import LandscapeOptions
    from SphericalRegLib.evaluation.landscape import landscape as run
    from SphericalRegLib.evaluation.truth import load_truth
    from SphericalRegLib.imaging.case import load_case
    from SphericalRegLib.models.checkpoint import load_model

    from .progress_bars import progress_bars

    options = LandscapeOptions(rotation_deg, translation_mm, rho_mm, line_points, plane_points, tuple(similarity or ["ncc"]))
    network = load_model(model_file(model))
    where = start(device)
    truth, loaded = load_truth(case), load_case(case)
    with progress_bars(quiet) as progress:
        done = run(loaded, truth, network, options, device=where, progress=progress)
    files = done.write(out)
    table = done.table()
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    if as_json:
        print_json({"out": out, "files": files, "lines": [dict(zip(table.columns, row)) for row in table.rows]})
    else:
        print(table.to_text() + "".join(f"\n{path}" for path in files))
