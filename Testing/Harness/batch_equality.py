#!/usr/bin/env python3
"""Does a batch from Slicer's Python console give the command line's poses?

    python Testing/Harness/batch_equality.py --cases 20 -o FOLDER

Simulates cases of the sample CT, registers them with ``sphericalreg batch`` and with ``SphericalRegLogic().registerBatch`` on the harness, with the
same seed on the same device, and compares every entry of the poses. Goes on where it was interrupted: a larger number of cases adds to those that are
there.
Exit code 1 if an entry differs by more than 1e-6.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TOLERANCE = 1e-6


def simulated(folder: Path, count: int, size: int) -> Path:
    from SphericalRegLib.imaging.samples import sample_volume
    from SphericalRegLib.resources import resource_path
    from SphericalRegLib.simulation.cases import SimulationOptions, flat_panel, simulate_cases

    options = SimulationOptions(camera=flat_panel(size, size))
    simulate_cases(sample_volume("pelvis"), folder, count, options, ct=resource_path("SampleData/pelvis.nii.gz"))
    return folder


def from_command_line(cases: list[Path], out: Path, device: str, seed: int) -> None:
    command = [sys.executable, "-m", "SphericalRegLib", "batch", *map(str, cases), "-o", str(out), "--no-pictures"]
    subprocess.run([*command, "--device", device, "--seed", str(seed), "--quiet"], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def from_console(cases: list[Path], out: Path, device: str, seed: int) -> list[dict[str, Any]]:
    from slicer_harness.modules import load_module

    logic = load_module(ROOT / "SphericalReg" / "SphericalReg.py").SphericalRegLogic()
    return logic.registerBatch(cases, out, device=device, seed=seed)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20, help="how many")
    parser.add_argument("-o", "--out", type=Path, default=ROOT / "out" / "batch_equality", help="folder for cases and results")
    parser.add_argument("--size", type=int, default=256, help="columns and rows of the X-rays")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    sys.path[:0] = [str(ROOT), str(ROOT / "Testing" / "Harness")]
    import numpy as np

    folder = simulated(chosen.out / "cases", chosen.cases, chosen.size)
    cases = [folder / f"case_{number:03d}" for number in range(chosen.cases)]
    from_command_line(cases, chosen.out / "command_line", chosen.device, chosen.seed)
    rows = from_console(cases, chosen.out / "console", chosen.device, chosen.seed)
    worst = 0.0
    for row in rows:
        if row["error"]:
            print(f"{row['name']}: {row['error']}")
            worst = float("inf")
            continue
        result = json.loads((chosen.out / "command_line" / row["name"] / "result.json").read_text(encoding="utf-8"))
        difference = float(np.abs(np.array(row["camera_from_world"]) - np.array(result["camera_from_world"])).max())
        print(f"{row['name']}: largest difference {difference:.1e}, score {row['score']:.3f}, {row['seconds']:.1f} s")
        worst = max(worst, difference)
    print(f"{len(rows)} cases, largest difference of any entry {worst:.1e}: {'equal' if worst <= TOLERANCE else 'NOT equal'} to {TOLERANCE:g}")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
