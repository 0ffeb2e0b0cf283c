"""SphericalReg: moves a CT to where a fluoroscopy image saw the patient (2D/3D registration)."""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin
from SphericalRegModule.parameters import SphericalRegParameterNode

_ROOT = Path(__file__).resolve().parents[1]
if (_ROOT / "SphericalRegLib").is_dir() and str(_ROOT) not in sys.path:  # a source checkout; built and installed, the library lies beside this file
    sys.path.insert(0, str(_ROOT))

class SphericalReg(ScriptedLoadableModule):
    """What Slicer's module list knows."""

    def __init__(self, parent: Any) -> None:
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("SphericalReg")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Registration")]
        self.parent.dependencies = ["Cameras", "Markups", "Plots", "Sequences", "VolumeRendering"]  # whose nodes and logics are used
        self.parent.contributors = ["SphericalReg contributors"]
        self.parent.helpText = _(
            "Registers a CT to a fluoroscopy image: finds the rigid pose at which the CT's projection matches the X-ray, and moves the CT there. "
            "Research software: not for clinical use. "
            '<a href="https://github.com/SphericalReg/SlicerSphericalReg/blob/main/docs/slicer.md">Step by step</a>'
        )
        self.parent.acknowledgementText = _(
            "A reconstruction of the method of Chen and Kong, 'Intraoperative 2D/3D Registration via Spherical Similarity Learning and "
            "Inference-Time Differentiable Levenberg-Marquardt Optimization' (WACV 2026), from its public description."
        )
        from SphericalRegModule.layout import register_layout
        from SphericalRegModule.sample_data import register_sample_data

        slicer.app.connect("startupCompleted()", register_sample_data)
        slicer.app.connect("startupCompleted()", register_layout)


class SphericalRegWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: binds the parameter node, and hands the rest to its parts in SphericalRegModule."""

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self.panel: Any = None
        self.uiWidget: Any = None
        self._parameterNode: Any = None
        self._parameterNodeGuiTag: Any = None

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        self.uiWidget = slicer.util.loadUI(self.resourcePath("UI/SphericalReg.ui"))
        self.layout.addWidget(self.uiWidget)
        self.ui = slicer.util.childWidgetVariables(self.uiWidget)
        self.uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = SphericalRegLogic()
        from SphericalRegModule.panel import Panel

        self.panel = Panel(self.ui, self.logic)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndClose)  # brought other parameters along
        self.initializeParameterNode()

    def cleanup(self) -> None:
        """The application closes, or the module is reloaded."""
        self.setParameterNode(None)
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()
        if self.uiWidget is not None:  # a reload only hides it, and its connections would keep this panel alive
            self.uiWidget.deleteLater()
            self.uiWidget = None

    def enter(self) -> None:
        self.initializeParameterNode()

    def exit(self) -> None:
        """Another module is shown: the panel does not follow its parameters there. What runs goes on."""
        if self._parameterNode:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None

    def onReload(self) -> None:
        """Reload the library too: Slicer itself reloads this file alone."""
        for name in [name for name in sys.modules if name.partition(".")[0] in ("SphericalRegLib", "SphericalRegModule")]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: Any, event: str) -> None:
        self.setParameterNode(None)

    def onSceneEndClose(self, caller: Any, event: str) -> None:
        ended = self.panel.runner.busy  # after an import: a scene that is closed has ended it already
        self.setParameterNode(None)
        if self.parent.isEntered:
            self.initializeParameterNode()
        if ended:
            self.ui.statusLabel.text = _("What was running was ended: a scene was loaded.")

    def initializeParameterNode(self) -> None:
        """Make sure that there is a parameter node, with a first guess of the inputs."""
        found = self.logic.getParameterNode()
        if self._parameterNode and self._parameterNode.parameterNode is found.parameterNode:  # back from another module: what runs goes on
            if self._parameterNodeGuiTag is None:
                self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.panel.update()
        else:
            self.setParameterNode(found)
        self.panel.inputs.guess()

    def setParameterNode(self, inputParameterNode: Any) -> None:
        """Bind another parameter node, or none."""
        if self._parameterNode:
            self.panel.setParameters(None)
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self._parameterNodeGuiTag = None
        self._parameterNode = inputParameterNode
        if self._parameterNode:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.panel.setParameters(self._parameterNode)


class SphericalRegLogic(ScriptedLoadableModuleLogic):
    """Registration for scripts and for the panel. Needs no window.

    >>> logic = SphericalRegLogic()
    >>> nodes = logic.register(ctNode, xrayNode, geometry={"sdd_mm": 1020, "pixel_spacing_mm": [0.8, 0.8]}, initial="ap")
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.options: Any = None  # RegistrationOptions for calls that give none; None: the library's
        self.prepared: Any = None  # Prepared: the CT of the last call, made ready for rendering; one at a time, for it is large
        self._running: set[Any] = set()  # what nobody waits for is kept alive here

    def getParameterNode(self) -> Any:
        return SphericalRegParameterNode(super().getParameterNode())

    # -- for scripts

    def register(
        self,
        ctNode: Any,
        xrayNode: Any,
        *,
        geometry: Any = None,
        initial: Any = None,
        model: Any = None,
        labelsNode: Any = None,
        labels: Collection[int | str] | None = None,
        maskNode: Any = None,
        frame: int | None = None,
        outputTransform: Any = None,
        moveXray: bool = False,
        device: str = "auto",
        seed: int = 0,
        options: Any = None,
        progress: Callable[[Any], None] | None = None,
        waitForCompletion: bool = True,
        finished: Callable[[Any], None] | None = None,
    ) -> Any:
        """Register a CT to an X-ray and show the result in the scene.

        Args:
            ctNode: vtkMRMLScalarVolumeNode with Hounsfield units. It gets `outputTransform` as its parent.
            xrayNode: vtkMRMLScalarVolumeNode with the image as stored, or one on a placed detector (then the CT moves before that detector).
            geometry: a SphericalRegLib Camera, a mapping with the keys of geometry.json or such a file; of what it leaves open, the node itself
                tells its size, and its spacing where its file has that in mm. None: what was kept with the node, then what its DICOM instance says.
            initial: camera_from_world (4, 4), a named view ("ap", "pa", "left", "right"), "scene" (where the CT stands before a placed X-ray),
                "regressor" (the model is asked), or "views" (the model's regressor is asked, and without one, or where its poses lead nowhere, all
                named views are tried). None: what the X-ray says, by its geometry or its DICOM header, and as "views" where it says nothing.
            model: None (the intensities alone), "shipped" (of the sample pelvis), a model's file, or a SphericalRegLib Model. The result's notes say
                where it does not fit the CT.
            labelsNode: label map or segmentation of the CT; labels: its numbers, or its segments' names or IDs, that are rendered (None: all).
            maskNode: label map of the X-ray's size; zero leaves a pixel out.
            frame: of a run, from 0; None: the frame that a sequence's proxy shows.
            outputTransform: vtkMRMLLinearTransformNode; made if None.
            moveXray: leave the CT where it is, and move the X-ray by the inverse transform instead.
            device, seed: "auto", "cpu", "cuda"; the same seed on the same device gives the same pose.
            options: SphericalRegLib RegistrationOptions.
            progress: called in the main thread with SphericalRegLib Progress reports.
            waitForCompletion: return when it is done (the application stays alive meanwhile), or at once.
            finished: without waiting: called in the main thread with the result's nodes, or with Failed or Stopped (SphericalRegModule.job). Closing
                the scene stops the registration.

        Returns:
            ResultNodes (transform, xray, drr), whose transform carries the result in its attributes; without waiting, a Runner (`cancel`, `busy`).

        Raises:
            InputError: input that cannot be used, in one sentence.
            Cancelled: `progress` raised it, or the scene was closed.
        """
        from SphericalRegModule.dependencies import ensure
        from SphericalRegModule.prepared import keep, key
        from SphericalRegModule.runner import run_work

        ensure()
        from SphericalRegLib.mrml.session import ResultNodes, check_writable, run, write_outcome

        check_writable(ctNode, xrayNode, ResultNodes(outputTransform), move_xray=moveXray)
        chosen = {"labelsNode": labelsNode, "labels": labels, "maskNode": maskNode, "device": device, "seed": seed, "options": options}
        request = self.readRequest(ctNode, xrayNode, frame, geometry=geometry, initial=initial, model=model, **chosen)
        made_from = key(ctNode, labelsNode, labels, request.device, self.options if options is None else options)  # as they are now

        def show(outcome: Any) -> Any:
            self.prepared = keep(outcome.pyramid, made_from)
            return write_outcome(slicer.mrmlScene, outcome, ctNode, xrayNode, ResultNodes(outputTransform), move_xray=moveXray, along=(labelsNode,))

        return run_work(lambda report: run(request, report), show, progress, waitForCompletion, finished, self._running, ends_with_scene=True)

    def registerRun(
        self,
        ctNode: Any,
        xrayNode: Any,
        *,
        outputTransform: Any = None,
        tableNode: Any = None,
        moveXray: bool = False,
        progress: Callable[[Any], None] | None = None,
        **keywords: Any,
    ) -> Any:
        """Register a CT to every frame of a fluoroscopy run; each frame starts from the pose of the one before.

        Args:
            ctNode: see `register`.
            xrayNode: the proxy of a sequence, or a vtkMRMLScalarVolumeNode whose slices are the frames.
            outputTransform: see `register`; it becomes the proxy of a sequence in the run's browser.
            tableNode: vtkMRMLTableNode for one row a frame; made if None.
            moveXray, progress, keywords (geometry, initial, model, labelsNode, labels, maskNode, device, seed and options): as of `register`.

        Returns:
            RunNodes (shown, browser, sequences, table).

        Raises:
            InputError: input that cannot be used, in one sentence; or no frame could be registered.
        """
        from SphericalRegModule.dependencies import ensure
        from SphericalRegModule.prepared import keep, key
        from SphericalRegModule.runner import run_to_end

        ensure()
        from SphericalRegLib.mrml.run_session import register_run, write_run
        from SphericalRegLib.mrml.session import ResultNodes, check_writable

        check_writable(ctNode, xrayNode, ResultNodes(outputTransform), move_xray=moveXray)
        request = self.readRun(ctNode, xrayNode, **keywords)
        labels, options = keywords.get("labelsNode"), keywords.get("options") or self.options
        made_from = key(ctNode, labels, keywords.get("labels"), request.first.device, options)  # as they are now
        frames = run_to_end(lambda report: register_run(request, report), progress, ends_with_scene=True)
        self.prepared = keep(next(frame.outcome.pyramid for frame in frames if frame.outcome is not None), made_from)
        return write_run(slicer.mrmlScene, frames, ctNode, xrayNode, ResultNodes(outputTransform), tableNode, move_xray=moveXray, along=(labels,))

    def registerBatch(
        self,
        cases: str | Path | Sequence[Any],
        outputFolder: str | Path | None = None,
        *,
        initial: Any = None,
        model: Any = None,
        device: str = "auto",
        seed: int = 0,
        options: Any = None,
        progress: Callable[[Any], None] | None = None,
        **keywords: Any,
    ) -> list[dict[str, Any]]:
        """Register many: the poses of case folders are those of ``sphericalreg batch``.

        Args:
            cases: a folder of case folders, a list of case folders, or a list of (ctNode, xrayNode) pairs.
            outputFolder: of case folders, which need one: what ``sphericalreg batch`` writes, and a later call goes on where an earlier one stopped.
                Of pairs: pairs.csv, which keeps what is done when `progress` raises Cancelled.
            initial: as of `register`, for all of them ("scene": for pairs alone); None: what each X-ray says.
            model, device, seed, options, progress: as of `register`; keywords: for pairs of nodes, its further arguments.

        Returns:
            One row per case: name, score, verdict, seconds, error (None if it worked) and camera_from_world (4, 4 nested lists, or None).
        """
        from SphericalRegModule.batch import register_batch
        from SphericalRegModule.dependencies import ensure

        ensure()
        choices = {"initial": initial, "model": model, "device": device, "seed": seed, "options": options}
        return register_batch(self, cases, outputFolder, progress, choices, keywords)

    def trainModel(
        self,
        ctNode: Any,
        path: str | Path,
        *,
        xrayNode: Any = None,
        geometry: Any = None,
        labelsNode: Any = None,
        labels: Collection[int | str] | None = None,
        resume: bool = False,
        device: str = "auto",
        seed: int = 0,
        progress: Callable[[Any], None] | None = None,
        waitForCompletion: bool = True,
        finished: Callable[[Any], None] | None = None,
        **options: Any,
    ) -> Any:
        """Train a model for this patient, as ``sphericalreg train`` does, in a process of its own.

        Args:
            ctNode, labelsNode, labels: the CT and the parts of it that DRRs show, as of `register`; X-rays show all of it.
            path: of the model, .safetensors; its card is written beside it (.json), and until it is finished its state (.state).
            xrayNode, geometry: an X-ray of the C-arm that the model is for, as of `register`; None: a flat panel of 400 mm at 1020 mm.
            resume: go on with the unfinished training at this path; the options must be the same, but for how long it goes on.
            device, seed, waitForCompletion: as of `register`.
            progress: called in the main thread with SphericalRegModule.training TrainingProgress reports: `curve` holds the validations so far.
            finished: as of `register`, with the path.
            options: of the command, in this spelling: minutes, iterations, anatomy, views, primaryDeg, secondaryDeg, inPlaneDeg, inPlaneMm, depthMm
                (the poses that it is for), base, backbone, imageSize, batch, ... (SphericalRegModule.training.OPTIONS).

        Returns: the model's path; without waiting, a Runner: `cancel` ends the process, and `resume` goes on. Closing the scene does not.

        Raises:
            InputError: input that cannot be used, in one sentence.
            Cancelled: `progress` raised it; the state was saved.
        """
        from SphericalRegModule.dependencies import ensure
        from SphericalRegModule.runner import run_work

        ensure()
        from SphericalRegModule.reading import training_request
        from SphericalRegModule.training import train

        known = {"labelsNode": labelsNode, "labels": labels, "resume": resume, "device": device, "seed": seed, "options": options}
        request = training_request(ctNode, path, xrayNode, geometry, **known)
        return run_work(lambda report: train(request, report), Path, progress, waitForCompletion, finished, self._running, ends_with_scene=False)

    def renderDRR(
        self, ctNode: Any, xrayNode: Any, drrNode: Any = None, *, longerSide: int | None = None,
        device: str = "auto", labelsNode: Any = None, labels: Collection[int | str] | None = None,
    ) -> Any:
        """Render the CT, where it stands in the scene, onto the detector of a placed X-ray.

        Args:
            ctNode: the CT; its parent transforms count.
            xrayNode: an image on a placed detector: the X-ray that `register` or `placeXray` made, or a DRR.
            drrNode: vtkMRMLScalarVolumeNode to be filled; made if None.
            longerSide: pixels along the image's longer side; None: as many as the X-ray.
            device, labelsNode, labels: as of `register`.

        Returns:
            The DRR's node.
        """
        from SphericalRegModule.dependencies import ensure

        ensure()
        from SphericalRegModule.prepared import prepared
        from SphericalRegModule.rendering import render_drr, standing

        standing(xrayNode)  # before the CT is prepared, which takes a while
        self.prepared = prepared(self.prepared, ctNode, labelsNode, labels, device, self.options)
        return render_drr(self.prepared.pyramid, ctNode, xrayNode, drrNode, longerSide)

    def placeXray(
        self, ctNode: Any, xrayNode: Any, *, geometry: Any = None, view: Any = "ap", placedNode: Any = None, frame: int | None = None
    ) -> Any:
        """Stand the X-ray before the CT, which stays where it is; returns the node of the X-ray on its detector.

        Args:
            view: a named view, a pair of C-arm angles in degrees (primary, secondary), or camera_from_world (4, 4).
            placedNode: to be filled instead of a new one.
            frame: of a run, as of `register`.
        """
        from SphericalRegModule.dependencies import ensure

        ensure()
        from SphericalRegModule.rendering import place_xray

        return place_xray(ctNode, xrayNode, geometry, view, placedNode, frame)

    # -- shared with the panel

    def readRequest(self, ctNode: Any, xrayNode: Any, frame: int | None = None, **keywords: Any) -> Any:
        """The inputs of a registration, read from the scene; arguments and errors as of `register`."""
        from SphericalRegModule.reading import registration_inputs

        from SphericalRegLib.mrml.session import read_request

        keywords["options"] = keywords.get("options") or self.options
        return read_request(ctNode, xrayNode, frame=frame, **registration_inputs(self.prepared, ctNode, xrayNode, **keywords))

    def readRun(self, ctNode: Any, xrayNode: Any, reference: Any = None, **keywords: Any) -> Any:
        """The inputs of a run's registration, read from the scene; `reference` (4, 4) is where the camera stands, the rest as of `registerRun`."""
        from SphericalRegModule.reading import registration_inputs

        from SphericalRegLib.mrml.run_session import read_run

        keywords["options"] = keywords.get("options") or self.options
        return read_run(ctNode, xrayNode, reference=reference, **registration_inputs(self.prepared, ctNode, xrayNode, **keywords))

    def forgetPrepared(self) -> None:
        """Free the memory of the prepared CT."""
        self.prepared = None


