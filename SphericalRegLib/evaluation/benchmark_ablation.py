"""`sphericalreg benchmark ablation`: what each choice of the method brings.

Every variant trains an encoder of its own for the same time with the same seed, and is then judged on simulated X-rays whose physics is not the
training's, from the same starts about the truth: by its own search on the similarity alone, and after the intensity stages that follow. The
optimisers' rows share the base's encoder. "no model" is the intensity stages alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.case import Case, load_case
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.progress import Progress, ProgressCallback, pace, silent
from SphericalRegLib.registration.learned import anchored_terms, spherical_terms
from SphericalRegLib.registration.options import RegistrationOptions
from SphericalRegLib.registration.pipeline import prepare, register
from SphericalRegLib.registration.problem import MultiViewProblem
from SphericalRegLib.registration.resolution import VolumePyramid
from SphericalRegLib.simulation.cases import SimulationOptions, simulate_cases
from SphericalRegLib.training.losses import GRADIENT_MATCHING, LossWeights
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.session import About, trained
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.shares import error_figure

from .capture_range import StartSpread
from .journal import Journal
from .metrics import pose_errors, summarise
from .optimisers import OPTIMISERS, trace
from .tables import Table, Value
from .truth import Truth, load_truth

BASE, ANCHORED, NO_MODEL = "base", "anchored LM", "no model"
ITERATIONS = {"lm": 20, "gauss-newton": 20, "lbfgs": 20, "adam": 100, "sgd": 100}


def _embedding(kind: Any) -> Callable[[TrainingOptions], TrainingOptions]:
    """In another space, where poses have no place: by gradient matching."""
    return lambda options: replace(options, encoder=replace(options.encoder, embedding=kind), loss=GRADIENT_MATCHING)


def _elements(count: int) -> Callable[[TrainingOptions], TrainingOptions]:
    return lambda options: replace(options, encoder=replace(options.encoder, elements=count))


def _loss(change: Callable[[LossWeights], LossWeights]) -> Callable[[TrainingOptions], TrainingOptions]:
    return lambda options: replace(options, loss=change(options.loss))


TRAININGS: dict[str, Callable[[TrainingOptions], TrainingOptions]] = {
    BASE: lambda options: options,
    "anchor + gradient": _loss(lambda loss: replace(loss, gradient=0.3)),
    "through LM": _loss(lambda loss: replace(loss, refinement=0.5)),
    "gradient alone": _loss(lambda _: replace(GRADIENT_MATCHING, magnitude=0.0, pairs=0.0)),
    "gradient + magnitude": _loss(lambda _: replace(GRADIENT_MATCHING, pairs=0.0)),
    "gradient + magnitude + through LM": _loss(lambda _: replace(GRADIENT_MATCHING, pairs=0.0, refinement=0.5)),
    "gradient + magnitude + pairs": _loss(lambda _: GRADIENT_MATCHING),
    "cosine": _embedding("cosine"),
    "euclidean": _embedding("euclidean"),
    "K = 1": _elements(1),
    "K = 4": _elements(4),
    "K = 64": _elements(64),
}
"""Variants that train an encoder."""

VARIANTS = (*TRAININGS, ANCHORED, *(name for name in OPTIMISERS if name != "lm"), NO_MODEL)


@dataclass(frozen=True)
class AblationOptions:
    """What is compared, and on what.

    Attributes:
        variants: of `VARIANTS`.
        training: the base's; a regressor is not trained.
        simulation: the X-rays.
        cases: how many.
        spreads: (deg, mm) standard deviations per axis of the starts; each case gets one start of each.
        seed: of the starts.
        intensity: the stages after the search.
    """

    variants: tuple[str, ...] = VARIANTS
    training: TrainingOptions = field(default_factory=lambda: TrainingOptions(regressor=None))
    simulation: SimulationOptions = field(default_factory=SimulationOptions)
    cases: int = 20
    spreads: tuple[tuple[float, float], ...] = ((10.0, 20.0), (20.0, 40.0))
    seed: int = 0
    intensity: RegistrationOptions = field(default_factory=lambda: RegistrationOptions(multi_start=None))

    def __post_init__(self) -> None:
        unknown = [name for name in self.variants if name not in VARIANTS]
        if unknown or not self.variants:
            raise InputError(f"The variants are {list(self.variants)}; expected some of {', '.join(VARIANTS)}.")
        if ANCHORED in self.variants and not self.training.loss.anchor > 0:
            raise InputError(f"The variant {ANCHORED!r} needs a base whose embeddings are anchored, but the base's training has no such loss.")
        if self.cases < 1 or not self.spreads:
            raise InputError(f"There are {self.cases} cases and {len(self.spreads)} spreads of starts; expected at least one of each.")


@dataclass(frozen=True)
class AblationOutcome:
    """One case and start with one variant: mean 3D displacement (mm) at the start, after the search, after the intensity stages; seconds of each."""

    variant: str
    case: str
    spread: int
    start: float
    searched: float
    final: float
    search_seconds: float
    final_seconds: float


@dataclass(frozen=True)
class Ablation:
    """All outcomes, and the models by the variant that trained them."""

    options: AblationOptions
    outcomes: tuple[AblationOutcome, ...]
    models: dict[str, Model]

    def table(self) -> Table:
        """One row for each variant and spread."""
        columns = (
            "variant",
            "start [deg/mm]",
            "cases",
            "start, median [mm]",
            "search, median [mm]",
            "75 % [mm]",
            "< 2 mm [%]",
            "> 10 mm [%]",
            "search [s]",
            "+ intensity, median [mm]",
            "< 2 mm, then [%]",
            "gradient cosine",
        )
        rows: list[tuple[Value, ...]] = []
        for index, (deg, mm) in enumerate(self.options.spreads):
            for variant in self.options.variants:
                of = [outcome for outcome in self.outcomes if outcome.variant == variant and outcome.spread == index]
                final = summarise(o.final for o in of)
                model = self.models.get(trained_by(variant) or "")
                rows.append(
                    (
                        variant,
                        f"{deg:g}/{mm:g}",
                        len(of),
                        float(np.median([o.start for o in of])),
                        *_searched(of, variant),
                        final.p50,
                        100 * final.below_2mm,
                        model.card["validation"].get("cosine") if model is not None else None,
                    )
                )
        return Table(columns, tuple(rows))

    def write(self, out: Path) -> list[Path]:
        """ablation.md, .csv and .png."""
        options = self.options
        length = f"{options.training.iterations} steps" if options.training.iterations else f"{options.training.minutes:g} minutes"
        heading = (
            f"# Ablation\n\nEach encoder trained for {length}, seed {options.training.seed}; {options.cases} simulated X-rays "
            f"({options.simulation.level.name}), one start of each spread. `search`: the variant's optimiser on its similarity, from that start "
            "alone; `+ intensity`: the intensity stages from where it ended, without a multi-start. Errors: mean 3D displacement of the fiducials."
        )
        groups = {}
        for index, (deg, mm) in enumerate(options.spreads):
            named = {v: [o for o in self.outcomes if o.variant == v and o.spread == index] for v in options.variants}
            searched = {v: [o.searched for o in of] for v, of in named.items() if v != NO_MODEL}
            if searched:
                groups[f"search alone, {deg:g} deg / {mm:g} mm"] = searched
            groups[f"+ intensity, {deg:g} deg / {mm:g} mm"] = {v: [o.final for o in of] for v, of in named.items()}
        return [*self.table().write(out / "ablation", heading=heading), write_figure(error_figure(groups), out / "ablation.png")]


def _searched(outcomes: list[AblationOutcome], variant: str) -> tuple[Value, ...]:
    """The table's columns of the search; empty without one."""
    if variant == NO_MODEL:
        return (None,) * 5
    s = summarise(outcome.searched for outcome in outcomes)
    return s.p50, s.p75, 100 * s.below_2mm, 100 * s.above_10mm, float(np.median([outcome.search_seconds for outcome in outcomes]))


