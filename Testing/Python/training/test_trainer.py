"""Training on a phantom: each network learns in its turn, with every loss and precision, of one CT or several."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "registration"))
import registration_phantom as phantom
from trainer_phantom import CAMERA, OPTIONS, TRUNK, assert_same, make, weights_of

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.se3 import recentred, transform_points
from SphericalRegLib.imaging.attenuation import Attenuation
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
from SphericalRegLib.progress import Cancelled
from SphericalRegLib.training.losses import GRADIENT_MATCHING, LossWeights
from SphericalRegLib.training.scene import continued
from SphericalRegLib.training.trainer import Trainer


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
    assert_same(trunk, dict(trainer.encoder.trunk.state_dict()))


def test_a_base_stays_as_it_is() -> None:
    model = make().model()
    base = replace(model, encoder=model.encoder.eval().requires_grad_(False), regressor=model.regressor.eval().requires_grad_(False))
    before = weights_of(base)
    affine = phantom.volume().world_from_voxel.copy()
    affine[:3, 3] += 20.0
    trainer = Trainer([Volume(phantom.volume().hu, affine)], CAMERA, replace(OPTIONS, iterations=2, regressor_share=0.5), base=base)
    trainer.run()
    assert_same(before, weights_of(base))
    assert any(not torch.equal(value, before[name]) for name, value in weights_of(trainer).items()), "but it was trained"
    assert not base.encoder.training and not any(parameter.requires_grad for parameter in base.encoder.parameters())


def test_the_learning_rate_has_a_cycle_for_each_network() -> None:
    trainer = make(replace(OPTIONS, regressor_share=0.4, warm_up=0.1))
    rates = []
    regressor, encoder = trainer.phases
    for phase, share in ((regressor, 0.0), (regressor, 0.04), (regressor, 0.39), (encoder, 0.4), (encoder, 0.46), (encoder, 0.99)):
        phase.set_learning_rate(share)
        rates.append(phase.optimizer.param_groups[0]["lr"] / OPTIONS.learning_rate)
    assert rates[:5] == pytest.approx([1e-3, 1.0, rates[2], 1e-3, 1.0])
    assert max(rates[2], rates[5]) < 0.02


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
    assert whole.count.iteration == other.count.iteration == 2


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
    assert part.recipe.cts[0].mass_mm2 < 0.8 * whole.recipe.cts[0].mass_mm2
    with pytest.raises(InputError, match="labels"):
        make(replace(OPTIONS, labels=(3,)))


def test_accumulated_batches_make_one_step() -> None:
    """Two batches of four, added up, are what the step is made of: its figures are their mean."""
    both = make(replace(OPTIONS, batch=4, accumulate=2))
    single = make(replace(OPTIONS, batch=4))
    losses = [single.phase().loss(single.batches, lambda: None)[0].item() for _ in range(2)]
    figures = both.step()
    assert both.count.iteration == 1
    assert figures["loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bfloat16"},
        {"loss": LossWeights(gradient=1.0, refinement=1.0, refinement_steps=2)},
        {"loss": GRADIENT_MATCHING},
        {"loss": LossWeights(gradient=1.0, refinement=1.0), "precision": "bfloat16"},
        {"image_weight": 1.0},
        {"regressor": None},
        {"regressor": None, "precision": "bfloat16"},
    ],
)
def test_variants_take_a_step(change) -> None:
    trainer = make(replace(OPTIONS, **change))
    trainer.run()
    figures = trainer.count.figures
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_does_no_harm(monkeypatch, bad: float) -> None:
    trainer = make(replace(OPTIONS, warm_up=0.0))  # full steps from the first
    before = weights_of(trainer)
    phase = trainer.phase()
    right = phase.loss
    monkeypatch.setattr(phase, "loss", lambda *given: (bad * right(*given)[0], {"pose nll": bad}))
    trainer._remember(trainer.step())
    after = weights_of(trainer)
    assert all(bool(torch.isfinite(value).all()) for value in after.values()) and trainer.count.figures == {}
    kept = 1 - OPTIONS.learning_rate * OPTIONS.weight_decay  # nothing but the decay of the weights
    for name, parameter in trainer.regressor.named_parameters():
        assert torch.allclose(parameter, kept * before[f"regressor.{name}"], rtol=1e-6, atol=0)
    assert trainer.count.steps_lost == trainer.model().card["steps_lost"] == 1 and "1 steps lost" in trainer._report().message


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


def test_weights_are_those_of_the_seed_and_the_callers_random_numbers_go_on() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trainer = make(replace(OPTIONS, seed=2))
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(2)
    assert_same(dict(SphericalEncoder(OPTIONS.encoder).state_dict()), dict(trainer.encoder.state_dict()))


@pytest.mark.parametrize("about", [False, True])
def test_a_models_places_are_what_its_batches_are_anchored_to(about: bool) -> None:
    rows = tuple(map(tuple, phantom.true_pose().tolist()))
    trainer = make(replace(OPTIONS, poses=replace(OPTIONS.poses, about=rows if about else None)))
    batch = trainer.batches.pairs(trainer.scenes[0])
    places = trainer.model().places(batch.places.centre)
    assert places.metric == batch.places.metric
    torch.testing.assert_close(places.reference, batch.places.reference, atol=1e-9, rtol=0)
    torch.testing.assert_close(places.of(batch.true_pose), batch.places.of(batch.true_pose))
