"""`batch` and `evaluate`: many registrations, and what they are worth against the truth.

The registrations (`runs.register_cases`) never see a truth; `evaluate` reads their results back from disk and compares afterwards.
`register_folders` is what the commands and Slicer's batch of case folders do: so their poses are equal, and one goes on where another stopped.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.case import Case
from SphericalRegLib.imaging.files import read_json_object, write_json
from SphericalRegLib.imaging.starts import Start
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.progress import ProgressCallback, silent
from SphericalRegLib.registration.options import RegistrationOptions
from SphericalRegLib.registration.result import RegistrationResult
from SphericalRegLib.visualization.output import describe_inputs, write_result_folder

from .metrics import FAILED, PoseErrors, Summary, pose_errors, summarise
from .registrar import CaseRegistrar
from .runs import RUNTIME_NOTE, Record, Registrar, complete_results, register_cases
from .tables import Table, write_text
from .truth import Truth, load_truth


@dataclass(frozen=True)
class Evaluation:
    """Records, errors, starting errors and what results say against themselves of all cases in order, and the summary of metric (a), `mtre_3d`."""

    records: tuple[Record, ...]
    errors: tuple[PoseErrors, ...]
    initial: tuple[PoseErrors | None, ...]
    doubts: tuple[str | None, ...]
    summary: Summary
    cases_table: Table
    summary_table: Table


class Batch(NamedTuple):
    """Records of all cases in order, and the table of what their results say."""

    records: tuple[Record, ...]
    table: Table


def batch(cases: Sequence[Path], out_dir: str | Path, registrar: Registrar, **keywords: Any) -> Batch:
    """Register cases that have no truth, and write `batch.csv` and `batch.md`; arguments and errors as of `register_cases`."""
    records = register_cases(cases, out_dir, registrar, **keywords)
    rows = []
    for record in records:
        result = {} if record.error else read_json_object(Path(out_dir) / record.name / "result.json", "result")
        of_result = _text(result.get("verdict")), _number(result.get("score")), _text(result.get("doubt"))
        rows.append((record.name, *of_result, record.seconds, record.peak_memory_mb, record.error))
    table = Table(("case", "verdict", "score", "doubt", "seconds", "peak memory [MB]", "error"), tuple(rows))
    table.write(Path(out_dir) / "batch", heading=f"# Batch\n\n{RUNTIME_NOTE}")
    return Batch(records, table)


def evaluate(cases: Sequence[Path], out_dir: str | Path, registrar: Registrar, **keywords: Any) -> Evaluation:
    """Register cases without their truth, compare with it afterwards, and write the tables.

    Writes `evaluation.md` (summary and cases), `cases.csv`, `summary.csv` and `evaluation.json`, metric (a) first. A failed case counts as an
    infinite error. Arguments as of `register_cases`.

    Raises:
        InputError: as `register_cases`; or no case has a usable truth.json (checked before anything is registered).
    """
    truths = [_try_truth(case) for case in cases]
    if truths and all(isinstance(t, InputError) for t in truths):
        raise truths[0]  # type: ignore[misc]  # narrowed by all()
    records = register_cases(cases, out_dir, registrar, **keywords)
    errors: list[PoseErrors] = []
    initial: list[PoseErrors | None] = []
    doubts: list[str | None] = []
    rows: list[tuple[Any, ...]] = []
    for record, truth in zip(records, truths):
        problem = record.error or (str(truth) if isinstance(truth, InputError) else None)
        found, started, doubt = FAILED, None, None
        if isinstance(truth, Truth):
            begin = record.initial_camera_from_world
            if record.error is None:
                result = read_json_object(Path(out_dir) / record.name / "result.json", "result")
                doubt = _text(result.get("doubt"))
                found = _errors_at(record, truth, result["camera_from_world"]) or FAILED
                begin = result.get("initial_camera_from_world") or begin  # where it began, which need not be what the case says
            started = _errors_at(record, truth, begin)
        errors.append(found)
        initial.append(started)
        doubts.append(doubt)
        rows.append((record.name, *found.to_dict().values(), started and started.mtre_3d, doubt, record.seconds, record.peak_memory_mb, problem))
    summary = summarise(e.mtre_3d for e in errors)
    tables = Table(_CASE_COLUMNS, tuple(rows)), _summary_table(errors, initial, doubts)
    evaluation = Evaluation(records, tuple(errors), tuple(initial), tuple(doubts), summary, *tables)
    _write(evaluation, Path(out_dir))
    return evaluation


@dataclass(frozen=True, eq=False)
class BatchOptions:
    """How case folders are registered.

    Attributes:
        initial, model, device, seed: as of `CaseRegistrar`.
        registration: of each; None: the library's.
        pictures: all files of ``sphericalreg register`` for each case, or result.json alone.
        recompute: forget earlier results.
    """

    initial: str | Start | np.ndarray | None = None
    model: Model | None = None
    device: str = "cpu"
    seed: int = 0
    registration: RegistrationOptions | None = None
    pictures: bool = True
    recompute: bool = False


class Registered(Protocol):
    """What `batch` and `evaluate` return."""

    @property
    def records(self) -> tuple[Record, ...]: ...


Done = TypeVar("Done", bound=Registered)


def register_folders(
    cases: Sequence[Path],
    out_dir: str | Path,
    options: BatchOptions,
    progress: ProgressCallback = silent,
    *,
    then: Callable[..., Done],
    within: ProgressCallback = silent,
) -> Done:
    """Register case folders, resumably.

    Args:
        cases, out_dir: as of `register_cases`.
        options: of all of them.
        progress: called before each case.
        then: `batch` or `evaluate`: what is made of the results.
        within: called during each registration; both may raise Cancelled, and what is done stays.

    Raises:
        InputError: as of `CaseRegistrar`, and of `then`.
    """
    registrar = CaseRegistrar(
        options.initial, model=options.model, device=options.device, seed=options.seed, options=options.registration, progress=within
    )
    named = registrar.options if options.model is None else {**registrar.options, "model": options.model.identity}

    def write(result: RegistrationResult, case: Case, folder: Path) -> None:
        if options.pictures:
            inputs, pyramid = describe_inputs(case.volume, case.views), registrar.prepared(case)
            write_result_folder(result, pyramid, case.views, folder, title=f"Registration of {case.name}", inputs=inputs)
        else:
            write_json(folder / "result.json", result.to_dict())

    done = then(cases, out_dir, registrar, options=named, recompute=options.recompute, write=write, progress=progress)
    if options.pictures:
        complete_results(done.records, Path(out_dir), write, progress)
    return done


_CASE_COLUMNS = (
    "case",
    "(a) mTRE 3D [mm]",
    "(b) mRPE [mm]",
    "(c) mRPE x pixel",
    "(d) mPE 2D [mm]",
    "in-plane [mm]",
    "depth [mm]",
    "rotation [deg]",
    "translation [mm]",
    "start mTRE [mm]",
    "doubt",
    "seconds",
    "peak memory [MB]",
    "error",
)

_METRICS = {
    "mtre_3d": "(a) mTRE 3D [mm]",
    "in_plane": "in-plane part of (a) [mm]",
    "depth": "depth part of (a) [mm]",
    "mrpe": "(b) mRPE [mm]",
    "mrpe_scaled": "(c) mRPE x pixel",
    "mpe_2d": "(d) mPE 2D [mm]",
    "rotation_deg": "rotation [deg]",
    "translation": "translation of the CT's centre [mm]",
}


def _summary_table(errors: Sequence[PoseErrors], initial: Sequence[PoseErrors | None], doubts: Sequence[str | None]) -> Table:
    """One line per metric, metric (a) first; shares in per cent, only for lengths in mm; below them (a) without doubtful results, and the start."""
    rows = [_summary_row(title, [getattr(e, key) for e in errors], key in ("mtre_3d", "in_plane", "mrpe")) for key, title in _METRICS.items()]
    sure = [e.mtre_3d for e, doubt in zip(errors, doubts) if doubt is None and math.isfinite(e.mtre_3d)]  # a failed one has said so
    if 0 < len(sure) < len(errors):
        rows.append(_summary_row("(a) without doubtful results [mm]", sure, True))
    started = [e.mtre_3d for e in initial if e is not None]
    if started:
        rows.append(_summary_row("mTRE 3D of the start [mm]", started, True))
    columns = ("metric", "cases", "failed", "25 %", "median", "75 %", "95 %", "< 1 mm [%]", "< 2 mm [%]", "> 10 mm [%]")
    return Table(columns, tuple(rows))


def _summary_row(title: str, values: Sequence[float], shares: bool) -> tuple[Any, ...]:
    s = summarise(values)
    percent = (100 * s.below_1mm, 100 * s.below_2mm, 100 * s.above_10mm) if shares else (None, None, None)
    return (title, s.count, s.failed, s.p25, s.p50, s.p75, s.p95, *percent)


def _write(evaluation: Evaluation, out: Path) -> None:
    seconds = [r.seconds for r in evaluation.records if r.seconds is not None]
    memory = [r.peak_memory_mb for r in evaluation.records if r.peak_memory_mb is not None]
    options = read_json_object(out / "run.json", "run record")["options"]
    lines = ["# Evaluation", "", evaluation.summary_table.to_markdown()]
    if seconds:
        lines.append(f"Registration: median {np.median(seconds):.2f} s a case (longest {max(seconds):.2f} s). {RUNTIME_NOTE}")
    if memory:
        lines.append(f"\nPeak memory of the process: {max(memory):.0f} MB.")
    lines += ["\nA failed case counts as an infinite error in every figure.", "\n## Cases\n", evaluation.cases_table.to_markdown()]
    lines += ["## Options\n", "```json", json.dumps(options, indent=1), "```", ""]
    write_text(out / "evaluation.md", "\n".join(lines))
    write_text(out / "cases.csv", evaluation.cases_table.to_csv())
    write_text(out / "summary.csv", evaluation.summary_table.to_csv())
    finite = {key: value if np.isfinite(value) else None for key, value in evaluation.summary.to_dict().items()}
    timing = {"median_seconds": float(np.median(seconds)) if seconds else None, "peak_memory_mb": max(memory) if memory else None}
    write_json(out / "evaluation.json", {"mtre_3d": finite, **timing, "runtime": RUNTIME_NOTE, "options": options})


def _try_truth(case: Path) -> Truth | InputError:
    try:
        return load_truth(case)
    except InputError as error:
        return error


def _errors_at(record: Record, truth: Truth, pose: list[list[float]] | None) -> PoseErrors | None:
    if pose is None or record.camera is None or record.centre_ras_mm is None:
        return None
    return pose_errors(truth.camera_from_world, np.array(pose), truth.fiducials, Camera.from_dict(record.camera), np.array(record.centre_ras_mm))


def _text(value: Any) -> str | None:
    return None if value is None else value if isinstance(value, str) else json.dumps(value)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
