"""What a registration gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """A pose that was carried to the last stage, with the score that it ended with."""

    camera_from_world: np.ndarray  # (4, 4)
    score: float


@dataclass(frozen=True)
class StageRecord:
    """What one stage did.

    Attributes:
        name: "search", "regressor", "spherical LM" or "refine <pixels> px".
        similarity: its name.
        image_px: (columns, rows) of each view.
        hypotheses: poses that were evaluated (search, regressor) or optimised.
        iterations: steps tried, the longest of the hypotheses.
        seconds: wall time.
        score: of the best hypothesis at the end of the stage; comparable between stages of one similarity, on finer images a little lower.
        costs: cost of that hypothesis over the iterations, 1/2 |r|^2.
        poses: and where it was, (4, 4) each.
    """

    name: str
    similarity: str
    image_px: tuple[tuple[int, int], ...]
    hypotheses: int
    iterations: int
    seconds: float
    score: float
    costs: tuple[float, ...] = ()
    poses: tuple[Any, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True, eq=False)
class RegistrationResult:
    """The pose of the CT, and how far to trust it.

    Attributes:
        camera_from_world: (4, 4) float64, of the first view's camera.
        covariance: (6, 6) of delta = (omega, v), rad and mm, world axes, on the right about `centre_ras_mm`; from the residual's curvature, not
            calibrated: it knows of noise, not of a wrong local minimum.
        centre_ras_mm: (3,) the centre of the uncropped CT.
        score: similarity at the pose, in [-1, 1].
        hypotheses: the poses of the last stages, best first; the first is the result.
        stages: what was done, in order.
        initial_camera_from_world: (4, 4) the pose that was started from. Where none was known: of those that the search which found the result was
            made about (a model's poses, named views), the one nearest in orientation.
        world_from_camera_reference: (4, 4) where source and detector stand in the world for display; the inverse of the initial pose by default.
        verdict: "uncalibrated" until errors have been compared with outcomes.
        predicted_target_error_mm: None until then.
        options: how it was registered: `RegistrationOptions` as plain values, and the device; "attenuation" and "labels" are what was rendered.
        model: which model helped: its file's name and its weights' digest (empty for one that never was on disk); None without one.
        doubt: what speaks against the result, in a few words; None where nothing does. A result can be wrong all the same.
        notes: what a careful reader should know: assumptions that were made on the way.
        versions: of the software.
        seed: of the search.
        seconds: wall time, with the preparation of a CT that was not prepared before.
    """

    camera_from_world: np.ndarray
    covariance: np.ndarray
    centre_ras_mm: np.ndarray
    score: float
    hypotheses: tuple[Hypothesis, ...]
    stages: tuple[StageRecord, ...]
    initial_camera_from_world: np.ndarray
    world_from_camera_reference: np.ndarray
    verdict: str = "uncalibrated"
    predicted_target_error_mm: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, str] | None = None
    doubt: str | None = None
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=lambda: software_versions())
    seed: int = 0
    seconds: float = 0.0

    @property
    def standard_deviations(self) -> np.ndarray:
        """(6,) of omega (rad) and v (mm)."""
        return np.sqrt(np.diag(self.covariance))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for result.json; numbers that are not finite become null."""
        return {
            "camera_from_world": _plain(self.camera_from_world),
            "covariance": _plain(self.covariance),
            "covariance_convention": "delta = (omega, v): rad, mm; world (RAS) axes; x_cam = R exp(omega) (x - c) + t + R v",
            "centre_ras_mm": _plain(self.centre_ras_mm),
            "score": _plain(self.score),
            "verdict": self.verdict,
            "predicted_target_error_mm": self.predicted_target_error_mm,
            "hypotheses": [{"camera_from_world": _plain(h.camera_from_world), "score": _plain(h.score)} for h in self.hypotheses],
            "stages": [
                {
                    "name": stage.name,
                    "similarity": stage.similarity,
                    "image_px": [list(size) for size in stage.image_px],
                    "hypotheses": stage.hypotheses,
                    "iterations": stage.iterations,
                    "seconds": round(stage.seconds, 4),
                    "score": _plain(stage.score),
                    "costs": _plain(np.array(stage.costs)),
                    "poses": [_plain(pose) for pose in stage.poses],
                }
                for stage in self.stages
            ],
            "initial_camera_from_world": _plain(self.initial_camera_from_world),
            "world_from_camera_reference": _plain(self.world_from_camera_reference),
            "options": dict(self.options),
            "model": None if self.model is None else dict(self.model),
            "doubt": self.doubt,
            "notes": list(self.notes),
            "versions": dict(self.versions),
            "seed": self.seed,
            "seconds": round(self.seconds, 4),
        }

    def summary(self) -> dict[str, Any]:
        """`to_dict` without the stages' history, which only plots need."""
        plain = self.to_dict()
        return {**plain, "stages": [{key: value for key, value in stage.items() if key not in ("costs", "poses")} for stage in plain["stages"]]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RegistrationResult:
        """Back from `to_dict`, e.g. of result.json. Raises InputError where a key is missing or has another type."""
        try:
            return cls(
                camera_from_world=_matrix(values["camera_from_world"], (4, 4)),
                covariance=_matrix(values["covariance"], (6, 6)),
                centre_ras_mm=_matrix(values["centre_ras_mm"], (3,)),
                score=_number(values["score"]),
                hypotheses=tuple(Hypothesis(_matrix(h["camera_from_world"], (4, 4)), _number(h["score"])) for h in values["hypotheses"]),
                stages=tuple(_stage(stage) for stage in values["stages"]),
                initial_camera_from_world=_matrix(values["initial_camera_from_world"], (4, 4)),
                world_from_camera_reference=_matrix(values["world_from_camera_reference"], (4, 4)),
                verdict=str(values["verdict"]),
                predicted_target_error_mm=values["predicted_target_error_mm"],
                options=dict(values.get("options", {})),  # results of before have none, nor a doubt
                model=None if values.get("model") is None else dict(values["model"]),
                doubt=values.get("doubt"),
                notes=tuple(values["notes"]),
                versions=dict(values["versions"]),
                seed=int(values["seed"]),
                seconds=float(values["seconds"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise InputError(f"This is not the result of a registration ({problem}); expected the content of result.json.") from None


def software_versions() -> dict[str, str]:
    """Versions of what a pose depends on."""
    versions = {"sphericalreg": __version__}
    for package in ("torch", "warp-lang", "numpy"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "unknown"
    return versions


def _stage(values: Mapping[str, Any]) -> StageRecord:
    return StageRecord(
        name=str(values["name"]),
        similarity=str(values["similarity"]),
        image_px=tuple((int(columns), int(rows)) for columns, rows in values["image_px"]),
        hypotheses=int(values["hypotheses"]),
        iterations=int(values["iterations"]),
        seconds=float(values["seconds"]),
        score=_number(values["score"]),
        costs=tuple(_number(cost) for cost in values["costs"]),
        poses=tuple(_matrix(pose, (4, 4)) for pose in values["poses"]),
    )


def _plain(value: Any) -> Any:
    """Nested lists of numbers; JSON knows neither nan nor infinity."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim:
        return [_plain(part) for part in array]
    return float(array) if np.isfinite(array) else None


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _matrix(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(values, dtype=object)
    if array.shape != shape:
        raise ValueError(f"expected an array of shape {shape}, not {array.shape}")
    return np.array([_number(value) for value in array.ravel()], dtype=np.float64).reshape(shape)


def distinct(names: Sequence[str]) -> list[str]:
    """Names of stages, those that come again numbered: search, refine 80 px, search (2), refine 80 px (2)."""
    return [f"{name} ({names[:place].count(name) + 1})" if name in names[:place] else name for place, name in enumerate(names)]
