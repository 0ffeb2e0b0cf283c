"""Training on a phantom: it learns, it goes on where it was, it can be stopped, and it says how good it is."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "registration"))
import registration_phantom as phantom
from safetensors.torch import save_file

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.geometry.se3 import recentred, transform_points
from SphericalRegLib.imaging.attenuation import Attenuation
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.checkpoint import load_model
from SphericalRegLib.models.encoder import EncoderConfig
from SphericalRegLib.models.regressor import RegressorConfig
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.progress import Cancelled, Progress, silent
from SphericalRegLib.training.files import check_target, how_far, state_path
from SphericalRegLib.training.losses import GRADIENT_MATCHING, LossWeights
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.poses import Perturbation
from SphericalRegLib.training.scene import continued
from SphericalRegLib.training.session import About, train, trained
from SphericalRegLib.training.trainer import Trainer
from SphericalRegLib.training.validation import Validation, ValidationOptions, bone_points

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


def test_some_steps_reduce_the_loss() -> None:
    trainer = make(replace(OPTIONS, iterations=120, regressor_share=0.5, learning_rate=3e-3))
    figures = []
    for _ in range(120):
        figures.append(trainer.step())

    def mean(name: str, part: list[dict[str, float]]) -> float:
        return float(np.mean([figure[name] for figure in part]))

    regressor, encoder = figures[:60], figures[60:]
    assert set(regressor[0]) == {"pose nll", "loss"} and "pose nll" not in encoder[0]
    assert mean("pose nll", regressor[-20:]) < mean("pose nll", regressor[:10]) - 1
    for name in ("DRR off", "X-ray off", "loss"):
        assert mean(name, encoder[-20:]) < 0.8 * mean(name, encoder[:10])


def test_the_encoder_begins_with_the_regressors_trunk_and_each_network_has_its_turn() -> None:
    def values(network) -> torch.Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])

    trainer = make(replace(OPTIONS, iterations=5, regressor_share=0.4))  # two steps and three
    encoder = values(trainer.encoder)
    trainer.step()
    trainer.step()
    regressor, trunk = values(trainer.regressor), values(trainer.regressor.trunk)
    assert torch.equal(values(trainer.encoder), encoder) and [phase.began_at for phase in trainer.phases] == [0, None]
    trainer.step()
    assert [phase.began_at for phase in trainer.phases] == [0, 2] and torch.equal(values(trainer.regressor), regressor)
    # By little, as a cycle begins with small steps.
    assert 0 < (values(trainer.encoder.trunk) - trunk).abs().max() < 1e-4
    other = make(replace(OPTIONS, iterations=2, regressor_share=0.5, encoder=EncoderConfig(replace(TRUNK, blocks=2), elements=4)))
    other.step()
    assert np.isfinite(other.step()["DRR off"])  # built otherwise: nothing to hand on
    with pytest.raises(InputError, match="random"):
        make(replace(OPTIONS, regressor_share=0.0))
    assert [phase.name for phase in make(replace(OPTIONS, regressor_share=0.0), base=make().model()).phases] == ["encoder"]


def test_a_bases_encoder_keeps_its_own_trunk() -> None:
    base = make().model()
    trunk = {name: value.clone() for name, value in base.encoder.trunk.state_dict().items()}
    trainer = make(replace(OPTIONS, iterations=2, regressor_share=0.5), base=base)
    trainer.step()
    trainer.phases[1].begin(1)
    assert_same(trunk, dict(base.encoder.trunk.state_dict()))


def test_the_learning_rate_has_a_cycle_for_each_network() -> None:
    trainer = make(replace(OPTIONS, regressor_share=0.4, warm_up=0.1))
    rates = []
    regressor, encoder = trainer.phases
    for phase, share in ((regressor, 0.0), (regressor, 0.04), (regressor, 0.39), (encoder, 0.4), (encoder, 0.46), (encoder, 0.99)):
        phase.set_learning_rate(share)
        rates.append(phase.optimizer.param_groups[0]["lr"] / OPTIONS.learning_rate)
    assert rates[:5] == pytest.approx([1e-3, 1.0, rates[2], 1e-3, 1.0])
    assert max(rates[2], rates[5]) < 0.02


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path) -> None:
    options = replace(OPTIONS, validation=WATCHED)
    whole = make(options)
    whole.run()

    def stop(step: Progress) -> None:
        if step.stage == "training" and step.done == 4:
            raise Cancelled

    first = make(options)
    with pytest.raises(Cancelled):
        first.run(stop, tmp_path / "m.state")
    assert [path.name for path in tmp_path.iterdir()] == ["m.state"]
    told = how_far(tmp_path / "m.safetensors")
    assert told is not None and not told.finished and told.share == pytest.approx(4 / 6) and list(told.curve) == first.curve
    second = make(replace(options, minutes=99.0))
    second.resume(tmp_path / "m.state")
    assert second.iteration == 4 and len(second.curve) == 1
    second.run()
    assert_same(weights_of(second), weights_of(whole))
    assert [{**p, "seconds": 0} for p in second.curve] == [{**p, "seconds": 0} for p in whole.curve]
    assert second.figures == pytest.approx(whole.figures)


def test_a_step_that_is_cancelled_has_not_happened() -> None:
    whole, other = make(), make()
    for _ in range(2):
        whole.step()
    other.step()
    for reached in range(3):  # after the X-rays, the losses, the gradient
        calls = iter(range(reached))

        def alive(calls=calls) -> None:
            if next(calls, None) is None:
                raise Cancelled

        with pytest.raises(Cancelled):
            other.step(alive)
    other.step()
    assert_same(weights_of(whole), weights_of(other))
    assert whole.iteration == other.iteration == 2


def test_drrs_of_a_part_and_xrays_of_everything() -> None:
    volume = phantom.volume()
    labels = np.zeros(volume.shape, dtype=np.uint8)
    labels[: volume.shape[0] // 2] = 3
    labelled = replace(volume, labels=labels)
    whole, part = make(), Trainer([labelled], CAMERA, replace(OPTIONS, labels=(3,)))
    pose = OPTIONS.poses.sample(1, CAMERA, whole.scenes[0].centre, torch.Generator().manual_seed(0))
    shown, everything = (trainer.scenes[0].drr.project(pose).sum() for trainer in (part, whole))
    assert 0.2 < shown / everything < 0.8
    for of_part, of_whole in zip(*(trainer.scenes[0].tissues(pose, goes_on=False) for trainer in (part, whole))):
        torch.testing.assert_close(of_part, of_whole)
    assert part.cts[0].mass_mm2 < 0.8 * whole.cts[0].mass_mm2
    with pytest.raises(InputError, match="labels"):
        make(replace(OPTIONS, labels=(3,)))


def test_a_state_belongs_to_its_training(tmp_path: Path) -> None:
    path = tmp_path / "m.state"
    trainer = make(replace(OPTIONS, iterations=1))
    trainer.run(silent, path)
    for options, word in ((replace(OPTIONS, iterations=1, seed=3), "seed"), (replace(OPTIONS, iterations=1, loss=LossWeights(pairs=1.0)), "loss")):
        with pytest.raises(InputError, match=f"another {word}"):
            make(options).resume(path)
    volume = phantom.volume()
    other = Volume(np.where(volume.hu > 500, 40, volume.hu).astype(np.float32), volume.world_from_voxel, name="other")
    with pytest.raises(InputError, match="another cts"):
        Trainer([other], CAMERA, replace(OPTIONS, iterations=1)).resume(path)
    with pytest.raises(InputError, match="another camera"):
        Trainer([volume], replace(CAMERA, sdd_mm=900.0), replace(OPTIONS, iterations=1)).resume(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="not the state"):
        make(replace(OPTIONS, iterations=1)).resume(path)
    save_file({"random": torch.zeros(1)}, path, metadata={"state": "{}"})
    with pytest.raises(InputError, match="format None"):
        make(replace(OPTIONS, iterations=1)).resume(path)


def test_accumulated_batches_make_one_step() -> None:
    """Two batches of four, added up, are what the step is made of: its figures are their mean."""
    both = make(replace(OPTIONS, batch=4, accumulate=2))
    single = make(replace(OPTIONS, batch=4))
    losses = [single.phase().loss(single.batches, lambda: None)[0].item() for _ in range(2)]
    figures = both.step()
    assert both.iteration == 1
    assert figures["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bfloat16"},
        {"loss": LossWeights(gradient=1.0, refinement=1.0, refinement_steps=2)},
        {"loss": GRADIENT_MATCHING},
        {"image_weight": 1.0},
        {"regressor": None},
        {"regressor": None, "precision": "bfloat16"},
    ],
)
def test_variants_take_a_step(change) -> None:
    trainer = make(replace(OPTIONS, **change))
    trainer.run()
    figures = trainer.figures
    assert all(np.isfinite(value) for value in figures.values())
    assert ("left" in figures) == (trainer.options.loss.refinement > 0)
    assert ("pose nll" in figures) == (trainer.regressor is not None)
    assert ("image off" in figures) == (trainer.options.image_weight > 0)
    assert all(parameter.dtype == torch.float32 for parameter in trainer.networks.parameters())
    assert not any("forward" in module.__dict__ for module in trainer.networks.modules())


def test_bfloat16_is_near_float32() -> None:
    for change in ({}, {"regressor": None}):
        a, b = (make(replace(OPTIONS, precision=precision, **change)).step() for precision in ("float32", "bfloat16"))
        assert a["loss"] != b["loss"] and a["loss"] == pytest.approx(b["loss"], rel=0.1)


def test_session_writes_a_model_and_forgets_the_state(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    seen: list[Progress] = []
    about = About("phantom", "make m", "")
    model = train([phantom.volume()], CAMERA, replace(OPTIONS, validation=WATCHED), out, about=about, progress=seen.append)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.json", "m.safetensors"]
    loaded = load_model(out)
    assert_same(weights_of(loaded), weights_of(model))
    assert model.identity == loaded.identity and not model.encoder.training and not any(p.requires_grad for p in model.encoder.parameters())
    card = loaded.card
    assert card["anatomy"] == "phantom" and card["command"] == "make m" and card["stopped"] == "at its end"
    assert len(card["curve"]) == 2 and card["validation"] == card["curve"][-1]
    told = how_far(out)
    assert told is not None and told.finished and told.share == 1 and list(told.curve) == card["curve"]
    errors = {"start_mm", "mtre_mm", "mtre_75_mm", "below_2_mm", "start_in_plane_mm", "in_plane_mm", "in_plane_75_mm"}
    assert {"cosine", "regressor_deg", "regressor_mm"} | errors <= set(card["validation"])
    counted = [step.done for step in seen if step.stage == "training"]
    assert counted == sorted(counted) and set(counted) == set(range(7))  # several times within a step, for a cancel
    assert "X-rays/s" in seen[0].message and any("validation" in step.message for step in seen)
    assert any(step.stage == "validation" for step in seen)


def test_targets_are_checked(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match="no unfinished"):
        check_target(out, True)
    assert how_far(out) is None
    state_path(out).write_text("x")
    assert how_far(out) is None
    with pytest.raises(InputError, match="unfinished"):
        check_target(out, False)
    with pytest.raises(InputError, match="safetensors"):
        check_target(tmp_path / "m.pt", False)
    lengths = ({"minutes": 0}, {"iterations": 0}, {"batch": 0}, {"accumulate": 0})
    for changes in (*lengths, {"precision": "float16"}, {"regressor_share": 1.0}, {"image_weight": -1.0}):
        with pytest.raises(InputError):
            replace(OPTIONS, **changes)
    with pytest.raises(InputError, match="pixels"):
        Trainer([phantom.volume()], replace(CAMERA, size_px=(40, 40)), OPTIONS)


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


def test_a_validation_is_made_once_where_steps_are_fewer_than_validations(tmp_path: Path) -> None:
    options = replace(OPTIONS, iterations=3, validation=replace(WATCHED, times=10))
    trainer = make(options)
    trainer.run(silent, tmp_path / "m.state")
    again = make(options)
    again.resume(tmp_path / "m.state")
    again.run()
    assert [point["iterations"] for point in again.curve] == [1, 2, 3]


def test_a_training_from_a_base_goes_on_from_one(tmp_path: Path) -> None:
    trainer = make(base=make().model())
    trainer.step()
    trainer.save_state(tmp_path / "m.state")
    with pytest.raises(InputError, match="another base"):
        make().resume(tmp_path / "m.state")


def test_a_model_of_before_an_option_is_one_with_its_default(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    train([phantom.volume()], CAMERA, OPTIONS, out)
    card = json.loads((tmp_path / "m.json").read_text())
    del card["card"]["training"]["image_weight"]
    (tmp_path / "m.json").write_text(json.dumps(card))
    assert trained([phantom.volume()], CAMERA, OPTIONS, out).card["iterations"] == 6
    with pytest.raises(InputError, match="other options"):
        trained([phantom.volume()], CAMERA, replace(OPTIONS, image_weight=1.0), out)


@pytest.mark.parametrize("at", [3, 6])
def test_a_validation_that_was_cancelled_is_made_up_for(tmp_path: Path, at: int) -> None:
    options = replace(OPTIONS, validation=WATCHED)
    whole = make(options)
    whole.run()

    def stop(step: Progress) -> None:
        if step.stage == "validation" and first.iteration == at:
            raise Cancelled

    first = make(options)
    with pytest.raises(Cancelled):
        first.run(stop, tmp_path / "m.state")
    second = make(options)
    second.resume(tmp_path / "m.state")
    assert (second.iteration, len(second.curve)) == (at, at // 3 - 1)
    second.run()
    second.run()  # nothing is left to do
    assert [{**p, "seconds": 0} for p in second.curve] == [{**p, "seconds": 0} for p in whole.curve]
    assert_same(weights_of(second), weights_of(whole))


def test_an_error_leaves_the_last_whole_state(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.state"
    trainer = make(replace(OPTIONS, checkpoint_seconds=0.0))
    steps = []

    def fail(*_) -> None:
        steps.append(path.read_bytes())
        raise RuntimeError("out of memory")

    def then(step: Progress) -> None:
        if trainer.iteration == 2:
            monkeypatch.setattr(trainer.phase().optimizer, "step", fail)

    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run(then, path)
    assert path.read_bytes() == steps[0]
    again = make(trainer.options)
    again.resume(path)
    assert again.iteration == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_does_no_harm(monkeypatch, bad: float) -> None:
    trainer = make(replace(OPTIONS, warm_up=0.0))  # full steps from the first
    before = weights_of(trainer)
    phase = trainer.phase()
    right = phase.loss
    monkeypatch.setattr(phase, "loss", lambda *given: (bad * right(*given)[0], {"pose nll": bad}))
    trainer._remember(trainer.step())
    after = weights_of(trainer)
    assert all(bool(torch.isfinite(value).all()) for value in after.values()) and trainer.figures == {}
    kept = 1 - OPTIONS.learning_rate * OPTIONS.weight_decay  # nothing but the decay of the weights
    for name, parameter in trainer.regressor.named_parameters():
        assert torch.allclose(parameter, kept * before[f"regressor.{name}"], rtol=1e-6, atol=0)
    assert trainer.steps_lost == trainer.model().card["steps_lost"] == 1 and "1 steps lost" in trainer._report().message


def test_the_image_loss_is_added_by_its_weight() -> None:
    plain, with_image = (make(replace(OPTIONS, image_weight=weight)).step() for weight in (0.0, 2.5))
    assert with_image["pose nll"] == plain["pose nll"] and 0 < with_image["image off"] < 2
    assert with_image["loss"] == pytest.approx(plain["loss"] + 2.5 * with_image["image off"], rel=1e-5)


def test_the_image_losses_gradient_through_the_renderer() -> None:
    """By the predicted shifts and turns, against differences: of the loss with it less that without, on one batch."""
    trainers = [make(replace(OPTIONS, image_weight=weight)) for weight in (0.0, 100.0)]

    def image_part(step: torch.Tensor | None = None) -> tuple[float, torch.Tensor]:
        values, gradients = [], []
        for trainer in trainers:
            trainer.generator.manual_seed(5)
            start = trainer.regressor.start
            kept = start.detach().clone()
            if step is not None:
                start.data += step
            start.grad = None
            loss, _ = trainer.phase().loss(trainer.batches, lambda: None)
            loss.backward()
            values.append(loss.item())
            gradients.append(start.grad.clone())
            start.data.copy_(kept)
        return values[1] - values[0], gradients[1] - gradients[0]

    direction = torch.zeros_like(trainers[0].regressor.start)
    direction[:, 9:11] = 1.0  # across the central ray
    direction[:, 1] = 0.3
    _, gradient = image_part()
    h = 4e-3
    numeric = (image_part(h * direction)[0] - image_part(-h * direction)[0]) / (2 * h)
    assert abs(numeric) > 1.0
    assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=0.05)


@pytest.mark.parametrize("minutes", [1.0, 5.0, 20.0])
def test_other_minutes_change_the_pace_of_what_is_left(minutes: float) -> None:
    trainer = make(replace(OPTIONS, iterations=None, minutes=minutes))
    trainer.resumed_at = (0.6, 240.0)
    assert trainer._share_done(240.0) == (0.6 if minutes > 4 else 1.0)
    assert trainer._share_done(60 * minutes) == pytest.approx(1.0)
    if minutes > 4:
        assert trainer._share_done((240 + 60 * minutes) / 2) == pytest.approx(0.8)


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


def test_several_cts_share_one_regressor_about_their_centres() -> None:
    """A copy of the CT that lies elsewhere in its world gives the same loss: poses are about each CT's own centre."""
    volume = phantom.volume()
    affine = volume.world_from_voxel.copy()
    affine[:3, 3] += [100.0, -50.0, 30.0]
    moved = Volume(volume.hu, affine, name="moved")
    options = replace(OPTIONS, image_weight=1.0)
    here, there = make(options), make(options)
    there.scenes[:] = Trainer([moved], CAMERA, OPTIONS).scenes
    assert here.step() == pytest.approx(there.step(), abs=1e-3)
    both = Trainer([volume, moved], CAMERA, OPTIONS)
    both.run()
    assert [ct["name"] for ct in both.model().card["cts"]] == ["phantom", "moved"]