def trained_by(variant: str) -> str | None:
    """The variant whose encoder this one uses."""
    return None if variant == NO_MODEL else variant if variant in TRAININGS else BASE


def run_ablation(
    volume: Volume, camera: Camera, out: Path, options: AblationOptions, *, device: str = "cpu", progress: ProgressCallback = silent
) -> Ablation:
    """Train and judge every variant; models, cases and outcomes stay in the folder, and a later run goes on.

    Raises:
        InputError: the folder holds models, cases or outcomes made with other options.
        Cancelled: out of `progress`; what is done stays.
    """
    spread_list = [list(spread) for spread in options.spreads]
    simulation = options.simulation.to_dict()
    header = {"simulation": simulation, "spreads": spread_list, "seed": options.seed, "training": asdict(options.training), "device": device}
    header["intensity"] = asdict(options.intensity)
    journal = Journal(out / "outcomes.jsonl", header)
    cases = simulate_cases(volume, out / "cases", options.cases, options.simulation, device=device, progress=progress)
    models = {}
    for name in dict.fromkeys(filter(None, map(trained_by, options.variants))):

        def named(step: Progress, name: str = name) -> None:
            progress(replace(step, stage=f"{name}: {step.stage}"))

        path = out / "models" / f"{name.replace(' ', '_')}.safetensors"
        about = About(volume.name, "sphericalreg benchmark ablation")
        models[name] = trained([volume], camera, TRAININGS[name](options.training), path, about=about, device=device, progress=named)
    done = {_key(entry): entry for entry in journal.entries}
    keys = [(variant, case.name, spread) for case in cases for variant in options.variants for spread in range(len(options.spreads))]
    todo = [key for key in keys if key not in done]
    began, pyramid = time.perf_counter(), None
    loaded: tuple[Path, Case, Truth] | None = None
    paths = {case.name: case for case in cases}
    for number, key in enumerate(todo):
        variant, name, spread = key
        if loaded is None or loaded[0] != paths[name]:
            loaded = paths[name], load_case(paths[name]), load_truth(paths[name])
            pyramid = prepare(loaded[1].volume, device=device) if pyramid is None else pyramid  # one CT for all
        message = f"{name} {variant} {pace(time.perf_counter() - began, number, len(todo))}"
        tick = partial(progress, Progress("judge", len(keys) - len(todo) + number, len(keys), message.strip()))
        tick()
        assert pyramid is not None
        model = models.get(trained_by(variant) or "")
        index = cases.index(paths[name])
        found = _judge(loaded[1], loaded[2], pyramid, model, variant, options, spread, index, tick)
        journal.add({"variant": variant, "case": name, "spread": spread, **found})
        done[key] = journal.entries[-1]
    progress(Progress("judge", len(keys), len(keys)))
    return Ablation(options, tuple(_outcome(done[key]) for key in keys), models)


