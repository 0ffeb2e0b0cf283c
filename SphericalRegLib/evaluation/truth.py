"""The truth of a case. Only this room opens `truth.json`: registration never sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.rigid import checked_rigid
from SphericalRegLib.imaging.files import read_json_object


@dataclass(frozen=True, eq=False)
class Truth:
    """True pose (4, 4) of the first camera, and the fiducials (N, 3) in world mm that errors are measured at; float64."""

    camera_from_world: np.ndarray
    fiducials: np.ndarray


def load_truth(case: str | Path) -> Truth:
    """Read a case folder's truth.json.

    Raises:
        InputError: it is missing, not JSON, a key is missing, the pose is not rigid, or the fiducials are not finite (N, 3) numbers.
    """
    path = Path(case) / "truth.json"
    content = read_json_object(path, "truth file")
    for key in ("camera_from_world", "fiducials_ras_mm"):
        if key not in content:
            raise InputError(f"truth file {path} has no {key}")
    pose = checked_rigid(content["camera_from_world"], f"{path}: camera_from_world")
    fiducials = _numbers(content["fiducials_ras_mm"], f"{path}: fiducials_ras_mm", "a list of [x, y, z]")
    if fiducials.ndim != 2 or fiducials.shape[1] != 3 or not len(fiducials):
        raise InputError(f"{path}: fiducials_ras_mm has shape {fiducials.shape}, expected a list of [x, y, z] with at least one point")
    return Truth(pose, fiducials)


def _numbers(value: object, where: str, expected: str) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{where} has rows of different lengths, expected {expected}") from None
    if array.dtype.kind not in "if" or not np.isfinite(array).all():
        raise InputError(f"{where} holds something that is not a finite number, expected {expected}")
    return array.astype(np.float64)
