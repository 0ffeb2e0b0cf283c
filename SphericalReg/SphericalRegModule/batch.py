"""Many registrations: case folders as the command line does them, or pairs of nodes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from SphericalRegLib.errors import InputError
from SphericalRegLib.progress import Progress, ProgressCallback

from .models import loaded

PAIRS_TABLE = "pairs.csv"
"""Of pairs of nodes; a folder of cases has batch.csv, whose columns are others."""

COLUMNS = ("name", "verdict", "error", "score", "doubt", "seconds")


def register_batch(
    logic: Any, cases: Any, output: str | Path | None, progress: ProgressCallback | None, choices: dict[str, Any], of_pairs: dict[str, Any]
) -> list[dict[str, Any]]:
    """See `SphericalRegLogic.registerBatch`; `choices` are the keywords of `batch_of_folders`, `of_pairs` the further ones for pairs of nodes."""
    from .runner import run_to_end

    if isinstance(cases, (str, Path)) or all(isinstance(case, (str, Path)) for case in cases):
        if of_pairs:
            raise TypeError(f"registerBatch of case folders takes no {', '.join(sorted(of_pairs))}: they are for pairs of nodes.")
        folders = [Path(case) for case in ([cases] if isinstance(cases, (str, Path)) else cases)]
        chosen = {**choices, "options": logic.options if choices["options"] is None else choices["options"]}
        return run_to_end(lambda report: batch_of_folders(folders, output, report, **chosen), progress)
    return batch_of_nodes(logic, cases, output, progress=progress, **{**of_pairs, **choices, "model": loaded(choices["model"])})


def batch_of_folders(
    folders: Sequence[Path],
    output: str | Path | None,
    progress: ProgressCallback,
    *,
    initial: Any = None,
    model: Any = None,
    device: str = "auto",
    seed: int = 0,
    options: Any = None,
) -> list[dict[str, Any]]:
    """Register case folders, resumably; touches nothing of the scene. The poses and the files are those of ``sphericalreg batch``.

    Args:
        initial: for all of them, as of `evaluation.registrar.CaseRegistrar`; None: what each case says.
        model: as of `models.loaded`.
        options: RegistrationOptions; None: the library's.

    Raises:
        InputError: no case, no output folder, a start that none of them can begin from, or a model that is none.
        Cancelled: out of `progress`; what is done stays.
    """
    if output is None or not str(output):
        raise InputError("A batch of case folders needs a folder for its results.")
    from SphericalRegLib.evaluation.runs import find_cases
    from SphericalRegLib.imaging.files import read_json_object, require_writable_folder

    require_writable_folder(Path(output), "the folder of results")
    cases = find_cases(folders)  # before PyTorch is loaded, which takes seconds
    from SphericalRegLib.devices import resolve_device
    from SphericalRegLib.evaluation.protocol import BatchOptions, batch, register_folders

    chosen = BatchOptions(initial, loaded(model), resolve_device(device), seed, options)
    rows = []
    for record in register_folders(cases, output, chosen, progress, then=batch, within=progress).records:
        result = {} if record.error else read_json_object(Path(output) / record.name / "result.json", "result")
        rows.append(row(record.name, result, record.seconds, record.error))
    return rows


def batch_of_nodes(
    logic: Any, pairs: Iterable[Any], output: str | Path | None = None, *, progress: ProgressCallback | None = None, **keywords: Any
) -> list[dict[str, Any]]:
    """Register (ctNode, xrayNode) pairs one after the other; a pair that fails has its reason in its row.

    Args:
        output: folder for `PAIRS_TABLE`, written anew after each pair: a batch that is cancelled keeps what is done.

    Raises:
        InputError: the folder cannot be written to.
        Cancelled: out of `progress`.
    """
    from SphericalRegLib.imaging.files import require_writable_folder
    from SphericalRegLib.mrml.provenance import result_of

    if output:
        require_writable_folder(Path(output), "the folder of results")
    rows: list[dict[str, Any]] = []
    pairs = list(pairs)
    for number, (ct, xray) in enumerate(pairs):
        name = f"{ct.GetName()}, {xray.GetName()}"
        if progress is not None:
            progress(Progress("batch", number, len(pairs), name))
        began = time.perf_counter()
        try:
            nodes = logic.register(ct, xray, progress=progress, **keywords)
            rows.append(row(name, result_of(nodes.transform).to_dict(), time.perf_counter() - began, None))
        except (InputError, RuntimeError) as error:  # whatever it was, the others are registered: as `sphericalreg batch` does it
            rows.append(row(name, {}, None, str(error).partition("\n")[0]))
        if output:
            write_rows(Path(output) / PAIRS_TABLE, rows)
    return rows


def row(name: str, result: dict[str, Any], seconds: float | None, error: str | None) -> dict[str, Any]:
    """One row of a batch: name, verdict, score, doubt, seconds, error, camera_from_world."""
    from SphericalRegLib.mrml.tables import result_row

    return {"name": name, **result_row(result, seconds, error)}


def write_rows(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV, the pose in twelve columns.

    Raises:
        InputError: the file cannot be written.
    """
    from SphericalRegLib.evaluation.tables import Table, write_text
    from SphericalRegLib.mrml.tables import flat

    plain = flat(rows)
    table = Table(tuple(plain[0]) if plain else (), tuple(tuple(line.values()) for line in plain))
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(path), table.to_csv())
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error}") from None
