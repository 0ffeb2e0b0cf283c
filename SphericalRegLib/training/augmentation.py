"""Domain randomisation of the X-ray side: a look that changes from sample to sample, so that a network learns anatomy and not a look.

Water and bone line integrals of one pose are recombined by a random spectrum, then scattered, blurred, made noisy, clipped and sent through a random
display curve, with tools and a collimator in front. The physics is that of `simulation` in its crudest form, spread over far wider ranges: what the
registration meets is one point in the middle of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.nist import linear_attenuation
from SphericalRegLib.models.local_contrast import blur, gaussian_window

Range = tuple[float, float]

DARKEST = 0.02
"""What a display of the logarithm shows as black at least, over the mean signal: the logarithm of nothing has no end."""


SHARES = ("clip_low", "clip_high", "collimator_depth", "missed_as_air")
"""Fields of `DomainRandomization` that cannot exceed 1, beside those that are called a share."""


@dataclass(frozen=True)
class DomainRandomization:
    """Ranges that each sample's look is drawn from (uniformly); lengths are fractions of the image's side. Widths of blurs and the percentiles are
    drawn once for a batch: a batch of different ones would need as many convolutions.

    Attributes:
        lines: lines of the spectrum.
        energy_kev: energy of a line.
        bone_gain: factor on bone's attenuation: what a CT says of bone's density is not to be relied on.
        scatter: scattered over primary intensity.
        scatter_sigma: width of the scatter's blur.
        noise: standard deviation of the noise over the intensity.
        blur_sigma: width of the detector's blur.
        clip_low, clip_high: percentiles that become black and white.
        gamma: exponent of the curve of a display that shows the signal.
        log_offset: added to such grey values before the logarithm that makes the image line-integral-like.
        logarithmic_share: share of samples on a display that shows the logarithm of the signal, as most workstations do.
        logarithmic_gamma: exponent of such a display's curve.
        logarithmic_slope: of the S-curve that follows it; 0 is a straight line.
        logarithmic_offset: as `log_offset`, of such grey values. Who reads an image is not told which of the two kinds it is.
        collimator_share: share of samples with a collimator.
        collimator_depth: what its edges cut off, at most.
        round_share: share of the collimators that are round.
        round_radius: radius of those.
        missed_share: share of the collimators that the mask knows nothing of: where a border cannot be seen, it is not found (`imaging.collimator`).
        missed_as_air: share of those whose outside is blanked and looks like air.
        tool_share: chance of each of `tools` metal wires to be in a sample.
    """

    lines: int = 3
    energy_kev: Range = (35.0, 110.0)
    bone_gain: Range = (0.7, 1.4)
    scatter: Range = (0.0, 0.4)
    scatter_sigma: Range = (0.05, 0.2)
    noise: Range = (0.0, 0.05)
    blur_sigma: Range = (0.002, 0.012)
    clip_low: Range = (0.0, 0.02)
    clip_high: Range = (0.95, 1.0)
    gamma: Range = (0.35, 1.1)
    log_offset: Range = (0.005, 0.1)
    logarithmic_share: float = 0.5
    logarithmic_gamma: Range = (0.6, 1.4)
    logarithmic_slope: Range = (0.0, 5.0)
    logarithmic_offset: Range = (0.2, 1.0)
    collimator_share: float = 0.5
    collimator_depth: float = 0.2
    round_share: float = 0.3
    round_radius: Range = (0.35, 0.6)
    missed_share: float = 0.15
    missed_as_air: float = 0.6
    tool_share: float = 0.2
    tools: int = 2

    def __post_init__(self) -> None:
        for item in fields(self):
            value, most = getattr(self, item.name), 1.0 if item.name in SHARES or item.name.endswith("_share") else math.inf
            low, high = value if isinstance(value, tuple) else (0, value)
            if not 0 <= low <= high <= most or high == math.inf:
                raise InputError(f"The look of the X-rays has {item.name} {value}; expected {_expected(value, most)}.")
        if self.lines < 1 or min(self.energy_kev[0], self.log_offset[0], self.logarithmic_offset[0]) <= 0:
            raise InputError(
                f"The look of the X-rays has {self.lines} lines of energies {self.energy_kev} keV, and logarithms of grey values plus "
                f"{self.log_offset} or {self.logarithmic_offset}; expected one line or more, and energies and offsets above zero."
            )

    def __call__(self, water_mm: Tensor, bone_mm: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Make X-rays.

        Args:
            water_mm, bone_mm: (B, H, W), path through solid water and solid cortical bone: line integrals of `imaging.attenuation`'s
                `water_bone_fractions`, mm.

        Returns:
            image (B, 1, H, W), line-integral-like with bone bright, and mask (B, 1, H, W), 0 behind the collimator as far as that is known.
        """
        draw = _Draw(len(water_mm), generator, water_mm)
        primary = self._transmission(water_mm, bone_mm, draw)[:, None]
        primary = primary * draw.wires(self.tools, self.tool_share)
        intensity = primary + draw.uniform(self.scatter) * _blur_each(primary, draw.scalar(self.scatter_sigma) * water_mm.shape[-1])
        mask = draw.collimator(self.collimator_share, self.collimator_depth, self.round_share, self.round_radius)
        intensity = _blur_each(intensity, draw.scalar(self.blur_sigma) * water_mm.shape[-1]) * (0.02 + 0.98 * mask)
        intensity = intensity * (1 + draw.uniform(self.noise) * draw.normal())
        low, high = _percentiles(intensity, draw.scalar(self.clip_low), draw.scalar(self.clip_high))
        missed = draw.chance(self.missed_share)
        as_air = missed & draw.chance(self.missed_as_air) & (mask == 0)
        grey = ((intensity - low) / (high - low + 1e-9)).clamp(0, 1) ** draw.uniform(self.gamma)
        shown, shown_logarithm = (
            -torch.log(values.masked_fill(as_air, 1.0) + draw.uniform(offset))
            for values, offset in ((grey, self.log_offset), (self._logarithmic(intensity, low, high, draw), self.logarithmic_offset))
        )
        return torch.where(draw.chance(self.logarithmic_share), shown_logarithm, shown), torch.where(missed, torch.ones_like(mask), mask)

    def _logarithmic(self, intensity: Tensor, low: Tensor, high: Tensor, draw: _Draw) -> Tensor:
        """Grey values in [0, 1], air bright, of a display that shows the logarithm of what lies between low and high."""
        darkest = DARKEST * intensity.mean((-2, -1), keepdim=True)
        low, high = (torch.maximum(level, darkest).log() for level in (low, high))
        grey = ((intensity.clamp_min(1e-9).log() - low) / (high - low + 1e-9)).clamp(0, 1) ** draw.uniform(self.logarithmic_gamma)
        slope = draw.uniform(self.logarithmic_slope).clamp_min(1e-2)  # 0 is its limit
        return (torch.tanh(slope / 2 * (grey - 0.5)) / torch.tanh(slope / 4) + 1) / 2

    def _transmission(self, water_mm: Tensor, bone_mm: Tensor, draw: _Draw) -> Tensor:
        total, weights = torch.zeros_like(water_mm), torch.zeros_like(water_mm[:, :1, :1])
        gain = draw.uniform(self.bone_gain)[:, 0]
        for _ in range(self.lines):
            weight, energy = draw.uniform((0.2, 1.0))[:, 0], draw.plain(self.energy_kev)
            water, bone = (draw.per_sample(linear_attenuation(material, energy)) for material in ("water", "bone"))
            total = total + weight * torch.exp(-(water * water_mm + gain * bone * bone_mm))
            weights = weights + weight
        return total / weights


