"""`sphericalreg benchmark optimisers`: error and similarity over iterations and over seconds (the paper's Fig. 4, right).

Second- and first-order optimisers on the spherical similarity, and Levenberg-Marquardt on NCC of the same images, from the same starts about the
truth of each case. The truth places the starts and judges every iterate; the optimisers see neither.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.case import load_case
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.progress import Progress, ProgressCallback, pace, silent
from SphericalRegLib.registration.learned import anchored_terms, intensity_terms, spherical_terms
from SphericalRegLib.registration.problem import MultiViewProblem
from SphericalRegLib.similarity.named import SIMILARITIES
from SphericalRegLib.visualization.figures import write_figure
from SphericalRegLib.visualization.searches import Search, search_figure

from .as_trained import labels_notes, prepared_as_trained
from .capture_range import StartSpread
from .journal import Journal
from .metrics import mtre_3d, summarise
from .optimisers import OPTIMISERS, Trace, optimiser_named, trace
from .runs import case_digest
from .tables import Table, Value, rows_to_csv, write_text
from .truth import Truth, load_truth

SPHERICAL, ANCHORED = "spherical", "anchored"
DEFAULT_METHODS = (f"{ANCHORED}:lm", *(f"{SPHERICAL}:{name}" for name in OPTIMISERS), "ncc:lm")
MODELLED = ("lm", "gauss-newton")
"""Optimisers that can do with a Jacobian which is not the residual's own: the others follow the cost's gradient."""


def methods_for(model: Model) -> tuple[str, ...]:
    """The default methods that a model can do: not all are anchored."""
    anchored = model.places(torch.zeros(3, dtype=torch.float64)) is not None
    return DEFAULT_METHODS if anchored else tuple(name for name in DEFAULT_METHODS if not name.startswith(ANCHORED))


@dataclass(frozen=True)
class OptimiserOptions:
    """What is compared.

    Attributes:
        methods: "similarity:optimiser", the similarity "spherical" or a name of `similarity.named`, the optimiser one of `optimisers.OPTIMISERS`.
            "anchored" is the spherical similarity with the Jacobian that its training asked for (`registration.learned.anchored_terms`).
        iterations: of each search, at most.
        spread: the starts of each case.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    iterations: int = 100
    spread: StartSpread = field(default_factory=lambda: StartSpread(count=2, sigma_deg=10.0, sigma_mm=20.0))

    def __post_init__(self) -> None:
        for method in self.methods:
            similarity, _, optimiser = method.partition(":")
            optimiser_named(optimiser)
            if similarity == ANCHORED and optimiser not in MODELLED:
                raise InputError(f"{method} is not possible: {optimiser} follows the cost's gradient; expected {' or '.join(MODELLED)}.")
            if similarity not in (SPHERICAL, ANCHORED, *SIMILARITIES):
                raise InputError(f"The similarity {similarity!r} is unknown; expected {SPHERICAL}, {ANCHORED} or one of {', '.join(SIMILARITIES)}.")
        if not self.methods or self.iterations < 1:
            raise InputError(f"There are {len(self.methods)} methods with {self.iterations} iterations; expected at least one of each.")


@dataclass(frozen=True)
class OptimiserBenchmark:
    """All searches, each a `Search` with its method, error in mm and relative cost over iterations and seconds; what a reader should know beside."""

    options: OptimiserOptions
    searches: tuple[Search, ...]
    device: str
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """One row for each method: where it ends, and what it takes to come within a tenth of a millimetre of its own end."""
        columns = (
            "method",
            "searches",
            "start median [mm]",
            "end median [mm]",
            "75 % [mm]",
            "< 1 mm [%]",
            "< 2 mm [%]",
            "> 10 mm [%]",
            "iterations",
            "evaluations",
            "seconds",
            "ms an iteration",
        )
        rows: list[tuple[Value, ...]] = []
        for method in self.options.methods:
            of = [search for search in self.searches if search.method == method]
            s = summarise(search.errors[-1] for search in of)
            settled = [_settled(search) for search in of]
            seconds = [float(search.seconds[index]) for search, index in zip(of, settled)]
            each = [1000 * float(search.seconds[-1]) / max(1, len(search.seconds) - 1) for search in of]
            rows.append(
                (
                    method,
                    len(of),
                    float(np.median([search.errors[0] for search in of])),
                    s.p50,
                    s.p75,
                    100 * s.below_1mm,
                    100 * s.below_2mm,
                    100 * s.above_10mm,
                    float(np.median(settled)),
                    float(np.median([search.evaluations for search in of])),
                    float(np.median(seconds)),
                    float(np.median(each)),
                )
            )
        return Table(columns, tuple(rows))

    def write(self, out: Path) -> list[Path]:
        """optimisers.md, .csv and .png, and optimisers_traces.csv with every iterate."""
        spread = self.options.spread
        heading = (
            f"# Optimisers\n\nStarts about the truth with {spread.sigma_deg:g} deg and {spread.sigma_mm:g} mm per axis, on {self.device}; at most "
            f"{self.options.iterations} iterations. Error: mean 3D displacement of the fiducials. `iterations` and `seconds` are those after which "
            "the error stays within 0.1 mm of the search's end (medians); `evaluations` of residual and Jacobian are those of the whole search. "
            "One start at a time."
        ) + "".join(f"\n\n{note}" for note in self.notes)
        files = [*self.table().write(out / "optimisers", digits=3, heading=heading)]
        files.append(write_figure(search_figure(self.searches), out / "optimisers.png"))
        files.append(out / "optimisers_traces.csv")
        write_text(files[-1], rows_to_csv(self._rows()))
        return files

    def _rows(self) -> Iterator[Sequence[Value]]:
        yield ("method", "case", "start", "iteration", "seconds", "error [mm]", "cost")
        for search in self.searches:
            for index, (seconds, error, cost) in enumerate(zip(search.seconds.tolist(), search.errors.tolist(), search.costs.tolist())):
                yield (search.method, search.case, search.start, index, seconds, error, cost)


