"""A small training of the registration phantom, and what tests ask of its networks."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "registration"))
import registration_phantom as phantom

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.models.encoder import EncoderConfig
from SphericalRegLib.models.regressor import RegressorConfig
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.poses import Perturbation
from SphericalRegLib.training.trainer import Trainer
from SphericalRegLib.training.validation import ValidationOptions

CAMERA = Camera(1000.0, (7.0, 7.0), (32, 32), (15.5, 15.5))
TRUNK = TrunkConfig(image_size=32, width=32, blocks=1)
OPTIONS = TrainingOptions(
    iterations=6,
    batch=8,
    poses=PoseRange(("ap",), 10, 10, 5, 5, 20),
    perturbation=Perturbation(8.0, 8.0, 16.0),
    encoder=EncoderConfig(TRUNK, elements=4),
    regressor=RegressorConfig(TRUNK, components=2),
    validation=ValidationOptions(times=0),
)
WATCHED = ValidationOptions(times=2, xrays=4, iterations=2)


def make(options: TrainingOptions = OPTIONS, **keywords) -> Trainer:
    return Trainer([phantom.volume()], CAMERA, options, **keywords)


def weights_of(trainer_or_model) -> dict[str, torch.Tensor]:
    parts = {"encoder": trainer_or_model.encoder, "regressor": trainer_or_model.regressor}
    return {f"{part}.{name}": value.clone() for part, network in parts.items() for name, value in network.state_dict().items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
