"""The HTML report of one registration: one file, no request to anywhere, light and dark, printable, usable by keyboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.visualization.convergence import StageTrace, convergence_figure
from SphericalRegLib.visualization.figures import WEB, themed_svg
from SphericalRegLib.visualization.html import Html, facts, page, table, tag, write_page
from SphericalRegLib.visualization.report_pictures import ReportView, difference_maps, viewer

# A verdict in plain words: heading, explanation. A verdict that isn't here is shown as it is.
PLAIN_VERDICTS = {
    "uncalibrated": (
        "Accuracy not known: look at the overlay",
        "This is the pose that fits the X-ray best among those tried. No tested rule for this kind of image says how accurate it is "
        "(verdict “uncalibrated”). A good fit can be a wrong pose: check the overlay, and above all the depth.",
    ),
}


@dataclass(frozen=True)
class MetricText:
    """How a metric is shown: its name, unit and definition."""

    name: str
    unit: str
    definition: str


METRICS = {
    "mtre_3d": MetricText(
        "(a) mTRE, 3D", "mm", "Mean distance in space between the fiducials moved by the true and by the estimated pose. The strict one."
    ),
    "mrpe": MetricText(
        "(b) mRPE",
        "mm",
        "Mean re-projection error: fiducials projected under each pose, lifted to the detector plane, brought back to the CT by that pose's own "
        "inverse and compared there. Blind to a rotation about the beam.",
    ),
    "mrpe_scaled": MetricText("(c) mRPE, scaled", "", "(b) multiplied by the pixel size, as some papers print it: for comparison with them only."),
    "mpe_2d": MetricText("(d) mPE, 2D", "mm", "Mean distance on the detector between the fiducials projected under the two poses."),
    "rotation_deg": MetricText("Rotation", "°", "Angle of the rotation that takes the estimated pose to the true one."),
    "translation": MetricText("Translation", "mm", "Displacement of the CT's centre between the two poses."),
    "in_plane": MetricText("In-plane", "mm", "The part of (a) across the beam: what one X-ray shows."),
    "depth": MetricText("Depth", "mm", "The part of (a) along the beam: what one X-ray hardly shows."),
    "initial_mtre_3d": MetricText("mTRE, 3D, at the start", "mm", "(a) for the initial pose."),
}


@dataclass(frozen=True)
class CaseReport:
    """What a report shows.

    Attributes:
        title, subtitle: heading, and one line below it.
        views: one per X-ray.
        result: as `RegistrationResult.to_dict` gives it: camera_from_world, covariance, score, verdict, doubt, predicted_target_error_mm,
            hypotheses, versions, seed ...; keys that are missing are left out of the report.
        stages: what the optimiser did.
        inputs: file name -> description ("133 x 512 x 512 voxels, 0.7 x 0.7 x 2.5 mm").
        metrics: errors against the truth, by the keys of `METRICS`; None where there is no truth.
        command: how to make it again.
    """

    title: str
    views: Sequence[ReportView]
    result: Mapping[str, Any]
    stages: Sequence[StageTrace] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float | None] | None = None
    subtitle: str = ""
    command: str = ""


def report_html(case: CaseReport) -> str:
    """The page as text.

    Raises:
        InputError: if there is no view, or images of a view don't fit together.
    """
    if not case.views:
        raise InputError(f"report {case.title}: there is no view to show; expected at least one X-ray with its DRR")
    several = len(case.views) > 1
    sections = [_verdict(case), _section("glance", "At a glance", facts(_glance(case)))]
    for number, view in enumerate(case.views, 1):
        sections.append(_section(f"view-{number}", view.title if several else "Overlay", viewer(view, number)))
    differences = [(tag("h3", view.title) if several else None, difference_maps(view)) for view in case.views]
    explanation = (
        "X-ray and DRR are compared in local contrast (1 is five local standard deviations), so that scatter, exposure and display curve don't pass "
        "for displacement. Coloured fringes along anatomy mean a wrong pose; what only the X-ray has (tools, what lies beyond the CT) stays red."
    )
    sections.append(_section("differences", "Differences", tag("p", explanation, class_="note"), differences))
    if case.metrics:
        sections.append(_section("errors", "Errors against the truth", _errors(case.metrics)))
    if case.stages:
        sections.append(_section("convergence", "How it got there", _convergence(case.stages)))
    if case.result.get("camera_from_world") is not None:
        sections.append(_section("pose", "Pose", _pose(case.result)))
    sections.append(_section("provenance", "Provenance", _provenance(case)))
    return page(case.title, sections, case.subtitle or None)


def write_report(case: CaseReport, path: str | Path) -> Path:
    """Write the report, whole or not at all; returns its path."""
    return write_page(report_html(case), path)


def metric_value(key: str, value: float | None) -> str:
    """A metric as text with its unit; "not available" for None and NaN."""
    if value is None or not np.isfinite(value):
        return "not available"
    unit = METRICS[key].unit if key in METRICS else ""
    return f"{value:.2f}{'' if unit in ('', '°') else ' '}{unit}"


def _section(name: str, title: str, *content: Any) -> Html:
    return tag("section", tag("h2", title), *content, id=name)


def _verdict(case: CaseReport) -> Html | None:
    verdict, doubt = case.result.get("verdict"), case.result.get("doubt")
    if verdict is None and not doubt:
        return None
    heading, words = PLAIN_VERDICTS.get(str(verdict), (f"Verdict: {verdict}", None))
    if doubt:  # it says more than that nothing is known
        heading = f"Doubtful: {doubt}"
    notes = [tag("li", str(note)) for note in case.result.get("notes", ())]
    return tag("section", tag("h2", heading), tag("p", words) if words else None, tag("ul", notes) if notes else None, class_="verdict")


def _glance(case: CaseReport) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    result = case.result
    if case.metrics and case.metrics.get("mtre_3d") is not None:
        begin = case.metrics.get("initial_mtre_3d")
        note = tag("small", f"at the start {metric_value('initial_mtre_3d', begin)}") if begin is not None else None
        entries["Error (mTRE, 3D)"] = [metric_value("mtre_3d", case.metrics["mtre_3d"]), note]
    predicted = result.get("predicted_target_error_mm")
    entries["Predicted error"] = f"{predicted:.1f} mm" if predicted is not None else ["unknown", tag("small", "needs calibration")]
    score = result.get("score")
    if isinstance(score, (int, float)):
        entries["Similarity (best is 1)"] = f"{score:.3f}"
    if case.stages:
        seconds = result.get("seconds") or sum(stage.seconds for stage in case.stages)
        entries["Registration time"] = f"{seconds:.2f} s"
    tried = max((stage.tried or 0 for stage in case.stages), default=0)
    if tried > 1:
        entries["Poses compared"] = f"{tried:,}"
    return entries


def _errors(metrics: Mapping[str, float | None]) -> Html:
    keys = [*(key for key in METRICS if key in metrics), *(key for key in metrics if key not in METRICS)]
    texts = {key: METRICS.get(key, MetricText(key, "", "")) for key in keys}
    rows = [(text.name, metric_value(key, metrics[key]), text.definition) for key, text in texts.items()]
    caption = "The truth was used for this table and for the pictures that say so, never by the registration."
    return table(("Metric", "Value", "Definition"), rows, caption, numeric=[1])


def _convergence(stages: Sequence[StageTrace]) -> list[Html]:
    names = ", ".join(stage.name for stage in stages)
    drawing = tag("div", Html(themed_svg(convergence_figure(stages, WEB), "convergence")), role="img", aria_label=f"Cost over iterations for {names}")
    rows = [
        (
            stage.name,
            stage.tried or "",
            stage.iterations if stage.costs.size else "",
            f"{stage.costs[0, stage.kept]:.4g}" if stage.costs.size else "",
            f"{stage.costs[-1, stage.kept]:.4g}" if stage.costs.size else "",
            f"{stage.seconds:.2f}",
        )
        for stage in stages
    ]
    caption = "The cost of the hypothesis that was kept, stage by stage. Costs of different stages are not comparable."
    header = ("Stage", "Hypotheses", "Iterations", "Cost, first", "Cost, last", "Seconds")
    return [tag("figure", drawing, tag("figcaption", caption)), table(header, rows, "Stages", numeric=range(1, 6))]


def _pose(result: Mapping[str, Any]) -> list[Html | None]:
    pose = np.asarray(result["camera_from_world"], float)
    source = -pose[:3, :3].T @ pose[:3, 3]
    matrix = tag("table", tag("caption", "camera_from_world, mm"), tag("tbody", [tag("tr", [tag("td", f"{v:.6f}") for v in row]) for row in pose]))
    words = (
        "Maps the CT's own RAS coordinates to the camera: origin at the X-ray source, x to the right and y down in the image as seen from the "
        "source, z to the detector."
    )
    parts: list[Html | None] = [
        tag("p", words),
        tag("div", tag("div", matrix, class_="matrix"), class_="scroll", tabindex=0, role="region", aria_label="Pose matrix"),
        tag("p", f"X-ray source in the CT's RAS frame: {', '.join(f'{value:.1f}' for value in source)} mm."),
    ]
    covariance = result.get("covariance")
    if covariance is not None and np.shape(covariance) == (6, 6):
        deviations = np.sqrt(np.clip(np.diag(np.asarray(covariance, float)), 0, None))
        degrees = [f"{value:.3f}°" for value in np.degrees(deviations[:3])]
        lengths = [f"{value:.3f} mm" for value in deviations[3:]]
        caption = "Formal standard deviations from the curvature of the cost. They ignore model errors and are usually too small."
        header = ("About / along", "right (R)", "anterior (A)", "superior (S)")
        parts.append(table(header, [("Rotation", *degrees), ("Translation", *lengths)], caption, numeric=(1, 2, 3)))
    return parts


def _provenance(case: CaseReport) -> list[Html | None]:
    parts: list[Html | None] = []
    if case.inputs:
        parts.append(table(("Input", "What it is"), case.inputs.items(), "Inputs"))
    entries: dict[str, Any] = {}
    options, model = case.result.get("options", {}), case.result.get("model") or {}
    labels = ", ".join(map(str, options.get("labels") or ())) or None
    settings = {"Seed": case.result.get("seed"), "Device": options.get("device"), "Labels": labels, "Model": model.get("file")}
    entries |= {title: str(value) for title, value in settings.items() if value is not None}
    versions = case.result.get("versions")
    if isinstance(versions, Mapping):
        entries |= {str(name): str(version) for name, version in versions.items()}
    if entries:
        parts.append(table(("What", "Value"), entries.items(), "Versions and settings"))
    if case.command:
        parts.append(tag("p", "Made by ", tag("code", case.command)))
    return parts or [tag("p", "Nothing was recorded.")]
