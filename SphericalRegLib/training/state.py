"""The state of an unfinished training on disk: one safetensors file that is complete or absent, with everything a resume needs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.files import write_atomically

from .phases import Phase
from .recipe import Recipe

FORMAT = "sphericalreg training 5"


@dataclass
class Count:
    """What a training keeps count of.

    Attributes:
        iteration: steps so far.
        steps_lost: those among them whose gradient was not finite.
        seconds: of training, validations left out.
        figures: running means of the losses' figures.
        curve: the validations.
        stopped: why it ended early; empty while it has not.
    """

    iteration: int = 0
    steps_lost: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = field(default_factory=dict)
    curve: list[dict[str, float]] = field(default_factory=list)
    stopped: str = ""


@dataclass(frozen=True)
class State:
    """A training between two steps.

    Attributes:
        recipe: which training.
        count: how far it has come.
        share: how much of it is done, in [0, 1].
        began_at: for each phase by its name, how many steps lay behind when it began; None before.
        tensors: weights ("network."), moments of the optimisers ("optimizer.") and the random numbers' state ("random").
    """

    recipe: Recipe
    count: Count
    share: float
    began_at: dict[str, int | None]
    tensors: dict[str, Tensor]


def write_state(state: State, path: Path) -> None:
    """Write; `training.files.how_far` reads "curve" and "share" where there is no torch."""
    header = {"format": FORMAT, "recipe": state.recipe.to_dict(), **asdict(state.count), "share": state.share, "began_at": state.began_at}
    stored = {name: value.detach().cpu().contiguous() for name, value in state.tensors.items()}
    write_atomically(path, lambda temporary: save_file(stored, temporary, metadata={"state": json.dumps(header)}))


def read_state(path: Path) -> State:
    """Back from `write_state`.

    Raises:
        InputError: the file is no state, was cut short, or is of another format.
    """
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})["state"])
        if header["format"] != FORMAT:
            raise InputError(f"The training state {path} has the format {header['format']!r}; this version goes on with {FORMAT!r}: delete it.")
        count = Count(**{part.name: header[part.name] for part in fields(Count)})
        return State(Recipe.from_dict(header["recipe"]), count, float(header["share"]), dict(header["began_at"]), load_file(path))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        raise InputError(f"{path} is not the state of a training, or was cut short.") from None


def moments_of(phases: Sequence[Phase]) -> dict[str, Tensor]:
    """What the phases' optimisers remember, for `State.tensors`."""
    tensors: dict[str, Tensor] = {}
    for phase in phases:
        for index, state in phase.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{phase.name}.{index}.{name}": value for name, value in state.items()}
    return tensors


def restore_moments(phase: Phase, tensors: dict[str, Tensor]) -> None:
    """The inverse of `moments_of` for one phase: in memory of its own (a file's tensors lie in the file, which could not be replaced then on every
    system), laid out as the parameters are."""
    parameters = [parameter for group in phase.optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(f"optimizer.{phase.name}."):
            _, _, index, key = name.split(".", 3)
            parameter = parameters[int(index)]
            own = torch.empty_like(parameter, dtype=value.dtype, device=value.device) if value.shape == parameter.shape else torch.empty_like(value)
            state.setdefault(int(index), {})[key] = own.copy_(value)
    phase.optimizer.load_state_dict({"state": state, "param_groups": phase.optimizer.state_dict()["param_groups"]})
