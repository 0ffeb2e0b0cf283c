"""What networks are trained on, drawn anew for every step: X-rays, and X-rays with a DRR of a pose near their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from SphericalRegLib.geometry.camera import Camera

from .losses import Batch
from .options import TrainingOptions
from .scene import TrainingScene


@dataclass(frozen=True)
class Batches:
    """Draws batches.

    Attributes:
        scenes: one for each CT; each batch is of one of them.
        camera: the camera to train with.
        options: see `TrainingOptions`.
        generator: everything random comes from it, on the CPU.
        device: where the batches go.
    """

    scenes: Sequence[TrainingScene]
    camera: Camera
    options: TrainingOptions
    generator: torch.Generator
    device: torch.device

    def scene(self) -> TrainingScene:
        """Of the next batch."""
        return self.scenes[int(torch.randint(len(self.scenes), (1,), generator=self.generator))]

    def xrays(self, scene: TrainingScene) -> tuple[Tensor, Tensor, Tensor]:
        """X-rays and masks (B, 1, S, S) with their poses (B, 4, 4)."""
        options = self.options
        truth = options.poses.sample(options.batch, self.camera, scene.centre, self.generator).to(self.device)
        goes_on = bool(torch.rand(1, generator=self.generator) < options.goes_on_share)
        image, mask = options.look(*scene.tissues(truth, goes_on=goes_on), self.generator)
        return image, mask * options.cameras.fields(len(truth), mask.shape[-1], self.generator).to(mask), truth

    def pairs(self, scene: TrainingScene) -> Batch:
        """X-rays, each with a DRR of a pose near its own."""
        xray, mask, truth = self.xrays(scene)
        start = self.options.perturbation.sample(truth.cpu(), scene.centre.cpu(), self.generator).to(self.device)
        shown = mask * scene.drr.validity(start)[:, None]
        return Batch(xray, mask, scene.drr.project(start).detach(), shown, truth, start, self.options.places(self.camera, scene.centre))
