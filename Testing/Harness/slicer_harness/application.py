"""`slicer.app`, `slicer.mrmlScene`, `slicer.modules`: an application around slicer-core's real scene and module logics."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from . import ctk_standin, qt_standin
from .ui_loader import UiLoader

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

SLICER_PYTHON = os.environ.get("SLICER_PY")
"""A `slicer` folder of Slicer's own Python (Base/Python/slicer of its source): used in place of the stand-ins."""

qt = qt_standin.install()
ctk = ctk_standin.install()
qt.QUiLoader = UiLoader

import slicer  # noqa: E402
import slicer.util  # noqa: E402
import vtk  # noqa: E402
from PySide6 import QtCore, QtWidgets  # noqa: E402

LOGICS = {
    "Colors": "vtkMRMLColorLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Tables": "vtkSlicerTablesLogic",
}


class ModuleManager:
    """`slicer.app.moduleManager()`."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[..., None]] = []

    def module(self, name: str) -> Any:
        return getattr(slicer.modules, name.lower(), None)

    def connect(self, _signature: str, callback: Callable[..., None]) -> bool:
        self._callbacks.append(callback)
        return True

    def disconnect(self, _signature: str, callback: Callable[..., None]) -> bool:
        if callback not in self._callbacks:
            return False
        self._callbacks.remove(callback)
        return True


class Application:
    """What `slicer.app` offers to a scripted module; anything else is an AttributeError."""

    applicationName = "Slicer"
    applicationVersion = "5.13.0"
    majorVersion, minorVersion = 5, 13
    revision = "0"

    def __init__(self) -> None:
        self._qt = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["SphericalReg harness"])
        self._folder = tempfile.TemporaryDirectory(prefix="slicer-harness-")
        self.temporaryPath = self._folder.name
        self._testing = True
        self._startup: list[Callable[[], None]] = []
        self._scene = slicer.mrmlScene = slicer.vtkMRMLScene()
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(self._scene)
        self._logic.SetTemporaryPath(self.temporaryPath)
        self._logic.SetSliceLogics(vtk.vtkCollection())
        self._logic.SetViewLogics(vtk.vtkCollection())
        self._prepare_file_cache()
        self._logics = {name: self._start(name, class_name) for name, class_name in LOGICS.items() if hasattr(slicer, class_name)}
        self._add_preset()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self._scene, True)
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        self._scene.AddNode(crosshair)
        self._manager = ModuleManager()
        self._layout: Any = None
        self._files: Any = None
        self._settings = qt.QSettings(str(Path(self.temporaryPath) / "settings.ini"), qt.QSettings.IniFormat)

    def _prepare_file_cache(self) -> None:
        self._cache = slicer.vtkCacheManager()  # .mrb files are unpacked through it
        self._cache.SetRemoteCacheDirectory(self.temporaryPath)
        self._cache.SetMRMLScene(self._scene)
        self._data_io = slicer.vtkDataIOManager()
        self._data_io.SetCacheManager(self._cache)
        self._scene.SetCacheManager(self._cache)
        self._scene.SetDataIOManager(self._data_io)

    def _start(self, name: str, class_name: str) -> Any:
        logic = getattr(slicer, class_name)()
        logic.SetMRMLApplicationLogic(self._logic)
        logic.SetMRMLScene(self._scene)
        self._logic.SetModuleLogic(name, logic)
        return logic

    def _add_preset(self) -> None:
        """Slicer reads its volume rendering presets from its share folder; here is one of them, plainer."""
        preset = slicer.vtkMRMLVolumePropertyNode()
        preset.SetName("CT-Bone")
        opacity, colour = vtk.vtkPiecewiseFunction(), vtk.vtkColorTransferFunction()
        for value, alpha in ((-3000, 0.0), (140, 0.0), (600, 0.6), (3000, 0.7)):
            opacity.AddPoint(value, alpha)
        for value, rgb in ((-3000, (0.0, 0.0, 0.0)), (140, (0.6, 0.3, 0.2)), (600, (0.95, 0.9, 0.8)), (3000, (1.0, 1.0, 1.0))):
            colour.AddRGBPoint(value, *rgb)
        preset.SetScalarOpacity(opacity)
        preset.SetColor(colour)
        preset.GetVolumeProperty().ShadeOn()
        preset.GetVolumeProperty().SetInterpolationTypeToLinear()
        self._logics["VolumeRendering"].AddPreset(preset)

    def complete(self) -> None:
        """Make what needs `slicer.app` to exist."""
        from .files import IOManager
        from .layout import LayoutManager

        self._files, self._layout = IOManager(self._logics), LayoutManager(self._logic)

    def logics(self) -> dict[str, Any]:
        return dict(self._logics)

    def set_testing(self, testing: bool) -> None:
        """Slicer's --testing: message boxes are skipped."""
        self._testing = testing

    def finish_startup(self) -> None:
        """What `startupCompleted()` triggers."""
        for callback in self._startup:
            callback()
        self._startup.clear()

    # -- Slicer's names

    def connect(self, signature: str, callback: Callable[[], None]) -> bool:
        if signature != "startupCompleted()":
            raise qt_standin.StandInError(f"slicer.app has no stand-in for the signal {signature}")
        self._startup.append(callback)
        return True

    def mrmlScene(self) -> Any:
        return self._scene

    def applicationLogic(self) -> Any:
        return self._logic

    def processEvents(self, *_: Any) -> None:
        self._qt.processEvents()
        self._qt.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)  # Slicer's own event loop does so, and here there is none

    def thread(self) -> Any:
        return self._qt.thread()

    def testingEnabled(self) -> bool:
        return self._testing

    def coreIOManager(self) -> Any:
        return self._files

    def ioManager(self) -> Any:
        return self._files

    def layoutManager(self) -> Any:
        return self._layout

    def moduleManager(self) -> ModuleManager:
        return self._manager

    def settings(self) -> Any:
        return self._settings

    def userSettings(self) -> Any:
        return self._settings

    def clipboard(self) -> Any:
        return self._qt.clipboard()

    def setOverrideCursor(self, cursor: Any) -> None:
        self._qt.setOverrideCursor(cursor)

    def restoreOverrideCursor(self) -> None:
        self._qt.restoreOverrideCursor()

    def pauseRender(self) -> None:
        """Pictures are made on demand."""

    def resumeRender(self) -> None:
        """See `pauseRender`."""

    def translate(self, _context: str, text: str) -> str:
        return text

    def topLevelWidgets(self) -> list[Any]:
        return list(self._qt.topLevelWidgets())

    def moduleDocumentationUrl(self, _name: str) -> str:
        return ""


def boot() -> ModuleType:
    """Start the application once; returns the completed `slicer` module."""
    if hasattr(slicer, "app"):
        return slicer
    for name in ("MRMLCore", "MRMLLogic", "MRMLDisplayableManager"):  # the names that Slicer's own Python imports
        core = importlib.import_module(f"slicer_core.{name}")
        sys.modules.setdefault(name, core)
        sys.modules.setdefault(f"{name}Python", core)
    sys.modules.setdefault("vtkAddon", slicer)
    slicer.__path__.append(SLICER_PYTHON or str(Path(__file__).parent / "standins"))
    slicer.app = application = Application()
    modules = {name.lower(): SimpleNamespace(name=name, path="", logic=lambda logic=logic: logic) for name, logic in application.logics().items()}
    slicer.modules = SimpleNamespace(**modules)
    slicer.moduleNames = SimpleNamespace()
    importlib.import_module(f"{__package__}.mrml_widgets")
    application.complete()
    return slicer
