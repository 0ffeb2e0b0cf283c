"""``sphericalreg simulate``: case folders with simulated X-rays of a CT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .common import (
    AsJson,
    Device,
    Level,
    Quiet,
    Seed,
    StartDeg,
    StartMm,
    check_output_folder,
    print_json,
    read_ct,
    removed_if_empty,
    start,
)

Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the cases: case_000, case_001, ...")]


@app.command()
def simulate(
    ct: Annotated[str, typer.Argument(metavar="CT", help="A CT file, a DICOM folder, sample:pelvis or sample:thorax.")],
    out: Out,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many cases.")] = 1,
    level: Level = "realistic",
    view: Annotated[list[str] | None, typer.Option("--view", help="ap, pa, left or right; several are taken in turn.")] = None,
    second_view: Annotated[str | None, typer.Option("--second-view", help="A second X-ray in every case: ap, pa, left or right.")] = None,
    start_deg: StartDeg = 5.0,
    start_mm: StartMm = 10.0,
    c_arm: Annotated[
        tuple[float, float, float, float, float] | None,
        typer.Option("--c-arm", metavar="DEG DEG DEG MM MM", help="Poses over +- LAO/RAO, cranial/caudal, in-plane turn; in-plane shift, depth."),
    ] = None,
    size: Annotated[int, typer.Option("--size", min=16, max=4096, help="Columns and rows of the X-ray, pixels.")] = 512,
    mirrored: Annotated[bool, typer.Option("--mirrored", help="Store the X-ray as seen from the detector's side.")] = False,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make case folders with simulated X-rays of a CT, whose true pose is written to truth.json.

    The physics (polyenergetic, scatter, noise, display curve, metal) and the interpolant are not the renderer's, so that errors do not cancel.
    """
    check_output_folder(out)
    from SphericalRegLib.geometry.pose_range import PoseRange
    from SphericalRegLib.simulation.cases import SimulationOptions, flat_panel, simulate_cases
    from SphericalRegLib.simulation.difficulty import difficulty

    from .progress_bars import progress_bars

    options = SimulationOptions(
        level=difficulty(level),
        views=tuple(view or ["ap"]),
        second_view=second_view,
        c_arm=None if c_arm is None else PoseRange(("ap",), *c_arm),
        start_sigma_deg=start_deg,
        start_sigma_mm=start_mm,
        camera=flat_panel(size, size),
        mirrored=mirrored,
        seed=seed,
    )
    where = start(device)
    volume, path = read_ct(ct)
    with removed_if_empty(out), progress_bars(quiet) as progress:
        folders = simulate_cases(volume, out, count, options, ct=path, device=where, progress=progress)
    if as_json:
        print_json({"out": out, "cases": folders, "options": options.to_dict()})
    else:
        print(f"{len(folders)} {level} case(s) in {out}\nnext: sphericalreg evaluate {out} -o RESULTS")
