"""What a training leaves on disk, for those who look at it from outside: needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.files import require_writable_folder


@dataclass(frozen=True)
class Trained:
    """How far the training of a model has come.

    Attributes:
        curve: its validations so far, as in a model card ("seconds", "iterations", figures).
        share: how much of it is done, in [0, 1].
        finished: the model is there.
    """

    curve: tuple[dict[str, float], ...]
    share: float
    finished: bool


def state_path(out: Path) -> Path:
    """Where the state of an unfinished training of the model `out` lies."""
    return out.with_suffix(".state")


def check_target(out: Path, resume: bool) -> None:
    """Refuse a model file that cannot be written, or an unfinished training that would be lost or is not there.

    Raises:
        InputError: in one sentence.
    """
    if out.suffix != ".safetensors":
        raise InputError(f"the model would be written to {out}; expected a name that ends in .safetensors")
    if out.is_dir():
        raise InputError(f"the model would be written to {out}, which is a folder")
    require_writable_folder(out.parent, "the model's folder")
    state = state_path(out)
    if resume and not state.is_file():
        raise InputError(f"there is no unfinished training to resume: {state} does not exist")
    if not resume and state.exists():
        raise InputError(f"{state} holds an unfinished training of this model: resume it, or delete the file to start anew")


def how_far(out: Path) -> Trained | None:
    """How far the training of the model `out` has come; None where there is neither a state nor a card that can be read.

    An unfinished training counts before a model that lies there from before.
    """
    try:
        if state_path(out).is_file():
            header = _header(state_path(out))
            return Trained(tuple(header["curve"]), float(header["share"]), False)
        card = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["card"]
        return Trained(tuple(card.get("curve", ())), 1.0, out.is_file())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _header(state: Path) -> dict[str, Any]:
    """What a state file says beside its tensors, which are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(state, "numpy") as file:
            return dict(json.loads((file.metadata() or {})["state"]))
    except SafetensorError as error:
        raise ValueError(str(error)) from None
