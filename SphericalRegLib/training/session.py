"""One training from beginning to end: checks, resume, the state on disk, the model with its card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.attenuation import attenuation
from SphericalRegLib.imaging.identity import ct_identity
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.checkpoint import Model, load_model, save_model
from SphericalRegLib.progress import ProgressCallback, silent
from SphericalRegLib.registration.result import software_versions

from .files import check_target, state_path
from .options import TrainingOptions
from .parallel import ALONE, Group
from .recipe import Recipe, sha256_of
from .trainer import Trainer


@dataclass(frozen=True)
class About:
    """What a model card says beside the figures.

    Attributes:
        anatomy: what the CTs show.
        command: that makes the model again.
        base: the model that the training started from, or an empty text.
    """

    anatomy: str = ""
    command: str = ""
    base: str = ""


def train(
    volumes: Sequence[Volume],
    camera: Camera,
    options: TrainingOptions,
    out: str | Path,
    *,
    about: About = About(),
    base: Model | None = None,
    resume: bool = False,
    device: torch.device | str = "cpu",
    group: Group = ALONE,
    progress: ProgressCallback = silent,
) -> Model:
    """Train, and write the model with its card to `out`; returns what was written, as `load_model` does (in the first process).

    Args:
        volumes: one CT (patient-specific) or several (patient-agnostic).
        camera: see `Trainer`.
        options: see `TrainingOptions`; with a base its networks' configurations are the base's.
        out: the model, .safetensors; the state of an unfinished training lies beside it and goes when the model is written.
        about: for the card.
        base: a model to start from.
        resume: go on with the unfinished training of this model.
        device: where to train.
        group: the processes that train together; the first one writes.
        progress: called after every step; raise `Cancelled` from it to stop: the state is saved.

    Raises:
        InputError: see `check_target` and `Trainer`; the state is that of another training.
        Cancelled: out of `progress`.
    """
    out = Path(out)
    if group.rank == 0:
        check_target(out, resume)
    options = options.based_on(base)
    trainer = Trainer(volumes, camera, options, device, base, group)
    if resume:
        trainer.resume(state_path(out))
    made = trainer.run(progress, state_path(out))
    card = {**card_of(about, options, trainer.device), "base_sha256": sha256_of(base), "processes": group.size, **made.card}
    model = replace(made, card=card)
    if group.rank > 0:
        return model
    save_model(model, out)
    state_path(out).unlink(missing_ok=True)
    return load_model(out, device)


def trained(
    volumes: Sequence[Volume],
    camera: Camera,
    options: TrainingOptions,
    out: Path,
    *,
    about: About = About(),
    base: Model | None = None,
    device: torch.device | str = "cpu",
    progress: ProgressCallback = silent,
) -> Model:
    """The model that lies at `out` if it was trained just so; else it is trained, from where an interrupted training stopped. As `train`.

    Raises:
        InputError: what lies there was trained otherwise; or as `train`.
    """
    begun = state_path(out).exists()
    if begun or not out.exists():
        return train(volumes, camera, options, out, about=about, base=base, resume=begun, device=device, progress=progress)
    model = load_model(out, device)
    cts = [ct_identity(attenuation(volume, labels=options.labels), volume.name) for volume in volumes]
    try:
        different = Recipe.of(options.based_on(base), camera, cts, base).differences(Recipe.of_model(model))
    except (KeyError, TypeError, ValueError):
        different = ["card"]
    if different:
        raise InputError(f"{out} was trained with another {', '.join(different)}: choose another folder, or delete it")
    return model


def card_of(about: About, options: TrainingOptions, device: torch.device) -> dict[str, Any]:
    """What is known before the first step."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return {
        "anatomy": about.anatomy,
        "command": about.command,
        "base": about.base,
        "seed": options.seed,
        "versions": {**software_versions(), "timm": metadata.version("timm")},
        "device": name,
    }
