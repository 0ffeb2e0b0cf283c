"""A registration in the scene: read from nodes, run without them, written back to nodes.

`read_request` and `write_outcome` touch the scene and belong to the thread that owns it; `run` touches nothing of the scene and may run anywhere.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..devices import is_out_of_memory, numbered, resolve_device
from ..errors import InputError
from ..imaging.case import ALL_VIEWS, REGRESSOR, check_start
from ..imaging.geometry_values import GeometryValues, start_pose
from ..imaging.pixels import StoredImage
from ..imaging.radiograph import Radiograph, open_field, usable_pixels
from ..imaging.volume import Volume
from ..progress import Progress, ProgressCallback, silent
from ..registration.options import RegistrationOptions
from ..registration.pipeline import prepare, register
from ..registration.resolution import VolumePyramid
from ..registration.result import RegistrationResult
from .belongings import carry, lying_in
from .detector import PlacedCamera, is_mirrored, placed_camera, set_image
from .frames import stored_frame
from .labelling import with_parts
from .matrices import scene_from_node, scene_from_voxel
from .poses import POSE, hang, move_ct, parent_to_keep, release, set_scene_matrix
from .provenance import DETECTOR, DRR, belong, describe, transform_of
from .volumes import centre_of, volume_from_node
from .xrays import exposure_of, mask_pixels, radiograph_to_node

if TYPE_CHECKING:
    from ..models.checkpoint import Model

CPU_INSTEAD = "The GPU's memory was not enough: the CPU was used instead."


@dataclass(frozen=True, eq=False)
class Request:
    """All that a registration needs; nothing in it belongs to the scene.

    Attributes:
        ct: the CT, or one that was prepared before; prepared on another device than `device`, it is prepared anew.
        radiograph: the X-ray.
        initial: camera_from_world (4, 4), a view's name, or None to ask the model's regressor, or to try the named views where there is none.
        options: of the registration.
        device: "cpu", "cuda", ...
        seed: of the multi-start.
        model: of this CT, or None for the intensities alone.
        world_from_camera_reference: where the camera stands in the scene; None: at the inverse of the initial pose.
    """

    ct: Volume | VolumePyramid
    radiograph: Radiograph
    initial: np.ndarray | str | None = None
    options: RegistrationOptions = field(default_factory=RegistrationOptions)
    device: str = "cpu"
    seed: int = 0
    model: Model | None = None
    world_from_camera_reference: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A finished registration: the result, the prepared CT for what comes next, the X-ray and the DRR (H, W) at the result, on its grid."""

    result: RegistrationResult
    pyramid: VolumePyramid
    radiograph: Radiograph
    drr: np.ndarray


@dataclass(frozen=True, eq=False)
class ResultNodes:
    """The nodes that show a registration: the CT's transform, the X-ray on its detector, the DRR on the same grid; None for what is not there yet."""

    transform: Any = None
    xray: Any = None
    drr: Any = None


def read_request(
    ct: Any,
    xray: Any,
    *,
    geometry: GeometryValues | None = None,
    initial: np.ndarray | str | None = None,
    labels: Any = None,
    parts: Collection[int | str] | None = None,
    mask: Any = None,
    frame: int | None = None,
    options: RegistrationOptions | None = None,
    device: str = "auto",
    seed: int = 0,
    model: Model | None = None,
    prepared: VolumePyramid | None = None,
) -> Request:
    """Read a registration's inputs from the scene.

    An X-ray that already lies on a placed detector (`radiograph_to_node` made it) brings its camera and its place along: then the result moves the CT
    to it, and `initial="scene"` starts from where the CT stands now.

    Args:
        ct, xray, labels, mask: nodes.
        geometry: of the X-ray as stored.
        initial: camera_from_world (4, 4), a view's name, "scene", "regressor" (there has to be a model with one), or `ALL_VIEWS`. None: what the
            X-ray says, by its geometry or its DICOM header, of where it was taken from, and `ALL_VIEWS` where it says nothing.
        parts: of the CT's label map (numbers) or segmentation (names or IDs) that are rendered; None renders all of the CT, or all segments.
        frame: of a run, from 0; None: the one image, or the frame that a sequence's proxy shows.
        options: of the registration.
        device: "auto" is the GPU where there is one.
        seed, model: see `Request`.
        prepared: the CT, prepared before with the same parts and device.

    Raises:
        InputError: anything that cannot be used, in one sentence.
    """
    scene_from_node(ct)  # a CT that is warped could not be moved in the end
    placed = placed_camera(xray)
    stored = stored_frame(xray, frame)
    radiograph = exposure_of(xray, geometry, mask=mask).radiograph(stored) if placed is None else _on_detector(xray, placed, stored, mask)
    options = RegistrationOptions() if options is None else options
    reference = None if placed is None else placed.world_from_camera
    start = _start(initial, ct, xray, placed, radiograph, model)
    volume, options = (prepared, options) if prepared is not None else read_ct(ct, labels, parts, options)
    return Request(volume, radiograph, start, options, resolve_device(device), seed, model, reference)


