"""The folder of one registration's result: which files are its own, and how they come there together. Needs no torch."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from SphericalRegLib.errors import InputError

RESULT_FILES = re.compile(
    r"result\.json|ct_to_xray\.tfm|convergence\.png|report\.html|(drr|xray)(_\d+)?\.nrrd|(overlay|difference)(_\d+)?\.png"
)
"""What `output.write_result_folder` writes."""

CASE_FILES = ("geometry.json", "case.json", "truth.json", "simulation.json")
"""What a case has and no result."""


def refuse_case(folder: Path) -> None:
    """Raise InputError for the folder of a case: its X-ray has a name that a result's has, too."""
    mine = next((name for name in CASE_FILES if (folder / name).exists()), None)
    if mine is not None:
        raise InputError(f"{folder} is a case folder (it holds {mine}); expected another folder for the results")


def forget_results(folder: Path) -> None:
    """Remove what an earlier registration has left in a folder, so that no picture lies beside another pose; only where one has left a result."""
    if any((folder / name).exists() for name in ("result.json", "record.json")):
        _remove_all_but(folder, set())


def _remove_all_but(folder: Path, kept: set[str]) -> None:
    for path in folder.iterdir():
        if RESULT_FILES.fullmatch(path.name) and path.name not in kept:
            path.unlink()


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A folder to write into, whose files take the place of an earlier result's in `out` when the block ends well; otherwise nothing is left behind,
    interrupted or not.

    Raises:
        InputError: `out` is a file, a case folder, or cannot be made.
    """
    refuse_case(out)
    made = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    try:
        if out.exists() and not out.is_dir():
            raise InputError(f"output folder {out} is a file")
        out.parent.mkdir(parents=True, exist_ok=True)
        # On the disk of the folder where there is one: beside it nothing may be allowed to be written, or another disk begin.
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out if out.exists() else out.parent))
    except OSError as error:
        raise InputError(f"output folder {out} cannot be made: {error.strerror or error}") from None
    finished = False
    try:
        yield staging
        out.mkdir(exist_ok=True)
        names = {path.name for path in staging.iterdir()}
        for name in sorted(names):
            (staging / name).replace(out / name)
        _remove_all_but(out, names)
        finished = True
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in [] if finished else made:
            with suppress(OSError):  # what has been moved already keeps its folder; the reader is told of what went wrong, not of this
                folder.rmdir()
