"""Whether two trainings are the same: of an unfinished one that is to go on, and of a model that is there already."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.identity import CtIdentity
from SphericalRegLib.models.checkpoint import Model

from .options import TrainingOptions

EARLIER = {"look": {"logarithmic_share": 0.0, "round_share": 0.0, "missed_share": 0.0}}
"""What a training did before it had these options, where that is not what their defaults do."""

PACE = ("minutes", "patience", "stop_below_mm", "checkpoint_seconds")
"""Options that say how long a training goes on and how often it is saved: an unfinished one may go on with others."""

UNSAVED = "unsaved"
"""In the place of the SHA-256 of a base that never was on disk."""


@dataclass(frozen=True)
class Recipe:
    """What makes a training what it is.

    Attributes:
        options: of `TrainingOptions`, as plain values.
        camera: of `Camera`, as plain values.
        cts: the CTs, in their order.
        base: SHA-256 of the weights that it started from; empty for random ones.
    """

    options: dict[str, Any]
    camera: dict[str, Any]
    cts: tuple[CtIdentity, ...]
    base: str

    @classmethod
    def of(cls, options: TrainingOptions, camera: Camera, cts: Sequence[CtIdentity], base: Model | None) -> Recipe:
        """Of a training that is asked for; the options are those `based_on` the base."""
        return cls(_plain(asdict(options)), _plain(camera.to_dict()), tuple(cts), sha256_of(base))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Back from `to_dict`, of an earlier version too: options that came later are completed with what was done before them.

        Raises:
            KeyError, TypeError, ValueError: the values are something else.
        """
        options = _completed(dict(values["options"]), _completed(EARLIER, _plain(asdict(TrainingOptions()))))
        return cls(options, dict(values["camera"]), tuple(CtIdentity.from_dict(ct) for ct in values["cts"]), str(values["base"]))

    @classmethod
    def of_model(cls, model: Model) -> Recipe:
        """Of the training that made a model, by its card; raises as `from_dict`."""
        card = model.card
        there = {"options": card["training"], "camera": _plain(model.camera.to_dict()), "cts": card["cts"], "base": card.get("base_sha256", "")}
        return cls.from_dict(there)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"options": self.options, "camera": self.camera, "cts": [ct.to_dict() for ct in self.cts], "base": self.base}

    def differences(self, other: Recipe) -> list[str]:
        """Names of the options, or of what else, in which another training differs. CTs are the same whatever they are called."""
        names = [name for name in {**self.options, **other.options} if self.options.get(name) != other.options.get(name)]
        alike = len(self.cts) == len(other.cts) and not any(a.differs_from(b) for a, b in zip(self.cts, other.cts))
        unlike = {"camera": self.camera != other.camera, "cts": not alike, "base": self.base != other.base}
        return names + [name for name, differs in unlike.items() if differs]

    def has_the_very_cts_of(self, other: Recipe) -> bool:
        """Whether the CTs are the same to rounding and lie where they lay: what a training that goes on needs; `differences` is about patients."""

        def numbers(cts: tuple[CtIdentity, ...]) -> np.ndarray:
            return np.array([(ct.mass_mm2, *ct.centre_ras_mm, *ct.offset_mm, *ct.spread_mm) for ct in cts])

        return len(self.cts) == len(other.cts) and bool(np.allclose(numbers(self.cts), numbers(other.cts), rtol=1e-6, atol=1e-3))


def sha256_of(base: Model | None) -> str:
    """Which base, by its weights; empty without one."""
    return "" if base is None else base.identity.get("sha256", UNSAVED)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back: lists for tuples."""
    return dict(json.loads(json.dumps(values)))


def _completed(found: Any, default: Any) -> Any:
    """Options with those that came later, as `default` has them."""
    if not (isinstance(found, dict) and isinstance(default, dict)):
        return found
    return {**default, **{name: _completed(value, default.get(name)) for name, value in found.items()}}
