"""A training goes on where it was, whatever ended it, and leaves a model or a whole state."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "registration"))
import registration_phantom as phantom
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from trainer_phantom import CAMERA, OPTIONS, WATCHED, assert_same, make, weights_of

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.checkpoint import load_model
from SphericalRegLib.models.encoder import EncoderConfig
from SphericalRegLib.models.regressor import RegressorConfig
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.progress import Cancelled, Progress, silent
from SphericalRegLib.training.augmentation import DomainRandomization
from SphericalRegLib.training.files import check_target, how_far, state_path
from SphericalRegLib.training.losses import LossWeights
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.poses import Perturbation
from SphericalRegLib.training.session import About, train, trained
from SphericalRegLib.training.trainer import Trainer
from SphericalRegLib.training.validation import ValidationOptions


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
    assert told is not None and not told.finished and told.share == pytest.approx(4 / 6) and list(told.curve) == first.count.curve
    second = make(replace(options, minutes=99.0))
    second.resume(tmp_path / "m.state")
    assert second.count.iteration == 4 and len(second.count.curve) == 1
    second.run()
    assert_same(weights_of(second), weights_of(whole))
    assert [{**p, "seconds": 0} for p in second.count.curve] == [{**p, "seconds": 0} for p in whole.count.curve]
    assert second.count.figures == pytest.approx(whole.count.figures)


def test_a_state_belongs_to_its_training(tmp_path: Path) -> None:
    path = tmp_path / "m.state"
    trainer = make(replace(OPTIONS, iterations=2))
    trainer.run(silent, path)
    for options, word in ((replace(OPTIONS, iterations=2, seed=3), "seed"), (replace(OPTIONS, iterations=2, loss=LossWeights(pairs=1.0)), "loss")):
        with pytest.raises(InputError, match=f"another {word}"):
            make(options).resume(path)
    volume = phantom.volume()
    other = Volume(np.where(volume.hu > 500, 40, volume.hu).astype(np.float32), volume.world_from_voxel, name="other")
    with pytest.raises(InputError, match="another cts"):
        Trainer([other], CAMERA, replace(OPTIONS, iterations=2)).resume(path)
    with pytest.raises(InputError, match="another camera"):
        Trainer([volume], replace(CAMERA, sdd_mm=900.0), replace(OPTIONS, iterations=2)).resume(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(InputError, match="not the state"):
        make(replace(OPTIONS, iterations=2)).resume(path)
    save_file({"random": torch.zeros(1)}, path, metadata={"state": '{"format": "sphericalreg training 4"}'})
    with pytest.raises(InputError, match="training 4'; this version goes on with"):
        make(replace(OPTIONS, iterations=2)).resume(path)


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


def test_a_state_goes_on_with_another_pace_and_a_ct_that_is_called_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "m.state"
    trainer = make()
    trainer.step()
    trainer.save_state(path)
    volume = replace(phantom.volume(), name="renamed")
    options = replace(OPTIONS, minutes=3.0, patience=2, stop_below_mm=1.0, checkpoint_seconds=5.0)
    again = Trainer([volume], CAMERA, options)
    again.resume(path)
    assert again.count.iteration == 1
    moved = volume.world_from_voxel.copy()
    moved[:3, 3] += 10  # another place of the same CT: poses that are told in the world would be others
    with pytest.raises(InputError, match="another cts"):
        Trainer([Volume(volume.hu, moved)], CAMERA, options).resume(path)


def test_a_training_that_was_enough_goes_on_with_another_target(tmp_path: Path) -> None:
    trainer = make(replace(OPTIONS, iterations=4, stop_below_mm=9.0))
    for _ in range(4):
        trainer.step()
    trainer.count.curve.append({"iterations": 4, "mtre_mm": 5.0})
    trainer.count.stopped = trainer._why_stop()
    assert "fell below 9 mm" in trainer.count.stopped
    trainer.save_state(tmp_path / "m.state")
    for target, stopped in ((9.0, True), (6.0, True), (4.0, False), (None, False)):
        again = make(replace(OPTIONS, iterations=4, stop_below_mm=target))
        again.resume(tmp_path / "m.state")
        assert bool(again.count.stopped) == stopped


def test_a_state_of_before_an_option_is_one_without_it(tmp_path: Path) -> None:
    """What is on by default since was not when that training began, and it goes on as it was."""
    path = tmp_path / "m.state"
    trainer = make(replace(OPTIONS, look=replace(OPTIONS.look, missed_share=0.0)))
    trainer.step()
    trainer.save_state(path)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["state"])
    del header["recipe"]["options"]["look"]["missed_share"]
    save_file(load_file(path), path, metadata={"state": json.dumps(header)})
    make(trainer.options).resume(path)
    with pytest.raises(InputError, match="another look"):
        make().resume(path)


def test_a_training_that_is_cancelled_in_its_first_step_has_a_state(tmp_path: Path) -> None:
    def stop(step: Progress) -> None:
        raise Cancelled

    first, whole = make(), make()
    with pytest.raises(Cancelled):
        first.run(stop, tmp_path / "m.state")
    assert first.count.iteration == 0
    again = make()
    again.resume(tmp_path / "m.state")
    again.run()
    whole.run()
    assert_same(weights_of(again), weights_of(whole))


def test_an_encoder_whose_first_step_was_cancelled_is_random_still(tmp_path: Path) -> None:
    """Its turn has begun, and there is no model yet: not with so few minutes that nothing is left of them."""
    options = replace(OPTIONS, iterations=None, minutes=10.0, regressor_share=0.5)
    first = make(options)
    first.step()
    first.count.seconds = 360.0  # the encoder's turn

    def stop() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        first.step(stop)
    assert first.phases[-1].began_at == 1
    first.save_state(tmp_path / "m.state")
    told = how_far(tmp_path / "m.safetensors")
    assert told is not None and told.share == 0.5
    again = make(replace(options, minutes=4.0))
    again.resume(tmp_path / "m.state")
    with pytest.raises(InputError, match="encoder's turn is still to come"):
        again.run()


BAD = (
    {"loss": LossWeights, "anchor": 0.0},
    {"loss": LossWeights, "anchor": -1.0},
    {"loss": LossWeights, "gradient": math.nan},
    {"loss": LossWeights, "refinement_steps": 0},
    {"loss": LossWeights, "soft": 0.0},
    {"encoder": EncoderConfig, "embedding": "cosin"},
    {"encoder": EncoderConfig, "elements": 0},
    {"regressor": RegressorConfig, "components": 0},
    {"trunk": TrunkConfig, "image_size": 63},
    {"trunk": TrunkConfig, "heads": 3},
    {"trunk": TrunkConfig, "width": 40},
    {"trunk": TrunkConfig, "contrast_sigma": 0.0},
    {"validation": ValidationOptions, "iterations": -1},
    {"validation": ValidationOptions, "xrays": 0},
    {"look": DomainRandomization, "clip_high": (1.0, 2.0)},
    {"look": DomainRandomization, "noise": (0.2, 0.1)},
    {"look": DomainRandomization, "tool_share": 1.5},
    {"look": DomainRandomization, "lines": 0},
    {"look": DomainRandomization, "log_offset": (0.0, 0.1)},
    {"perturbation": Perturbation, "depth_mm": -1.0},
    {"options": TrainingOptions, "learning_rate": -1.0},
    {"options": TrainingOptions, "minutes": math.inf},
    {"options": TrainingOptions, "warm_up": 1.0},
    {"options": TrainingOptions, "goes_on_share": 1.1},
    {"options": TrainingOptions, "patience": 0},
    {"options": TrainingOptions, "patience": 2.5},
    {"options": TrainingOptions, "stop_below_mm": "soon"},
    {"options": TrainingOptions, "seed": -1},
)


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: "-".join(map(str, [next(iter(bad)), *list(bad.items())[1]])))
def test_options_that_cannot_be_are_refused_before_any_work(bad) -> None:
    (_, kind), (name, value) = bad.items()
    with pytest.raises(InputError, match="expected"):
        kind(**{name: value})


def test_a_validation_is_made_once_where_steps_are_fewer_than_validations(tmp_path: Path) -> None:
    options = replace(OPTIONS, iterations=3, validation=replace(WATCHED, times=10))
    trainer = make(options)
    trainer.run(silent, tmp_path / "m.state")
    again = make(options)
    again.resume(tmp_path / "m.state")
    again.run()
    assert [point["iterations"] for point in again.count.curve] == [1, 2, 3]


def test_a_training_from_a_base_goes_on_from_one(tmp_path: Path) -> None:
    trainer = make(base=make().model())
    trainer.step()
    trainer.save_state(tmp_path / "m.state")
    with pytest.raises(InputError, match="another base"):
        make().resume(tmp_path / "m.state")
    with pytest.raises(InputError, match="another base"):
        make(base=replace(make().model(), identity={"file": "b", "sha256": "of another"})).resume(tmp_path / "m.state")


def test_a_model_of_before_an_option_is_one_with_its_default(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    train([phantom.volume()], CAMERA, OPTIONS, out)
    card = json.loads((tmp_path / "m.json").read_text())
    del card["card"]["training"]["image_weight"], card["card_sha256"]
    (tmp_path / "m.json").write_text(json.dumps(card))
    assert trained([phantom.volume()], CAMERA, OPTIONS, out).card["iterations"] == 6
    with pytest.raises(InputError, match="another image_weight"):
        trained([phantom.volume()], CAMERA, replace(OPTIONS, image_weight=1.0), out)
    del card["card"]["training"]["loss"]["soft"], card["card"]["training"]["validation"]["xrays"]  # also one of a part of the options
    (tmp_path / "m.json").write_text(json.dumps(card))
    assert trained([phantom.volume()], CAMERA, OPTIONS, out).card["iterations"] == 6
    # What is on by default since was not before there was an option.
    del card["card"]["training"]["look"]["missed_share"]
    (tmp_path / "m.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match="another look"):
        trained([phantom.volume()], CAMERA, OPTIONS, out)
    without = replace(OPTIONS, look=replace(OPTIONS.look, missed_share=0.0))
    assert trained([phantom.volume()], CAMERA, without, out).card["iterations"] == 6


def test_a_training_of_the_same_base_is_known_again(tmp_path: Path) -> None:
    """A base brings its own networks, and makes another model where it is another."""
    small = replace(OPTIONS, encoder=replace(OPTIONS.encoder, elements=2), regressor=None)
    base = train([phantom.volume()], CAMERA, small, tmp_path / "base.safetensors")
    other = train([phantom.volume()], CAMERA, replace(small, seed=1), tmp_path / "other.safetensors")
    out = tmp_path / "m.safetensors"
    first = trained([phantom.volume()], CAMERA, OPTIONS, out, base=base)
    assert first.encoder.config.elements == 2 and first.regressor is not None
    assert trained([phantom.volume()], CAMERA, OPTIONS, out, base=base).identity == first.identity
    for another in (other, None):
        with pytest.raises(InputError, match="base: choose another folder"):
            trained([phantom.volume()], CAMERA, OPTIONS, out, base=another)


def test_a_regressor_that_a_base_does_not_have_looks_at_images_of_its_size() -> None:
    small = replace(OPTIONS, regressor=None)
    base = Trainer([phantom.volume()], CAMERA, small).model()
    based = replace(OPTIONS, regressor=RegressorConfig(components=2)).based_on(base)
    assert based.regressor is not None and based.regressor.trunk == base.encoder.config.trunk and based.regressor.components == 2
    assert np.isfinite(Trainer([phantom.volume()], CAMERA, based, base=base).step()["loss"])
    with pytest.raises(InputError, match="the regressor expects"):
        Trainer([phantom.volume()], CAMERA, replace(OPTIONS, regressor=RegressorConfig(components=2)))


def test_a_state_beside_a_model_is_gone_on_with(tmp_path: Path) -> None:
    """The machine went down between the model and its card, or before the state was removed."""
    out = tmp_path / "m.safetensors"
    model = train([phantom.volume()], CAMERA, OPTIONS, out)
    trainer = make()
    trainer.run(silent, state_path(out))
    out.write_bytes(b"other weights")
    again = trained([phantom.volume()], CAMERA, OPTIONS, out)
    assert_same(weights_of(again), weights_of(model))
    assert not state_path(out).exists()


def test_a_training_that_was_stopped_early_stays_stopped(tmp_path: Path) -> None:
    trainer = make(replace(OPTIONS, iterations=4))
    trainer.step()
    trainer.count.stopped = "enough"
    trainer.save_state(tmp_path / "m.state")
    again = make(replace(OPTIONS, iterations=4))
    again.resume(tmp_path / "m.state")
    again.run()
    assert again.count.iteration == 1 and again.model().card["stopped"] == "enough"


@pytest.mark.parametrize("at", [3, 6])
def test_a_validation_that_was_cancelled_is_made_up_for(tmp_path: Path, at: int) -> None:
    options = replace(OPTIONS, validation=WATCHED)
    whole = make(options)
    whole.run()

    def stop(step: Progress) -> None:
        if step.stage == "validation" and first.count.iteration == at:
            raise Cancelled

    first = make(options)
    with pytest.raises(Cancelled):
        first.run(stop, tmp_path / "m.state")
    second = make(options)
    second.resume(tmp_path / "m.state")
    assert (second.count.iteration, len(second.count.curve)) == (at, at // 3 - 1)
    second.run()
    second.run()  # nothing is left to do
    assert [{**p, "seconds": 0} for p in second.count.curve] == [{**p, "seconds": 0} for p in whole.count.curve]
    assert_same(weights_of(second), weights_of(whole))


def test_an_error_leaves_the_last_whole_state(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "m.state"
    trainer = make(replace(OPTIONS, checkpoint_seconds=0.0))
    steps = []

    def fail(*_) -> None:
        steps.append(path.read_bytes())
        raise RuntimeError("out of memory")

    def then(step: Progress) -> None:
        if trainer.count.iteration == 2:
            monkeypatch.setattr(trainer.phase().optimizer, "step", fail)

    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run(then, path)
    assert path.read_bytes() == steps[0]
    again = make(trainer.options)
    again.resume(path)
    assert again.count.iteration == 2


def test_what_is_resumed_does_not_lie_in_the_file(tmp_path: Path) -> None:
    """Neither for the sake of systems that do not replace a file in use, nor of whoever writes to it; and it is laid out as it was."""
    path = tmp_path / "m.state"
    trainer = make(replace(OPTIONS, iterations=4))
    for _ in range(3):
        trainer.step()
    trainer.save_state(path)
    again = make(replace(OPTIONS, iterations=4))
    again.resume(path)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    for before, after in zip(trainer.phases, again.phases):
        known = list(zip(before.optimizer.param_groups[0]["params"], after.optimizer.param_groups[0]["params"]))
        assert before.optimizer.state and len(before.optimizer.state) == len(after.optimizer.state)
        for old, new in known:
            for key, value in before.optimizer.state.get(old, {}).items():
                assert torch.equal(after.optimizer.state[new][key], value) and after.optimizer.state[new][key].stride() == value.stride(), key
    assert_same(weights_of(again), weights_of(trainer))


def test_no_model_is_made_of_an_encoder_that_had_no_turn(tmp_path: Path) -> None:
    few = make(replace(OPTIONS, iterations=1))
    with pytest.raises(InputError, match="training of 1 steps is over before the encoder's turn, after 45% of them"):
        few.run(silent, tmp_path / "m.state")
    assert few.count.iteration == 0 and not list(tmp_path.iterdir())
    made = make().model()
    base = replace(made, encoder=made.encoder.eval(), regressor=made.regressor.eval())
    assert make(replace(OPTIONS, iterations=1), base=base).run().card["iterations"] == 1, "a base's encoder is none of random weights"
    make(replace(OPTIONS, iterations=1, regressor=None)).run()
    short = make(replace(OPTIONS, iterations=None, minutes=1e-6))
    with pytest.raises(InputError, match="resume it with more minutes"):
        short.run(silent, tmp_path / "m.state")
    before = (tmp_path / "m.state").read_bytes()
    shorter, longer = (make(replace(OPTIONS, iterations=None, minutes=minutes)) for minutes in (1e-7, short.count.seconds / 60 + 0.02))
    shorter.resume(tmp_path / "m.state")
    with pytest.raises(InputError, match="encoder's turn is still to come"):
        shorter.run(silent, tmp_path / "m.state")
    assert (tmp_path / "m.state").read_bytes() == before
    longer.resume(tmp_path / "m.state")
    assert longer.run().card["iterations"] > 1 and longer.phases[-1].began_at == 1