def _judge(
    case: Case,
    truth: Truth,
    pyramid: VolumePyramid,
    model: Model | None,
    variant: str,
    options: AblationOptions,
    spread: int,
    index: int,
    tick: Callable[[], None],
) -> dict[str, float | None]:
    deg, mm = options.spreads[spread]
    begin = StartSpread(1, deg, mm, options.seed).draw(index, truth.camera_from_world, pyramid.centre.cpu().numpy())
    camera, centre = case.views[0].radiograph.camera, pyramid.centre.cpu().numpy()

    def error(pose: np.ndarray) -> float | None:
        value = pose_errors(truth.camera_from_world, pose, truth.fiducials, camera, centre).mtre_3d
        return value if math.isfinite(value) else None

    pose, seconds = begin, 0.0
    if model is not None:
        optimiser = variant if variant in OPTIMISERS else "lm"
        terms = anchored_terms if variant == ANCHORED else spherical_terms
        problem = MultiViewProblem(terms(pyramid, case.views, model.to(pyramid.device)))
        found = trace(optimiser, problem, torch.from_numpy(begin).to(pyramid.device), pyramid.centre, ITERATIONS[optimiser], lambda _: tick())
        pose, seconds = found.poses[-1], float(found.seconds[-1])
    searched, began = error(pose), time.perf_counter()
    try:
        registered = register(pyramid, case.views, pose, options=options.intensity, device=pyramid.device, progress=lambda _: tick())
        final = error(registered.camera_from_world)
    except InputError:  # the search has led out of the image: a failed case
        final = None
    taken = time.perf_counter() - began
    return {"start": error(begin), "searched": searched, "final": final, "search_seconds": seconds, "final_seconds": taken}


def _key(entry: Mapping[str, Any]) -> tuple[str, str, int]:
    return str(entry["variant"]), str(entry["case"]), int(entry["spread"])


def _outcome(entry: Mapping[str, Any]) -> AblationOutcome:
    start, searched, final = (math.inf if entry[name] is None else float(entry[name]) for name in ("start", "searched", "final"))
    return AblationOutcome(*_key(entry), start, searched, final, entry["search_seconds"], entry["final_seconds"])