def read_ct(
    ct: Any, labels: Any = None, parts: Collection[int | str] | None = None, options: RegistrationOptions | None = None
) -> tuple[Volume, RegistrationOptions]:
    """The CT, and the options that render the chosen parts of it; arguments and errors as of `read_request`."""
    options = RegistrationOptions() if options is None else options
    volume = volume_from_node(ct)
    if labels is None:
        if parts is not None:
            raise InputError(f"The parts {', '.join(map(str, parts))} of {ct.GetName()!r} were asked for, but there is no label map or segmentation.")
        return volume, options
    volume, chosen = with_parts(volume, ct, labels, parts)
    return volume, options if chosen is None else replace(options, labels=chosen)


def run(request: Request, progress: ProgressCallback = silent) -> Outcome:
    """Register, and render the DRR at the result. Where the GPU's memory is not enough, the CPU does it, and the result says so.

    Raises:
        InputError: see `registration.pipeline.register`.
        Cancelled: out of `progress`.
    """
    try:
        return _run(request, progress)
    except RuntimeError as error:
        if request.device == "cpu" or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    progress(Progress("GPU memory", 0, 1, CPU_INSTEAD))
    outcome = _run(replace(request, device="cpu"), progress)
    return replace(outcome, result=replace(outcome.result, notes=(*outcome.result.notes, CPU_INSTEAD)))


def _run(request: Request, progress: ProgressCallback) -> Outcome:
    progress(Progress("prepare the CT", 0, 1))
    ct = _on_its_device(request)
    result = register(
        ct,
        request.radiograph,
        request.initial,
        model=request.model,
        options=request.options,
        device=request.device,
        seed=request.seed,
        progress=progress,
        world_from_camera_reference=request.world_from_camera_reference,
    )
    progress(Progress("render the DRR", 0, 1))
    return Outcome(result, ct, request.radiograph, render(ct, request.radiograph.camera, result.camera_from_world))


def _on_its_device(request: Request) -> VolumePyramid:
    """The request's CT, prepared where the request is to be worked on: after a GPU's memory was not enough, that is not where it lies."""
    if not isinstance(request.ct, VolumePyramid):
        return prepare(request.ct, request.options, request.device)
    if numbered(request.ct.device) == numbered(request.device):
        return request.ct
    return prepare(request.ct.attenuation, request.options, request.device)


def render(ct: VolumePyramid, camera: Any, camera_from_world: np.ndarray, spacing_mm: float = 0.0) -> np.ndarray:
    """DRR (H, W) float32 of a prepared CT; `spacing_mm` is the pixel's size at the CT, for voxels that suit it (0: the CT's own)."""
    with torch.no_grad():
        pose = torch.from_numpy(np.ascontiguousarray(camera_from_world))[None].to(ct.device)
        return ct.projector(camera, spacing_mm).project(pose)[0].cpu().numpy()


def check_writable(ct: Any, xray: Any, nodes: ResultNodes | None = None, *, move_xray: bool = False) -> None:
    """Refuse what `write_outcome` could not write to; changes nothing. Arguments as there.

    Raises:
        InputError: a CT or an X-ray that was removed from the scene, a parent transform that is not linear, or a transform for the result that stands
            above the parent of what is to be moved.
    """
    for node, what in ((ct, "CT"), (xray, "X-ray")):
        if node.GetScene() is None:
            raise InputError(f"The {what} {node.GetName()!r} is not in the scene any more, so that a result has nowhere to go.")
    given = ResultNodes() if nodes is None else nodes
    detector = xray if placed_camera(xray) is not None else given.xray
    for node in (ct, detector, given.drr):
        if node is not None:
            scene_from_node(node)
    moved = detector if move_xray else ct
    if moved is not None and given.transform is not None:
        parent_to_keep(moved, given.transform)


