"""`sphericalreg benchmark methods`: whole registrations by several methods, from the same starts at several distances from the truth.

The truth places the starts and judges the ends; no method sees it. Outcomes are kept one by one: a later run goes on, and may have more cases,
spreads and methods.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import beta

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.case import Case, load_case
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.progress import Progress, ProgressCallback, pace, silent
from SphericalRegLib.registration.resolution import VolumePyramid
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.shares import error_figure

from .capture_range import StartSpread
from .journal import Journal
from .methods import METHODS, Setting
from .metrics import FAILED, PoseErrors, pose_errors, summarise
from .registrar import CaseRegistrar
from .tables import Table, Value
from .truth import Truth, load_truth

SPREADS = ((5.0, 10.0), (10.0, 20.0), (15.0, 30.0), (20.0, 40.0))


@dataclass(frozen=True)
class MethodsOptions:
    """What is compared.

    Attributes:
        methods: of `methods.METHODS`.
        spreads: (deg, mm) standard deviations per axis of the starts; each case gets one start of each.
        seed: of the starts and of the registrations.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    spreads: tuple[tuple[float, float], ...] = SPREADS
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            raise InputError(f"The methods are {list(self.methods)}; expected some of {', '.join(METHODS)}.")
        if not self.spreads:
            raise InputError("There is no spread of starts; expected at least one, in degrees and mm.")
        for deg, mm in self.spreads:
            StartSpread(1, deg, mm, self.seed)  # refuses what is no spread


@dataclass(frozen=True)
class MethodOutcome:
    """One registration. Errors in mm, infinite where there is no pose: of the start in 3D, of the end in 3D and in-plane."""

    method: str
    case: str
    spread: tuple[float, float]
    start: float
    end: float
    in_plane: float
    seconds: float


@dataclass(frozen=True)
class MethodsBenchmark:
    """All outcomes of the methods and spreads that were asked for."""

    options: MethodsOptions
    outcomes: tuple[MethodOutcome, ...]
    device: str

    def table(self) -> Table:
        """One row for each spread and method."""
        columns = (
            "start [deg/mm]",
            "method",
            "cases",
            "start, median [mm]",
            "median [mm]",
            "75 % [mm]",
            "95 % [mm]",
            "< 1 mm [%]",
            "< 2 mm [%]",
            "at least [%]",
            "> 10 mm [%]",
            "in-plane, median [mm]",
            "seconds",
        )
        return Table(columns, tuple(self._row(spread, method) for spread in self.options.spreads for method in self.options.methods))

    def write(self, out: Path) -> list[Path]:
        """methods.md, .csv and .png."""
        heading = (
            "# Methods\n\nWhole registrations from one start of each spread (standard deviations per axis) about the true pose of each case, "
            f"seed {self.options.seed}, on {self.device}. Errors: mean 3D displacement of the fiducials; `at least`: what the share below 2 mm is "
            "with 95 % confidence (Clopper and Pearson, one-sided); `seconds`: median, CT prepared. A registration that failed counts as an "
            "infinite error."
        )
        groups = {
            f"{deg:g} deg / {mm:g} mm": {method: [o.end for o in self._of((deg, mm), method)] for method in self.options.methods}
            for deg, mm in self.options.spreads
        }
        return [*self.table().write(out / "methods", heading=heading), write_figure(error_figure(groups), out / "methods.png")]

    def _of(self, spread: tuple[float, float], method: str) -> list[MethodOutcome]:
        return [outcome for outcome in self.outcomes if outcome.spread == spread and outcome.method == method]

    def _row(self, spread: tuple[float, float], method: str) -> tuple[Value, ...]:
        of = self._of(spread, method)
        s = summarise(outcome.end for outcome in of)
        return (
            f"{spread[0]:g}/{spread[1]:g}",
            method,
            s.count,
            float(np.median([outcome.start for outcome in of])),
            s.p50,
            s.p75,
            s.p95,
            100 * s.below_1mm,
            100 * s.below_2mm,
            100 * least_share(round(s.below_2mm * s.count), s.count),
            100 * s.above_10mm,
            summarise(outcome.in_plane for outcome in of).p50,
            float(np.median([outcome.seconds for outcome in of])),
        )


def least_share(successes: int, count: int, confidence: float = 0.95) -> float:
    """The lower bound of a share of which `successes` of `count` were seen (Clopper and Pearson, Biometrika 26, 1934; one-sided)."""
    return float(beta.ppf(1.0 - confidence, successes, count - successes + 1)) if successes else 0.0


