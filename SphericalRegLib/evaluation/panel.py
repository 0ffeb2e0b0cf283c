"""`sphericalreg panel`: X-ray, DRR, overlay and difference of registered cases in one figure (the paper's Fig. 2).

Reads what `register`, `batch` or `evaluate` left behind. Where a case has a truth, the difference is that of the DRRs at the true and the estimated
pose; otherwise that of X-ray and DRR.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.attenuation import AttenuationModel
from SphericalRegLib.imaging.case import Case, load_case
from SphericalRegLib.imaging.files import read_json_object
from SphericalRegLib.imaging.geometry_values import told
from SphericalRegLib.progress import Progress, ProgressCallback, silent
from SphericalRegLib.registration.options import RegistrationOptions
from SphericalRegLib.registration.pipeline import prepare
from SphericalRegLib.registration.result import RegistrationResult
from SphericalRegLib.visualization.output import panel_row, render_views
from SphericalRegLib.visualization.panel import PanelRow

from .metrics import pose_errors
from .runs import case_names
from .truth import Truth, load_truth


def panel_rows(cases: Sequence[Path], results: Path, *, device: str = "cpu", progress: ProgressCallback = silent) -> list[PanelRow]:
    """One row for each view of each case.

    Args:
        cases: case folders.
        results: the output folder of `batch` or `evaluate` of these cases, or of `register` of the only one.
        device: "cpu" or "cuda:N".
        progress: called before each case.

    Raises:
        InputError: a case has no result there, or a truth that cannot be read.
    """
    found = [_result(results, name, len(cases)) for name in case_names(cases)]
    rows: list[PanelRow] = []
    for number, (path, result) in enumerate(zip(cases, found)):
        progress(Progress("panel", number, len(cases), path.name))
        case = load_case(path, told(result.options.get("mirrored"), result.options.get("frame"), "result.json"))
        truth = load_truth(path) if (path / "truth.json").exists() else None
        pyramid = prepare(case.volume, _as_registered(result, path), device)
        views = render_views(result, pyramid, case.views, None if truth is None else truth.camera_from_world)
        rows += [panel_row(view, _label(case, index, result, truth)) for index, view in enumerate(views)]
    progress(Progress("panel", len(cases), len(cases)))
    return rows


def _result(results: Path, name: str, count: int) -> RegistrationResult:
    for path in (results / name / "result.json", *([results / "result.json"] if count == 1 else [])):
        if path.exists():
            return RegistrationResult.from_dict(read_json_object(path, "result"))
    raise InputError(f"{results} holds no result of the case {name}; expected {name}/result.json, as batch and evaluate write it")


def _as_registered(result: RegistrationResult, case: Path) -> RegistrationOptions:
    """The part of a result's options that decides what a DRR shows: what was registered is what is drawn."""
    labels, kept = result.options.get("labels"), result.options.get("attenuation") or {}
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()}
    try:
        attenuation = AttenuationModel(**values)
        return RegistrationOptions(labels=None if labels is None else tuple(labels), attenuation=attenuation)
    except TypeError:
        raise InputError(f"the result of {case} was made with an attenuation that this version does not know: {', '.join(values)}") from None


def _label(case: Case, view: int, result: RegistrationResult, truth: Truth | None) -> str:
    name = case.name if len(case.views) == 1 else f"{case.name}, view {view + 1}"
    if truth is None:
        return f"{name}: score {result.score:.2f}"
    camera, centre = case.views[0].radiograph.camera, case.volume.centre_ras_mm
    errors = pose_errors(truth.camera_from_world, result.camera_from_world, truth.fiducials, camera, centre)
    return f"{name}: mTRE {errors.mtre_3d:.2f} mm"