def test_a_base_is_recentred_on_the_new_ct(tmp_path: Path) -> None:
    base = make().model()
    volume = phantom.volume()
    affine = volume.world_from_voxel.copy()
    affine[:3, 3] += [100.0, -50.0, 30.0]
    image = torch.rand(1, 1, 32, 32)
    before, centre = base.regressor(image).pose.detach().clone(), base.regressor.centre.clone()
    tuned = Trainer([Volume(volume.hu, affine)], CAMERA, OPTIONS, base=base)
    after = tuned.regressor(image).pose.detach()
    new = tuned.scenes[0].centre.float()
    assert torch.allclose(tuned.regressor.centre, new)
    assert torch.allclose(after[..., :3, :3], before[..., :3, :3], atol=1e-5)
    assert torch.allclose(transform_points(after[0], new[None]), transform_points(before[0], centre[None]), atol=1e-2)
    assert torch.allclose(recentred(before, centre, new), after, atol=1e-2)


def test_the_patient_goes_on_where_the_ct_ends() -> None:
    """A block that reaches both ends along k: beyond them the patient goes on, and the other sides are as they were."""
    mu = np.zeros((10, 10, 8), np.float32)
    mu[3:7, 3:7] = 0.02
    affine = np.diag([5.0, 5.0, 10.0, 1.0])
    ct = Attenuation(mu, affine, np.array([22.5, 22.5, 35.0]), (False, False, False, False, True, True))
    longer = continued(ct, 25.0)
    assert longer.mu.shape == (10, 10, 8 + 3 + 3)
    assert (longer.mu == mu[:, :, :1]).all()
    assert longer.world_from_voxel[:3, 3].tolist() == [0.0, 0.0, -30.0]
    assert (longer.centre_ras_mm == ct.centre_ras_mm).all()
