"""The panel's part with the result: pictures, verdict, undo, export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.mrml.detector import PlacedCamera, placed_camera, set_image
from SphericalRegLib.mrml.matrices import scene_from_node
from SphericalRegLib.mrml.poses import move_ct
from SphericalRegLib.mrml.voxels import voxels

from . import scene_view, xray_view

if TYPE_CHECKING:
    from .panel import Panel

COLOURED = "SphericalReg comparison"


@dataclass(frozen=True, eq=False)
class Before:
    """How things stood before a registration."""

    scene_from_ct: np.ndarray
    parent_id: str | None
    placed: PlacedCamera | None


class ResultSection:
    """Shows one outcome at a time."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui = panel, panel.ui
        self.outcome: Any = None
        self._undo: list[Before] = []
        self._plot_nodes: dict[str, Any] = {}
        self._shown: tuple[Any, ...] = ()
        self.ui.undoButton.connect("clicked(bool)", self.on_undo)
        self.ui.exportButton.connect("clicked(bool)", self.on_export)

    def forget(self) -> None:
        """The scene goes away."""
        self.outcome, self._undo, self._plot_nodes, self._shown = None, [], {}, ()
        self.ui.verdictLabel.text = ""

    def show_state(self, busy: bool) -> None:
        self.ui.undoButton.enabled = bool(self._undo) and not busy
        self.ui.exportButton.enabled = self.outcome is not None and not busy

    def update(self) -> None:
        """Another picture or opacity was chosen."""
        p = self.panel.parameters
        chosen = (p.picture, p.drrOpacity)
        if p.placedXray is not None and chosen != self._shown:
            self.show_pictures()

    # -- an outcome

    def show_outcome(self, outcome: Any, ct: Any, xray: Any) -> None:
        """Write an outcome into the scene and show it."""
        from SphericalRegLib.mrml.session import ResultNodes, write_outcome

        p = self.panel.parameters
        before = Before(scene_from_node(ct), ct.GetTransformNodeID(), placed_camera(p.placedXray) if p.placedXray is not None else None)
        nodes = write_outcome(slicer.mrmlScene, outcome, ct, xray, ResultNodes(p.outputTransform, p.placedXray, p.drrVolume))
        self._undo.append(before)
        self.outcome = outcome
        modified = p.StartModify()
        p.outputTransform, p.placedXray, p.drrVolume = nodes.transform, nodes.xray, nodes.drr
        p.EndModify(modified)
        for node in (nodes.xray, nodes.drr):
            xray_view.set_window(node)
        self.ui.verdictLabel.text = in_words(outcome.result)
        xray_view.show_layout()
        self.show_pictures(fit=True)
        self._plot(outcome.result)
        scene_view.show_scene(ct)

    def show_pictures(self, fit: bool = False) -> None:
        """What the X-ray view shows, as chosen."""
        p = self.panel.parameters
        coloured = slicer.mrmlScene.GetFirstNodeByName(COLOURED)
        if coloured is None and p.picture in xray_view.COLOURED:
            coloured = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVectorVolumeNode", COLOURED)
        xray_view.show(p.picture, p.placedXray, p.drrVolume, coloured, p.drrOpacity)
        self._shown = (p.picture, p.drrOpacity)
        if fit:
            xray_view.look_at(p.placedXray)
            placed = placed_camera(p.placedXray)
            if placed is not None:
                scene_view.show_camera(placed)

    def _plot(self, result: Any) -> None:
        """Cost of each iteration, relative to the start of its stage."""
        manager = slicer.app.layoutManager()
        costs = [np.array(stage.costs) / stage.costs[0] for stage in result.stages if stage.costs and stage.costs[0] > 0]
        if not costs or manager is None or not manager.plotViewCount:
            return
        relative = np.concatenate(costs)
        table = np.column_stack((np.arange(len(relative)), relative))
        names = [_("iteration"), _("cost, relative to the start of its stage")]
        chart = slicer.util.plot(table, xColumnIndex=0, columnNames=names, title=_("Convergence"), show=False, nodes=self._plot_nodes)
        manager.plotWidget(0).mrmlPlotViewNode().SetPlotChartNodeID(chart.GetID())

    # -- buttons

    def on_undo(self, checked: bool = False) -> None:
        """Back to where CT and X-ray stood before the last registration."""
        p = self.panel.parameters
        before = self._undo.pop()
        with self.panel.reporting():
            if before.parent_id == p.outputTransform.GetID():
                move_ct(p.ctVolume, p.outputTransform, before.scene_from_ct)
            else:
                p.ctVolume.SetAndObserveTransformNodeID(before.parent_id)
            if before.placed is not None and p.placedXray is not None:
                set_image(p.placedXray, voxels(p.placedXray)[0].copy(), before.placed)
            self.outcome = None
            self.ui.verdictLabel.text = _("Back at the previous pose.")
            self.panel.logic.renderDRR(p.ctVolume, p.placedXray, p.drrVolume, device=p.device)
            self.show_pictures(fit=True)
        self.panel.update()
        self.show_state(False)

    def on_export(self, checked: bool = False) -> None:
        """Write the result's folder beside the panel."""
        folder = self.ui.exportPathLineEdit.currentPath
        outcome = self.outcome
        with self.panel.reporting():
            if not folder:
                raise InputError(_("Choose a folder to export to first."))
            names = (self.panel.parameters.ctVolume.GetName(), self.panel.parameters.xrayVolume.GetName())

            def write(report: Any) -> str:
                from SphericalRegLib.imaging.case import View
                from SphericalRegLib.progress import Progress
                from SphericalRegLib.visualization.output import write_result_folder

                report(Progress("export", 0, 1))
                views = (View(outcome.radiograph, np.eye(4)),)
                write_result_folder(outcome.result, outcome.pyramid, views, folder, title=f"{names[0]} to {names[1]}")
                return folder

            self.panel.start(write, self._exported)

    def _exported(self, folder: str) -> None:
        self.ui.statusLabel.text = _("Exported to {folder}.").format(folder=folder)


def in_words(result: Any) -> str:
    """The result in some sentences: similarity, what is known of the error, what to do."""
    deviations = result.standard_deviations
    rotation, shift = np.degrees(np.linalg.norm(deviations[:3])), np.linalg.norm(deviations[3:])
    error = (
        _("Predicted target error {error:.1f} mm.").format(error=result.predicted_target_error_mm)
        if result.predicted_target_error_mm is not None
        else _("Accuracy not known.")
    )
    words = [
        _("Similarity {score:.3f} after {seconds:.1f} s, verdict: {verdict}.").format(
            score=result.score, seconds=result.seconds, verdict=result.verdict
        ),
        error,
        _("Spread by the residual's curvature alone: {rotation:.2f} degrees, {shift:.2f} mm; it does not know of a wrong minimum.").format(
            rotation=rotation, shift=shift
        ),
        _("Look at the overlay before trusting the pose."),
        *result.notes,
    ]
    return " ".join(words)
