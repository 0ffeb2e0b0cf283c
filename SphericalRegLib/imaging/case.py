"""Case folders: a CT, one or more X-rays and their geometry.

::

    ct.nii.gz | ct.nrrd | ct.mha | ct/ (DICOM series)
    xray.nrrd | .png | .tif | .dcm | .npy | ...     geometry.json      (what a DICOM X-ray's tags do not say)
    xray_2.*                                        geometry_2.json    with "camera2_from_camera1"; likewise _3, ...
    mask.png, mask_2.png                            optional, zero excludes a pixel
    labels.nii.gz                                   optional label map of the CT
    case.json                                       optional: {"ct": path, "xray": path, ...} for files that lie elsewhere (relative to it);
                                                    other keys are notes, near misses of these are refused

``truth.json`` is never opened here: only ``evaluation`` does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import NEAREST_MM, Camera
from SphericalRegLib.geometry.rigid import checked_rigid
from SphericalRegLib.imaging.attenuation import AttenuationModel
from SphericalRegLib.imaging.files import read_json_object, refuse_misspelt
from SphericalRegLib.imaging.geometry_file import read_geometry
from SphericalRegLib.imaging.geometry_values import NOTHING, GeometryValues, first_known, start_pose
from SphericalRegLib.imaging.grid import content_corners
from SphericalRegLib.imaging.pixels import SUFFIXES, suffix_of
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.starts import Start
from SphericalRegLib.imaging.volume import Volume

CT_SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")

_KEYS = frozenset(("ct", "labels", "xray", "geometry", "mask", "xray_2", "geometry_2", "mask_2"))
VIEW_FILE = re.compile(r"(?:xray|geometry|mask)_(\d+)\b")

REGRESSOR = "regressor"
"""In an initial pose's place: the model is asked, whatever the case says."""

ALL_VIEWS = "views"
"""In an initial pose's place: the model is asked, or the named views are tried where there is none, whatever the case says."""


@dataclass(frozen=True)
class View:
    """One X-ray of a case. ``camera_from_camera1`` (4, 4) float64 maps the first view's camera frame to this one's."""

    radiograph: Radiograph
    camera_from_camera1: np.ndarray


@dataclass(frozen=True)
class Case:
    """All that registration may know about a case.

    Attributes:
        initial_camera_from_world: (4, 4) float64 pose of the first camera to start from, or None. From geometry.json, else from the C-arm's
            angles or the view's name in a DICOM header. Whether the X-ray can show the CT there is seen where it is used (`pose_to_start_from`).
        initial_origin: where that pose comes from.
    """

    path: Path
    volume: Volume
    views: tuple[View, ...]
    initial_camera_from_world: np.ndarray | None = None
    initial_origin: str | None = None

    @property
    def name(self) -> str:
        return self.path.resolve().name if self.path.name in ("", "..") else self.path.name  # a link keeps its own name


@dataclass(frozen=True)
class ViewFiles:
    xray: Path
    geometry: Path | None
    mask: Path | None


@dataclass(frozen=True)
class CaseFiles:
    """Where a case's files lie. All of them exist."""

    path: Path
    ct: Path
    labels: Path | None
    views: tuple[ViewFiles, ...]


