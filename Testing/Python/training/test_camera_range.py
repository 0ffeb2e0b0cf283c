"""The cameras that a training's X-rays are taken with: what of the field they show, and that the shipped models' training is what it was."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import trainer_phantom as training

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.models.canonical import resample_to_camera
from SphericalRegLib.training.camera import CameraRange, training_camera


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sides(masks: torch.Tensor) -> torch.Tensor:
    """(count, 2): rows and columns that have anything, as shares of the field."""
    return torch.stack([masks[:, 0].amax(dim).sum(-1) for dim in (2, 1)], dim=1) / masks.shape[-1]


def test_fields_are_rectangles_of_the_sizes_that_are_asked_for() -> None:
    masks = CameraRange(0.5, share=1.0, round=0.0).fields(400, 100, generator())
    assert masks.shape == (400, 1, 100, 100) and set(masks.unique().tolist()) == {0.0, 1.0}
    seen = sides(masks)
    torch.testing.assert_close(masks.mean((1, 2, 3)), seen.prod(1))  # full rectangles
    longer, shorter = seen.max(1).values, seen.min(1).values
    assert 0.49 < longer.min() < 0.55 and 0.95 < longer.max() <= 1.0
    assert (longer / shorter).max() < 4 / 3 * 1.04 and (longer / shorter).median() > 1.05
    # in all places: each edge of the field is seen by some and not by others
    for edge in (masks[:, 0, 0], masks[:, 0, -1], masks[:, 0, :, 0], masks[:, 0, :, -1]):
        assert 0.01 < edge.amax(1).mean() < 0.5


def test_the_masks_are_those_of_cameras_with_other_detectors() -> None:
    """A 230 mm detector with its principal point off the middle, brought to the training's camera: within the range of 0.5."""
    camera = training_camera(Camera(1020.0, (0.78125, 0.78125), (512, 512), (255.5, 255.5)), 64)
    other = Camera(1020.0, (0.5, 0.5), (460, 460), (180.0, 260.0))
    ones = Radiograph(np.ones((460, 460)), np.ones((460, 460)), other)
    _, mask = resample_to_camera(ones, camera)
    seen = sides(mask[None, None])[0]
    assert seen[0] == pytest.approx(230 / 400, abs=1.5 / 64) and seen[1] == pytest.approx(230 / 400, abs=1.5 / 64)


def test_some_fields_are_round() -> None:
    masks = CameraRange(0.5, share=1.0, round=1.0).fields(50, 100, generator())
    seen = sides(masks)
    torch.testing.assert_close(seen[:, 0], seen[:, 1], atol=0.021, rtol=0)
    torch.testing.assert_close(masks.mean((1, 2, 3)), torch.pi / 4 * seen.prod(1), atol=0.02, rtol=0.02)


def test_a_share_keeps_the_whole_field_and_one_draws_nothing() -> None:
    kept = CameraRange(0.5, share=0.25).fields(2000, 16, generator()).mean((1, 2, 3)) == 1
    assert 0.7 < kept.float().mean() < 0.85
    drawn = generator()
    before = drawn.get_state()
    assert (CameraRange().fields(3, 8, drawn) == 1).all() and torch.equal(drawn.get_state(), before)


def test_batches_show_what_the_cameras_do() -> None:
    whole, other = (training.make(replace(training.OPTIONS, cameras=CameraRange(field, share=1.0))).batches for field in (1.0, 0.4))
    image, mask, truth = whole.xrays(whole.scenes[0])
    same_image, less, same_truth = other.xrays(other.scenes[0])
    torch.testing.assert_close(image, same_image)
    torch.testing.assert_close(truth, same_truth)
    assert (less <= mask).all() and less.mean() < 0.8 * mask.mean()


def test_refusals() -> None:
    for wrong in (0.0, 1.2, float("nan")):
        with pytest.raises(InputError, match=r"expected 0.1 to 1"):
            CameraRange(wrong)
    with pytest.raises(InputError, match="expected 1 to 4"):
        CameraRange(0.5, longer_side=0.5)
    for wrong in ({"share": 2.0}, {"round": -0.1}):
        with pytest.raises(InputError, match=r"0 to 1"):
            CameraRange(0.5, **wrong)
