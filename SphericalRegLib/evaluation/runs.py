"""Registering many cases without their truth, resumably.

`register_cases` sees case folders as `load_case` reads them: truth.json is not opened. Each case has a folder in the output with `result.json` (the
registration's own) and `record.json` (time, memory, what was registered, or the error). A failed case is tried again on the next run; a finished
one is kept as long as its files and the options stay the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.case import Case, CaseFiles, find_case_files, load_case
from SphericalRegLib.imaging.files import read_json_object, write_json
from SphericalRegLib.progress import Cancelled, Progress, ProgressCallback, pace, silent
from SphericalRegLib.registration.result import RegistrationResult
from SphericalRegLib.visualization.result_folder import forget_results, refuse_case

from .tables import write_text

RUNTIME_NOTE = (
    "Seconds are wall-clock time of the registration of one case, CT and X-ray in memory already: every stage and every start are "
    "included, reading files and writing results are not. The first case of a CT also holds its preparation, and the compilation of a kernel that is "
    "not cached yet."
)


class Result(Protocol):
    """What a registrar returns: `to_dict()` with at least `camera_from_world`, 4 x 4."""

    def to_dict(self) -> dict[str, Any]: ...


LARGE = 1 << 25
"""Bytes from which a file is not read to see whether it has changed."""

Registrar = Callable[[Case], Result]
Writer = Callable[[Result, Case, Path], None]


@dataclass(frozen=True)
class Record:
    """What is kept of one case beside its result.

    Attributes:
        name: of the case within the run, also its folder in the output.
        case: path of the case folder.
        digest: of the case's files and of the options.
        error: None, or why there is no result.
        seconds: of the registration alone; None without a result.
        load_seconds: reading the case.
        peak_memory_mb: highest memory of the whole process so far, None where the system does not tell.
        camera, centre_ras_mm, initial_camera_from_world: what the metrics need.
    """

    name: str
    case: str
    digest: str
    error: str | None = None
    seconds: float | None = None
    load_seconds: float | None = None
    peak_memory_mb: float | None = None
    camera: dict[str, Any] | None = None
    centre_ras_mm: list[float] | None = None
    initial_camera_from_world: list[list[float]] | None = None


def find_cases(paths: Sequence[str | Path]) -> list[Path]:
    """Case folders: those given, and where a given folder is none, those directly in it, by name.

    Raises:
        InputError: a path is missing, or holds no case.
    """
    cases: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise InputError(f"{path} is {'a file' if path.exists() else 'missing'}, expected a case folder or a folder of cases")
        inside = [path] if _is_case(path) else sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".") and _is_case(p))
        if not inside:
            raise InputError(f"{path} holds no case: expected folders with xray.* and geometry.json, or case.json")
        cases += inside
    if not cases:
        raise InputError("no case was given")
    return cases


def register_cases(
    cases: Sequence[Path],
    out_dir: str | Path,
    registrar: Registrar,
    *,
    options: Mapping[str, Any] | None = None,
    recompute: bool = False,
    load: Callable[[Path], Case] = load_case,
    write: Writer | None = None,
    progress: ProgressCallback = silent,
) -> tuple[Record, ...]:
    """Register every case without its truth; the loop that `batch` and `evaluate` share.

    Args:
        cases: case folders.
        out_dir: results; may hold those of an earlier run with the same options, which are kept.
        registrar: Case -> result. An exception other than `Cancelled` makes a failed case.
        options: plain values that decide the result: method, device, seed. A run with other ones is refused, or replaced if `recompute`.
        recompute: forget earlier results.
        load: reads a case folder.
        write: writes a result into its folder, `result.json` included; by default only that.
        progress: called before each case, with rate and time left.

    Raises:
        InputError: no case, a case twice, an output folder that is a file, holds results of other options, or has cases of these names.
        Cancelled: from the progress callback or the registrar; what is done stays.
    """
    if not cases:
        raise InputError("no case was given")
    out, plain = Path(out_dir), json.loads(json.dumps(dict(options or {})))
    names = case_names(cases)
    for name in names:
        refuse_case(out / name)
    _claim(out, plain, recompute)
    records: list[Record] = []
    begin, computed = time.perf_counter(), 0
    for index, (case, name) in enumerate(zip(cases, names)):
        folder = out / name
        digest = case_digest(case, plain)
        record = None if recompute else _kept(folder, digest)
        if record is None:
            message = f"{name} {pace(time.perf_counter() - begin, computed, computed + len(cases) - index)}".strip()
            progress(Progress("register", index, len(cases), message))
            record = _register_one(case, name, digest, folder, registrar, load, write or _write_result)
            computed += 1
        records.append(record)
    failed = sum(r.error is not None for r in records)
    progress(Progress("register", len(cases), len(cases), f"{failed} failed" if failed else "all done"))
    return tuple(records)


def complete_results(
    records: Sequence[Record], out: Path, write: Callable[[RegistrationResult, Case, Path], None], progress: ProgressCallback = silent
) -> None:
    """Write in full what an earlier run without pictures left as result.json alone; `write` as of `register_cases`."""
    bare = [record for record in records if record.error is None and not (out / record.name / "report.html").exists()]
    for number, record in enumerate(bare):
        progress(Progress("pictures", number, len(bare), record.name))
        result = RegistrationResult.from_dict(read_json_object(out / record.name / "result.json", "result"))
        write(result, load_case(record.case), out / record.name)
    if bare:
        progress(Progress("pictures", len(bare), len(bare)))


def _register_one(
    case: Path, name: str, digest: str, folder: Path, registrar: Registrar, load: Callable[[Path], Case], write: Writer
) -> Record:
    folder.mkdir(parents=True, exist_ok=True)
    forget_results(folder)
    for stale in ("record.json", "traceback.txt"):
        (folder / stale).unlink(missing_ok=True)
    details: dict[str, Any] = {}
    try:
        begin = time.perf_counter()
        loaded = load(case)
        details["load_seconds"] = time.perf_counter() - begin
        start = loaded.initial_camera_from_world
        details["camera"] = loaded.views[0].radiograph.camera.to_dict()
        details["centre_ras_mm"] = np.asarray(loaded.volume.centre_ras_mm).tolist()
        details["initial_camera_from_world"] = None if start is None else np.asarray(start).tolist()
        begin = time.perf_counter()
        result = registrar(loaded)
        seconds = time.perf_counter() - begin
        write(result, loaded, folder)
        record = Record(name, str(case), digest, seconds=seconds, peak_memory_mb=peak_memory_mb(), **details)
    except Cancelled:
        raise
    except Exception as error:  # one bad case must not end a night's run: it becomes a row
        expected = isinstance(error, InputError)
        text = str(error) if expected else f"{type(error).__name__}: {error}"
        if not expected:
            write_text(folder / "traceback.txt", traceback.format_exc())
        record = Record(name, str(case), digest, error=text, peak_memory_mb=peak_memory_mb(), **details)
    write_json(folder / "record.json", asdict(record))
    return record


def _write_result(result: Result, case: Case, folder: Path) -> None:
    write_json(folder / "result.json", result.to_dict())


def _kept(folder: Path, digest: str) -> Record | None:
    """The record of an earlier run, if it succeeded on the same files with the same options and its result can be read."""
    try:
        record = Record(**read_json_object(folder / "record.json", "record"))
        read_json_object(folder / "result.json", "result")
    except (InputError, TypeError):
        return None
    return record if record.error is None and record.digest == digest else None


def _claim(out: Path, options: dict[str, Any], recompute: bool) -> None:
    """Make the output folder this run's own, or refuse one with results of other options."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file, expected a folder for the results")
    run = out / "run.json"
    if run.exists() and not recompute:
        earlier = read_json_object(run, "run record").get("options")
        if earlier != options:
            changed = sorted(k for k in {*options, *(earlier or {})} if options.get(k) != (earlier or {}).get(k))
            raise InputError(f"{out} holds results of a run with other options ({', '.join(changed)}): choose another folder or recompute")
    write_json(run, {"options": options})


