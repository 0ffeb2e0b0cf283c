"""The training loop: one phase after the other, for one CT or for several, saved and watched on the way."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import recentred
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.identity import ct_identity
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.models.encoder import SphericalEncoder
from SphericalRegLib.models.regressor import PoseRegressor
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback, silent

from . import parallel
from .batches import Batches
from .clock import Clock, why_stop
from .options import TrainingOptions
from .phases import EncoderPhase, Phase, RegressorPhase
from .recipe import PACE, Recipe
from .scene import TrainingScene
from .state import Count, State, moments_of, read_state, restore_moments, write_state
from .validation import Validation


class Trainer:
    """Owns networks, phases and random state; `run` trains until the time is over, and may be called again after a resume.

    Args:
        volumes: one CT (patient-specific) or several.
        camera: the camera to train with, square, of the encoder's image size.
        options: see `TrainingOptions`.
        device: where to train.
        base: a model to start from instead of random weights; it stays as it is.
        group: the processes that train together; each makes its own Trainer with the same arguments.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        camera: Camera,
        options: TrainingOptions,
        device: torch.device | str = "cpu",
        base: Model | None = None,
        group: parallel.Group = parallel.ALONE,
    ) -> None:
        for name, network in (("encoder", options.encoder), ("regressor", options.regressor)):
            size = camera.rows if network is None else network.trunk.image_size
            if tuple(camera.size_px) != (size, size):
                raise InputError(f"The training camera has {camera.size_px} pixels; the {name} expects {(size, size)}.")
        self.options, self.camera, self.device = options, camera, torch.device(device)
        self.group = group
        self.generator = torch.Generator().manual_seed(_seed_of(options.seed, group.rank, 0))
        cts = [ct_identity(attenuation(volume, labels=options.labels), volume.name) for volume in volumes]
        self.recipe = Recipe.of(options, camera, cts, base)
        self.scenes = [TrainingScene.of(volume, camera, device, options.labels) for volume in volumes]
        with torch.random.fork_rng(devices=[]):  # whoever called goes on with its own random numbers
            torch.default_generator.manual_seed(options.seed)
            self.encoder = SphericalEncoder(options.encoder) if base is None else copy.deepcopy(base.encoder).requires_grad_(True)
            self.regressor = self._make_regressor(base)
        if base is None and self.regressor is not None and not options.regressor_share:
            raise InputError("A regressor without a share of the training would stay as random as it is; expected a share, a base, or no regressor.")
        networks = [network for network in (self.encoder, self.regressor) if network is not None]
        self.networks = nn.ModuleList(networks).to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.batches = Batches(self.scenes, camera, options, self.generator, self.device)
        self.fresh = base is None
        self.phases = self._make_phases()
        self.count = Count()
        self.clock = Clock(options)
        self.validation: Validation | None = None

    def _make_regressor(self, base: Model | None) -> PoseRegressor | None:
        if self.options.regressor is None:
            return None
        centre = self.scenes[0].centre
        if base is not None and base.regressor is not None:
            regressor = copy.deepcopy(base.regressor).requires_grad_(True).to(self.device)
            # What the base has learned is about its CT's centre; from now on it is about this one's.
            reference = recentred(regressor.reference.double(), regressor.centre.double(), centre)
            regressor.reference.copy_(reference)
            regressor.centre.copy_(centre)
            return regressor
        return PoseRegressor(self.options.regressor, self.options.poses.middle(self.camera, centre.cpu()), centre)

    def _make_phases(self) -> tuple[Phase, ...]:
        """In their order; a base's encoder keeps its own trunk."""
        share, regressor = self.options.regressor_share, self.regressor
        if regressor is None or not share:
            return (EncoderPhase(self.encoder, 0.0, 1.0, self.options, None),)
        trunk = regressor.trunk if self.fresh else None
        return RegressorPhase(regressor, 0.0, share, self.options), EncoderPhase(self.encoder, share, 1.0, self.options, trunk)

    def phase(self) -> Phase:
        """Whose turn it is now."""
        share = self.share_done
        return next((phase for phase in self.phases if share < phase.ends), self.phases[-1])

    @property
    def share_done(self) -> float:
        """How much of the training lies behind, in [0, 1]."""
        return self.clock.share_done(self.count.iteration, self.count.seconds)

    def run(self, progress: ProgressCallback = silent, state_path: Path | None = None) -> Model:
        """Train for what is left of the time; the state goes to `state_path` now and then, after each validation, at the end, and
        when the progress callback cancels. Anything else that ends it (an error, an interrupt) leaves the state that was saved last.

        Raises:
            InputError: the training ends before the encoder's turn. Where it can be known, before any work; else (a step took longer than all of the
                time) with the state saved, for more minutes.
            Cancelled: out of `progress`.
        """
        self._check_length()
        first = self.group.rank == 0
        if not first:  # a resumed state is the first process's; the others must not draw what it draws
            self.generator.manual_seed(_seed_of(self.options.seed, self.group.rank, self.count.iteration))
        tell = _Deferred(progress if first else silent, self.group.size > 1)
        try:
            self._train(tell, state_path if first else None)
        except Cancelled:
            self._save(state_path if first else None)
            raise
        self._save(state_path if first else None)
        if self._encoder_is_random() and not self.count.stopped:
            raise InputError(
                f"The training's {self.options.minutes:g} minutes were over before the encoder's turn, whose weights are random still: resume it "
                "with more minutes."
            )
        return self.model()

    def _check_length(self) -> None:
        steps, minutes, begins = self.options.iterations, self.options.minutes, self.phases[-1].begins
        if self.count.stopped or not self._encoder_is_random():
            return
        if steps is not None and (steps - 1) / steps < begins:
            raise InputError(f"A training of {steps} steps is over before the encoder's turn, after {begins:.0%} of them; expected more steps.")
        if steps is None and self.count.seconds >= 60 * minutes:
            raise InputError(
                f"This training has had {self.count.seconds / 60:.2g} minutes and is to have {minutes:g}, but the encoder's turn is still to come; "
                "expected more minutes."
            )

    def _encoder_is_random(self) -> bool:
        """Whether it has had no step; a base's has had its training. (A turn whose first step was cancelled has begun.)"""
        return self.fresh and self.phases[-1].began_at in (None, self.count.iteration)

    def _train(self, tell: _Deferred, state_path: Path | None) -> None:
        count = self.count
        if self._validation_is_due() and count.iteration > (count.curve[-1]["iterations"] if count.curve else 0):  # one that was cancelled
            self._validate(tell)
            self._save(state_path)
        saved = time.perf_counter()
        began = saved - count.seconds
        while self.share_done < 1 and not count.stopped:
            self._remember(self.step(lambda: tell(self._report())))
            count.seconds = self.group.from_first(time.perf_counter() - began)
            tell(self._report())
            validate = self._validation_is_due()
            if validate:
                self._validate(tell)
                began = time.perf_counter() - count.seconds  # watching is not training
            if self.group.from_first(tell.cancelled):
                raise Cancelled
            # After a validation too: whoever looks on from another process reads the curve there.
            if validate or time.perf_counter() - saved > self.options.checkpoint_seconds:
                self._save(state_path)
                saved = time.perf_counter()

    def _save(self, state_path: Path | None) -> None:
        if state_path is not None:
            self.save_state(state_path)

    def _remember(self, figures: dict[str, float]) -> None:
        """A running mean of each figure."""
        known = {name: value for name, value in figures.items() if np.isfinite(value)}
        figures = self.count.figures
        figures |= {name: 0.98 * figures.get(name, value) + 0.02 * value for name, value in known.items()}

    def _validation_is_due(self) -> bool:
        return int(self.share_done * self.options.validation.times + 1e-9) > len(self.count.curve)

    def _validate(self, progress: ProgressCallback) -> None:
        """One more point of the curve; says when enough is enough."""
        count = self.count
        if self.validation is None and self.group.rank == 0:
            self.validation = Validation(self.scenes, self.options)
        figures = {} if self.validation is None else self.validation(self.encoder, self.regressor, progress)
        count.curve.append({"seconds": count.seconds, "iterations": count.iteration, **self.group.from_first(figures)})
        count.stopped = self._why_stop()

    def _why_stop(self) -> str:
        encoder = self.phases[-1]
        begun = encoder.began_at
        errors = [point["mtre_mm"] for point in self.count.curve if begun is not None and point["iterations"] > begun]
        return why_stop(errors, self.options, encoder.begins)

    def _report(self) -> Progress:
        """Progress in steps where these are counted, in seconds otherwise."""
        options, count = self.options, self.count
        rate = count.iteration * options.batch * options.accumulate * self.group.size / max(count.seconds, 1e-9)
        shown = [f"{name} {count.figures[name]:.2f}" for name in ("DRR off", "loss") if name in count.figures]
        if count.curve:
            shown.append(f"validation {count.curve[-1]['mtre_mm']:.1f} mm")
        if count.steps_lost:
            shown.append(f"{count.steps_lost} steps lost")
        message = ", ".join((f"{rate:.0f} X-rays/s", *shown))
        if options.iterations is not None:
            return Progress("training", count.iteration, options.iterations, message, cost=count.figures.get("loss"))
        budget = max(1, round(60 * options.minutes))
        return Progress("training, seconds", min(round(count.seconds), budget), budget, message, cost=count.figures.get("loss"))

    def step(self, alive: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One optimiser step; the figures of its losses. `alive` is called on the way: a step that it cancels has not happened."""
        phase = self.phase()
        if phase.began_at is None:
            phase.begin(self.count.iteration)
            self.count.figures.pop("loss", None)  # another one from now on
        phase.set_learning_rate(self.share_done)
        before = self.generator.get_state()
        try:
            figures = self._backward(phase, alive)
        except Cancelled:
            self.generator.set_state(before)
            raise
        self.group.average_gradients(phase.network.parameters())  # the weights stay the same everywhere
        if not phase.shorten_gradient():
            self.count.steps_lost += 1
        phase.optimizer.step()
        self.count.iteration += 1
        return figures

    def _backward(self, phase: Phase, alive: Callable[[], None]) -> dict[str, float]:
        """The gradient of one step; the figures of its losses."""
        count = self.options.accumulate
        self.networks.zero_grad(set_to_none=True)
        figures: dict[str, float] = {}
        for _ in range(count):
            loss, of_batch = phase.loss(self.batches, alive)
            alive()
            (loss / count).backward()
            alive()
            of_batch = {**of_batch, "loss": float(loss.detach())}
            figures = {name: figures.get(name, 0.0) + value / count for name, value in of_batch.items()}
        return figures

    def model(self) -> Model:
        """The networks as they are, with a model card."""
        count = self.count
        card: dict[str, Any] = {
            "cts": [ct.to_dict() for ct in self.recipe.cts],
            "training": asdict(self.options),
            "iterations": count.iteration,
            "steps_lost": count.steps_lost,
            "seconds": count.seconds,
            "figures": count.figures,
            "validation": count.curve[-1] if count.curve else {},
            "curve": count.curve,
            "stopped": count.stopped or "at its end",
        }
        return Model(self.encoder, self.regressor, self.camera, card)

    def save_state(self, path: Path) -> None:
        """Everything a resume needs, in one file that is complete or absent."""
        tensors = {f"network.{name}": value for name, value in self.networks.state_dict().items()}
        tensors |= {**moments_of(self.phases), "random": self.generator.get_state()}
        share = self.share_done
        if self._encoder_is_random():  # what is to come for it is not behind, whatever the clock says
            share = min(share, self.phases[-1].begins)
        began_at = {phase.name: phase.began_at for phase in self.phases}
        write_state(State(self.recipe, self.count, share, began_at, tensors), path)

    def resume(self, path: Path) -> None:
        """Continue from a saved state. Raises InputError if it is none, or belongs to another training."""
        state = read_state(path)
        changed = self.recipe.differences(state.recipe)
        different = [name for name in changed if name not in PACE]
        if not self.recipe.has_the_very_cts_of(state.recipe) and "cts" not in different:
            different.append("cts")
        if different:
            raise InputError(f"The training state {path} was made with another {', '.join(different)}; start anew or give the same options.")
        weights = {name.removeprefix("network."): value for name, value in state.tensors.items() if name.startswith("network.")}
        self.networks.load_state_dict(weights)
        for phase in self.phases:
            phase.began_at = state.began_at[phase.name]
            restore_moments(phase, state.tensors)
        self.generator.set_state(state.tensors["random"])
        self.count = state.count
        self.clock = replace(self.clock, share=state.share, seconds=state.count.seconds)
        if {"patience", "stop_below_mm"} & set(changed):  # what was enough may not be any more
            self.count.stopped = self._why_stop()


class _Deferred:
    """Where several processes train together, one must not leave the others waiting for it: `Cancelled` is kept until all of them hear of it."""

    def __init__(self, progress: ProgressCallback, together: bool) -> None:
        self.progress, self.together, self.cancelled = progress, together, False

    def __call__(self, step: Progress) -> None:
        try:
            self.progress(step)
        except Cancelled:
            if not self.together:
                raise
            self.cancelled = True


def _seed_of(seed: int, rank: int, iteration: int) -> int:
    """Of a process's random numbers: the seed itself for the first."""
    return seed if rank == 0 else int(np.random.SeedSequence([seed, rank, iteration]).generate_state(1, np.uint64)[0] >> 1)
