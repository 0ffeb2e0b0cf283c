"""`sphericalreg benchmark training`: how many X-rays a second a training sees, beside a plain loop with DiffDRR's images.

The plain loop is what a DiffDRR user writes: random poses and poses near them are rendered (Siddon, without a gradient: the losses need none of the
renderer), and the same encoder learns the same loss from the two images. It has none of the randomised look that our X-rays have, no collimators and
no patient beyond the CT: all of that is in our time and not in its. Steps of both alternate, so that a machine's drift hits both alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.files import write_json
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.progress import Progress, ProgressCallback, silent
from SphericalRegLib.training.losses import Batch, spherical_loss
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.phases import GRADIENT_NORM
from SphericalRegLib.training.trainer import Trainer

from .benchmark_rivals import diffdrr_images, missing_rivals
from .tables import Table, Value

ENCODER, REGRESSOR, IMAGES, PLAIN = "encoder", "regressor", "encoder's images alone", "plain loop, DiffDRR"


@dataclass(frozen=True)
class TrainingSpeed:
    """Median seconds of a step of `batch` X-rays, by name; `PLAIN` only where DiffDRR is installed."""

    device: str
    threads: int
    batch: int
    steps: int
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @property
    def ratio(self) -> float | None:
        """X-rays a second of our encoder's training over the plain loop's."""
        return self.seconds[PLAIN] / self.seconds[ENCODER] if PLAIN in self.seconds else None

    def table(self) -> Table:
        """One row for each kind of step."""
        rows: list[tuple[Value, ...]] = [
            (name, 1000 * seconds, self.batch / seconds, seconds / self.seconds[ENCODER]) for name, seconds in self.seconds.items()
        ]
        return Table(("step", "ms", "X-rays/s", "time / encoder's"), tuple(rows))

    def write(self, out: Path) -> list[Path]:
        """benchmark_training.md, .csv and .json."""
        heading = f"# Training speed\n\nMedians of {self.steps} steps of {self.batch} X-rays on {self.device}, {self.threads} CPU threads."
        write_json(out / "benchmark_training.json", self.to_dict())
        return [*self.table().write(out / "benchmark_training", heading=heading), out / "benchmark_training.json"]


def run_training_benchmark(
    volume: Volume, camera: Camera, options: TrainingOptions, steps: int = 10, *, device: str = "cpu", progress: ProgressCallback = silent
) -> TrainingSpeed:
    """Time steps of both networks' trainings, and of the plain loop where DiffDRR is installed.

    Args:
        volume, camera: as of `training.trainer.Trainer`.
        options: of the training; the length does not count.
        steps: of each kind, after one that is not counted.
        device: "cpu", "cuda", ...
        progress: called before each round of steps.

    Raises:
        InputError: less than one step.
    """
    if steps < 1:
        raise InputError(f"{steps} steps were to be timed; expected at least 1.")
    options = replace(options, iterations=None)
    ours = Trainer([volume], camera, replace(options, regressor=None), device)
    works: dict[str, Callable[[], object]] = {ENCODER: ours.step, IMAGES: lambda: ours.batches.pairs(ours.scenes[0])}
    if options.regressor is not None:
        works[REGRESSOR] = Trainer([volume], camera, replace(options, regressor_share=0.5), device).step  # no clock runs
    if "diffdrr" not in missing_rivals():
        works[PLAIN] = plain_step(Trainer([volume], camera, replace(options, regressor=None), device))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(steps + 1):
        progress(Progress("benchmark", number, steps + 1))
        for name, work in works.items():
            seconds[name].append(_timed(work, ours.device))
    progress(Progress("benchmark", steps + 1, steps + 1))
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    return TrainingSpeed(str(device), torch.get_num_threads(), options.batch, steps, medians)


def plain_step(trainer: Trainer) -> Callable[[], float]:
    """A step of the plain loop with the trainer's encoder, optimiser, poses and loss; returns its loss. Needs DiffDRR."""
    scene, options, device = trainer.scenes[0], trainer.options, trainer.device
    images = diffdrr_images(scene.drr)
    places = options.places(trainer.camera, scene.centre)
    optimizer = trainer.phase().optimizer
    everywhere = torch.ones(options.batch, 1, *trainer.camera.size_px[::-1], device=device)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        true = options.poses.sample(options.batch, trainer.camera, scene.centre, trainer.generator)
        near = options.perturbation.sample(true, scene.centre.cpu(), trainer.generator).to(device)
        true = true.to(device)
        xray, drr = images(true)[:, None], images(near)
        batch = Batch(xray, everywhere, drr, everywhere, true, near, places)
        fixed, moving = trainer.encoder(torch.cat((xray, drr[:, None])), torch.cat((everywhere, everywhere))).split(options.batch)
        loss: Tensor = spherical_loss(fixed, moving, batch, trainer.encoder.config.embedding, options.loss)[0]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainer.encoder.parameters(), GRADIENT_NORM)
        optimizer.step()
        return float(loss.detach())

    return step


def _timed(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
