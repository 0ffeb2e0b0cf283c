"""From how far away a registration finds home: many starts about the true pose of one case, each registered, each compared with the truth.

The truth places the starts and judges the ends; the registrar sees a start and the case, nothing else. Outcomes are appended to a file of JSON lines
as they come, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.rigid import checked_rigid
from SphericalRegLib.imaging.case import Case, View
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback, pace, silent
from SphericalRegLib.simulation.poses import draw_start

from .journal import Journal
from .metrics import FAILED, PoseErrors, pose_errors, summarise
from .runs import Result
from .tables import Table
from .truth import Truth

StartRegistrar = Callable[[Case, np.ndarray, int], Result]
"""(case, start camera_from_world (4, 4), number of the start) -> result."""


@dataclass(frozen=True)
class StartSpread:
    """How starts are drawn: `count` of them, each component of (omega, v) normal with these standard deviations, seeded one by one.

    Raises:
        InputError: no start, or a spread that is not a finite number of at least 0.
    """

    count: int = 50
    sigma_deg: float = 10.0
    sigma_mm: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 1 or self.seed < 0:
            raise InputError(f"There are {self.count} starts with seed {self.seed}; expected at least one start and a seed of at least 0.")
        if not all(np.isfinite(value) and value >= 0 for value in (self.sigma_deg, self.sigma_mm)):
            raise InputError(f"Starts spread over {self.sigma_deg} deg and {self.sigma_mm} mm; expected finite numbers of at least 0.")

    def draw(self, index: int, truth: np.ndarray, centre: np.ndarray) -> np.ndarray:
        """Start `index` (4, 4); the same whatever `count` is."""
        return draw_start(truth, centre, self.sigma_deg, self.sigma_mm, np.random.default_rng([self.seed, index]))


@dataclass(frozen=True)
class Outcome:
    """One start and where it led. Errors are those of the first view; `error` says why there is no result."""

    index: int
    start: PoseErrors
    end: PoseErrors
    seconds: float
    score: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class CaptureRange:
    """All outcomes in order, and the table that sums them up."""

    outcomes: tuple[Outcome, ...]
    table: Table


def joined_case(cases: Sequence[Case], relation: np.ndarray) -> Case:
    """One case of the views of two: the second's camera stands at `relation`, camera2_from_camera1 (4, 4), to the first's.

    Raises:
        InputError: not two cases of one view each, another CT in the second, a relation that is not rigid.
    """
    if len(cases) != 2 or any(len(case.views) != 1 for case in cases):
        raise InputError(f"{len(cases)} cases with {[len(case.views) for case in cases]} X-rays cannot be joined; expected two with one X-ray each.")
    first, second = cases
    same_grid = first.volume.shape == second.volume.shape and np.allclose(first.volume.world_from_voxel, second.volume.world_from_voxel, atol=1e-3)
    if not same_grid or not np.array_equal(first.volume.hu, second.volume.hu):
        raise InputError(f"The CTs of {first.path} and {second.path} differ; expected two X-rays of one CT.")
    views = (first.views[0], View(second.views[0].radiograph, checked_rigid(relation, "camera2_from_camera1")))
    return Case(first.path, first.volume, views, first.initial_camera_from_world)


def capture_range(
    case: Case,
    truth: Truth,
    registrar: StartRegistrar,
    spread: StartSpread,
    out: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    recompute: bool = False,
    progress: ProgressCallback = silent,
) -> CaptureRange:
    """Register a case from starts about its truth; writes `<out>/starts.jsonl` as it goes, `summary.csv` and `summary.md` at the end.

    Args:
        case: one or several views.
        truth: pose of the first view's camera and the fiducials.
        registrar: registers from one start. An exception other than `Cancelled` makes a failed start, an infinite error.
        spread: the starts.
        out: folder; outcomes of an earlier run with the same case, spread (but for the count) and options are kept.
        options: plain values that decide the result, for the record.
        recompute: forget an earlier run.
        progress: called before each start, with rate and time left.

    Raises:
        InputError: the folder is a file, or holds another run's outcomes.
        Cancelled: from the callback or the registrar; what is done stays.
    """
    folder = Path(out)
    header = {
        "case": str(Path(case.path).resolve()),
        "views": [view.radiograph.name for view in case.views],
        "content": _content(case, truth),
        "sigma_deg": spread.sigma_deg,
        "sigma_mm": spread.sigma_mm,
        "seed": spread.seed,
        "options": dict(options or {}),
    }
    journal = Journal(folder / "starts.jsonl", header, recompute=recompute)
    journal.keep([values for values in journal.entries if values["error"] is None])  # what failed is tried again
    done = {outcome.index: outcome for outcome in map(_outcome, journal.entries)}
    camera, centre = case.views[0].radiograph.camera, np.asarray(case.volume.centre_ras_mm)

    def errors(pose: np.ndarray) -> PoseErrors:
        return pose_errors(truth.camera_from_world, pose, truth.fiducials, camera, centre)

    begin, computed = time.perf_counter(), 0
    for index in range(spread.count):
        if index in done:
            continue
        progress(Progress("starts", len(done), spread.count, pace(time.perf_counter() - begin, computed, computed + spread.count - len(done))))
        start = spread.draw(index, truth.camera_from_world, centre)
        done[index] = _register(case, start, index, registrar, errors)
        journal.add(_plain(done[index]))
        computed += 1
    outcomes = tuple(done[index] for index in range(spread.count))
    table = _table(outcomes)
    table.write(folder / "summary", heading=_heading(header, len(outcomes)))
    progress(Progress("starts", spread.count, spread.count))
    return CaptureRange(outcomes, table)


def _content(case: Case, truth: Truth) -> str:
    """Digest of what is registered and compared with: files may change their content and keep their names."""
    found = hashlib.sha256(case.volume.hu.tobytes())
    for view in case.views:
        arrays = (view.radiograph.image, view.radiograph.mask, view.camera_from_camera1)
        found.update(json.dumps(view.radiograph.camera.to_dict()).encode() + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays))
    for array in (case.volume.world_from_voxel, case.volume.labels, truth.camera_from_world, truth.fiducials):
        found.update(b"" if array is None else np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def read_relation(path: str | Path) -> np.ndarray:
    """camera2_from_camera1 (4, 4) of a JSON file: the bare matrix, or an object with that key.

    Raises:
        InputError: the file is missing or no JSON, or what it holds is no rigid transform.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise InputError(f"{path} cannot be read; expected a JSON file with camera2_from_camera1.") from None
    except ValueError:
        raise InputError(f"{path} is not JSON; expected camera2_from_camera1 as 4 x 4 numbers.") from None
    matrix = content.get("camera2_from_camera1") if isinstance(content, dict) else content
    return checked_rigid(matrix, f"{path}: camera2_from_camera1")


