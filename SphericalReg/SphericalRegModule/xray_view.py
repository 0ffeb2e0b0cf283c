"""What the X-ray view shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from SphericalRegLib.imaging.normalization import robust_range
from SphericalRegLib.mrml.detector import PlacedCamera, is_mirrored, placed_camera, set_image
from SphericalRegLib.mrml.matrices import from_vtk
from SphericalRegLib.mrml.voxels import voxels

from .choices import CHECKERBOARD, DRR, OVERLAY, RED_BLUE, SIGNED
from .layout import VIEW

COLOURED = (RED_BLUE, SIGNED, CHECKERBOARD)


def slice_from_image(placed: PlacedCamera, mirrored: bool) -> np.ndarray:
    """SliceToRAS (4, 4) that shows an image upright as it lies in memory: x along columns, y against the rows; mirrored, x runs back."""
    columns, rows = placed.camera.size_px
    world_from_pixel = placed.world_from_pixel
    across, down = (world_from_pixel[:3, axis] / np.linalg.norm(world_from_pixel[:3, axis]) for axis in (0, 1))
    matrix = np.eye(4)
    matrix[:3, 0] = -across if mirrored else across
    matrix[:3, 1] = -down
    matrix[:3, 2] = np.cross(matrix[:3, 0], matrix[:3, 1])
    matrix[:3, 3] = (world_from_pixel @ [(columns - 1) / 2, (rows - 1) / 2, 0, 1])[:3]
    return matrix


def look_at(xray: Any, fit: bool = True) -> None:
    """Turn the X-ray view to a placed X-ray, and fit it unless it is to keep zoom and offset."""
    widget = _slice_widget()
    placed = placed_camera(xray)
    if widget is None or placed is None:
        return
    node = widget.sliceLogic().GetSliceNode()
    wanted, now = slice_from_image(placed, is_mirrored(xray)), from_vtk(node.GetSliceToRAS())
    apart = now[:3, 3] - wanted[:3, 3]
    if not fit and np.allclose(now[:3, :3], wanted[:3, :3]) and abs(apart @ wanted[:3, 2]) < 1e-3:
        return
    slicer.util.updateVTKMatrixFromArray(node.GetSliceToRAS(), wanted)
    node.UpdateMatrices()
    if not fit:
        return
    composite = widget.sliceLogic().GetSliceCompositeNode()
    if composite.GetBackgroundVolumeID() is None:
        composite.SetBackgroundVolumeID(xray.GetID())
    widget.sliceLogic().FitSliceToBackground()


def empty() -> None:
    """Show nothing in the X-ray view."""
    widget = _slice_widget()
    if widget is not None:
        composite = widget.sliceLogic().GetSliceCompositeNode()
        composite.SetBackgroundVolumeID(None)
        composite.SetForegroundVolumeID(None)
        widget.mrmlSliceNode().SetSliceVisible(False)


def show(picture: str, xray: Any, drr: Any, coloured: Any, opacity: float) -> None:
    """Put layers into the X-ray view.

    Args:
        picture: one of `PICTURES`.
        xray: the X-ray on its detector.
        drr: the DRR on the same grid, or None.
        coloured: a vtkMRMLVectorVolumeNode, filled here for the pictures in `COLOURED`.
        opacity: of the DRR in the overlay.
    """
    widget = _slice_widget()
    if widget is None:
        return
    if picture in COLOURED and drr is not None:
        fill_coloured(coloured, picture, xray, drr)
    composite = widget.sliceLogic().GetSliceCompositeNode()
    composite.SetDoPropagateVolumeSelection(False)
    composite.SetLinkedControl(False)
    composite.SetCompositing(slicer.vtkMRMLSliceCompositeNode.Alpha)
    background = coloured if picture in COLOURED and drr is not None else drr if picture == DRR and drr is not None else xray
    overlay = picture == OVERLAY and drr is not None
    composite.SetBackgroundVolumeID(background.GetID())
    composite.SetForegroundVolumeID(drr.GetID() if overlay else None)
    composite.SetForegroundOpacity(opacity if overlay else 0.0)


def fill_coloured(coloured: Any, picture: str, xray: Any, drr: Any) -> None:
    """Compute a coloured comparison of two images on one grid into a vector volume node."""
    placed = placed_camera(xray)
    fixed, moving = voxels(xray)[0], voxels(drr)[0]
    if placed is None or fixed.shape != moving.shape:
        return
    from SphericalRegLib.visualization.difference import colour_limit, compare_xray, diverging
    from SphericalRegLib.visualization.overlay import checkerboard

    if picture == CHECKERBOARD:
        pixels = checkerboard(fixed, moving)
    else:
        red_blue, signed = compare_xray(fixed, moving)
        pixels = red_blue if picture == RED_BLUE else diverging(signed, colour_limit(signed))
    coloured.SetVoxelVectorType(coloured.VoxelVectorTypeColorRGB)
    set_image(coloured, pixels, placed, mirrored=is_mirrored(xray))
    if coloured.GetDisplayNode() is None:
        coloured.CreateDefaultDisplayNodes()


def set_window(node: Any) -> None:
    """Show a grey image between its robust percentiles: one hot pixel must not darken it."""
    if node.GetDisplayNode() is None:
        node.CreateDefaultDisplayNodes()
    image = voxels(node)[0]
    low, high = robust_range(image, np.isfinite(image), 0.5, 99.5)
    node.GetDisplayNode().AutoWindowLevelOff()
    node.GetDisplayNode().SetWindowLevelMinMax(low, high if high > low else low + 1)


def _slice_widget() -> Any:
    manager = slicer.app.layoutManager()
    return None if manager is None else manager.sliceWidget(VIEW)
