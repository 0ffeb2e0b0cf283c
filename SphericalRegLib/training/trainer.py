"""The training loop: one phase after the other, for one CT or for several; its clock, its state on disk, and how it is watched."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import recentred
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.files import write_atomically
from SphericalRegLib.imaging.identity import ct_identity
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.models.encoder import SphericalEncoder
from SphericalRegLib.models.regressor import PoseRegressor
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback, silent

from . import parallel
from .batches import Batches
from .options import TrainingOptions
from .phases import EncoderPhase, Phase, RegressorPhase
from .scene import TrainingScene
from .validation import Validation

FORMAT = "sphericalreg training 4"
"""Of a state on disk."""

COUNTED = ("iteration", "steps_lost", "seconds", "figures", "curve", "stopped")
"""What a trainer keeps count of, and its state with it."""


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
        self.cts = [ct_identity(attenuation(volume, labels=options.labels), volume.name) for volume in volumes]
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
        self.base = None if base is None else base.identity.get("sha256", "")
        self.phases = self._make_phases()
        self.iteration = 0
        self.steps_lost = 0
        self.seconds = 0.0
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
        trunk = regressor.trunk if self.base is None else None
        return RegressorPhase(regressor, 0.0, share, self.options), EncoderPhase(self.encoder, share, 1.0, self.options, trunk)

    def phase(self) -> Phase:
        """Whose turn it is now."""
        share = self._share_done(self.seconds)
        return next((phase for phase in self.phases if share < phase.ends), self.phases[-1])

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
            self.generator.manual_seed(_seed_of(self.options.seed, self.group.rank, self.iteration))
        tell = _Deferred(progress if first else silent, self.group.size > 1)
        try:
            self._train(tell, state_path if first else None)
        except Cancelled:
            self._save(state_path if first else None)
            raise
        self._save(state_path if first else None)
        if self._encoder_is_random() and not self.stopped:
            raise InputError(
                f"The training's {self.options.minutes:g} minutes were over before the encoder's turn, whose weights are random still: resume it "
                "with more minutes."
            )
        return self.model()

    def _check_length(self) -> None:
        steps, minutes, begins = self.options.iterations, self.options.minutes, self.phases[-1].begins
        if self.stopped or not self._encoder_is_random():
            return
        if steps is not None and (steps - 1) / steps < begins:
            raise InputError(f"A training of {steps} steps is over before the encoder's turn, after {begins:.0%} of them; expected more steps.")
        if steps is None and self.seconds >= 60 * minutes:
            raise InputError(
                f"This training has had {self.seconds / 60:.2g} minutes and is to have {minutes:g}, but the encoder's turn is still to come; "
                "expected more minutes."
            )

    def _encoder_is_random(self) -> bool:
        """Whether it has had no step; a base's has had its training."""
        return self.base is None and self.phases[-1].began_at is None

    def _train(self, tell: _Deferred, state_path: Path | None) -> None:
        if self._validation_is_due() and self.iteration > (self.curve[-1]["iterations"] if self.curve else 0):  # one that was cancelled
            self._validate(tell)
            self._save(state_path)
        saved = time.perf_counter()
        began = saved - self.seconds
        while self._share_done(self.seconds) < 1 and not self.stopped:
            self._remember(self.step(lambda: tell(self._report())))
            self.seconds = self.group.from_first(time.perf_counter() - began)
            tell(self._report())
            validate = self._validation_is_due()
            if validate:
                self._validate(tell)
                began = time.perf_counter() - self.seconds  # watching is not training
            if self.group.from_first(tell.cancelled):
                raise Cancelled
            # After a validation too: whoever looks on from another process reads the curve there.
            if validate or time.perf_counter() - saved > self.options.checkpoint_seconds:
                self._save(state_path)
                saved = time.perf_counter()

    def _save(self, state_path: Path | None) -> None:
        if state_path is not None and self.iteration:
            self.save_state(state_path)

    def _remember(self, figures: dict[str, float]) -> None:
        """A running mean of each figure."""
        known = {name: value for name, value in figures.items() if np.isfinite(value)}
        self.figures |= {name: 0.98 * self.figures.get(name, value) + 0.02 * value for name, value in known.items()}

    def _validation_is_due(self) -> bool:
        return int(self._share_done(self.seconds) * self.options.validation.times + 1e-9) > len(self.curve)

    def _validate(self, progress: ProgressCallback) -> None:
        """One more point of the curve; says when enough is enough."""
        options, first = self.options, self.group.rank == 0
        if self.validation is None and first:
            self.validation = Validation(self.scenes, options.poses, options.look, options.validation)
        figures: dict[str, float] = {}
        if self.validation is not None:
            figures = self.validation(self.encoder, self.regressor, options.loss, progress)
        self.curve.append({"seconds": self.seconds, "iterations": self.iteration, **self.group.from_first(figures)})
        # Of the encoder alone: while the regressor has its turn, the similarity stays what it was.
        encoder = self.phases[-1]
        begun = encoder.began_at
        errors = [point["mtre_mm"] for point in self.curve if begun is not None and point["iterations"] > begun]
        if options.stop_below_mm is not None and errors and errors[-1] < options.stop_below_mm:
            self.stopped = f"the validation's median error fell below {options.stop_below_mm:g} mm"
        late = len(errors) > options.validation.times * (1 - encoder.begins) / 2
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
        rate = self.iteration * options.batch * options.accumulate * self.group.size / max(self.seconds, 1e-9)
        shown = [f"{name} {self.figures[name]:.2f}" for name in ("DRR off", "loss") if name in self.figures]
        if self.curve:
            shown.append(f"validation {self.curve[-1]['mtre_mm']:.1f} mm")
        if self.steps_lost:
            shown.append(f"{self.steps_lost} steps lost")
        message = ", ".join((f"{rate:.0f} X-rays/s", *shown))
        if options.iterations is not None:
            return Progress("training", self.iteration, options.iterations, message, cost=self.figures.get("loss"))
        budget = max(1, round(60 * options.minutes))
        return Progress("training, seconds", min(round(self.seconds), budget), budget, message, cost=self.figures.get("loss"))

    def step(self, alive: Callable[[], None] = lambda: None) -> dict[str, float]:
        """One optimiser step; the figures of its losses. `alive` is called on the way: a step that it cancels has not happened."""
        phase = self.phase()
        if phase.began_at is None:
            phase.begin(self.iteration)
            self.figures.pop("loss", None)  # another one from now on
        phase.set_learning_rate(self._share_done(self.seconds))
        before = self.generator.get_state()
        try:
            figures = self._backward(phase, alive)
        except Cancelled:
            self.generator.set_state(before)
            raise
        if not phase.shorten_gradient():
            self.steps_lost += 1
        self.group.average_gradients(phase.network.parameters())  # the weights stay the same everywhere
        phase.optimizer.step()
        self.iteration += 1
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
        card: dict[str, Any] = {
            "cts": [ct.to_dict() for ct in self.cts],
            "training": asdict(self.options),
            "iterations": self.iteration,
            "steps_lost": self.steps_lost,
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
        return json.loads(json.dumps({"options": asdict(self.options), "camera": self.camera.to_dict(), "cts": cts, "base": self.base}))

    def save_state(self, path: Path) -> None:
        """Everything a resume needs, in one safetensors file that is complete or absent."""
        tensors: dict[str, Tensor] = {f"network.{name}": value for name, value in self.networks.state_dict().items()}
        for phase in self.phases:
            for index, state in phase.optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{phase.name}.{index}.{name}": value for name, value in state.items()}
        tensors["random"] = self.generator.get_state()
        now = {name: getattr(self, name) for name in COUNTED}
        share = self._share_done(self.seconds)
        if self._encoder_is_random():  # what is to come for it is not behind, whatever the clock says
            share = min(share, self.phases[-1].begins)
        now |= {"began_at": {phase.name: phase.began_at for phase in self.phases}, "share": share}
        header = {"format": FORMAT, **now, **self._identity()}
        stored = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        write_atomically(path, lambda temporary: save_file(stored, temporary, metadata={"state": json.dumps(header)}))

    def resume(self, path: Path) -> None:
        """Continue from a saved state. Raises InputError if it is none, or belongs to another training."""
        try:
            with safe_open(path, "pt") as file:
                header = json.loads((file.metadata() or {})["state"])
        except (OSError, SafetensorError, KeyError, ValueError):
            raise InputError(f"{path} is not the state of a training, or was cut short.") from None
        if header.get("format") != FORMAT:
            raise InputError(f"The training state {path} has the format {header.get('format')!r}; this version goes on with {FORMAT!r}: delete it.")
        different = _differences(self._identity(), header)
        if different:
            raise InputError(f"The training state {path} was made with another {', '.join(different)}; start anew or give the same options.")
        tensors = load_file(path)
        self.networks.load_state_dict({name.removeprefix("network."): value for name, value in tensors.items() if name.startswith("network.")})
        for phase in self.phases:
            phase.began_at = header["began_at"][phase.name]
            phase.optimizer.load_state_dict({"state": _moments(tensors, phase), "param_groups": phase.optimizer.state_dict()["param_groups"]})
        self.generator.set_state(tensors["random"])
        for name in COUNTED:
            setattr(self, name, header[name])
        self.resumed_at = (header["share"], header["seconds"])


def _moments(tensors: dict[str, Tensor], phase: Phase) -> dict[int, dict[str, Tensor]]:
    """What a phase's optimiser had remembered of each parameter, in memory of its own (a file's tensors lie in the file, which could not be replaced
    then on every system) and laid out as the parameter is."""
    parameters = [parameter for group in phase.optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(f"optimizer.{phase.name}."):
            _, _, index, key = name.split(".", 3)
            parameter = parameters[int(index)]
            own = torch.empty_like(parameter, dtype=value.dtype, device=value.device) if value.shape == parameter.shape else torch.empty_like(value)
            state.setdefault(int(index), {})[key] = own.copy_(value)
    return state


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Which options, or what else, differ between two trainings; how long they take does not count."""
    names = [name for name, value in expected["options"].items() if found.get("options", {}).get(name) != value and name != "minutes"]
    return names + [name for name in ("camera", "cts", "base") if found.get(name) != expected[name]]


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
