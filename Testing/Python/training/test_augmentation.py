"""The randomised look: what it must keep (bone is bright), what it must forget (the physics), and that a seed is a seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from SphericalRegLib.imaging.attenuation import mu_bone_per_mm, mu_water_per_mm
from SphericalRegLib.simulation.detector import DisplayCurve, to_display
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
    logarithmic_share=0.0,
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
    look = replace(DomainRandomization(), collimator_share=0.5, collimator_depth=0.2, missed_share=0.0)
    _, mask = look(water, bone, generator(5))
    collimated = (mask == 0).flatten(1).any(1)
    assert 0.3 < collimated.float().mean() < 0.6
    assert mask[:, 0, 14:18, 14:18].all()
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_round_collimators_have_their_radius() -> None:
    water, bone = tissues(50, 64)
    look = replace(DomainRandomization(), collimator_share=1.0, round_share=1.0, round_radius=(0.4, 0.4), missed_share=0.0)
    _, mask = look(water, bone, generator(6))
    share = mask.mean((1, 2, 3))
    assert torch.allclose(share, torch.full_like(share, torch.pi * 0.4**2), atol=0.02)
    assert not mask[:, 0, 0].any() and mask[:, 0, 26:38, 26:38].all()


def test_a_collimator_that_is_missed_is_in_the_image_alone_dark_or_as_air() -> None:
    water, bone = tissues(20)
    shares = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
    known, dark, as_air = (replace(DomainRandomization(), collimator_share=1.0, missed_share=a, missed_as_air=b) for a, b in shares)
    (image, mask), (image_dark, mask_dark), (image_air, mask_air) = (look(water, bone, generator(3)) for look in (known, dark, as_air))
    assert torch.equal(image_dark, image) and mask_dark.all() and mask_air.all() and not mask.all()
    outside = mask == 0
    least = image_air.amin((-2, -1), keepdim=True).expand_as(image_air)
    assert torch.equal(image_air[~outside], image[~outside]) and torch.equal(image_air[outside], least[outside])


@pytest.mark.parametrize("gamma,slope", [(1.0, 0.0), (0.7, 0.0), (1.0, 4.0), (1.3, 2.0)])
def test_a_display_of_the_logarithm_is_that_of_the_simulation(gamma, slope) -> None:
    """Which is written for another purpose, on arrays, in 8 bits."""
    water, bone = (0.3 * part for part in tissues(1))
    look = replace(
        PLAIN, logarithmic_share=1.0, logarithmic_gamma=(gamma, gamma), logarithmic_slope=(slope, slope), logarithmic_offset=(0.5, 0.5)
    )
    image, _ = look(water, bone, generator())
    transmission = torch.exp(-mu_water_per_mm(60.0) * water - mu_bone_per_mm(60.0) * bone)[0].double().numpy()
    curve = DisplayCurve(window_percentiles=(0.0, 100.0), gamma=gamma, sigmoid=slope)
    shown = to_display(transmission, np.ones(transmission.shape, bool), curve, (1.0, 1.0))
    grey = torch.exp(-image[0, 0]) - 0.5
    assert np.abs(grey.numpy() - shown / 255.0).max() < 0.6 / 255


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