def load_case(path: str | Path, said: GeometryValues = NOTHING) -> Case:
    """Read a case folder.

    Args:
        path: the folder.
        said: of each of its X-rays, whatever their geometry files and headers say.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    files = find_case_files(path)
    # X-rays first: a wrong key in a geometry file must not cost the time of reading a CT.
    views = []
    for number, view in enumerate(files.views, start=1):
        geometry = first_known(said, view_geometry(view, number))
        relation = np.eye(4) if number == 1 else _relation(geometry, view, number)
        views.append(View(Radiograph.read(view.xray, geometry, mask=view.mask), relation))
    volume = Volume.read(files.ct, labels=files.labels)
    first = views[0].radiograph
    initial = start_pose(first.known, first.camera, volume.centre_ras_mm)
    if initial is None:
        return Case(files.path, volume, tuple(views))
    return Case(files.path, volume, tuple(views), initial.value, initial.origin)


def overlap_problem(camera: Camera, camera_from_world: np.ndarray, volume: Volume) -> str | None:
    """Why an X-ray taken at a pose cannot show the CT, in words, or None where it can. Air does not count, nor does what reaches behind the source:
    a long CT's far end may."""
    corners = content_corners(volume.hu >= AttenuationModel.air_below_hu, volume.world_from_voxel)
    points = corners @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    depth = points[:, 2]
    inverse = "is the matrix the inverse of what it should be?"
    if (depth <= NEAREST_MM).all():
        return f"the CT lies behind the X-ray source: {inverse}"
    if depth.min() >= camera.sdd_mm:
        return f"the CT lies behind the detector ({depth.min():.0f} mm from the source or more, sdd_mm is {camera.sdd_mm:g})"
    edges = points[[4, 2, 1]] - points[0]
    share = np.linalg.solve(edges.T, -points[0])  # where the source, the camera's origin, stands along the box's edges
    if ((share > 0) & (share < 1)).all():
        return f"the X-ray source stands in the CT: {inverse}"
    pixels = camera.project(_before_the_source(points))
    if (pixels.max(0) < 0).any() or (pixels.min(0) > np.array(camera.size_px) - 1).any():
        # Behind the source in part, it is most often the inverse matrix again: its translation is of the order of the distances.
        return f"the CT is projected beside the X-ray: {'the two do not overlap' if depth.min() > NEAREST_MM else inverse}"
    return None


def _before_the_source(points: np.ndarray) -> np.ndarray:
    """Corners (8, 3) of a box in the camera, not all behind the source -> points (N, 3) whose hull is the part of it that lies in front."""
    in_front = points[:, 2] > NEAREST_MM
    front, behind = points[in_front][:, None], points[~in_front]
    share = (front[..., 2:] - NEAREST_MM) / (front[..., 2:] - behind[..., 2:])
    return np.concatenate((front[:, 0], (front + share * (behind - front)).reshape(-1, 3)))


def find_case_files(path: str | Path) -> CaseFiles:
    """Locate a case's files without reading them.

    Raises:
        InputError: not a folder, no CT, no X-ray, several candidates, a path in case.json that leads nowhere, a misspelt key, files of a view without
            its X-ray.
    """
    folder = Path(path)
    if not folder.exists():
        raise InputError(f"case {folder} does not exist")
    if not folder.is_dir():
        raise InputError(f"case {folder} is a file, expected a case folder with ct.*, xray.* and geometry.json")
    named = read_json_object(folder / "case.json", "case file") if (folder / "case.json").exists() else {}
    refuse_misspelt(named, _KEYS | {key for key in named if VIEW_FILE.fullmatch(key)}, str(folder / "case.json"))
    ct = _locate(folder, named, "ct", CT_SUFFIXES, folder_allowed=True)
    if ct is None:
        raise InputError(f"case {folder} has no CT: expected ct.nii.gz, ct.nrrd, a folder ct/ with a DICOM series, or \"ct\" in case.json")
    views: list[ViewFiles] = []
    while True:
        suffix = "" if not views else f"_{len(views) + 1}"
        xray = _locate(folder, named, f"xray{suffix}", SUFFIXES)
        if xray is None:
            break
        geometry = _locate(folder, named, f"geometry{suffix}", (".json",))  # whether all is known without one shows when the X-ray is read
        views.append(ViewFiles(xray, geometry, _locate(folder, named, f"mask{suffix}", SUFFIXES)))
    if not views:
        raise InputError(f"case {folder} has no X-ray: expected xray.png, .tif, .nrrd, .npy or .dcm, or \"xray\" in case.json")
    _refuse_left_over(folder, named, len(views))
    return CaseFiles(folder, ct, _locate(folder, named, "labels", CT_SUFFIXES), tuple(views))


def _refuse_left_over(folder: Path, named: dict[str, Any], views: int) -> None:
    """A geometry_2.json without an xray_2, or an xray_3 without them: the view that it was meant for would be lost without a word."""
    present = sorted(path.name for path in folder.iterdir() if path.is_file() and suffix_of(path) in (*SUFFIXES, ".json"))
    for name in [*present, *(f'"{key}" in case.json' for key, value in named.items() if value is not None)]:
        match = VIEW_FILE.match(name.lstrip('"'))
        if match is not None and not 2 <= int(match[1]) <= views:
            missing = f"xray_{views + 1}" if int(match[1]) > 1 else "xray (the first X-ray has no number)"
            raise InputError(f"case {folder} has {name}, but no {missing}: X-rays are xray, xray_2, xray_3 and so on, without a gap")


