"""The training loop: the regressor, then the encoder, for one CT or for several."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
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
from SphericalRegLib.training.losses import Batch, LossWeights, gradient_loss, refinement_loss, spherical_loss
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
        batch: X-rays per step, each with a DRR.
        derivative_batch: so many of them enter the losses that need the image Jacobian, which cost several times as much.
        regressor_share: share of the training that the regressor has, before the encoder: what tells poses apart is what a distance between poses
            needs, so the encoder begins with the regressor's trunk (or its own, with a base). Trained at once on one trunk, each gets less far.
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
        patience: end after so many validations in a row in which that error did not fall below its lowest so far. Not before half of the encoder's
            part: the learning rate is still high there, and most of the gain comes as it falls.
        labels: labels of the CT that the DRRs show (one bone of several), in every CT; None shows all of it. The X-rays always show everything.
        poses, perturbation, look, loss: what is drawn and what is asked.
        encoder, regressor: the networks; no regressor when None.
    """

    minutes: float = 10.0
    iterations: int | None = None
    batch: int = 32
    derivative_batch: int = 8
    regressor_share: float = 0.45
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
        counts = (self.batch, self.derivative_batch, self.accumulate, 1 if self.iterations is None else self.iterations)
        if not self.minutes > 0 or min(counts) < 1:
            raise InputError(
                f"A training takes {self.minutes} minutes or {self.iterations} steps of {self.accumulate} x {self.batch} X-rays; "
                "expected positive numbers."
            )
        if not 0 <= self.regressor_share < 1:
            raise InputError(f"The regressor's share of the training is {self.regressor_share}; expected at least 0 and less than 1.")
        if self.precision not in PRECISIONS:
            raise InputError(f"The precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}.")
        if not self.loss.fit(self.encoder.embedding):
            raise InputError(f"Embeddings of the kind {self.encoder.embedding!r} have no place for poses: the loss 'anchor' needs 'so4'.")


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
        if base is None and self.regressor is not None and not options.regressor_share:
            raise InputError("A regressor without a share of the training would stay as random as it is; expected a share, a base, or no regressor.")
        networks = [network for network in (self.encoder, self.regressor) if network is not None]
        self.networks = nn.ModuleList(networks).to(self.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.networks.parameters(), options.learning_rate, weight_decay=options.weight_decay)
        # After each process has shortened its own gradient, and before the step: the weights stay the same everywhere.
        self.optimizer.register_step_pre_hook(lambda *_: self.group.average_gradients(self.networks.parameters()))
        self.iteration = 0
        self.seconds = 0.0
        self.handed_on_at = 0 if base is not None or self.regressor is None else None
        self.resumed_at = (0.0, 0.0)
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
        self.figures |= {name: 0.98 * self.figures.get(name, value) + 0.02 * value for name, value in figures.items()}

    def _validation_is_due(self, share: float) -> bool:
        return int(share * self.options.validation.times + 1e-9) > len(self.curve)

    def _validate(self, progress: ProgressCallback) -> None:
        """One more point of the curve; says when enough is enough."""
        options = self.options
        if self.validation is None:
            self.validation = Validation(self.scenes, options.poses, options.look, options.validation)
        first = self.group.rank == 0
        figures = self.group.from_first(self.validation(self.encoder, self.regressor, options.loss.metric, progress) if first else {})
        self.curve.append({"seconds": self.seconds, "iterations": self.iteration, **figures})
        # Of the encoder alone: while the regressor has its turn, the similarity knows nothing.
        errors = [point["mtre_mm"] for point in self.curve if self.handed_on_at is not None and point["iterations"] >= self.handed_on_at]
        if options.stop_below_mm is not None and errors and errors[-1] < options.stop_below_mm:
            self.stopped = f"the validation's median error fell below {options.stop_below_mm:g} mm"
        late = len(errors) > options.validation.times * (1 - self._first_share) / 2
        before, recent = (errors[: -options.patience], errors[-options.patience :]) if options.patience is not None else ([], [])
        if late and before and min(recent) >= min(before):
            self.stopped = f"the validation's median error did not fall for {options.patience} validations"

    def _share_done(self, elapsed: float) -> float:
        """How much of the training lies behind, in [0, 1]."""
        options = self.options
        if options.iterations is not None:
            return self.iteration / options.iterations
        share, seconds = self.resumed_at  # with other minutes than before, what is left takes what is left of them
        left = 60 * options.minutes - seconds
        return min(1.0, share + (1 - share) * (elapsed - seconds) / left) if left > 0 else 1.0

    def _report(self) -> Progress:
        """Progress in steps where these are counted, in seconds otherwise."""
        options = self.options
        rate = self.iteration * options.batch * options.accumulate / max(self.seconds, 1e-9)
        shown = [f"{name} {self.figures[name]:.2f}" for name in ("DRR off", "loss") if name in self.figures]
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
        nn.utils.clip_grad_norm_(self.networks.parameters(), GRADIENT_NORM)  # of the network whose turn it is
        self.optimizer.step()
        self.iteration += 1
        return figures

    def _backward(self, alive: Callable[[], None]) -> dict[str, float]:
        """The gradient of one step; the figures of its losses."""
        options = self.options
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
        """Of one batch of new X-rays of one CT, for the network whose turn it is."""
        scene = self.scenes[int(torch.randint(len(self.scenes), (1,), generator=self.generator))]
        regressor = self.regressor if self._is_the_regressors(self._share_done(self.seconds)) else None
        if regressor is None and self.handed_on_at is None:
            self._hand_on()
        loss, figures = self._encoder_loss(scene, alive) if regressor is None else self._regressor_loss(regressor, scene, alive)
        return loss, {**figures, "loss": float(loss.detach())}

    @property
    def _first_share(self) -> float:
        """The regressor's."""
        return 0.0 if self.regressor is None else self.options.regressor_share

    def _is_the_regressors(self, share: float) -> bool:
        return share < self._first_share

    def _hand_on(self) -> None:
        """The encoder begins, with the trunk that the regressor has learned where both are built alike."""
        if self.regressor is not None and self.regressor.config.trunk == self.encoder.config.trunk:
            self.encoder.trunk.load_state_dict(self.regressor.trunk.state_dict())
        self.figures.pop("loss", None)  # another one from now on
        self.handed_on_at = self.iteration + 1

    def _regressor_loss(self, regressor: PoseRegressor, scene: TrainingScene, alive: Callable[[], None]) -> tuple[Tensor, dict[str, float]]:
        xray, mask, truth = self._xrays(scene)
        alive()
        about = regressor.centre  # of the first CT: the pose is what it would be if this CT's centre lay there
        pose = recentred(truth, scene.centre, about.to(truth)).float()
        with overridden(in_precision(self.options.precision, [regressor.trunk])):
            loss = regressor(xray, mask).negative_log_likelihood(pose, about).mean()
        return loss, {"pose nll": float(loss.detach())}

    def _encoder_loss(self, scene: TrainingScene, alive: Callable[[], None]) -> tuple[Tensor, dict[str, float]]:
        options, encoder = self.options, self.encoder
        batch = self.draw_pairs(scene)
        alive()
        with overridden(in_precision(options.precision, [encoder.trunk])):
            both = encoder(torch.cat((batch.xray, batch.drr[:, None])), torch.cat((batch.mask, batch.drr_mask)))
            fixed, moving = both.split(len(batch.xray))
            loss, figures = spherical_loss(fixed, moving, batch, encoder.config.embedding, options.loss)
            if options.loss.need_derivatives:
                alive()
                extra, more = self._derivative_loss(scene, batch)
                loss, figures = loss + extra, {**figures, **more}
        return loss, figures

    def _xrays(self, scene: TrainingScene) -> tuple[Tensor, Tensor, Tensor]:
        """X-rays and masks (B, 1, S, S) with their poses (B, 4, 4)."""
        options = self.options
        truth = options.poses.sample(options.batch, self.camera, scene.centre, self.generator).to(self.device)
        goes_on = bool(torch.rand(1, generator=self.generator) < options.goes_on_share)
        return (*options.look(*scene.tissues(truth, goes_on=goes_on), self.generator), truth)

    def draw_pairs(self, scene: TrainingScene) -> Batch:
        """X-rays, each with a DRR of a pose near its own."""
        xray, mask, truth = self._xrays(scene)
        start = self.options.perturbation.sample(truth.cpu(), scene.centre.cpu(), self.generator).to(self.device)
        shown = mask * scene.drr.validity(start)[:, None]
        reference = self.options.poses.middle(self.camera, scene.centre.cpu()).to(self.device)
        return Batch(xray, mask, scene.drr.project(start).detach(), shown, truth, start, scene.centre, reference)

    def _derivative_loss(self, scene: TrainingScene, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """Of the first few of a batch."""
        weights, few = self.options.loss, slice(self.options.derivative_batch)
        part = replace(batch, **{name: getattr(batch, name)[few] for name in ("xray", "mask", "drr", "drr_mask", "true_pose", "drr_pose")})
        loss, figures = batch.drr.new_zeros(()), dict[str, float]()
        if weights.gradient:
            _, jacobian = scene.drr.project_with_jacobian(part.drr_pose)
            error, figures = gradient_loss(self.encoder, part, jacobian, weights)
            loss = loss + weights.gradient * error
        if weights.refinement:
            problem = PairedProblem(self.encoder, self.encoder(part.xray, part.mask), part.mask, scene.drr)
            left = refinement_loss(problem, part.drr_pose, part.true_pose, scene.centre, weights)
            loss = loss + weights.refinement * left
            figures["left"] = float(left.detach())
        return loss, figures

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
        now = {"iteration": self.iteration, "seconds": self.seconds, "figures": self.figures, "curve": self.curve}
        now |= {"handed_on_at": self.handed_on_at, "share": self._share_done(self.seconds)}
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
        self.iteration, self.seconds, self.figures, self.curve, self.handed_on_at = (
            header[name] for name in ("iteration", "seconds", "figures", "curve", "handed_on_at")
        )
        self.resumed_at = (header["share"], header["seconds"])

    def _set_learning_rate(self, share: float) -> None:
        """One cycle for each network."""
        first = self._first_share
        share = share / first if self._is_the_regressors(share) else (share - first) / (1 - first)
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
