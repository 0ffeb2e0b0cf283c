"""`sphericalreg benchmark methods`: whole registrations by several methods, from the same starts at several distances from the truth.

The truth places the starts and judges the ends; no method sees it. Outcomes are kept one by one under what decided them (X-ray, start, method,
model): a later run goes on, and may have more cases, spreads and methods, or a method with other settings.
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
import torch
from scipy.stats import binomtest

from SphericalRegLib.devices import one_torch_thread
from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.case import Case, load_case
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback, pace, silent
from SphericalRegLib.registration.proposals import model_notes
from SphericalRegLib.registration.region import visible_in_all
from SphericalRegLib.registration.resolution import VolumePyramid
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.shares import error_figure

from .capture_range import StartSpread
from .journal import Journal
from .methods import METHODS, Setting
from .metrics import FAILED, PoseErrors, pose_errors, summarise
from .registrar import CaseRegistrar
from .runs import case_digest
from .tables import Table, Value
from .truth import Truth, load_truth

Spread = tuple[float, float] | None
"""Of starts: standard deviations per axis, deg and mm. None: no initial pose is given."""

SPREADS: tuple[Spread, ...] = ((5.0, 10.0), (10.0, 20.0), (15.0, 30.0), (20.0, 40.0))


@dataclass(frozen=True)
class MethodsOptions:
    """What is compared.

    Attributes:
        methods: of `methods.METHODS`.
        spreads: of the starts; each case gets one start of each, all in the same direction. Those with None are of the methods that need no start.
        seed: of the starts and of the registrations.
    """

    methods: tuple[str, ...] = tuple(METHODS)
    spreads: tuple[Spread, ...] = SPREADS
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods or len(set(self.methods)) < len(self.methods):
            raise InputError(f"The methods are {list(self.methods)}; expected some of {', '.join(METHODS)}, none twice.")
        if not self.spreads or len(set(self.spreads)) < len(self.spreads):
            raise InputError(f"The spreads of the starts are {list(self.spreads)}; expected at least one, in degrees and mm, and none twice.")
        for spread in self.spreads:
            if spread is not None:
                StartSpread(1, *spread, self.seed)  # refuses what is no spread
        free = [name for name, method in METHODS.items() if not method.needs_start]
        if None in self.spreads and not set(free) & set(self.methods):
            raise InputError(f"The methods are {list(self.methods)}; expected one of {', '.join(free)} where no initial pose is given.")
        if idle := [name for name in self.methods if name not in {method for _, method in self.pairs}]:
            begin = f"{' and '.join(idle)} begin{'s' if len(idle) == 1 else ''} at one"
            raise InputError(f"No initial pose is given, but {begin}; expected a spread in degrees and mm, too.")

    @property
    def pairs(self) -> tuple[tuple[Spread, str], ...]:
        """The spreads and methods that go together, spread by spread."""
        return tuple((spread, name) for spread in self.spreads for name in self.methods if spread is not None or not METHODS[name].needs_start)


@dataclass(frozen=True)
class MethodOutcome:
    """One registration. Errors in mm, infinite where there is no pose: of the start in 3D, of the end in 3D and in-plane; `error` says why. `doubt`:
    what the registration itself says against its end. `notes`: what does not fit between the model and the CT."""

    method: str
    case: str
    spread: Spread
    start: float
    end: float
    in_plane: float
    seconds: float
    error: str | None = None
    doubt: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def says_so(self) -> bool:
        """Whether a user is told that this end is not to be trusted."""
        return self.error is not None or self.doubt is not None


@dataclass(frozen=True)
class MethodsBenchmark:
    """All outcomes of the methods and spreads that were asked for."""

    options: MethodsOptions
    outcomes: tuple[MethodOutcome, ...]
    device: str

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know beside the numbers, each once."""
        return tuple(dict.fromkeys(note for outcome in self.outcomes for note in outcome.notes))

    def table(self) -> Table:
        """One row for each spread and method."""
        columns = (
            "start [deg/mm]",
            "method",
            "cases",
            "failed",
            "start, median [mm]",
            "median [mm]",
            "75 % [mm]",
            "95 % [mm]",
            "< 1 mm [%]",
            "< 2 mm [%]",
            "< 2 mm, at least [%]",
            "> 10 mm [%]",
            "doubtful [%]",
            "> 10 mm, not doubtful [%]",
            "in-plane, median [mm]",
            "seconds",
        )
        return Table(columns, tuple(self._row(spread, method) for spread, method in self.options.pairs))

    def write(self, out: Path) -> list[Path]:
        """methods.md, .csv and .png."""
        heading = (
            "# Methods\n\nWhole registrations of each case from one start of each spread (standard deviations per axis, the same direction in "
            f"all spreads) about its true pose (`none`: with no initial pose), seed {self.options.seed}, on {self.device}. Errors: mean 3D "
            "displacement of the fiducials, infinite where a registration failed. `at least`: the lower bound of the share with 95 % confidence "
            "(Clopper and Pearson, one-sided). `doubtful`: what says so itself, as those can that end in our intensity stages, or failed. "
            "`seconds`: median of those that did not fail, CT prepared. `spherical MAP` alone is told the starts' spread."
        ) + "".join(f"\n\n{note}" for note in self.notes)
        groups = {
            in_words(spread): {method: [o.end for o in self.of(spread, method)] for with_, method in self.options.pairs if with_ == spread}
            for spread in self.options.spreads
        }
        return [*self.table().write(out / "methods", heading=heading), write_figure(error_figure(groups), out / "methods.png")]

    def of(self, spread: Spread, method: str) -> list[MethodOutcome]:
        """Those of one spread and method, case by case."""
        return [outcome for outcome in self.outcomes if outcome.spread == spread and outcome.method == method]

    def _row(self, spread: Spread, method: str) -> tuple[Value, ...]:
        of = self.of(spread, method)
        s = summarise(outcome.end for outcome in of)
        return (
            "none" if spread is None else f"{spread[0]:g}/{spread[1]:g}",
            method,
            s.count,
            s.failed,
            None if spread is None else float(np.median([outcome.start for outcome in of])),
            s.p50,
            s.p75,
            s.p95,
            100 * s.below_1mm,
            100 * s.below_2mm,
            100 * least_share(round(s.below_2mm * s.count), s.count),
            100 * s.above_10mm,
            100 * float(np.mean([outcome.says_so for outcome in of])),
            100 * float(np.mean([outcome.end > 10.0 and not outcome.says_so for outcome in of])),
            summarise(outcome.in_plane for outcome in of).p50,
            float(np.median([outcome.seconds for outcome in of if outcome.error is None] or [math.nan])),
        )


