"""Where the X-ray stands, and DRRs of the scene as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.views import c_arm_view, named_view
from SphericalRegLib.imaging.radiograph import Radiograph, geometry_values
from SphericalRegLib.mrml.detector import PlacedCamera, is_mirrored, placed_camera, set_image
from SphericalRegLib.mrml.frames import stored_frame
from SphericalRegLib.mrml.matrices import scene_from_node
from SphericalRegLib.mrml.poses import pose_of
from SphericalRegLib.mrml.provenance import DETECTOR, DRR, belong
from SphericalRegLib.mrml.session import render
from SphericalRegLib.mrml.volumes import centre_of
from SphericalRegLib.mrml.xrays import exposure_of, radiograph_to_node

from .xray_geometry import kept_geometry_of
from .xray_view import set_window


def radiograph_of(xray: Any, geometry: Any = None, frame: int | None = None) -> Radiograph:
    """An X-ray node's image, or a frame of it, ready for registration; without `geometry`, as it is known of the node."""
    stored = stored_frame(xray, frame)
    return exposure_of(xray, kept_geometry_of(xray) if geometry is None else geometry_values(geometry)).radiograph(stored)


def place_xray(ct: Any, xray: Any, geometry: Any = None, view: Any = "ap", placed: Any = None, frame: int | None = None) -> Any:
    """The X-ray on its detector, before the CT where that stands: see `SphericalRegLogic.placeXray`."""
    radiograph = radiograph_of(xray, geometry, frame)
    centre = centre_of(ct)
    if isinstance(view, str):
        pose = named_view(view, radiograph.camera, centre.tolist(), radiograph.sod_fraction).numpy()
    elif np.shape(view) == (2,):
        pose = c_arm_view(float(view[0]), float(view[1]), radiograph.camera, centre.tolist(), radiograph.sod_fraction).numpy()
    else:
        pose = np.asarray(view, dtype=np.float64)
    name = f"{xray.GetName()} on the detector"
    node = radiograph_to_node(slicer.mrmlScene, radiograph, scene_from_node(ct) @ np.linalg.inv(pose), name, placed)
    belong(node, DETECTOR, ct, xray)
    set_window(node)
    return node


def standing(xray: Any) -> PlacedCamera:
    """Where a placed X-ray's camera stands.

    Raises:
        InputError: the X-ray stands on no detector yet.
    """
    placed = placed_camera(xray)
    if placed is None:
        words = _("The X-ray {name} has no place in the scene yet: place it first, or register.")
        raise InputError(words.format(name=repr(xray.GetName())))
    return placed


def render_drr(pyramid: Any, ct: Any, xray: Any, drr: Any = None, longer_side: int | None = None) -> Any:
    """A prepared CT, where its node stands, on the detector of a placed X-ray: see `SphericalRegLogic.renderDRR`.

    Raises:
        InputError: the X-ray stands on no detector yet.
    """
    placed = standing(xray)
    if longer_side is not None:
        placed = placed.resized(longer_side)
    pose = pose_of(ct, placed.world_from_camera)
    depth = float((pose @ [*pyramid.attenuation.centre_ras_mm, 1])[2])
    pixel_at_ct = max(placed.camera.pixel_spacing_mm) * max(depth, 0.1 * placed.camera.sdd_mm) / placed.camera.sdd_mm
    image = render(pyramid, placed.camera, pose, pixel_at_ct if longer_side is not None else 0.0)
    if drr is None:
        drr = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"DRR of {ct.GetName()}")
    new = drr.GetImageData() is None
    set_image(drr, image, placed, mirrored=is_mirrored(xray))
    if new:
        belong(drr, DRR, ct, xray)
        set_window(drr)
    return drr
