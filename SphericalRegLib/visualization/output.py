"""The folder that a registration leaves behind: the pose for programs, the scene for Slicer, pictures and a report for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.case import View
from SphericalRegLib.imaging.files import write_json
from SphericalRegLib.imaging.grid import place
from SphericalRegLib.imaging.transforms import write_transform
from SphericalRegLib.imaging.volume import Volume
from SphericalRegLib.registration.resolution import VolumePyramid
from SphericalRegLib.registration.result import RegistrationResult

from .convergence import convergence_figure, stage_traces
from .figures import write_figure
from .panel import PanelRow, difference_figure, overlay_figure
from .report import CaseReport, write_report
from .report_pictures import ReportView
from .result_folder import whole_or_nothing


@dataclass(frozen=True, eq=False)
class ShownTruth:
    """What only an evaluation knows, to be shown beside the result: the true pose (4, 4) and the errors by the keys of `report.METRICS`."""

    camera_from_world: np.ndarray
    metrics: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Rendered:
    """One view with its DRRs, (H, W) on the X-ray's grid, bone bright, as seen from the source."""

    view: View
    camera_from_world: np.ndarray
    world_from_camera_reference: np.ndarray
    drr: np.ndarray
    initial_drr: np.ndarray
    truth_drr: np.ndarray | None


def write_result_folder(
    result: RegistrationResult,
    pyramid: VolumePyramid,
    views: Sequence[View],
    out: str | Path,
    *,
    title: str = "Registration",
    command: str = "",
    inputs: Mapping[str, str] | None = None,
    truth: ShownTruth | None = None,
) -> list[ReportView]:
    """Write result.json, ct_to_xray.tfm, drr.nrrd, xray.nrrd, overlay.png, difference.png, convergence.png and report.html, all or none.

    Further views get drr_2.nrrd, xray_2.nrrd, overlay_2.png, difference_2.png and so on. Files of these names that are there already are replaced.

    Args:
        result: the registration.
        pyramid: the CT that was registered (`registration.pipeline.prepare`).
        views: the X-rays that were registered.
        out: the folder; made if need be.
        title: of the report.
        command: how to make it again, for the report.
        inputs: file name -> description, for the report.
        truth: in an evaluation, shown beside the result; the result itself does not change.

    Returns:
        The views as the report shows them (for a page that leads to several reports).

    Raises:
        InputError: `out` is a file or cannot be written.
    """
    rendered = render_views(result, pyramid, views, None if truth is None else truth.camera_from_world)
    stages = stage_traces(result.to_dict()["stages"])
    shown = [_report_view(item, number, len(rendered)) for number, item in enumerate(rendered, start=1)]
    with whole_or_nothing(Path(out)) as folder:
        write_json(folder / "result.json", result.to_dict())
        write_transform(folder / "ct_to_xray.tfm", result.world_from_camera_reference @ result.camera_from_world)
        for number, item in enumerate(rendered, start=1):
            suffix = "" if number == 1 else f"_{number}"
            xray = item.view.radiograph
            for name, image in (("drr", item.drr), ("xray", xray.image)):
                placed = on_placed_detector(image, xray.camera, item.world_from_camera_reference)
                sitk.WriteImage(placed, str(folder / f"{name}{suffix}.nrrd"), useCompression=True)
            row = panel_row(item)
            write_figure(overlay_figure(row), folder / f"overlay{suffix}.png")
            write_figure(difference_figure(row), folder / f"difference{suffix}.png")
        write_figure(convergence_figure(stages), folder / "convergence.png")
        report = CaseReport(
            title=title,
            views=shown,
            result=result.to_dict(),
            stages=stages,
            inputs=inputs or {},
            metrics=None if truth is None else truth.metrics,
            subtitle=", ".join(view.radiograph.name for view in views),
            command=command,
        )
        write_report(report, folder / "report.html")
    return shown


def render_views(
    result: RegistrationResult, pyramid: VolumePyramid, views: Sequence[View], true_camera_from_world: np.ndarray | None = None
) -> list[Rendered]:
    """DRRs of every view at the result, at the start and, where it is known, at the truth: full resolution, on the X-ray's grid."""
    poses = [result.camera_from_world, result.initial_camera_from_world, *([] if true_camera_from_world is None else [true_camera_from_world])]
    rendered = []
    for view in views:
        relation = np.asarray(view.camera_from_camera1, dtype=np.float64)
        projector = pyramid.projector(view.radiograph.camera, 0.0)
        with torch.no_grad():
            # one at a time: a batch of full-resolution images would only cost memory
            images = [projector.project(torch.from_numpy(relation @ pose)[None].to(pyramid.device))[0].cpu().numpy() for pose in poses]
        placed = result.world_from_camera_reference @ np.linalg.inv(relation)
        rendered.append(Rendered(view, relation @ result.camera_from_world, placed, images[0], images[1], images[2] if len(images) > 2 else None))
    return rendered


def on_placed_detector(image: np.ndarray, camera: Camera, world_from_camera: np.ndarray) -> sitk.Image:
    """An image (H, W) as a one-slice volume that lies on the detector of a camera placed in the world: columns, rows and beam are its axes."""
    volume = sitk.GetImageFromArray(np.ascontiguousarray(image, dtype=np.float32)[None])
    return place(volume, world_from_camera @ camera.camera_from_pixel())


def describe_inputs(volume: Volume, views: Sequence[View]) -> dict[str, str]:
    """What was registered, in words, for a report."""
    size = " x ".join(str(n) for n in volume.shape)
    spacing = " x ".join(f"{s:.3g}" for s in volume.spacing_mm)
    inputs = {f"CT {volume.name}".strip(): f"{size} voxels of {spacing} mm"}
    for number, view in enumerate(views, start=1):
        camera = view.radiograph.camera
        across, down = camera.pixel_spacing_mm
        words = f"{camera.columns} x {camera.rows} pixels of {across:.4g} x {down:.4g} mm, source to detector {camera.sdd_mm:.5g} mm"
        used = f"{100 * view.radiograph.mask.mean():.0f} % of them used"
        inputs[f"X-ray {number}: {view.radiograph.name}"] = f"{words}, stored as {view.radiograph.intensity}, {used}"
    return inputs


def panel_row(item: Rendered, label: str | None = None) -> PanelRow:
    """A view with its DRRs as a row of a figure, shown the way round that it was stored; labelled with the X-ray's name by default."""
    step = -1 if item.view.radiograph.mirrored else 1  # shown as it was stored
    truth = None if item.truth_drr is None else item.truth_drr[:, ::step]
    radiograph = item.view.radiograph
    return PanelRow(label or radiograph.name, radiograph.image[:, ::step], item.drr[:, ::step], radiograph.mask[:, ::step], truth)


def _report_view(item: Rendered, number: int, count: int) -> ReportView:
    radiograph = item.view.radiograph
    return ReportView(
        title=f"View {number}: {radiograph.name}" if count > 1 else radiograph.name,
        xray=radiograph.image,
        drr=item.drr,
        mask=radiograph.mask,
        camera_from_world=item.camera_from_world,
        mirrored=radiograph.mirrored,
        initial_drr=item.initial_drr,
        truth_drr=item.truth_drr,
    )
