"""From a registered case to its report: the one place that knows how results, cases and pictures fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.case import Case
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.visualization.convergence import stage_traces
from SphericalRegLib.visualization.report import CaseReport
from SphericalRegLib.visualization.report_pictures import ReportView


@dataclass(frozen=True)
class Rendered:
    """DRRs ``(H, W)`` of one view on the grid of its X-ray: at the result, at the start if one was given, at the truth in evaluation only."""

    drr: np.ndarray
    initial_drr: np.ndarray | None = None
    truth_drr: np.ndarray | None = None


def case_report(
    result: Mapping[str, Any],
    case: Case,
    rendered: Sequence[Rendered],
    *,
    title: str = "",
    subtitle: str = "",
    metrics: Mapping[str, float | None] | None = None,
    command: str = "",
) -> CaseReport:
    """The report of a case. ``result`` is what `RegistrationResult.to_dict` gives, ``rendered`` has one entry per view.

    Raises:
        InputError: if there aren't as many `Rendered` as views, or the result has no pose.
    """
    if len(rendered) != len(case.views):
        raise InputError(f"case {case.name} has {len(case.views)} X-rays but {len(rendered)} were rendered; expected one DRR for each")
    pose = np.asarray(result.get("camera_from_world"), float)
    if pose.shape != (4, 4):
        raise InputError(f"the result of case {case.name} has no camera_from_world; expected 4 x 4 numbers")
    names = [view.radiograph.name or f"view {number}" for number, view in enumerate(case.views, 1)]
    views = [
        ReportView(
            title=name,
            xray=view.radiograph.image,
            drr=drawn.drr,
            mask=view.radiograph.mask,
            camera_from_world=view.camera_from_camera1 @ pose,
            mirrored=view.radiograph.mirrored,
            initial_drr=drawn.initial_drr,
            truth_drr=drawn.truth_drr,
        )
        for name, view, drawn in zip(names, case.views, rendered, strict=True)
    ]
    inputs = {case.volume.name or "CT": describe_volume(case.volume)}
    for number, (name, view) in enumerate(zip(names, case.views, strict=True), 1):
        inputs[f"{name} ({number})" if name in inputs else name] = describe_radiograph(view.radiograph)
    return CaseReport(
        title=title or case.name,
        subtitle=subtitle or " · ".join(inputs),
        views=views,
        result=result,
        stages=stage_traces(result.get("stages", ())),
        inputs=inputs,
        metrics=metrics,
        command=command,
    )


def describe_volume(volume: Volume) -> str:
    size, spacing = (" x ".join(format(n, spec) for n in values) for values, spec in ((volume.shape, "d"), (volume.spacing_mm, ".2f")))
    return f"CT, {size} voxels of {spacing} mm"


def describe_radiograph(radiograph: Radiograph) -> str:
    camera = radiograph.camera
    columns, rows = camera.size_px
    width, height = camera.pixel_spacing_mm
    kinds = {"counts": "detector counts", "display": "display grey values", "line_integral": "line integrals"}
    used = 100 * float(np.mean(radiograph.mask))
    words = [
        f"X-ray, {columns} x {rows} pixels of {width:.3f} x {height:.3f} mm",
        f"source to detector {camera.sdd_mm:.0f} mm",
        kinds.get(radiograph.intensity, radiograph.intensity),
        f"{used:.0f} % of the pixels used",
    ]
    return ", ".join([*words, "stored mirrored"] if radiograph.mirrored else words)
