"""What the panel's buttons do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from SphericalRegLib.errors import InputError
from SphericalRegLib.mrml.detector import placed_camera
from SphericalRegLib.mrml.geometry_attribute import keep_geometry
from SphericalRegLib.progress import Progress

from . import geometry_section as geometry
from . import xray_view
from .batch_section import BatchSection
from .dependencies import ensure
from .job import Done, Failed, Message, failure
from .live import LiveDRR
from .result_section import ResultSection
from .runner import Runner

ANGLES, SCENE, ALL_VIEWS = "C-arm angles", "the CT's place in the scene", "all named views"


class Panel(VTKObservationMixin):
    """Connects the widgets to the logic.

    Args:
        ui: the widgets by name.
        logic: `SphericalRegLogic`.
    """

    def __init__(self, ui: Any, logic: Any) -> None:
        VTKObservationMixin.__init__(self)
        self.ui, self.logic = ui, logic
        self.parameters: Any = None
        self.runner = Runner(self._on_progress, self._on_end)
        self.live = LiveDRR(self._render_live)
        self.result = ResultSection(self)
        self.batch = BatchSection(self)
        self._known: Any = None
        self._xray_id: str | None = None
        self._watched: Any = None
        self._updating = False
        self._details = ""
        self._then: Any = None
        ui.registerButton.connect("clicked(bool)", self.on_register)
        ui.placeButton.connect("clicked(bool)", self.on_place)
        ui.loadGeometryButton.connect("clicked(bool)", self.on_load_geometry)
        ui.saveGeometryButton.connect("clicked(bool)", self.on_save_geometry)
        ui.copyDetailsButton.connect("clicked(bool)", self.on_copy_details)
        ui.progressBar.visible = False
        self.clear_error()

    def close(self) -> None:
        """Let go of everything: the panel goes away."""
        self.runner.abandon()
        self.live.stop()
        self.removeObservers()
        self.logic.forgetPrepared()

    def setParameters(self, parameters: Any) -> None:
        """Follow a parameter node, or none: then what runs is cancelled, for its scene goes away."""
        if self.parameters is not None:
            self.removeObserver(self.parameters, vtk.vtkCommand.ModifiedEvent, self.update)
            self.live.stop()
            self._watch(None)
        if parameters is None:
            self.runner.abandon()
            self.result.forget()
            self.logic.forgetPrepared()
        self.parameters, self._xray_id, self._known = parameters, None, None
        if parameters is not None:
            self.addObserver(parameters, vtk.vtkCommand.ModifiedEvent, self.update)
            self.update()
        self._show_state()

    # -- following the parameters

    def update(self, caller: Any = None, event: Any = None) -> None:
        """Bring everything that depends on the parameters up to date."""
        if self._updating or self.parameters is None:
            return
        self._updating = True
        try:
            self._update_geometry()
            self._update_live()
            self.result.update()
        except InputError as error:
            self.show_error(failure(error))
        finally:
            self._updating = False
        self._show_state()

    def _update_geometry(self) -> None:
        xray = self.parameters.xrayVolume
        self._watch(xray)
        if xray is None or xray.GetImageData() is None:
            self._xray_id, self._known = None, None
            for label in (*geometry.LABELS.values(), "sizeLabel", "geometryWarningLabel"):
                getattr(self.ui, label).text = ""
            return
        if xray.GetID() != self._xray_id:
            self._xray_id, self._known = xray.GetID(), geometry.known_geometry(xray)
            geometry.to_parameters(self._known, self.parameters)
        else:
            values = geometry.from_parameters(self.parameters, self._known)
            if geometry.edited(values, self._known):
                self._known = values
                keep_geometry(xray, values)
        geometry.show_origins(self.ui, self._known)

    def _watch(self, xray: Any) -> None:
        """Follow the X-ray's image: a node may be chosen before it is filled."""
        if xray is self._watched:
            return
        if self._watched is not None:
            self.removeObserver(self._watched, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, self.update)
        self._watched = xray
        if xray is not None:
            self.addObserver(xray, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent, self.update)

    def _update_live(self) -> None:
        wanted = self.parameters.live and not self.runner.busy and self.parameters.ctVolume is not None and self.parameters.placedXray is not None
        if wanted and not self.live.following:
            self.live.follow(self.parameters.ctVolume, self.parameters.placedXray)
        elif not wanted and self.live.following:
            self.live.stop()

    def missing(self) -> str:
        """What keeps the registration from starting, or an empty text."""
        p = self.parameters
        if p is None:
            return _("No scene")
        if p.ctVolume is None or p.xrayVolume is None:
            return _("Choose a CT and an X-ray")
        if p.sddMm <= 0 or min(p.spacingColumnMm, p.spacingRowMm) <= 0:
            return _("Enter the source-to-detector distance and the pixel spacing")
        if p.initial == SCENE and p.placedXray is None:
            return _("Place the X-ray first, or choose another start")
        return ""

    def _show_state(self) -> None:
        missing, busy = self.missing(), self.runner.busy
        self.ui.registerButton.text = _("Cancel") if busy else _("Register")
        self.ui.registerButton.enabled = busy or not missing
        self.ui.registerButton.toolTip = _("Stop the registration") if busy else missing or _("Find the CT's pose")
        self.ui.placeButton.enabled = not busy and not missing
        self.ui.progressBar.visible = busy
        self.batch.show_state(busy)
        self.result.show_state(busy)

    # -- jobs

    def start(self, work: Any, then: Any) -> None:
        """Run work beside the panel; `then` takes its value in the main thread."""
        self.clear_error()
        self.live.stop()
        self._then = then
        self.ui.progressBar.value = 0
        self.runner.start(work)
        self._show_state()

    def _on_progress(self, progress: Progress) -> None:
        self.ui.progressBar.value = round(100 * progress.done / max(progress.total, 1))
        words = [progress.stage, *([progress.message] if progress.message else [])]
        if progress.cost is not None:
            words.append(_("cost {cost:.4g}").format(cost=progress.cost))
        self.ui.statusLabel.text = ", ".join(words)

    def _on_end(self, message: Message) -> None:
        if isinstance(message, Done):
            self.ui.statusLabel.text = ""
            try:
                self._then(message.value)
            except InputError as error:
                self.show_error(failure(error))
        elif isinstance(message, Failed):
            self.show_error(message)
        else:
            self.ui.statusLabel.text = _("Cancelled. Nothing was changed.")
        self.update()

    def show_error(self, failed: Failed) -> None:
        """Say what went wrong; the details can be copied."""
        self._details = failed.details
        self.ui.statusLabel.text = ""
        self.ui.errorLabel.text = failed.sentence
        self.ui.errorFrame.visible = True

    def clear_error(self) -> None:
        self._details = ""
        self.ui.errorLabel.text = ""
        self.ui.errorFrame.visible = False

    # -- buttons

    def on_register(self, checked: bool = False) -> None:
        """Start, or cancel what runs."""
        if self.runner.busy:
            self.runner.cancel()
            self.ui.registerButton.text = _("Cancelling...")
            self.ui.registerButton.enabled = False
            return
        with self.reporting():
            ensure()
            request = self._request()
            ct, xray, labels = self.parameters.ctVolume, self._target(), self.parameters.labelsVolume
            from SphericalRegLib.mrml.session import run

            def show(outcome: Any) -> None:
                self.logic.keepPrepared(ct, labels, request, outcome)
                self.result.show_outcome(outcome, ct, xray)

            self.start(lambda report: run(request, report), show)

    def on_place(self, checked: bool = False) -> None:
        """Stand the X-ray before the CT at the initial pose and show both."""
        with self.reporting():
            ensure()
            p = self.parameters
            view: Any = (p.primaryDeg, p.secondaryDeg) if p.initial == ANGLES else "ap" if p.initial in (ALL_VIEWS, SCENE) else p.initial
            placed = self.logic.placeXray(p.ctVolume, p.xrayVolume, geometry=self._known, view=view, placedNode=p.placedXray)
            p.placedXray = placed
            self._make_movable(p)
            xray_view.show_layout()
            p.drrVolume = self.logic.renderDRR(p.ctVolume, placed, p.drrVolume, device=p.device)
            self.result.show_pictures(fit=True)
            p.initial = SCENE
            p.live = True

    def _make_movable(self, p: Any) -> None:
        """Give the CT a transform with handles, about its centre."""
        if p.outputTransform is None:
            name = f"{p.ctVolume.GetName()} to {p.xrayVolume.GetName()}"
            p.outputTransform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
        from SphericalRegLib.mrml.matrices import scene_from_node
        from SphericalRegLib.mrml.poses import move_ct

        move_ct(p.ctVolume, p.outputTransform, scene_from_node(p.ctVolume))
        p.outputTransform.CreateDefaultDisplayNodes()
        display = p.outputTransform.GetDisplayNode()
        display.SetEditorVisibility(True)
        bounds = [0.0] * 6
        p.ctVolume.GetRASBounds(bounds)
        p.outputTransform.SetCenterOfTransformation(*((low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2])))

    def on_load_geometry(self, checked: bool = False) -> None:
        with self.reporting():
            path = self.ui.geometryPathLineEdit.currentPath
            if not path or self.parameters.xrayVolume is None:
                raise InputError(_("Choose an X-ray and a geometry file first."))
            self._known = geometry.load(path, self.parameters.xrayVolume)
            self._xray_id = None  # so that the new values are taken over
            self.update()

    def on_save_geometry(self, checked: bool = False) -> None:
        with self.reporting():
            path = self.ui.geometryPathLineEdit.currentPath
            if not path or self._known is None:
                raise InputError(_("Choose an X-ray and a file to write first."))
            geometry.save(path, self._known)
            self.ui.statusLabel.text = _("Saved {path}.").format(path=Path(path).name)

    def on_copy_details(self, checked: bool = False) -> None:
        slicer.app.clipboard().setText(f"{self.ui.errorLabel.text}\n\n{self._details}")

    # -- helpers

    def reporting(self) -> Reporting:
        """A context in which errors are shown in the panel's words."""
        return Reporting(self)

    def _target(self) -> Any:
        """The X-ray to register to: the placed one when the start is where the CT stands before it."""
        return self.parameters.placedXray if self.parameters.initial == SCENE else self.parameters.xrayVolume

    def _request(self) -> Any:
        p = self.parameters
        xray = self._target()
        return self.logic.readRequest(
            p.ctVolume,
            xray,
            None if placed_camera(xray) is not None else self._known,
            self._initial(xray),
            p.labelsVolume,
            label_numbers(p.labelValues),
            p.maskVolume,
            p.frame if frames(xray) > 1 else None,
            p.device,
            p.seed,
        )

    def _initial(self, xray: Any) -> Any:
        p = self.parameters
        if p.initial == SCENE:
            return "scene"
        if p.initial == ALL_VIEWS:
            return None
        if p.initial != ANGLES:
            return p.initial
        from SphericalRegLib.geometry.views import c_arm_view
        from SphericalRegLib.mrml.volumes import volume_from_node
        from SphericalRegLib.mrml.xrays import radiograph_from_node

        camera = radiograph_from_node(xray, self._known, frame=0).camera
        return c_arm_view(p.primaryDeg, p.secondaryDeg, camera, volume_from_node(p.ctVolume).centre_ras_mm.tolist()).numpy()

    def _render_live(self, longer_side: int | None) -> None:
        p = self.parameters
        if p is None or self.runner.busy or p.ctVolume is None or p.placedXray is None:
            return
        p.drrVolume = self.logic.renderDRR(p.ctVolume, p.placedXray, p.drrVolume, longerSide=longer_side, device=p.device)
        if longer_side is None:
            self.result.show_pictures()


class Reporting:
    """Shows what goes wrong inside the block in the panel, in words."""

    def __init__(self, panel: Panel) -> None:
        self._panel = panel

    def __enter__(self) -> None:
        self._panel.clear_error()

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None or not isinstance(error, Exception):
            return False
        self._panel.show_error(failure(error))
        return True


def label_numbers(text: str) -> tuple[int, ...] | None:
    """Numbers of a list such as "1, 2"; None for an empty one.

    Raises:
        InputError: something else than whole numbers.
    """
    parts = text.replace(",", " ").split()
    if not all(part.isdigit() for part in parts):
        raise InputError(_("The label values are '{text}'; expected whole numbers such as: 1, 2").format(text=text))
    return tuple(int(part) for part in parts) or None


def frames(xray: Any) -> int:
    """Number of images in an X-ray's node."""
    return xray.GetImageData().GetDimensions()[2] if xray.GetImageData() is not None else 0