def write_outcome(
    scene: Any,
    outcome: Outcome,
    ct: Any,
    xray: Any,
    nodes: ResultNodes | None = None,
    *,
    move_xray: bool = False,
    along: Collection[Any] = (),
) -> ResultNodes:
    """Show a registration in the scene: the X-ray stands on its detector, the CT is moved before it, the DRR lies on the same grid.

    Args:
        scene: where nodes are added.
        outcome: what to show.
        ct: the CT's node.
        xray: the X-ray's node; one that lies on a placed detector is used as it is.
        nodes: to be filled instead of new ones; those that are None are made.
        move_xray: let the CT stand where it is without the transform, and move X-ray and DRR by the inverse instead.
        along: nodes that stay with the CT where it goes: its segmentation, its label map, points in it; what was drawn on it does so anyhow
            (`belongings`).

    Raises:
        InputError: see `check_writable`; then the scene is as it was.
    """
    check_writable(ct, xray, nodes, move_xray=move_xray)
    given = ResultNodes() if nodes is None else nodes
    result = outcome.result
    reference, lying = result.world_from_camera_reference, lying_in(ct, along)
    detector = xray if placed_camera(xray) is not None else given.xray
    names = (xray.GetName(), ct.GetName()) if move_xray else (ct.GetName(), xray.GetName())
    transform = given.transform or scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "{} to {}".format(*names))
    if move_xray:
        release(ct, transform)
        reference = scene_from_node(ct) @ np.linalg.inv(result.camera_from_world)
    else:
        for image in (detector, given.drr):
            release(image, transform)
        move_ct(ct, transform, transform_of(result))
    carry(ct, lying)
    detector = detector or scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{outcome.radiograph.name} on the detector")
    drr = given.drr or scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"DRR of {ct.GetName()}")
    if move_xray:
        hang(detector, transform)
        drr.SetAndObserveTransformNodeID(transform.GetID())
        set_scene_matrix(transform, reference @ np.linalg.inv(result.world_from_camera_reference))
    radiograph_to_node(scene, outcome.radiograph, reference, node=detector)
    set_image(drr, outcome.drr, PlacedCamera(outcome.radiograph.camera, reference), mirrored=outcome.radiograph.mirrored)
    if detector is not xray:
        belong(detector, DETECTOR, ct, xray)
    for node, role in ((transform, POSE), (drr, DRR)):
        describe(node, role, result, ct, xray)
    for node in (detector, drr):
        if node.GetDisplayNode() is None:
            node.CreateDefaultDisplayNodes()
    return ResultNodes(transform, detector, drr)


def _start(
    initial: np.ndarray | str | None, ct: Any, xray: Any, placed: PlacedCamera | None, radiograph: Radiograph, model: Model | None
) -> np.ndarray | str | None:
    """The `initial` of a `Request` from that of `read_request`."""
    if initial is None:  # as of a case folder
        said = start_pose(radiograph.known, radiograph.camera, centre_of(ct))
        return None if said is None else said.value
    if not isinstance(initial, str):
        return initial
    if initial == "scene":
        if placed is None:
            raise _not_placed(xray)
        return np.linalg.inv(placed.world_from_camera) @ scene_from_node(ct)
    check_start(initial, model)
    return None if initial in (REGRESSOR, ALL_VIEWS) else initial


def _on_detector(xray: Any, placed: PlacedCamera, stored: StoredImage, mask: Any) -> Radiograph:
    """The X-ray of a node that `radiograph_to_node` filled: line integrals already. Its collimated border is found anew."""
    grey = mask_pixels(mask, xray)
    if grey is not None and is_mirrored(xray) and not np.allclose(scene_from_voxel(mask), scene_from_voxel(xray)):
        grey = np.ascontiguousarray(grey[:, ::-1])  # it was drawn on the image as stored
    image = stored.grey
    usable = usable_pixels(replace(stored, valid=np.isfinite(image)), grey, f"X-ray {xray.GetName()!r}")
    usable = usable & open_field(stored, usable, inverted=True)[0]
    return Radiograph(image, usable, placed.camera, "line_integral", is_mirrored(xray), xray.GetName())


def _not_placed(xray: Any) -> InputError:
    return InputError(f"The X-ray {xray.GetName()!r} has no place in the scene yet, so the CT does not stand before it: place it first.")