def run_optimiser_benchmark(
    cases: Sequence[Path],
    model: Model,
    out: Path,
    options: OptimiserOptions = OptimiserOptions(),
    *,
    device: str = "cpu",
    recompute: bool = False,
    progress: ProgressCallback = silent,
) -> OptimiserBenchmark:
    """Search from every start of every case with every method; `<out>/searches.jsonl` keeps what is done.

    Args:
        cases: case folders with truth.json, of the model's CT.
        model: its encoder and camera.
        out: the folder.
        options: see `OptimiserOptions`.
        device: "cpu" or "cuda:N".
        recompute: forget an earlier run.
        progress: called several times a second.

    Raises:
        InputError: no case, a case without truth or without the labels that the model was trained on, or another experiment's outcomes in the folder.
    """
    if not cases:
        raise InputError("no case was given")
    truths = {case: load_truth(case) for case in cases}
    spread = options.spread
    header = {
        "methods": options.methods,
        "iterations": options.iterations,
        "spread": [spread.count, spread.sigma_deg, spread.sigma_mm, spread.seed],
        "cases": [case_digest(case, {"truth": truths[case].camera_from_world.tolist()}) for case in cases],
        "model": model.identity,
        "device": device,
    }
    journal = Journal(out / "searches.jsonl", header, recompute=recompute)
    done = {_key(entry): entry for entry in journal.entries}
    keys = [(case, start, method) for case in cases for start in range(spread.count) for method in options.methods]
    todo = [key for key in keys if _text(key) not in done]
    bench: _Bench | None = None
    began = time.perf_counter()
    for number, (case, start, method) in enumerate(todo):
        if bench is None or bench.path != case:
            bench = _Bench.of(case, truths[case], model, options, device)
        message = f"{case.name} {method} {pace(time.perf_counter() - began, number, len(todo))}"
        tick = partial(progress, Progress("searches", len(keys) - len(todo) + number, len(keys), message.strip()))
        tick()
        journal.add(_entry(case, start, method, bench.search(start, method, tick), truths[case]))
        done[_text((case, start, method))] = journal.entries[-1]
    progress(Progress("searches", len(keys), len(keys)))
    return OptimiserBenchmark(options, tuple(_search(done[_text(key)]) for key in keys), device, labels_notes(model))


@dataclass(frozen=True)
class _Bench:
    """One case made ready."""

    path: Path
    truth: Truth
    centre: torch.Tensor
    problems: dict[str, MultiViewProblem]
    options: OptimiserOptions

    @classmethod
    def of(cls, path: Path, truth: Truth, model: Model, options: OptimiserOptions, device: str) -> _Bench:
        case = load_case(path)
        pyramid = prepared_as_trained(case, model, device)
        model = model.to(pyramid.device)
        problems = {}
        for name in dict.fromkeys(method.partition(":")[0] for method in options.methods):
            made = {SPHERICAL: spherical_terms, ANCHORED: anchored_terms}.get(name, partial(intensity_terms, name=name))
            problems[name] = MultiViewProblem(made(pyramid, case.views, model))
        bench = cls(path, truth, pyramid.centre, problems, options)
        for name in problems:  # caches and kernels are filled before anything is timed
            trace("lm", problems[name], bench.start(0), pyramid.centre, 2, silent)
        return bench

    def start(self, index: int) -> torch.Tensor:
        pose = self.options.spread.draw(index, self.truth.camera_from_world, self.centre.cpu().numpy())
        return torch.from_numpy(pose).to(self.centre.device)

    def search(self, start: int, method: str, tick: Callable[[], None]) -> Trace:
        similarity, _, optimiser = method.partition(":")
        problem, begin = self.problems[similarity], self.start(start)
        return trace(optimiser, problem, begin, self.centre, self.options.iterations, lambda _: tick())


def _entry(case: Path, start: int, method: str, found: Trace, truth: Truth) -> dict[str, Any]:
    pose, points = torch.from_numpy(truth.camera_from_world), torch.from_numpy(truth.fiducials)
    errors = mtre_3d(pose, torch.from_numpy(found.poses), points)
    return {
        "case": case.name,
        "start": start,
        "method": method,
        "key": _text((case, start, method)),
        "seconds": found.seconds.tolist(),
        "errors": [value if math.isfinite(value) else None for value in errors.tolist()],
        "costs": [value if math.isfinite(value) else None for value in found.costs.tolist()],
        "evaluations": found.evaluations,
    }


def _search(entry: Mapping[str, Any]) -> Search:
    errors, costs = (np.array([math.inf if value is None else value for value in entry[name]]) for name in ("errors", "costs"))
    return Search(entry["method"], entry["case"], int(entry["start"]), np.array(entry["seconds"]), errors, costs, int(entry["evaluations"]))


def _key(entry: Mapping[str, Any]) -> str:
    return str(entry["key"])


def _text(key: tuple[Path, int, str]) -> str:
    case, start, method = key
    return f"{case.resolve()} {start} {method}"


def _settled(search: Search) -> int:
    """The first iteration from which on the error stays within 0.1 mm of the last."""
    far = np.flatnonzero(~(np.abs(search.errors - search.errors[-1]) <= 0.1))
    return int(far[-1]) + 1 if len(far) else 0
