"""The training loop: encoder and regressor together, for one CT or for several."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.pose_range import PoseRange
from SphericalRegLib.geometry.se3 import recentred
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.identity import ct_identity
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.models.encoder import EncoderConfig, SphericalEncoder
from SphericalRegLib.models.regressor import PoseRegressor, RegressorConfig
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback, silent
from SphericalRegLib.training import parallel
from SphericalRegLib.training.augmentation import DomainRandomization
from SphericalRegLib.training.losses import LossWeights, refinement_loss, spherical_loss
from SphericalRegLib.training.overrides import PRECISIONS, Precision, in_precision, overridden
from SphericalRegLib.training.paired import PairedProblem
from SphericalRegLib.training.poses import Perturbation
from SphericalRegLib.training.scene import TrainingScene
from SphericalRegLib.training.validation import Validation, ValidationOptions

GRADIENT_NORM = 1.0
"""Longer gradients are shortened to this."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train.

    Attributes:
        minutes: wall-clock time; the learning rate follows it, so that a short training also ends on a small one.
        iterations: so many steps in the minutes' place, where the same seed must give the same model.
        batch: X-rays per step, for the regressor.
        encoder_batch: so many of them are compared with DRRs as well, which costs several times as much.
        regressor_first: share of the training in which the regressor is trained alone, which is several times as fast; the encoder begins with its
            trunk. With a base, or without a regressor, there is no such part.
        goes_on_share: share of the batches in which the patient goes on beyond the CT's ends.
        learning_rate: peak of the one-cycle schedule.
        warm_up: share of the time in which the learning rate rises.
        weight_decay: of AdamW.
        seed: of everything random.
        checkpoint_seconds: how often the state is saved for a resume.
        accumulate: batches whose gradients are added up to one step.
        precision: "float32", or "bfloat16" for the convolutions and transformer blocks.
        validation: how the training is watched.
        stop_below_mm: end as soon as the validation's median error after Levenberg-Marquardt is below this.
        patience: end after so many validations in a row in which that error did not fall below its lowest so far. Not before half of the training:
            the learning rate is still high there, and most of the gain comes as it falls.
        labels: labels of the CT that the DRRs show (one bone of several), in every CT; None shows all of it. The X-rays always show everything.
        poses, perturbation, look, loss: what is drawn and what is asked.
        encoder, regressor: the networks; no regressor when None.
    """

    minutes: float = 10.0
    iterations: int | None = None
    batch: int = 32
    encoder_batch: int = 8
    regressor_first: float = 0.35
    goes_on_share: float = 0.75
    learning_rate: float = 1.5e-3
    warm_up: float = 0.05
    weight_decay: float = 1e-4
    seed: int = 0
    checkpoint_seconds: float = 60.0
    accumulate: int = 1
    precision: Precision = "float32"
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    stop_below_mm: float | None = None
    patience: int | None = None
    labels: tuple[int, ...] | None = None
    poses: PoseRange = field(default_factory=PoseRange)
    perturbation: Perturbation = field(default_factory=Perturbation)
    look: DomainRandomization = field(default_factory=DomainRandomization)
    loss: LossWeights = field(default_factory=LossWeights)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    regressor: RegressorConfig | None = field(default_factory=RegressorConfig)

    def __post_init__(self) -> None:
        if not self.minutes > 0 or (self.iterations is not None and self.iterations < 1) or min(self.batch, self.encoder_batch, self.accumulate) < 1:
            raise InputError(
                f"A training takes {self.minutes} minutes or {self.iterations} steps of {self.accumulate} x {self.batch} X-rays; "
                "expected positive numbers."
            )
        if self.precision not in PRECISIONS:
            raise InputError(f"The precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}.")


class Trainer:
    """Owns networks, optimiser and random state; `run` trains until the time is over, and may be called again after a resume.

    Args:
        volumes: one CT (patient-specific) or several.
        camera: the camera to train with, square, of the encoder's image size.
        options: see `TrainingOptions`.
        device: where to train.
        base: a model to start from instead of random weights.
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
        size = options.encoder.trunk.image_size
        if tuple(camera.size_px) != (size, size):
            raise InputError(f"The training camera has {camera.size_px} pixels; the encoder expects {(size, size)}.")
        torch.manual_seed(options.seed)
        self.options, self.camera, self.device = options, camera, torch.device(device)
        self.group = group
        self.generator = torch.Generator().manual_seed(_seed_of(options.seed, group.rank, 0))
        self.cts = [ct_identity(attenuation(volume, labels=options.labels), volume.name) for volume in volumes]
        self.scenes = [TrainingScene.of(volume, camera, device, options.labels) for volume in volumes]
        self.encoder = SphericalEncoder(options.encoder) if base is None else base.encoder.requires_grad_(True)
        self.regressor = self._make_regressor(base)
        networks = [network for network in (self.encoder, self.regressor) if network is not None]
        self.networks = nn.ModuleList(networks).to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), options.learning_rate, weight_decay=options.weight_decay)
        # After each process has shortened its own gradient, and before the step: the weights stay the same everywhere.
        self.optimizer.register_step_pre_hook(lambda *_: self.group.average_gradients(self.networks.parameters()))
        self.iteration = 0
        self.seconds = 0.0
        self.joined = base is not None or self.regressor is None
        self.figures: dict[str, float] = {}
        self.curve: list[dict[str, float]] = []
        self.stopped = ""
        self.validation: Validation | None = None

    def _make_regressor(self, base: Model | None) -> PoseRegressor | None:
        if self.options.regressor is None:
            return None
        centre = self.scenes[0].centre
        if base is not None and base.regressor is not None:
            regressor = base.regressor.requires_grad_(True).to(self.device)
            # What the base has learned is about its CT's centre; from now on it is about this one's.
            reference = recentred(regressor.reference.double(), regressor.centre.double(), centre)
            regressor.reference.copy_(reference)
            regressor.centre.copy_(centre)
            return regressor
        return PoseRegressor(self.options.regressor, self.options.poses.middle(self.camera, centre.cpu()), centre)

    def run(self, progress: ProgressCallback = silent, state_path: Path | None = None) -> Model:
        """Train for what is left of the time; the state goes to `state_path` now and then, after each validation, and
        when the progress callback cancels."""
        saved = time.perf_counter()
        began = saved - self.seconds
        first = self.group.rank == 0
        if not first:  # a resumed state is the first process's; the others must not draw what it draws
            self.generator.manual_seed(_seed_of(self.options.seed, self.group.rank, self.iteration))
        tell = _Deferred(progress if first else silent, self.group.size > 1)
        try:
            while (share := self._share_done(self.group.from_first(time.perf_counter() - began))) < 1 and not self.stopped:
                self._set_learning_rate(share)
                self._remember(self.step(lambda: tell(self._report())))
                self.seconds = self.group.from_first(time.perf_counter() - began)
                tell(self._report())
                validate = self._validation_is_due(self._share_done(self.seconds))
                if validate:
                    self._validate(tell)
                    began = time.perf_counter() - self.seconds  # watching is not training
                if self.group.from_first(tell.cancelled):
                    raise Cancelled
                # After a validation too: whoever looks on from another process reads the curve there.
                if state_path is not None and first and (validate or time.perf_counter() - saved > self.options.checkpoint_seconds):
                    self.save_state(state_path)
                    saved = time.perf_counter()
        finally:
            if state_path is not None and first and self.iteration:
                self.save_state(state_path)
        return self.model()

    def _remember(self, figures: dict[str, float]) -> None:
        """A running mean of each figure."""
        self.figures = {name: 0.98 * self.figures.get(name, value) + 0.02 * value for name, value in figures.items()}

    def _validation_is_due(self, share: float) -> bool:
        return int(share * self.options.validation.times + 1e-9) > len(self.curve)

    def _validate(self, progress: ProgressCallback) -> None:
        """One more point of the curve; says when enough is enough."""
        options = self.options
        if self.validation is None:
            self.validation = Validation(self.scenes, options.poses, options.look, options.validation)
        first = self.group.rank == 0
        figures = self.group.from_first(self.validation(self.encoder, self.regressor, options.loss.rho_mm, progress) if first else {})
        self.curve.append({"seconds": self.seconds, "iterations": self.iteration, **figures})
        if options.stop_below_mm is not None and figures["mtre_mm"] < options.stop_below_mm:
            self.stopped = f"the validation's median error fell below {options.stop_below_mm:g} mm"
        errors = [point["mtre_mm"] for point in self.curve]
        late = len(errors) > options.validation.times / 2
        before, recent = (errors[: -options.patience], errors[-options.patience :]) if options.patience is not None else ([], [])
        if late and before and min(recent) >= min(before):
            self.stopped = f"the validation's median error did not fall for {options.patience} validations"

    def _share_done(self, elapsed: float) -> float:
        """How much of the training lies behind, in [0, 1]."""
        options = self.options
        return self.iteration / options.iterations if options.iterations is not None else min(1.0, elapsed / (60 * options.minutes))

    def _report(self) -> Progress:
        """Progress in steps where these are counted, in seconds otherwise."""
        options = self.options
        rate = self.iteration * options.batch * options.accumulate / max(self.seconds, 1e-9)
        shown = [f"{name} {self.figures[name]:.2f}" for name in ("cosine", "loss") if name in self.figures]
        if self.curve:
            shown.append(f"validation {self.curve[-1]['mtre_mm']:.1f} mm")
        message = ", ".join((f"{rate:.0f} X-rays/s", *shown))
        if options.iterations is not None:
            return Progress("training", self.iteration, options.iterations, message, cost=self.figures.get("loss"))
        budget = max(1, round(60 * options.minutes))
        return Progress("training, seconds", min(round(self.seconds), budget), budget, message, cost=self.figures.get("loss"))

    def step(self, alive: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One optimiser step; the figures of its losses. `alive` is called on the way: a step that it cancels has not happened."""
        before = self.generator.get_state()
        try:
            figures = self._backward(alive)
        except Cancelled:
            self.generator.set_state(before)
            raise
        for network in self.networks:  # one's wild batch is not the other's
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        self.optimizer.step()
        self.iteration += 1
        return figures

    def _backward(self, alive: Callable[[], None]) -> dict[str, float]:
        """The gradient of one step; the figures of its losses."""
        options = self.options
        if not self.joined and self._share_done(self.seconds) >= options.regressor_first:
            self._join()
        self.optimizer.zero_grad(set_to_none=True)
        figures: dict[str, float] = {}
        for _ in range(options.accumulate):
            loss, of_batch = self._loss(alive)
            alive()
            (loss / options.accumulate).backward()
            alive()
            figures = {name: figures.get(name, 0.0) + value / options.accumulate for name, value in of_batch.items()}
        return figures

    def _loss(self, alive: Callable[[], None] = lambda: None) -> tuple[Tensor, dict[str, float]]:
        """Of one batch of new X-rays of one CT."""
        options = self.options
        scene = self.scenes[int(torch.randint(len(self.scenes), (1,), generator=self.generator))]
        truth = options.poses.sample(options.batch, self.camera, scene.centre, self.generator)
        few = slice(None if self.regressor is None else options.encoder_batch)
        start = options.perturbation.sample(truth[few], scene.centre.cpu(), self.generator)
        truth, start = truth.to(self.device), start.to(self.device)
        goes_on = bool(torch.rand(1, generator=self.generator) < options.goes_on_share)
        xray, mask = options.look(*scene.tissues(truth, goes_on=goes_on), self.generator)
        alive()
        trunks = [network.trunk for network in (self.encoder, self.regressor) if network is not None]
        with overridden(in_precision(options.precision, trunks)):
            loss, figures = torch.zeros((), device=self.device), dict[str, float]()
            if not self._regressor_alone():
                drr, jacobian = scene.drr.project_with_jacobian(start)
                shown = mask[few] * scene.drr.validity(start)[:, None]
                pair = (xray[few], mask[few], drr, shown, jacobian)
                loss, figures = spherical_loss(self.encoder, *pair, start, truth[few], scene.centre, options.loss)
            if options.loss.refinement and not self._regressor_alone():
                problem = PairedProblem(self.encoder, self.encoder(xray[few], mask[few]), mask[few], scene.drr)
                left = refinement_loss(problem, start, truth[few], scene.centre, options.loss)
                loss = loss + options.loss.refinement * left
                figures["left"] = float(left.detach())
            alive()
            if self.regressor is not None:
                about = self.regressor.centre  # of the first CT: the pose is what it would be if this CT's centre lay there
                pose = recentred(truth, scene.centre, about.to(truth)).float()
                likelihood = self.regressor(xray, mask).negative_log_likelihood(pose, about).mean()
                loss = loss + likelihood  # the networks share no weights: no balance is to be kept
                figures["pose nll"] = float(likelihood.detach())
        return loss, {**figures, "loss": float(loss.detach())}

    def _regressor_alone(self) -> bool:
        return self.regressor is not None and not self.joined

    def _join(self) -> None:
        """The encoder enters, with the trunk that the regressor has learned: what tells poses apart is what a distance between poses needs."""
        if self.regressor is not None and self.regressor.config.trunk == self.encoder.config.trunk:
            self.encoder.trunk.load_state_dict(self.regressor.trunk.state_dict())
        self.joined = True

    def model(self) -> Model:
        """The networks as they are, with a model card."""
        card: dict[str, Any] = {
            "cts": [ct.to_dict() for ct in self.cts],
            "training": asdict(self.options),
            "iterations": self.iteration,
            "seconds": self.seconds,
            "figures": self.figures,
            "validation": self.curve[-1] if self.curve else {},
            "curve": self.curve,
            "stopped": self.stopped or "at its end",
        }
        return Model(self.encoder, self.regressor, self.camera, card)

    def _identity(self) -> dict[str, Any]:
        """What must be the same when a training goes on."""
        cts = [ct.to_dict() for ct in self.cts]
        return json.loads(json.dumps({"options": asdict(self.options), "camera": self.camera.to_dict(), "cts": cts}))

    def save_state(self, path: Path) -> None:
        """Everything a resume needs, in one safetensors file that is complete or absent."""
        tensors: dict[str, Tensor] = {f"network.{name}": value for name, value in self.networks.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors["random"] = self.generator.get_state()
        now = {"iteration": self.iteration, "seconds": self.seconds, "figures": self.figures, "curve": self.curve, "joined": self.joined}
        header = {**now, **self._identity()}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, partial, metadata={"state": json.dumps(header)})
        partial.replace(path)

    def resume(self, path: Path) -> None:
        """Continue from a saved state. Raises InputError if it is none, or belongs to another training."""
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})["state"])
        except (OSError, SafetensorError, KeyError, ValueError):
            raise InputError(f"{path} is not the state of a training, or was cut short.") from None
        different = _differences(self._identity(), header)
        if different:
            raise InputError(f"The training state {path} was made with another {', '.join(different)}; start anew or give the same options.")
        tensors = load_file(path)
        self.networks.load_state_dict({name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        self.optimizer.load_state_dict({"state": state, "param_groups": self.optimizer.state_dict()["param_groups"]})
        self.generator.set_state(tensors["random"])
        self.iteration, self.seconds, self.figures, self.curve, self.joined = (
            header[name] for name in ("iteration", "seconds", "figures", "curve", "joined")
        )

    def _set_learning_rate(self, share: float) -> None:
        rise = self.options.warm_up
        factor = share / rise if share < rise else 0.5 + 0.5 * math.cos(math.pi * (share - rise) / (1 - rise))
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate * max(factor, 1e-3)


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Which options, or what else, differ between two trainings; how long they take does not count."""
    names = [name for name, value in expected["options"].items() if found.get("options", {}).get(name) != value and name != "minutes"]
    return names + [name for name in ("camera", "cts") if found.get(name) != expected[name]]


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