def case_names(cases: Sequence[Path]) -> list[str]:
    """Names relative to the folder that all cases share, so that thorax/case_000 and pelvis/case_000 stay apart."""
    paths = [Path(case).resolve() for case in cases]
    if len(set(paths)) != len(paths):
        twice = next(p for p in paths if paths.count(p) > 1)
        raise InputError(f"case {twice} was given twice")
    shared = Path(os.path.commonpath([p.parent for p in paths]))
    return [p.relative_to(shared).as_posix() for p in paths]


def _is_case(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("geometry.json", "case.json")) or any(folder.glob("xray.*"))


def case_digest(case: Path, options: Mapping[str, Any]) -> str:
    """Of the options and of everything that registration may see, wherever it lies: small files by content, large ones, the CT and its label map by
    path, size and time of change."""
    found = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    seen = {path for path in Path(case).iterdir() if path.is_file() and path.name not in ("truth.json", "simulation.json")}
    stamped: set[Path] = set()
    try:
        files = find_case_files(case)
        seen, stamped = seen | _of_views(files), _of_ct(files)
    except InputError:
        found.update(b"no case")  # the same error comes again, in words, when the case is loaded
    for path in sorted(seen | stamped):
        found.update(path.name.encode())
        found.update(_stamp(path) if path in stamped or path.stat().st_size >= LARGE else path.read_bytes())
    return found.hexdigest()


def _of_views(files: CaseFiles) -> set[Path]:
    return {path for view in files.views for path in (view.xray, view.geometry, view.mask) if path is not None}


def _of_ct(files: CaseFiles) -> set[Path]:
    """CT and label map; of a DICOM folder its files."""
    roots = [path for path in (files.ct, files.labels) if path is not None]
    return {path for root in roots for path in ([root] if root.is_file() else root.rglob("*")) if path.is_file()}


def _stamp(path: Path) -> bytes:
    state = path.stat()
    return f"{path.resolve()} {state.st_size} {state.st_mtime_ns}".encode()


def peak_memory_mb() -> float | None:
    """Highest resident memory of this process so far, MB; None on systems that do not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