class SphericalRegTest(ScriptedLoadableModuleTest):
    """Runs in Slicer ("Reload and Test") and on the harness alike; SphericalRegModule.selftest says what is looked at."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        for name in unittest.TestLoader().getTestCaseNames(type(self)):
            self.setUp()
            try:
                getattr(self, name)()
            except unittest.SkipTest as skipped:
                self.delayDisplay(str(skipped))

    def test_registers_the_sample_case(self) -> None:
        self._check("registers_the_sample_case", "Simulating and registering a small case")

    def test_the_saved_transform_moves_the_ct_the_right_way(self) -> None:
        self._check("saved_transform", "Rendering the CT from the saved transform")

    def test_cancel_changes_nothing(self) -> None:
        self._check("cancel", "Cancelling a registration")

    def test_closing_the_scene_ends_what_runs(self) -> None:
        self._check("scene_close", "Closing the scene during a registration")

    def _check(self, name: str, message: str) -> None:
        from SphericalRegModule import dependencies

        if dependencies.missing():  # a test machine has no PyTorch, and a test must not download it
            self.skipTest(f"Skipped: Python packages are missing ({', '.join(dependencies.missing())})")
        from SphericalRegModule import selftest

        self.delayDisplay(message)
        getattr(selftest, f"check_{name}")(SphericalRegLogic())
        self.delayDisplay("Test passed")
