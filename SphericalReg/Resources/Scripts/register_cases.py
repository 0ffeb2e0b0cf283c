"""Registers case folders in Slicer without a window:

    Slicer --no-splash --no-main-window --python-script register_cases.py CASES... -o RESULTS

CASES are case folders or folders of them; a later run goes on where an earlier one stopped. Writes a folder for each case, batch.csv and batch.md.
On a Linux machine without a display, put ``xvfb-run`` before it. Exit code: 0 if all went well, 1 if a case failed, 2 if the input cannot be used.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from typing import Any


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="register_cases.py", description="Register case folders.")
    parser.add_argument("cases", nargs="+", metavar="CASES")
    parser.add_argument("-o", "--out", required=True, help="folder for the results")
    parser.add_argument("--initial", choices=("ap", "pa", "left", "right"), help="where to start; default: what each case says")
    parser.add_argument("--model", metavar="MODEL.safetensors", help="a model of the cases' CT; shipped: the pelvis that comes with the module")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--install", action="store_true", help="install the Python packages that are missing, without asking")
    return parser.parse_args(arguments)


class Log:
    """One line for each step that begins: there may be nobody to see a progress bar."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, progress: Any) -> None:
        line = f"{progress.stage} {progress.message}".strip()
        if line != self._last:
            print(line, flush=True)
        self._last = line


def main(arguments: list[str]) -> int:
    chosen = parsed(arguments)
    from SphericalRegModule.dependencies import ensure

    from SphericalReg import SphericalRegLogic
    from SphericalRegLib.errors import InputError

    try:
        if chosen.install:
            ensure(ask=lambda question: True)
        settings = {"initial": chosen.initial, "model": chosen.model, "device": chosen.device, "seed": chosen.seed}
        rows = SphericalRegLogic().registerBatch(chosen.cases, chosen.out, **settings, progress=Log())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for row in rows:
        print(row["name"], row["error"] or f"score {row['score']:.3f}, verdict {row['verdict']}", sep=": ")
    return 1 if any(row["error"] for row in rows) else 0


if __name__ == "__main__":
    code = 1
    try:
        code = main(sys.argv[1:])
    except SystemExit as end:  # argparse: help, or arguments that it does not know
        code = end.code if isinstance(end.code, int) else 2
    except BaseException:
        traceback.print_exc()
    finally:
        sys.exit(code)  # Slicer would stay open, after an exception too
