"""Where packaged data lies: in a wheel, in a source checkout and in an installed Slicer extension alike."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path


def resource_path(name: str) -> Path:
    """Path of a packaged resource, e.g. ``"SampleData/pelvis.nii.gz"``.

    A wheel and an installed extension hold a copy inside the package (``_resources``); a checkout has the originals in the top-level
    ``Resources`` folder.

    Raises:
        FileNotFoundError: if neither place has it.
    """
    package = files("SphericalRegLib")
    for candidate in (package / "_resources" / name, package / ".." / "Resources" / name):
        with as_file(candidate) as path:
            if path.exists():
                return Path(path).resolve()
    raise FileNotFoundError(f"packaged resource {name!r} is missing: reinstall sphericalreg")
