"""The randomised look: what it must keep (bone is bright), what it must forget (the physics), and that a seed is a seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from SphericalRegLib.imaging.attenuation import mu_bone_per_mm, mu_water_per_mm
from SphericalRegLib.training.augmentation import DomainRandomization

PLAIN = DomainRandomization(
    lines=1,
    energy_kev=(60.0, 60.0),
    bone_gain=(1.0, 1.0),
    scatter=(0.0, 0.0),
    noise=(0.0, 0.0),
    blur_sigma=(0.0, 0.0),
    clip_low=(0.0, 0.0),
    clip_high=(1.0, 1.0),
    gamma=(1.0, 1.0),
    log_offset=(1e-4, 1e-4),
    display_share=0.0,
    collimator_share=0.0,
    tool_share=0.0,
)


def tissues(count: int = 6, size: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """A body with a bone: paths in mm."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    water = 200 * (1 - 0.6 * (x**2 + y**2)).clamp_min(0)
    bone = 15 * (((x - 0.2).abs() < 0.15) & (y.abs() < 0.6)).float()
    return water.expand(count, size, size), bone.expand(count, size, size)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_randomness_it_is_a_line_integral() -> None:
    """One energy, no disturbance: the logarithm gives mu t back, up to the display's scale."""
    water, bone = tissues(1)
    image, mask = PLAIN(water, bone, generator())
    exact = mu_water_per_mm(60.0) * water + mu_bone_per_mm(60.0) * bone
    transmission = torch.exp(-exact)
    low, high = transmission.amin(), transmission.amax()
    expected = -torch.log((transmission - low) / (high - low) + 1e-4)
    assert torch.allclose(image[:, 0], expected, atol=1e-3)
    assert image.shape == mask.shape == (1, 1, 48, 48) and (mask == 1).all()


def test_bone_stays_brighter_than_its_surroundings() -> None:
    water, bone = tissues(16)
    look = replace(DomainRandomization(), collimator_share=0.0, tool_share=0.0, noise=(0.0, 0.0))
    image, _ = look(water, bone, generator(3))
    inside, outside = image[:, 0, 15:33, 27:31], image[:, 0, 15:33, 16:20]  # the bone, and its mirror image
    assert (inside.mean((1, 2)) > outside.mean((1, 2))).all()


def test_looks_differ_and_are_repeatable() -> None:
    water, bone = tissues()
    look = DomainRandomization()
    (a, mask_a), (b, mask_b), (c, _) = (look(water, bone, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and torch.equal(mask_a, mask_b) and not torch.equal(a, c)
    assert torch.isfinite(a).all()
    flat = (a - a.mean((-2, -1), keepdim=True)) / a.std((-2, -1), keepdim=True)
    assert (flat[0] - flat[1]).abs().mean() > 0.05  # the same anatomy


def test_collimator_share_and_depth() -> None:
    water, bone = tissues(200, 32)
    look = replace(DomainRandomization(), collimator_share=0.5, collimator_depth=0.2, collimator_unseen=0.0)
    _, mask = look(water, bone, generator(5))
    collimated = (mask == 0).flatten(1).any(1)
    assert 0.3 < collimated.float().mean() < 0.6
    assert mask[:, 0, 14:18, 14:18].all()
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_some_collimators_are_round() -> None:
    water, bone = tissues(300, 64)
    look = replace(DomainRandomization(), collimator_share=1.0, collimator_unseen=0.0)
    square, both = (replace(look, collimator_round=share)(water, bone, generator(5))[1][:, 0] for share in (0.0, 1.0))
    corners = both[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).all() and both[:, 20:44, 20:44].all()
    assert 0.65 < both.mean() < 0.85
    assert (square[:, 4, 4] == 1).float().mean() > 0.1, "a rectangle may leave a corner open"


def test_a_mask_need_not_know_its_collimator() -> None:
    """The image is dark, or one value, where the mask says that it is open."""
    _, bone = tissues(300, 64)
    water = torch.linspace(50, 150, 64).expand_as(bone)  # a wedge: what it leaves of the beam is not flat
    look = replace(PLAIN, collimator_share=1.0, collimator_round=1.0, log_offset=(1e-6, 1e-6))
    _, known = replace(look, collimator_unseen=0.0)(water, bone, generator(5))
    image, mask = replace(look, collimator_unseen=0.5)(water, bone, generator(5))
    unseen = (mask == 1).flatten(1).all(1)
    assert 0.35 < unseen.float().mean() < 0.65
    torch.testing.assert_close(mask[~unseen], known[~unseen])
    corners = image[unseen][:, 0, :3, -3:].flatten(1)
    flat = corners.std(1) < 1e-5
    assert 0.3 < flat.float().mean() < 0.7, "electronic shutters are flat, scatter behind blades is not"


def test_nothing_is_blurred_or_drawn_at_share_zero() -> None:
    water, bone = tissues(2)
    a, _ = PLAIN(water, bone, generator(0))
    b, _ = PLAIN(water, bone, generator(9))
    assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype) -> None:
    water, bone = (part.to(dtype) for part in tissues(2))
    image, mask = DomainRandomization()(water, bone, generator())
    assert image.dtype == mask.dtype == dtype