def in_words(spread: Spread) -> str:
    """A spread as figures name it."""
    return "no initial pose" if spread is None else f"{spread[0]:g} deg / {spread[1]:g} mm"


def least_share(successes: int, count: int, confidence: float = 0.95) -> float:
    """The lower bound of a share of which `successes` of `count` were seen (Clopper and Pearson, Biometrika 26, 1934; one-sided)."""
    return float(binomtest(successes, count, alternative="greater").proportion_ci(confidence, method="exact").low)


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
    truths = [load_truth(case) for case in cases]
    journal = Journal(out / "registrations.jsonl", {"seed": options.seed, "device": device}, recompute=recompute)
    journal.keep([entry for entry in journal.entries if entry["error"] is None])  # what failed is tried again
    done = {str(entry["key"]): entry for entry in journal.entries}
    here = None if model is None else model.to(device)
    jobs = [
        _Job(number, case, spread, method, truth, options.seed)
        for number, (case, truth) in enumerate(zip(cases, truths))
        for spread, method in options.pairs
    ]
    keys = [job.key(model) for job in jobs]
    todo = [(key, job) for key, job in zip(keys, jobs) if key not in done]
    ready, loaded = CaseRegistrar(device=device), None
    began = time.perf_counter()
    for count, (key, job) in enumerate(todo):
        if loaded is None or loaded[0] != job.case:
            case = load_case(job.case)
            pyramid = ready.prepared(case)
            loaded = job.case, case, pyramid, [] if here is None else list(model_notes(here, pyramid))
        message = f"{job.case.name} {job.method} {pace(time.perf_counter() - began, count, len(todo))}"
        tick = partial(_tick, progress, Progress("registrations", len(jobs) - len(todo) + count, len(jobs), message.strip()))
        tick()
        _, case, pyramid, notes = loaded
        entry: dict[str, Any] = {"key": key, "method": job.method, "case": job.case.name, "spread": job.spread}
        entry["notes"] = notes if METHODS[job.method].needs_model else []
        entry |= job.run(case, pyramid, here, tick)
        journal.add(entry)
        done[key] = entry
    progress(Progress("registrations", len(jobs), len(jobs)))
    return MethodsBenchmark(options, tuple(_outcome(done[key]) for key in keys), device)


