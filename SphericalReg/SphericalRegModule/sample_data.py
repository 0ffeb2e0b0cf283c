"""A case to try the module on, made on this machine: no network is needed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError

from .choices import ASK_MODEL, SHIPPED_MODEL

CATEGORY = "SphericalReg"
NAME = "SphericalRegPelvis"
SIZE_PX = 256


class Loader:
    """What Sample Data calls when the case is chosen. Reads like any other of its kind, so that a reload of the module does not list it twice."""

    def __call__(self, source: Any = None) -> tuple[Any, Any]:
        with slicer.util.tryWithErrorDisplay(_("The sample case could not be made.")):
            from .dependencies import ensure

            ensure()  # before the cursor waits: it may ask
            with slicer.util.WaitCursor():
                ct, xray = load_sample_case()
                choose_in_panel(ct, xray)
        selection = slicer.app.applicationLogic().GetSelectionNode()
        selection.SetActiveVolumeID(ct.GetID())
        slicer.app.applicationLogic().PropagateVolumeSelection()
        return ct, xray

    def __repr__(self) -> str:
        return f"<loader of {NAME}>"


def register_sample_data() -> None:
    """List the case in Slicer's Sample Data module, where that is there. Nothing is downloaded, so there are no addresses; None would not do."""
    try:
        import SampleData
    except ModuleNotFoundError:
        return
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=CATEGORY,
        sampleName=NAME,
        uris=[],
        fileNames=[],
        nodeNames=[],
        customDownloader=Loader(),
        thumbnailFileName=str(Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "SphericalReg.png"),
    )


def load_sample_case(folder: str | Path | None = None) -> tuple[Any, Any]:
    """Simulate an X-ray of the packaged pelvis CT and load both; returns (CT node, X-ray node).

    Args:
        folder: where the case lies; made there once. None: in Slicer's temporary folder, and anew if another version made it.

    Raises:
        InputError: Python packages are missing and were not installed.
    """
    from .dependencies import ensure

    ensure()
    from SphericalRegLib.imaging.case import find_case_files
    from SphericalRegLib.imaging.files import read_json_object
    from SphericalRegLib.imaging.geometry_file import parse_geometry
    from SphericalRegLib.imaging.pixels import read_pixels
    from SphericalRegLib.imaging.volume import Volume
    from SphericalRegLib.mrml.geometry_attribute import keep_geometry
    from SphericalRegLib.mrml.volumes import volume_to_node
    from SphericalRegLib.mrml.voxels import set_voxels

    if folder is None:
        folder = Path(slicer.app.temporaryPath) / "SphericalRegSample"
        try:
            find_case_files(make_sample_case(folder))
        except InputError:
            shutil.rmtree(folder, ignore_errors=True)  # of another version, or its CT is gone
    files = find_case_files(make_sample_case(Path(folder)))
    (view,) = files.views
    geometry = read_json_object(view.geometry, "geometry file")
    geometry.pop("initial_camera_from_world", None)  # as in a theatre: only the view's name is known
    ct = volume_to_node(slicer.mrmlScene, Volume.read(files.ct, name="pelvis"), _("pelvis CT"))
    stored = read_pixels(view.xray)
    xray = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", _("pelvis X-ray"))
    set_voxels(xray, stored.grey.astype(stored.value_type)[None], np.diag([-1.0, -1.0, 1.0, 1.0]))  # as Slicer loads an image file
    xray.CreateDefaultDisplayNodes()
    keep_geometry(xray, parse_geometry(geometry, str(view.geometry), view.geometry.name))
    return ct, xray


def choose_in_panel(ct: Any, xray: Any) -> None:
    """Let the panel show the sample case with the model that comes along for it."""
    from SphericalReg import SphericalRegLogic
    from SphericalRegLib.models.shipped import SHIPPED_SAMPLE, shipped_model

    # One by one: between StartModify and EndModify, Slicer's own binding (with SLICER_PY) lost the CT's choice.
    parameters = SphericalRegLogic().getParameterNode()
    parameters.ctVolume, parameters.xrayVolume = ct, xray
    if shipped_model(SHIPPED_SAMPLE) is not None:
        parameters.model, parameters.initial = SHIPPED_MODEL, ASK_MODEL


def make_sample_case(folder: Path) -> Path:
    """The case folder, simulated unless it is there already."""
    from SphericalRegLib.imaging.samples import sample_volume
    from SphericalRegLib.resources import resource_path
    from SphericalRegLib.simulation.cases import SimulationOptions, flat_panel, simulate_cases

    options = SimulationOptions(camera=flat_panel(SIZE_PX, SIZE_PX), rotation_range_deg=8.0)
    (case,) = simulate_cases(sample_volume("pelvis"), folder, 1, options, ct=resource_path("SampleData/pelvis.nii.gz"))
    return case