def _register(case: Case, start: np.ndarray, index: int, registrar: StartRegistrar, errors: Callable[[np.ndarray], PoseErrors]) -> Outcome:
    began = time.perf_counter()
    try:
        result = registrar(case, start, index).to_dict()
    except Cancelled:
        raise
    except Exception as error:  # one bad start must not end a night's run: it becomes a failed one
        text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        return Outcome(index, errors(start), FAILED, time.perf_counter() - began, error=text)
    seconds = time.perf_counter() - began
    score = result.get("score")
    return Outcome(index, errors(start), errors(np.array(result["camera_from_world"])), seconds, None if score is None else float(score))


def _table(outcomes: Sequence[Outcome]) -> Table:
    rows = []
    for title, values in (
        ("in-plane [mm]", [o.end.in_plane for o in outcomes]),
        ("(a) mTRE 3D [mm]", [o.end.mtre_3d for o in outcomes]),
        ("depth [mm]", [o.end.depth for o in outcomes]),
        ("start, in-plane [mm]", [o.start.in_plane for o in outcomes]),
        ("start, (a) mTRE 3D [mm]", [o.start.mtre_3d for o in outcomes]),
    ):
        s = summarise(values)
        rows.append((title, s.count, s.failed, s.p25, s.p50, s.p75, s.p95, 100 * s.below_1mm, 100 * s.below_2mm, 100 * s.above_10mm))
    seconds = np.percentile([o.seconds for o in outcomes], (25, 50, 75, 95)).tolist()
    rows.append(("seconds", len(outcomes), sum(o.error is not None for o in outcomes), *seconds, None, None, None))
    columns = ("metric", "starts", "failed", "25 %", "median", "75 %", "95 %", "< 1 mm [%]", "< 2 mm [%]", "> 10 mm [%]")
    return Table(columns, tuple(rows))


def _heading(header: Mapping[str, Any], count: int) -> str:
    views = " + ".join(header["views"])
    return (
        f"# Capture range: {Path(header['case']).name} ({views})\n\n{count} starts about the true pose, each component of (omega, v) normal with "
        f"{header['sigma_deg']:g} deg and {header['sigma_mm']:g} mm, seed {header['seed']}. Errors at the fiducials, in the first view; seconds are "
        "wall-clock time of one registration, CT prepared and X-ray in memory."
    )


def _outcome(values: dict[str, Any]) -> Outcome:
    def errors(of: Mapping[str, float | None]) -> PoseErrors:
        return PoseErrors(**{key: float("inf") if value is None else value for key, value in of.items()})

    return Outcome(values["index"], errors(values["start"]), errors(values["end"]), values["seconds"], values["score"], values["error"])


def _plain(outcome: Outcome) -> dict[str, Any]:
    def errors(of: PoseErrors) -> dict[str, float | None]:
        return {key: value if np.isfinite(value) else None for key, value in of.to_dict().items()}

    return {
        "index": outcome.index,
        "start": errors(outcome.start),
        "end": errors(outcome.end),
        "seconds": outcome.seconds,
        "score": outcome.score,
        "error": outcome.error,
    }