@dataclass(frozen=True, eq=False)
class _Job:
    """One registration that is to be made."""

    number: int
    case: Path
    spread: Spread
    method: str
    truth: Truth
    seed: int

    def start(self, centre: np.ndarray) -> np.ndarray | None:
        if self.spread is None:
            return None
        return StartSpread(1, *self.spread, self.seed).draw(self.number, self.truth.camera_from_world, centre)

    def key(self, model: Model | None) -> str:
        """Of all that decides the outcome."""
        method, start = METHODS[self.method], self.start(np.zeros(3))  # the CT's centre is the case's
        decides = {
            "method": [type(method).__name__, asdict(method)],
            "model": model.identity if model is not None and method.needs_model else None,
            "start": None if start is None else start.tolist(),
            "truth": self.truth.camera_from_world.tolist(),
            "fiducials": self.truth.fiducials.tolist(),
        }
        return case_digest(self.case, decides)

    def run(self, case: Case, pyramid: VolumePyramid, model: Model | None, tick: ProgressCallback) -> dict[str, Any]:
        camera, centre = case.views[0].radiograph.camera, np.asarray(case.volume.centre_ras_mm)
        start, doubt, error = self.start(centre), None, None

        def errors(pose: np.ndarray | None) -> PoseErrors:
            if pose is None:
                return FAILED
            return pose_errors(self.truth.camera_from_world, pose, self.truth.fiducials, camera, centre)

        began = time.perf_counter()
        try:
            if start is not None and not bool(visible_in_all(case.views, torch.from_numpy(start)[None].to(pyramid.device), pyramid.corners).all()):
                raise InputError("The start does not show the CT in the X-ray.")
            with one_torch_thread():  # as `register` does it: the methods' seconds are to be compared
                found = METHODS[self.method](Setting(pyramid, case.views, model, self.seed, self.spread), start, tick)
            end, doubt = errors(found.camera_from_world), found.doubt
        except Cancelled:
            raise
        except Exception as problem:  # one bad registration must not end a night's run: it becomes a failed one
            error, end = str(problem) if isinstance(problem, InputError) else f"{type(problem).__name__}: {problem}", FAILED
        seconds = time.perf_counter() - began
        values = {"start": errors(start).mtre_3d, "end": end.mtre_3d, "in_plane": end.in_plane}
        plain = {name: value if math.isfinite(value) else None for name, value in values.items()}
        return {**plain, "seconds": seconds, "error": error, "doubt": doubt}


def _tick(progress: ProgressCallback, state: Progress, _: Progress | None = None) -> None:
    progress(state)


def _outcome(entry: Mapping[str, Any]) -> MethodOutcome:
    start, end, in_plane = (math.inf if entry[name] is None else float(entry[name]) for name in ("start", "end", "in_plane"))
    spread = entry["spread"]
    return MethodOutcome(
        entry["method"],
        entry["case"],
        None if spread is None else (float(spread[0]), float(spread[1])),
        start,
        end,
        in_plane,
        float(entry["seconds"]),
        entry["error"],
        entry["doubt"],
        tuple(entry["notes"]),
    )
