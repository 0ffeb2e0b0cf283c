"""The module's panel on the harness: real nodes, real clicks. Needs slicer-core and PySide6; what is static runs without."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "SphericalReg" / "SphericalReg.py"
NEEDED = "needs slicer-core and PySide6: pip install 'sphericalreg[slicer]'"

for folder in (ROOT / "Testing" / "Harness", ROOT / "SphericalReg"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture(scope="session")
def slicer() -> ModuleType:
    """The application; Slicer's own Python runs in it where SLICER_PY names it."""
    pytest.importorskip("slicer", reason=NEEDED)
    pytest.importorskip("PySide6", reason=NEEDED)
    from slicer_harness import boot

    return boot()


@pytest.fixture
def widget(slicer: ModuleType) -> Iterator[Any]:
    """The module's Python widget in an empty scene, with quick registrations."""
    from slicer_harness.modules import open_module

    slicer.mrmlScene.Clear()
    made, panel = open_module(MODULE)
    made.logic.options = quick_options()
    yield made
    made.cleanup()
    panel.deleteLater()
    slicer.mrmlScene.Clear()
    slicer.app.processEvents()


def quick_options() -> Any:
    from SphericalRegLib.registration.options import MultiStart, RegistrationOptions, Stage

    search = MultiStart(poses=40, rotation_deg=8.0, translation_mm=12.0, image_px=40)
    return RegistrationOptions(stages=(Stage(48, iterations=10, hypotheses=2), Stage(96, iterations=10)), multi_start=search, wide_start=search)


@dataclass(frozen=True)
class Phantom:
    """A case in the scene, and its truth."""

    ct: Any
    xray: Any
    camera: Any
    pose: np.ndarray


@pytest.fixture
def phantom(slicer: ModuleType) -> Phantom:
    from SphericalRegLib.geometry.camera import Camera
    from SphericalRegLib.geometry.views import c_arm_view
    from SphericalRegLib.imaging.attenuation import attenuation
    from SphericalRegLib.imaging.volume import Volume
    from SphericalRegLib.mrml.volumes import volume_to_node
    from SphericalRegLib.mrml.voxels import set_voxels
    from SphericalRegLib.rendering.projector import Projector

    shape = (34, 30, 26)
    i, j, k = np.indices(shape)
    hu = np.full(shape, -1000.0, np.float32)
    hu[3:31, 3:27, 3:23] = 0
    hu[6:9, 5:25, 5:8] = 1200
    hu[20:23, 8:11, 4:22] = 900
    hu[9:28, 18:20, 15:18] = 700
    hu[(i - 25) ** 2 + (j - 21) ** 2 + (k - 9) ** 2 <= 4] = 2500
    affine = np.diag([-3.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = (60, -35, 120)
    volume = Volume.from_array(hu, affine, name="phantom")
    camera = Camera(900, (2.5, 2.2), (96, 80), (50.0, 37.0))
    pose = c_arm_view(6.0, -4.0, camera, volume.centre_ras_mm, base="ap")
    image = Projector(attenuation(volume), camera).project(pose[None])[0].numpy()
    counts = (60000 * np.exp(-image)).astype(np.uint16)
    ct = volume_to_node(slicer.mrmlScene, volume, "phantom CT")
    xray = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "phantom X-ray")
    set_voxels(xray, counts[None], np.diag([-2.5, -2.2, 1, 1]))
    xray.CreateDefaultDisplayNodes()
    return Phantom(ct, xray, camera, pose.numpy())


@pytest.fixture
def chosen(widget: Any, phantom: Phantom) -> Any:
    """The panel with the phantom's inputs and geometry entered as a user does."""
    ui = widget.ui
    ui.ctSelector.setCurrentNode(phantom.ct)
    ui.xraySelector.setCurrentNode(phantom.xray)
    ui.sddSpinBox.value = 900
    ui.principalColumnSpinBox.value = 50
    ui.principalRowSpinBox.value = 37
    ui.initialComboBox.setCurrentIndex(ui.initialComboBox.findText("ap"))
    return widget


@pytest.fixture
def wait(slicer: ModuleType) -> Callable[..., float]:
    """Runs the event loop until something holds; returns the seconds it took, and fails after a generous time."""

    def until(holds: Callable[[], bool], seconds: float = 120) -> float:
        began = time.monotonic()
        while not holds():
            assert time.monotonic() - began < seconds, "it did not happen"
            slicer.app.processEvents()
            time.sleep(0.005)
        return time.monotonic() - began

    return until