def run_methods_benchmark(
    cases: Sequence[Path],
    out: Path,
    options: MethodsOptions = MethodsOptions(),
    *,
    model: Model | None = None,
    device: str = "cpu",
    recompute: bool = False,
    progress: ProgressCallback = silent,
) -> MethodsBenchmark:
    """Register every case from a start of every spread with every method; `<out>/registrations.jsonl` keeps what is done.

    Args:
        cases: case folders with truth.json.
        out: the folder.
        options: see `MethodsOptions`.
        model: of the cases' CT, for the methods that need one.
        device: "cpu" or "cuda:N".
        recompute: forget an earlier run.
        progress: called several times a second.

    Raises:
        InputError: no case, a case without truth, a method that needs a model and has none, or another experiment's outcomes in the folder.
        Cancelled: out of `progress`; what is done stays.
    """
    if not cases:
        raise InputError("no case was given")
    without = [name for name in options.methods if METHODS[name].needs_model and model is None]
    if without:
        raise InputError(f"{' and '.join(without)} need{'s' if len(without) == 1 else ''} a model of the CT, but there is none.")
    truths = {case: load_truth(case) for case in cases}
    settings = {name: {"kind": type(method).__name__, **asdict(method)} for name, method in METHODS.items()}
    header = {"seed": options.seed, "model": None if model is None else model.identity, "device": device, "methods": settings}
    journal = Journal(out / "registrations.jsonl", header, recompute=recompute)
    done = {str(entry["key"]): entry for entry in journal.entries}
    keys = [(number, spread, method) for number in range(len(cases)) for spread in options.spreads for method in options.methods]

    def text(key: tuple[int, tuple[float, float], str]) -> str:
        number, (deg, mm), method = key
        return f"{cases[number].resolve()} {number} {deg:g}/{mm:g} {method}"

    todo = [key for key in keys if text(key) not in done]
    ready = CaseRegistrar(device=device)
    here, bench = None if model is None else model.to(device), None
    began = time.perf_counter()
    for count, key in enumerate(todo):
        number, spread, method = key
        case = cases[number]
        if bench is None or bench[0] != number:
            loaded = load_case(case)
            bench = number, loaded, ready.prepared(loaded)
        message = f"{case.name} {method} {pace(time.perf_counter() - began, count, len(todo))}"
        tick = partial(_tick, progress, Progress("registrations", len(keys) - len(todo) + count, len(keys), message.strip()))
        tick()
        start = StartSpread(1, *spread, options.seed).draw(number, truths[case].camera_from_world, np.asarray(loaded.volume.centre_ras_mm))
        outcome = _register(method, loaded, bench[2], here, start, truths[case], options.seed, tick)
        journal.add({"key": text(key), "method": method, "case": case.name, "spread": spread, **outcome})
        done[text(key)] = journal.entries[-1]
    progress(Progress("registrations", len(keys), len(keys)))
    return MethodsBenchmark(options, tuple(_outcome(done[text(key)]) for key in keys), device)


def _tick(progress: ProgressCallback, state: Progress, _: Progress | None = None) -> None:
    progress(state)


def _register(
    method: str, case: Case, pyramid: VolumePyramid, model: Model | None, start: np.ndarray, truth: Truth, seed: int, tick: ProgressCallback
) -> dict[str, Any]:
    camera, centre = case.views[0].radiograph.camera, np.asarray(case.volume.centre_ras_mm)

    def errors(pose: np.ndarray) -> PoseErrors:
        return pose_errors(truth.camera_from_world, pose, truth.fiducials, camera, centre)

    began = time.perf_counter()
    try:
        found = METHODS[method](Setting(pyramid, case.views, model, seed), start, tick)
    except InputError:  # the start, or where a search led to, does not show the CT: a failed registration
        end = FAILED
    else:
        end = errors(found) if np.isfinite(found).all() else FAILED
    seconds = time.perf_counter() - began
    values = {"start": errors(start).mtre_3d, "end": end.mtre_3d, "in_plane": end.in_plane}
    return {**{name: value if math.isfinite(value) else None for name, value in values.items()}, "seconds": seconds}


def _outcome(entry: Mapping[str, Any]) -> MethodOutcome:
    start, end, in_plane = (math.inf if entry[name] is None else float(entry[name]) for name in ("start", "end", "in_plane"))
    deg, mm = entry["spread"]
    return MethodOutcome(entry["method"], entry["case"], (float(deg), float(mm)), start, end, in_plane, float(entry["seconds"]))
