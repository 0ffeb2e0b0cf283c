"""The set-up in 3D: source, detector and the rays to its corners, the X-ray on it, the CT as bone."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from SphericalRegLib.mrml.detector import PlacedCamera
from SphericalRegLib.mrml.removing import remove

from .layout import VIEW

FRUSTUM = "SphericalReg.Frustum"
COLOUR = (0.29, 0.78, 1.0)


def show_camera(placed: PlacedCamera) -> Any:
    """Draw a camera's source, detector and corner rays; one model, moved when it is there already."""
    model = _model()
    if model is None:
        look_from_the_side(placed)
        model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", _("X-ray source and detector"))
        model.SetAttribute(FRUSTUM, "1")
        model.CreateDefaultDisplayNodes()
        display = model.GetDisplayNode()
        display.SetColor(*COLOUR)
        display.SetLineWidth(2)
        display.SetLighting(False)
    model.SetAndObservePolyData(frustum(placed))
    return model


def look_from_the_side(placed: PlacedCamera) -> None:
    """Turn the 3D view so that source, CT and detector lie beside each other."""
    manager = slicer.app.layoutManager()
    if manager is None or not manager.threeDViewCount:
        return
    across, down, beam = placed.world_from_camera[:3, :3].T
    sdd = placed.camera.sdd_mm
    middle = placed.source + 0.5 * sdd * beam
    camera = slicer.modules.cameras.logic().GetViewActiveCameraNode(manager.threeDWidget(0).mrmlViewNode())
    camera.SetFocalPoint(*middle)
    camera.SetPosition(*(middle + sdd * (2.2 * across - 0.7 * down - 0.5 * beam)))
    camera.SetViewUp(*-down)
    camera.ResetClippingRange()


def remove_camera() -> None:
    """Take the drawing away."""
    model = _model()
    if model is not None:
        remove(slicer.mrmlScene, model)


def _model() -> Any:
    return next((node for node in slicer.util.getNodesByClass("vtkMRMLModelNode") if node.GetAttribute(FRUSTUM)), None)


def frustum(placed: PlacedCamera) -> vtk.vtkPolyData:
    """Lines from the source to the image's corners, and around the image."""
    points, lines = vtk.vtkPoints(), vtk.vtkCellArray()
    for point in np.vstack((placed.source, placed.detector_corners())):
        points.InsertNextPoint(point)
    for ends in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1)):
        line = vtk.vtkIdList()
        for end in ends:
            line.InsertNextId(end)
        lines.InsertNextCell(line)
    shape = vtk.vtkPolyData()
    shape.SetPoints(points)
    shape.SetLines(lines)
    return shape


def show_scene(ct: Any) -> None:
    """The X-ray on its detector and the CT's bones in the 3D view; a CT that has a volume rendering already keeps it."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    widget = manager.sliceWidget(VIEW)
    if widget is not None:
        widget.mrmlSliceNode().SetSliceVisible(True)
    logic = slicer.modules.volumerendering.logic()
    if logic.GetFirstVolumeRenderingDisplayNode(ct) is None:
        display = logic.CreateDefaultVolumeRenderingNodes(ct)
        preset = logic.GetPresetByName("CT-Bone")
        if preset is not None:
            display.GetVolumePropertyNode().Copy(preset)
        display.SetVisibility(True)
