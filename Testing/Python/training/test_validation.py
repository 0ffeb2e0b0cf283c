"""How a training is watched, and what ends it early."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from trainer_phantom import OPTIONS, WATCHED, make

from SphericalRegLib.progress import Cancelled, Progress, silent
from SphericalRegLib.training import validation
from SphericalRegLib.training.validation import Validation, ValidationOptions, bone_points


@pytest.mark.parametrize(
    ("errors", "options", "stops"),
    [
        ([5.0, 1.9], {"stop_below_mm": 2.0}, 2),
        ([5.0, 4.0, 4.5, 4.2, 4.1], {"patience": 2}, 4),
        ([5.0, 4.0, 3.0, 2.5, 2.4, 2.3], {"patience": 2, "stop_below_mm": 1.0}, None),
        ([1.0, 4.0, 4.5], {"patience": 2}, None),  # before half of the training nothing is over
    ],
)
def test_early_stop(monkeypatch, errors, options, stops) -> None:
    trainer = make(replace(OPTIONS, regressor=None, validation=replace(WATCHED, times=6), **options))
    given = iter(errors)
    monkeypatch.setattr(trainer, "validation", lambda *_: {"mtre_mm": next(given)})
    trainer.phases[-1].begin(0)
    for number in range(1, len(errors) + 1):
        trainer.iteration = number
        trainer._validate(silent)
        assert bool(trainer.stopped) == (stops == number)
        if trainer.stopped:
            return
    assert stops is None


def test_nothing_ends_while_the_regressor_has_its_turn(monkeypatch) -> None:
    trainer = make(replace(OPTIONS, iterations=10, regressor_share=0.6, validation=replace(WATCHED, times=10), stop_below_mm=9.0, patience=1))
    given = iter([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 10.0, 9.5, 9.7])
    monkeypatch.setattr(trainer, "validation", lambda *_: {"mtre_mm": next(given)})
    trainer.run()
    assert trainer.iteration == 9 and "did not fall" in trainer.stopped


def test_nothing_ends_while_a_bases_regressor_has_its_turn(monkeypatch) -> None:
    """The encoder of a base is good from the beginning, and does not get better before its turn."""
    options = replace(OPTIONS, iterations=10, regressor_share=0.6, validation=replace(WATCHED, times=10), stop_below_mm=2.0, patience=1)
    trainer = make(options, base=make().model())
    given = iter([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 10.0, 9.5, 9.7])
    monkeypatch.setattr(trainer, "validation", lambda *_: {"mtre_mm": next(given)})
    trainer.run()
    assert trainer.iteration == 9 and "did not fall" in trainer.stopped


def test_validation_knows_a_perfect_network() -> None:
    """With the true poses as starts and a regressor that is right, nothing is wrong; its X-rays depend on its seed alone."""
    trainer = make()
    exact = Validation(trainer.scenes, OPTIONS.poses, OPTIONS.look, ValidationOptions(xrays=3, sigma_deg=0.0, sigma_mm=0.0, iterations=1))
    (xrays,) = exact.sets
    assert torch.allclose(xrays.start, xrays.truth)
    again, other = (Validation(trainer.scenes, OPTIONS.poses, OPTIONS.look, ValidationOptions(xrays=3, seed=seed)).sets[0] for seed in (0, 1))
    assert torch.equal(again.image, xrays.image) and not torch.equal(other.truth, xrays.truth)

    def right(image, mask):
        pose = xrays.truth[:, None].float()
        from SphericalRegLib.models.regressor import PoseMixture

        return PoseMixture(pose, *[torch.ones(3, 1)] * 4)

    right.centre = trainer.scenes[0].centre
    figures = exact(trainer.encoder, right, OPTIONS.loss.metric, silent)
    assert figures["start_mm"] == pytest.approx(0, abs=1e-6)
    assert figures["regressor_deg"] < 0.05 and figures["regressor_mm"] < 0.01
    assert figures["mtre_mm"] == pytest.approx(0, abs=1e-2), "the prior holds starts without a spread, whatever an untrained encoder says"
    assert trainer.encoder.training


def test_validation_can_be_cancelled() -> None:
    trainer = make()

    def stop(step: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        Validation(trainer.scenes, OPTIONS.poses, OPTIONS.look, WATCHED)(trainer.encoder, None, OPTIONS.loss.metric, stop)
    assert trainer.encoder.training


def test_bone_points_lie_in_bone() -> None:
    scene = make().scenes[0]
    points = bone_points(scene.bone.attenuation, scene.drr.attenuation, 50, np.random.default_rng(0))
    voxels = np.linalg.solve(scene.bone.attenuation.world_from_voxel, np.c_[points, np.ones(50)].T)[:3].round().astype(int)
    assert (scene.bone.attenuation.mu[tuple(voxels)] > 0.3).all()
    nothing = replace(scene.bone.attenuation, mu=0 * scene.bone.attenuation.mu)
    assert len(bone_points(nothing, scene.drr.attenuation, 50, np.random.default_rng(0))) == 50


def test_no_more_is_looked_at_at_once_than_there_is_memory_for(monkeypatch) -> None:
    trainer, options = make(), ValidationOptions(xrays=5, iterations=2)
    whole = Validation(trainer.scenes, OPTIONS.poses, OPTIONS.look, options)
    monkeypatch.setattr(validation, "CELLS_AT_ONCE", 2 * 16 + 3)
    parts = Validation(trainer.scenes, OPTIONS.poses, OPTIONS.look, options)
    assert [len(xrays.truth) for xrays in parts.sets] == [2, 2, 1] and len(whole.sets) == 1
    assert torch.equal(torch.cat([xrays.image for xrays in parts.sets]), whole.sets[0].image)
    shares: list[float] = []
    figures = [
        made(trainer.encoder, trainer.regressor, OPTIONS.loss.metric, lambda step: shares.append(step.done / step.total)) for made in (whole, parts)
    ]
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)
    assert max(shares) <= 1