def _expected(value: object, most: float) -> str:
    what = "two ascending numbers, neither negative" if isinstance(value, tuple) else "a number that is not negative"
    return what if most == math.inf else f"{what} nor above {most:g}"


class _Draw:
    """Random numbers for one batch, made on the CPU so that every device sees the same ones."""

    def __init__(self, batch: int, generator: torch.Generator, like: Tensor) -> None:
        self.batch, self.generator, self.like = batch, generator, like

    def uniform(self, span: Range) -> Tensor:
        return self._values(span).to(self.like)

    def plain(self, span: Range) -> np.ndarray:
        """The same as an array (B,)."""
        return self._values(span).flatten().numpy()

    def _values(self, span: Range) -> Tensor:
        return torch.rand(self.batch, 1, 1, 1, generator=self.generator) * (span[1] - span[0]) + span[0]

    def scalar(self, span: Range) -> float:
        """One value for the whole batch, where a batch of different ones would need as many convolutions."""
        return float(torch.rand(1, generator=self.generator)) * (span[1] - span[0]) + span[0]

    def per_sample(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.like)[:, None, None]

    def normal(self) -> Tensor:
        return torch.randn(self.batch, 1, *self.like.shape[-2:], generator=self.generator).to(self.like)

    def chance(self, share: float) -> Tensor:
        return (torch.rand(self.batch, 1, 1, 1, generator=self.generator) < share).to(self.like.device)

    def collimator(self, share: float, depth: float, round_share: float, radius: Range) -> Tensor:
        """(B, 1, H, W): 1 inside a rectangle turned by a few degrees, or a circle about a place near the middle."""
        rows, columns = self._grid()
        turn = self.uniform((-0.1, 0.1))
        u, v = columns * turn.cos() + rows * turn.sin(), rows * turn.cos() - columns * turn.sin()
        left, right, top, bottom = (0.5 - self.uniform((-0.05, depth)).clamp_min(0) for _ in range(4))
        rectangle = (u > -left) & (u < right) & (v > -top) & (v < bottom)
        circle = (columns - self.uniform((-0.05, 0.05))).square() + (rows - self.uniform((-0.05, 0.05))).square() < self.uniform(radius).square()
        inside = torch.where(self.chance(round_share), circle, rectangle)
        return torch.where(self.chance(share), inside.to(self.like), torch.ones((), dtype=self.like.dtype, device=self.like.device))

    def wires(self, count: int, share: float) -> Tensor:
        """(B, 1, H, W): transmission of straight metal wires, ends inside the image or beyond."""
        rows, columns = self._grid()
        transmission = torch.ones(self.batch, 1, *self.like.shape[-2:]).to(self.like)
        for _ in range(count):
            angle, offset, width = self.uniform((0, 3.1416)), self.uniform((-0.5, 0.5)), self.uniform((0.01, 0.04))
            across = columns * angle.sin() - rows * angle.cos() - offset
            along = columns * angle.cos() + rows * angle.sin()
            wire = (across.abs() < width / 2) & (along > self.uniform((-0.7, 0.3)))
            transmission = torch.where(wire & self.chance(share), self.uniform((0.02, 0.5)), transmission)
        return transmission

    def _grid(self) -> tuple[Tensor, Tensor]:
        rows, columns = (torch.linspace(-0.5, 0.5, size, dtype=self.like.dtype, device=self.like.device) for size in self.like.shape[-2:])
        return rows[:, None], columns[None, :]


def _blur_each(image: Tensor, sigma_px: float) -> Tensor:
    if sigma_px < 0.2:
        return image
    kernel = gaussian_window(sigma_px, image.dtype, image.device)
    return blur(image, kernel) / blur(torch.ones_like(image[:1]), kernel)


def _percentiles(image: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    values = torch.quantile(image.flatten(1), torch.tensor([low, high], dtype=image.dtype, device=image.device), dim=1)
    return values[0][:, None, None, None], values[1][:, None, None, None]
