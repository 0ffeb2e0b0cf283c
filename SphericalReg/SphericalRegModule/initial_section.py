"""The panel's initial pose: where the X-ray stands before the CT, and the DRR that follows the hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.geometry_values import start_pose
from SphericalRegLib.mrml.detector import is_mirrored, placed_camera, set_image
from SphericalRegLib.mrml.frames import browser_of
from SphericalRegLib.mrml.matrices import scene_from_node
from SphericalRegLib.mrml.poses import POSE, hang, move_ct, pose_of, release, set_scene_matrix
from SphericalRegLib.mrml.provenance import belong
from SphericalRegLib.mrml.voxels import voxels
from SphericalRegLib.mrml.xrays import radiograph_to_node

from . import layout, scene_view
from .choices import ALL_VIEWS, ANGLES, ASK_MODEL, NO_MODEL, SCENE, XRAY_SAYS
from .dependencies import ensure
from .job import failure
from .live import LiveDRR
from .undo import show_handles, stand

if TYPE_CHECKING:
    from .panel import Panel


class InitialSection:
    """Places the X-ray, and keeps the DRR in step with what is moved."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui = panel, panel.ui
        self.live = LiveDRR(self._render_live)
        self._place_tip = self.ui.placeButton.toolTip
        self._landmarks_tip = self.ui.landmarksButton.toolTip
        self.ui.placeButton.connect("clicked(bool)", self.on_place)
        self.ui.landmarksButton.connect("clicked(bool)", self.on_landmarks)

    def forget(self) -> None:
        """The scene or the panel goes away."""
        self.live.stop()
        self._say_of_landmarks("")

    def _say_of_landmarks(self, text: str) -> None:
        self.ui.landmarksLabel.text = text
        self.ui.landmarksLabel.visible = bool(text)

    def show_state(self, busy: bool) -> None:
        missing, p = self.panel.missing_inputs(), self.panel.parameters
        if not missing and p.initial == ASK_MODEL:
            missing = self.panel.model.missing()
        missing = missing or self.panel.geometry.missing_start()
        self.ui.placeButton.enabled = not busy and not missing
        self.ui.placeButton.toolTip = missing or self._place_tip
        missing = self.panel.missing_inputs()
        if not missing and (p.ctPoints is None or p.xrayPoints is None):
            missing = _("Choose the points in the CT and those in the X-ray")
        self.ui.landmarksButton.enabled = not busy and not missing
        self.ui.landmarksButton.toolTip = missing or self._landmarks_tip

    def update(self) -> None:
        """Follow, or let go; an X-ray that was placed for another image is left to itself."""
        p = self.panel.parameters
        if p.placedXray is not None and p.placedFrom is not p.xrayVolume:
            p.placedXray, p.drrVolume, p.placedFrom = None, None, None
            if p.initial == SCENE:
                p.initial = ALL_VIEWS if p.model == NO_MODEL else ASK_MODEL
        if p.live and not self.panel.runner.busy and p.ctVolume is not None and p.placedXray is not None:
            self.live.follow(p.ctVolume, p.placedXray)
        else:
            self.live.stop()
        self._say_sides()

    def _say_sides(self) -> None:
        """Which side of the patient is where in the X-ray view: a letter on the film that says otherwise tells of a mirrored image."""
        from SphericalRegLib.visualization.orientation import NAMES, edge_letters

        p, words = self.panel.parameters, ""
        try:
            placed = None if p.placedXray is None or p.ctVolume is None else placed_camera(p.placedXray)
            pose = None if placed is None else pose_of(p.ctVolume, placed.world_from_camera)
        except InputError:  # of nodes that are warped or scaled; a registration says so
            pose = None
        if pose is not None:
            edges = edge_letters(pose, is_mirrored(p.placedXray))
            words = _("In the X-ray view: the patient's {left} at the left edge, {top} at the top.")
            words = words.format(left=NAMES[edges.left], top=NAMES[edges.top])
        self.ui.sidesLabel.text = words
        self.ui.sidesLabel.visible = bool(words)

    # -- the start of a registration

    def target(self) -> Any:
        """The X-ray to register to: the placed one when the start is where the CT stands before it."""
        return self.panel.parameters.placedXray if self.panel.parameters.initial == SCENE else self.panel.parameters.xrayVolume

    def pose(self, ct: Any, xray: Any, geometry: Any = None, frame: int | None = None) -> Any:
        """The start for a CT and an X-ray, as the logic takes it; geometry and frame as the logic takes them, too."""
        p = self.panel.parameters
        words = {SCENE: "scene", ALL_VIEWS: "views", XRAY_SAYS: None, ASK_MODEL: "regressor"}
        if p.initial != ANGLES:
            return words.get(p.initial, p.initial)
        from SphericalRegLib.geometry.views import c_arm_view

        from .rendering import centre_of, radiograph_of

        radiograph = radiograph_of(xray, geometry, frame)
        return c_arm_view(p.primaryDeg, p.secondaryDeg, radiograph.camera, centre_of(ct).tolist(), radiograph.sod_fraction).numpy()

    # -- placing

    def on_place(self, checked: bool = False) -> None:
        """Stand the X-ray before the CT at the initial pose and show both."""
        with self.panel.reporting(self.ui.initialPoseCollapsibleButton):
            ensure()
            with slicer.util.WaitCursor():  # the first time PyTorch is loaded, and the CT made ready
                self.place(self._view())

    def _view(self) -> Any:
        """Where the X-ray is placed, as `place` takes it: where it stands, if the start is the CT's place before it."""
        p = self.panel.parameters
        if p.initial == SCENE:
            placed = None if p.placedXray is None else placed_camera(p.placedXray)
            return "ap" if placed is None else pose_of(p.ctVolume, placed.world_from_camera)
        if p.initial == XRAY_SAYS:
            return self._said()
        if p.initial == ASK_MODEL:
            return self._regressed()
        return (p.primaryDeg, p.secondaryDeg) if p.initial == ANGLES else "ap" if p.initial == ALL_VIEWS else p.initial

    def _said(self) -> np.ndarray:
        """camera_from_world (4, 4): where the X-ray says that it was taken from.

        Raises:
            InputError: it does not.
        """
        from .rendering import centre_of, radiograph_of

        p = self.panel.parameters
        radiograph = radiograph_of(p.xrayVolume, self.panel.geometry.known, self.panel.inputs.frame)
        said = start_pose(radiograph.known, radiograph.camera, centre_of(p.ctVolume))
        if said is None:
            raise InputError(_("The X-ray does not say where it was taken from: choose another start."))
        return said.value

    def _regressed(self) -> np.ndarray:
        """camera_from_world (4, 4): the likeliest pose that the model's regressor sees in the X-ray.

        Raises:
            InputError: there is no model, or none with a regressor.
        """
        model = self.panel.model.chosen()
        if model is None or model.regressor is None:
            raise InputError(_("Choose a model first.") if model is None else _("The model has no regressor: choose another start."))
        from .models import regressed_pose
        from .rendering import centre_of, radiograph_of

        p = self.panel.parameters
        radiograph = radiograph_of(p.xrayVolume, self.panel.geometry.known, self.panel.inputs.frame)
        return regressed_pose(model, radiograph, centre_of(p.ctVolume))

    def on_landmarks(self, checked: bool = False) -> None:
        """Stand the X-ray where the landmarks say, and tell how well they fit."""
        from SphericalRegLib.mrml.landmarks import pixels_on, put_on

        from .landmarks import in_words, landmark_pose

        with self.panel.reporting(self.ui.initialPoseCollapsibleButton):
            ensure()
            p = self.panel.parameters
            self._say_of_landmarks("")
            found = landmark_pose(
                p.ctVolume, p.xrayVolume, p.placedXray, p.ctPoints, p.xrayPoints, self.panel.geometry.known, self.panel.inputs.frame
            )
            on_detector = None if p.placedXray is None else pixels_on(p.xrayPoints, p.placedXray)
            with slicer.util.WaitCursor():
                self.place(found.camera_from_world)
            if on_detector is not None:  # the detector was moved: its points go with it
                put_on(p.xrayPoints, p.placedXray, on_detector)
            names = [p.ctPoints.GetNthControlPointLabel(number) for number in range(p.ctPoints.GetNumberOfControlPoints())]
            self._say_of_landmarks(in_words(found, names))

    def place(self, view: Any) -> None:
        """Stand the X-ray before the CT: at a named view, C-arm angles or camera_from_world (4, 4); one of them gets handles, and the DRR follows."""
        p = self.panel.parameters
        self.panel.result.check(p.ctVolume, p.xrayVolume)
        before, known = stand(p.ctVolume, p), self.panel.result.existing(p.ctVolume, p.xrayVolume)
        for node in (p.ctVolume,) if p.moveXray else (known.xray, known.drr):
            release(node, known.transform)
        placed = self.panel.logic.placeXray(
            p.ctVolume, p.xrayVolume, geometry=self.panel.geometry.known, view=view, placedNode=known.xray, frame=self.panel.inputs.frame
        )
        transform = known.transform
        if transform is None:  # not before the X-ray is known to be one that can be placed
            names = (p.xrayVolume.GetName(), p.ctVolume.GetName()) if p.moveXray else (p.ctVolume.GetName(), p.xrayVolume.GetName())
            transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "{} to {}".format(*names))
        belong(transform, POSE, p.ctVolume, p.xrayVolume)
        with slicer.util.NodeModify(p):
            p.outputTransform, p.placedXray, p.placedFrom = transform, placed, p.xrayVolume
        self._give_handles(placed)
        layout.show_layout()
        self.render()
        if p.moveXray:
            p.drrVolume.SetAndObserveTransformNodeID(p.outputTransform.GetID())
            self.render()
        self.panel.result.show_pictures(fit=True)
        scene_view.show_scene(p.ctVolume)
        p.initial = SCENE
        p.live = True
        kept = (known.transform, known.xray, known.drr)
        made = tuple(node for node in (p.outputTransform, p.placedXray, p.drrVolume) if not any(node is one for one in kept))
        self.panel.result.was_placed(before, made)

    def _give_handles(self, placed: Any) -> None:
        """What is to be moved hangs under the transform, which has handles about the CT's centre; nothing moves."""
        p = self.panel.parameters
        if p.moveXray:
            there = placed_camera(placed)  # before it hangs under a transform that may have been dragged
            hang(placed, p.outputTransform)
            set_scene_matrix(p.outputTransform, np.eye(4))
            if there is not None:
                set_image(placed, voxels(placed)[0].copy(), there, mirrored=is_mirrored(placed))
        else:
            move_ct(p.ctVolume, p.outputTransform, scene_from_node(p.ctVolume))
        show_handles(p.outputTransform, True)
        from .rendering import centre_of

        centre = centre_of(p.ctVolume)  # handles stand at a place in the frame of what hangs under the transform: the CT's own, or here the scene's
        p.outputTransform.SetCenterOfTransformation(*((scene_from_node(p.ctVolume) @ [*centre, 1])[:3] if p.moveXray else centre))

    def refresh_placed(self) -> None:
        """Put the frame and the geometry that are chosen now onto the placed detector, unless that has frames of its own."""
        p = self.panel.parameters
        placed = None if p.placedXray is None or p.placedFrom is not p.xrayVolume or p.placedXray is p.xrayVolume else placed_camera(p.placedXray)
        if placed is None or browser_of(p.placedXray) is not None:
            return
        from .rendering import radiograph_of

        try:
            radiograph = radiograph_of(p.xrayVolume, self.panel.geometry.known, self.panel.inputs.frame)
        except InputError:  # a value is being typed; Register says what is wrong with it
            return
        radiograph_to_node(slicer.mrmlScene, radiograph, placed.world_from_camera, node=p.placedXray)
        if self.live.following:
            self.render()

    # -- DRRs

    def render(self, longer_side: int | None = None) -> None:
        """The DRR of the scene as it is; the longer side in pixels, or None for all of them."""
        p = self.panel.parameters
        p.drrVolume = self.panel.logic.renderDRR(
            p.ctVolume,
            p.placedXray,
            self.panel.result.existing(p.ctVolume, p.placedXray).drr,
            longerSide=longer_side,
            device=p.device,
            labelsNode=p.partsNode,
            labels=self.panel.inputs.chosen_parts or None,
        )

    def _render_live(self, longer_side: int | None) -> None:
        p = self.panel.parameters
        if p is None or self.panel.runner.busy or p.ctVolume is None or p.placedXray is None:
            return
        try:
            self.render(longer_side)
        except Exception as error:  # e.g. no part is ticked, or the GPU's memory is full: said once, not at every move
            self.live.stop()
            p.live = False
            self.panel.show_error(failure(error))
            return
        if longer_side is None:
            self.panel.result.show_pictures()
