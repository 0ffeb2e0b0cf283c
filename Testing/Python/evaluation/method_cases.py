"""Simulated cases of the phantom and an untrained model of it: enough to run the method's experiments."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "registration"))
import registration_phantom as phantom

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.identity import ct_identity
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.simulation.cases import SimulationOptions, flat_panel, simulate_cases
from SphericalRegLib.simulation.difficulty import difficulty
from SphericalRegLib.training.options import TrainingOptions

TRUNK = TrunkConfig(image_size=32, width=32, blocks=1)
VOLUME = phantom.volume


def cases(folder: Path, count: int = 2) -> list[Path]:
    options = SimulationOptions(level=difficulty("clean"), camera=flat_panel(64, 64, width_mm=260.0), fiducials=20, seed=1)
    return simulate_cases(phantom.volume(), folder, count, options)


def model() -> Model:
    torch.manual_seed(1)
    encoder = SphericalEncoder(EncoderConfig(TRUNK, elements=8)).eval().requires_grad_(False)
    camera = Camera(1020.0, (260 / 32, 260 / 32), (32, 32), (15.5, 15.5))
    return Model(encoder, None, camera, {"cts": [ct_identity(phantom.ct(), "phantom").to_dict()], "training": asdict(TrainingOptions())})
