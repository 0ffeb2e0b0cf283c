"""Real MRML nodes from slicer-core: no Slicer application, no mocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.volume import Volume

NEEDS_SLICER_CORE = "needs slicer-core: pip install 'sphericalreg[slicer]'"


@pytest.fixture(scope="session")
def slicer() -> ModuleType:
    return pytest.importorskip("slicer", reason=NEEDS_SLICER_CORE)


@pytest.fixture
def new_scene(slicer: ModuleType) -> Iterator[Callable[[], Any]]:
    """Makes scenes that know all node classes; they are emptied at the end."""
    made: list[Any] = []
    logics: list[Any] = []

    def make() -> Any:
        scene = slicer.vtkMRMLScene()
        for logic_class in (slicer.vtkSlicerVolumesLogic, slicer.vtkSlicerSequencesLogic, slicer.vtkSlicerSegmentationsModuleLogic):
            logic = logic_class()
            logic.SetMRMLScene(scene)  # the module's node classes are registered by its logic
            logics.append(logic)
        made.append(scene)
        return scene

    yield make
    for scene in made:
        scene.Clear(True)


@pytest.fixture
def scene(new_scene: Callable[[], Any]) -> Any:
    return new_scene()


@pytest.fixture(scope="session")
def ct() -> Volume:
    """A box of water with three dense rods and one ball, without symmetry, on an oblique left-handed grid."""
    shape = (34, 30, 26)
    i, j, k = np.indices(shape)
    hu = np.full(shape, -1000.0, np.float32)
    hu[3:31, 3:27, 3:23] = 0
    hu[6:9, 5:25, 5:8] = 1200
    hu[20:23, 8:11, 4:22] = 900
    hu[9:28, 18:20, 15:18] = 700
    hu[(i - 25) ** 2 + (j - 21) ** 2 + (k - 9) ** 2 <= 4] = 2500
    angle = np.radians(20)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-3.0, 3.0, 4.0])
    affine[:3, 3] = (60, -35, 120)
    return Volume.from_array(hu, affine, name="phantom")


@pytest.fixture(scope="session")
def camera() -> Camera:
    return Camera(sdd_mm=900, pixel_spacing_mm=(2.5, 2.2), size_px=(96, 80), principal_point_px=(50.0, 37.0))
