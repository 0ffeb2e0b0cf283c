"""How a training is watched, and what ends it early."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from trainer_phantom import CAMERA, OPTIONS, WATCHED, make
from training_scene import CENTRE, poses

from SphericalRegLib.geometry.metric import Places
from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.optimization.levenberg_marquardt import LMOptions, levenberg_marquardt
from SphericalRegLib.progress import Cancelled, Progress, silent
from SphericalRegLib.training import validation
from SphericalRegLib.training.camera import CameraRange
from SphericalRegLib.training.losses import GRADIENT_MATCHING
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.paired import AnchoredPairs, PairedProblem
from SphericalRegLib.training.validation import Validation, ValidationOptions, bone_points


def watched(options: ValidationOptions) -> TrainingOptions:
    return replace(OPTIONS, validation=options)


def test_nothing_ends_while_the_regressor_has_its_turn(monkeypatch) -> None:
    trainer = make(replace(OPTIONS, iterations=10, regressor_share=0.6, validation=replace(WATCHED, times=10), stop_below_mm=9.0, patience=1))
    given = iter([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 10.0, 9.5, 9.7])
    monkeypatch.setattr(trainer, "validation", lambda *_: {"mtre_mm": next(given)})
    trainer.run()
    assert trainer.count.iteration == 9 and "did not fall" in trainer.count.stopped


def test_nothing_ends_while_a_bases_regressor_has_its_turn(monkeypatch) -> None:
    """The encoder of a base is good from the beginning, and does not get better before its turn."""
    options = replace(OPTIONS, iterations=10, regressor_share=0.6, validation=replace(WATCHED, times=10), stop_below_mm=2.0, patience=1)
    trainer = make(options, base=make().model())
    given = iter([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 10.0, 9.5, 9.7])
    monkeypatch.setattr(trainer, "validation", lambda *_: {"mtre_mm": next(given)})
    trainer.run()
    assert trainer.count.iteration == 9 and "did not fall" in trainer.count.stopped


def test_validation_knows_a_perfect_network() -> None:
    """With the true poses as starts and a regressor that is right, nothing is wrong; its X-rays depend on its seed alone."""
    trainer = make()
    exact = Validation(trainer.scenes, watched(ValidationOptions(xrays=3, sigma_deg=0.0, sigma_mm=0.0, iterations=1)))
    (xrays,) = exact.sets
    assert torch.allclose(xrays.start, xrays.truth)
    again, other = (Validation(trainer.scenes, watched(ValidationOptions(xrays=3, seed=seed))).sets[0] for seed in (0, 1))
    assert torch.equal(again.image, xrays.image) and not torch.equal(other.truth, xrays.truth)

    def right(image, mask):
        pose = xrays.truth[:, None].float()
        from SphericalRegLib.models.regressor import PoseMixture

        return PoseMixture(pose, *[torch.ones(3, 1)] * 4)

    right.centre = trainer.scenes[0].centre
    figures = exact(trainer.encoder, right, silent)
    assert figures["start_mm"] == pytest.approx(0, abs=1e-6)
    assert figures["regressor_deg"] < 0.05 and figures["regressor_mm"] < 0.01
    assert figures["mtre_mm"] == pytest.approx(0, abs=1e-2), "the prior holds starts without a spread, whatever an untrained encoder says"
    assert trainer.encoder.training


def test_validation_sees_the_cameras_of_the_training() -> None:
    """A training on smaller detectors is watched on such; where there are none, nothing is drawn for them."""
    trainer, few = make(), watched(ValidationOptions(xrays=8))
    whole, cut = (Validation(trainer.scenes, replace(few, cameras=CameraRange(field))).sets[0] for field in (1.0, 0.5))
    assert torch.equal(whole.image, cut.image) and torch.equal(whole.truth, cut.truth) and torch.equal(whole.start, cut.start)
    assert bool((cut.mask <= whole.mask).all()) and float(cut.mask.mean()) < 0.8 * float(whole.mask.mean())


def test_medians_lie_between_the_middle_two(monkeypatch) -> None:
    trainer = make()
    watch = Validation(trainer.scenes, watched(ValidationOptions(xrays=2)))
    monkeypatch.setattr(watch, "_of", lambda *_: dict.fromkeys(("start_mm", "cosine", "after", "across"), torch.tensor([1.0, 3.0])))
    found = watch(trainer.encoder, None, silent)
    assert found.pop("below_2_mm") == 0.5
    assert found == dict.fromkeys(("start_mm", "cosine", "mtre_mm", "in_plane_mm"), 2.0) | dict.fromkeys(("mtre_75_mm", "in_plane_75_mm"), 2.5)


def test_validation_can_be_cancelled() -> None:
    trainer = make()

    def stop(step: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        Validation(trainer.scenes, watched(WATCHED))(trainer.encoder, None, stop)
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
    whole = Validation(trainer.scenes, watched(options))
    monkeypatch.setattr(validation, "CELLS_AT_ONCE", 2 * 16 + 3)
    parts = Validation(trainer.scenes, watched(options))
    assert [len(xrays.truth) for xrays in parts.sets] == [2, 2, 1] and len(whole.sets) == 1
    assert torch.equal(torch.cat([xrays.image for xrays in parts.sets]), whole.sets[0].image)
    shares: list[float] = []
    figures = [
        made(trainer.encoder, trainer.regressor, lambda step: shares.append(step.done / step.total)) for made in (whole, parts)
    ]
    assert figures[1] == pytest.approx(figures[0], rel=1e-3)
    assert max(shares) <= 1


class PosesAsImages:
    """A `Projector` whose images are the poses themselves."""

    centre = CENTRE

    def project(self, pose: torch.Tensor) -> torch.Tensor:
        return pose

    def validity(self, pose: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(pose)


def test_pairs_that_lie_at_their_places_come_home_from_far_off() -> None:
    """An encoder that does what it is asked for, and whose images have no derivative that could be taken."""
    truth = poses(4)
    places = Places(OPTIONS.loss.metric, truth[0], CENTRE)

    def encoder(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return places.of(image[:, 0])[:, None].expand(-1, 3, -1, -1)

    start = retract(truth, 0.4 * torch.tensor([[1.0, -1, 1, 50, 50, 100]]).double().expand(4, 6), CENTRE)
    pairs = AnchoredPairs(encoder, encoder(truth[:, None], None), torch.ones(4, 1, 4, 4), PosesAsImages(), places)
    found = levenberg_marquardt(pairs, start, CENTRE, LMOptions(20)).pose
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)


def test_the_search_is_the_one_that_a_registration_makes(monkeypatch) -> None:
    """Where the loss anchors embeddings; else the network's own derivative is what there is."""
    trainer, used, places = make(), [], []
    for kind in (AnchoredPairs, PairedProblem):
        asked = kind.residual_and_jacobian
        monkeypatch.setattr(kind, "residual_and_jacobian", lambda *a, kind=kind, asked=asked: used.append(a[0]) or asked(*a))
    for loss, kinds in ((OPTIONS.loss, {AnchoredPairs}), (GRADIENT_MATCHING, {PairedProblem})):
        used.clear()
        Validation(trainer.scenes, replace(watched(WATCHED), loss=loss))(trainer.encoder, None, silent)
        assert type(used[0]) is PairedProblem and {type(problem) for problem in used[1:]} == kinds, "the gradient's cosine is the network's own"
        places += [problem.places for problem in used if isinstance(problem, AnchoredPairs)]
    card = {"training": json.loads(json.dumps(asdict(OPTIONS)))}
    registration = Model(trainer.encoder, None, CAMERA, card).places(trainer.scenes[0].centre)
    assert torch.equal(places[0].reference, registration.reference) and torch.equal(places[0].centre, registration.centre)
    assert places[0].metric == registration.metric