def view_geometry(view: ViewFiles, number: int) -> GeometryValues:
    """What a view's geometry file says; tags of a DICOM X-ray are added when it is read."""
    return NOTHING if view.geometry is None else read_geometry(view.geometry, number)


def _relation(geometry: GeometryValues, view: ViewFiles, number: int) -> np.ndarray:
    if geometry.camera_from_camera1 is None:
        missing = f"camera{number}_from_camera1 is missing: give it in geometry_{number}.json"
        raise InputError(f"{view.geometry or view.xray}: {missing}, for where view {number} stands must be known")
    return geometry.camera_from_camera1.value


def _locate(folder: Path, named: dict[str, Any], key: str, suffixes: tuple[str, ...], folder_allowed: bool = False) -> Path | None:
    if named.get(key) is not None:
        value = named[key]
        if not isinstance(value, str):
            raise InputError(f"{folder / 'case.json'}: {key} is {value!r}, expected a path as text")
        path = folder / value
        if not path.exists():
            raise InputError(f"{folder / 'case.json'}: {key} leads to {path}, which does not exist")
        return path
    # Some machines and programs write names in capitals, and some systems do not tell them from others.
    names = {f"{key}{suffix}" for suffix in suffixes}
    found = sorted(path for path in folder.iterdir() if path.name.lower() in names and path.is_file())
    if folder_allowed and (folder / key).is_dir():
        found.append(folder / key)
    if len(found) > 1:
        raise InputError(f"case {folder} has several files for {key}: {', '.join(p.name for p in found)}; keep one or name it in case.json")
    return found[0] if found else None


def check_start(initial: Any, model: Any) -> None:
    """Refuse, before any long work, what no registration can start from; whether a pose suits a case shows when that is read.

    Args:
        initial: None, a named view, `REGRESSOR`, `ALL_VIEWS`, a `Start` or camera_from_world (4, 4).
        model: `models.checkpoint.Model`, or None.

    Raises:
        InputError: another word, a matrix that is not rigid, or a regressor that is to be asked where there is none.
    """
    if initial is None or isinstance(initial, Start):
        return
    if not isinstance(initial, str):
        checked_rigid(initial, "The initial pose")
        return
    from SphericalRegLib.geometry.views import NAMED_VIEWS  # with PyTorch, which what is above does without

    words = (*NAMED_VIEWS, REGRESSOR, ALL_VIEWS)
    if initial not in words:
        raise InputError(f"The start is {initial!r}; expected one of {', '.join(words)}, or camera_from_world (4, 4).")
    if initial == REGRESSOR and (model is None or model.regressor is None):
        raise InputError(f"A model's regressor is to say where to start, but {'there is no model' if model is None else 'the model has none'}.")


def pose_to_start_from(begin: Any, case: Case) -> Any:
    """What `register` is given as its initial pose: a named view, camera_from_world (4, 4), or None to ask the model, or to try all named views.

    Args:
        begin: as of `check_start`; None: where the case says.

    Raises:
        InputError: the case says where to start, but its X-ray cannot show the CT there.
    """
    if begin is None:
        return _own_start(case)
    if isinstance(begin, Start):
        radiograph = case.views[0].radiograph
        return begin.pose(radiograph.camera, case.volume.centre_ras_mm, radiograph.sod_fraction * radiograph.camera.sdd_mm)
    return None if isinstance(begin, str) and begin in (REGRESSOR, ALL_VIEWS) else begin


def _own_start(case: Case) -> np.ndarray | None:
    if case.initial_camera_from_world is None:
        return None
    problem = overlap_problem(case.views[0].radiograph.camera, case.initial_camera_from_world, case.volume)
    if problem is not None:
        raise InputError(f"case {case.path}: at the initial pose ({case.initial_origin}) {problem}")
    return case.initial_camera_from_world
