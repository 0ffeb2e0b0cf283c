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


def forget_results(folder: Path) -> None:
    """Remove what an earlier registration has left in a folder, so that no picture lies beside another pose."""
    for path in folder.iterdir():
        if RESULT_FILES.fullmatch(path.name):
            path.unlink()


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A folder to write into, whose files move to `out` when the block ends well; otherwise nothing is left behind, interrupted or not.

    Raises:
        InputError: `out` is a file or cannot be made.
    """
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
        for path in sorted(staging.iterdir()):
            path.replace(out / path.name)
        finished = True
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in [] if finished else made:
            with suppress(OSError):  # what has been moved already keeps its folder; the reader is told of what went wrong, not of this
                folder.rmdir()
