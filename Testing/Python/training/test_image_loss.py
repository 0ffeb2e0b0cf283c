"""The regressor's image loss: its value against plain NCC, its gradient against differences, and images without the CT."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from training_scene import CENTRE, BlobProjector, poses

from SphericalRegLib.geometry.se3 import retract
from SphericalRegLib.similarity.local_ncc import LocalNCC
from SphericalRegLib.similarity.ncc import GlobalNCC
from SphericalRegLib.training.image_loss import FLOOR, PATCH, image_loss

RENDERER = BlobProjector()
SCALE = torch.tensor([0.05] * 3 + [5.0] * 3, dtype=torch.float64)


def near(truth: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return retract(truth, SCALE * torch.randn(len(truth), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), CENTRE)


def test_it_is_what_the_similarities_say_of_the_two_images() -> None:
    truth = poses(3)
    other = near(truth)
    found = image_loss(RENDERER, other, truth)
    for b in range(3):
        wanted, shown = RENDERER.project(truth[b : b + 1]), RENDERER.project(other[b : b + 1])
        correlation = np.corrcoef(wanted.flatten(), shown.flatten())[0, 1]
        whole, patches = GlobalNCC(wanted[0]).score(shown), LocalNCC(wanted[0], kernel=PATCH, floor=FLOOR).score(shown)
        assert float(whole) == pytest.approx(correlation, abs=1e-5)
        assert float(found[b]) == pytest.approx(1 - 0.5 * float(whole + patches), abs=1e-5)


def test_it_is_nothing_at_the_truth_and_grows_away_from_it() -> None:
    truth = poses(2)
    way = SCALE * torch.ones(2, 6, dtype=torch.float64)
    losses = torch.stack([image_loss(RENDERER, retract(truth, share * way, CENTRE), truth) for share in (0.0, 0.5, 1.0, 2.0)])
    assert float(losses[0].abs().max()) < 1e-5
    assert bool((losses.diff(dim=0) > 0).all())


@pytest.mark.parametrize("seed", [1, 2])
def test_its_gradient_against_differences(seed: int) -> None:
    truth = poses(2)
    start = retract(truth, 3 * SCALE * torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), CENTRE)
    delta = torch.zeros(2, 6, dtype=torch.float64, requires_grad=True)
    image_loss(RENDERER, retract(start, delta, CENTRE), truth).sum().backward()
    gradient = delta.grad * SCALE
    numeric = torch.zeros(2, 6, dtype=torch.float64)
    for axis in range(6):
        step = 1e-4 * SCALE[axis] * torch.eye(6, dtype=torch.float64)[axis]
        ends = [image_loss(RENDERER, retract(start, (sign * step).expand(2, 6), CENTRE), truth) for sign in (1, -1)]
        numeric[:, axis] = (ends[0] - ends[1]) / 2e-4
    assert float(numeric.abs().max()) > 0.02
    assert torch.allclose(gradient, numeric, rtol=1e-3, atol=1e-5)


def test_unseen_pixels_of_either_pose_do_not_count() -> None:
    """Whatever their rays have met: the loss is that of images whose other pixels agree. Each pose hides pixels of its own."""
    truth = poses(2)

    def seen(of: torch.Tensor) -> torch.Tensor:
        hidden = torch.arange(8) if torch.equal(of, truth) else 31 - torch.arange(5)
        return torch.ones(len(of), 32, 32, dtype=torch.bool).index_fill(2, hidden, False)

    class Cut(BlobProjector):
        def validity(self, poses: torch.Tensor) -> torch.Tensor:
            return seen(poses)

    class Noisy(Cut):
        def project(self, poses: torch.Tensor) -> torch.Tensor:
            image = super().project(poses)
            return torch.where(seen(poses), image, image + 9 * torch.rand(image.shape, dtype=image.dtype))

    class Blind(Noisy):
        """Whose validity says nothing of what lies behind it."""

        def validity(self, poses: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(poses), 32, 32, dtype=torch.bool)

    found, expected, blind = (image_loss(kind(), near(truth), truth) for kind in (Noisy, Cut, Blind))
    assert torch.allclose(found, expected, atol=1e-9)
    assert float((blind - expected).min()) > 0.1


def test_an_image_without_the_ct_has_no_correlation_and_no_gradient() -> None:
    truth = poses(2)
    gone = truth.clone()
    gone[:, 0, 3] += 5000.0
    gone.requires_grad_()
    loss = image_loss(RENDERER, gone, truth)
    loss.sum().backward()
    assert torch.allclose(loss, torch.ones(2).double())
    assert bool((gone.grad == 0).all())
