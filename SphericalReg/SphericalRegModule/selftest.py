"""The module's own test, for the real application and for the harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import slicer

from SphericalRegLib.mrml.detector import placed_camera
from SphericalRegLib.mrml.poses import pose_of
from SphericalRegLib.mrml.provenance import result_of

LARGEST_ERROR_MM = 15.0
"""On the detector's side of the CT; the start is some 60 mm off. A wrong frame or direction is off by far more."""


def check_sample_case(logic: Any) -> None:
    """Register the sample case from its view's name and compare with the truth, which nothing here but this comparison reads.

    Raises:
        AssertionError: the pose is off, or the scene does not show it.
    """
    from .sample_data import load_sample_case

    folder = Path(slicer.app.temporaryPath) / "SphericalRegSample"
    ct, xray = load_sample_case(folder)
    nodes = logic.register(ct, xray, initial="ap", device="cpu")
    result = result_of(nodes.transform)
    assert result is not None
    placed = placed_camera(nodes.xray)
    assert placed is not None
    assert np.abs(pose_of(ct, placed.world_from_camera) - result.camera_from_world).max() < 1e-6
    truth = json.loads(next(folder.glob("*/truth.json")).read_text(encoding="utf-8"))
    fiducials = np.c_[np.array(truth["fiducials_ras_mm"]), np.ones(len(truth["fiducials_ras_mm"]))]
    moved = fiducials @ (result.camera_from_world - np.array(truth["camera_from_world"])).T
    error = float(np.linalg.norm(moved[:, :2], axis=1).mean())
    assert error < LARGEST_ERROR_MM, f"the fiducials are off by {error:.1f} mm across the beam"
