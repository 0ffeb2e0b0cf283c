"""A file or a case in words: what `sphericalreg inspect` prints.

Whatever is missing or doubtful is a note where it belongs, never an exception: one inspects a file to find out what is wrong with it. Only a file
that cannot be read raises `InputError`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging import grid
from SphericalRegLib.imaging.case import CaseFiles, ViewFiles, find_case_files, overlap_problem, view_geometry
from SphericalRegLib.imaging.files import read_json_object
from SphericalRegLib.imaging.geometry_file import read_geometry
from SphericalRegLib.imaging.geometry_values import (
    NOTHING,
    GeometryValues,
    Sourced,
    ViewGeometry,
    complete,
    describe_origins,
    first_known,
    start_pose,
    with_defaults,
)
from SphericalRegLib.imaging.normalization import robust_range
from SphericalRegLib.imaging.pixels import StoredImage, is_dicom, read_pixels, suffix_of
from SphericalRegLib.imaging.radiograph import open_field, usable_pixels
from SphericalRegLib.imaging.starts import Start
from SphericalRegLib.imaging.transforms import ITK_SUFFIXES, RESULT
from SphericalRegLib.imaging.volume import Volume

from .orientation import NAMES, edge_letters
from .result_description import pose_sections, transform_sections
from .result_folder import CASE_FILES
from .section import Description, Entry, Section, in_brackets, in_words, rounded

# Skin against air; the usual threshold for a body's outline.
BODY_HU = -300.0
FEWEST_CT_SLICES = 8
LABELS = {
    "sdd_mm": "source to detector [mm]",
    "sod_mm": "source to object [mm]",
    "pixel_spacing_mm": "pixel spacing, column and row [mm]",
    "size_px": "size, columns and rows",
    "principal_point_px": "principal point, column and row",
    "intensity": "intensity",
    "inverted": "inverted (white is bone)",
    "logarithm_inverted": "white is bone in line integrals",
    "full_scale": "largest value that the image's type can hold",
    "mirrored": "mirrored (seen from the detector)",
    "initial_camera_from_world": "initial camera_from_world",
    "camera_from_camera1": "camera_from_camera1",
    "start": "view",
    "image_axes": "stored rows and columns run to",
    "frame": "frame",
    "i0": "counts without an object",
    "collimator": "search for a collimator",
}


def describe(path: str | Path, said: GeometryValues = NOTHING) -> Description:
    """Describe a CT, an X-ray, a geometry file, a transform, a pose, a registration's result.json or folder, or a case folder.

    Args:
        path: what is to be described.
        said: of each X-ray, whatever its geometry file and header say. Of several frames the first is described where nobody says which is meant.

    Raises:
        InputError: it is missing, or none of these, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    if path.is_dir():
        if (path / RESULT).is_file() and not any((path / name).exists() for name in CASE_FILES):
            return describe(path / RESULT)
        return _describe_case(find_case_files(path), said) if _looks_like_case(path) else _single(path, describe_volume(Volume.read(path)))
    suffix = suffix_of(path)
    if suffix == ".json":
        if path.name == "case.json":
            return describe(path.parent, said)
        if "camera_from_world" in read_json_object(path, "The file"):
            return Description(str(path), pose_sections(path))
        return _single(path, _geometry_section(read_geometry(path), "Geometry"))
    if suffix in ITK_SUFFIXES:
        return Description(str(path), transform_sections(path))
    if _is_ct(path):
        return _single(path, describe_volume(Volume.read(path)))
    return Description(str(path), tuple(_view_sections(ViewFiles(path, None, None), 1, "", None, said)))


def describe_volume(volume: Volume) -> Section:
    """Size, place, values and body of a CT."""
    spacing, affine = volume.spacing_mm, volume.world_from_voxel
    directions = affine[:3, :3] / spacing
    codes = "".join(_letter(directions[:, axis]) for axis in range(3))
    oblique = np.degrees(np.arccos(np.clip(np.abs(directions).max(0), 0, 1))).max()
    valid = np.ones(volume.shape, dtype=bool) if volume.valid is None else volume.valid
    low, high = robust_range(volume.hu, valid, 1, 99)
    inside = volume.hu[valid]
    entries = [
        Entry("file", volume.name, volume.name),
        Entry("size [voxels]", list(volume.shape), " x ".join(map(str, volume.shape))),
        Entry("spacing [mm]", rounded(spacing), " x ".join(f"{s:.4g}" for s in spacing)),
        Entry("extent [mm]", rounded(spacing * volume.shape), " x ".join(f"{s:.0f}" for s in spacing * volume.shape)),
        Entry("voxel axes run to", codes, " ".join(NAMES[c] for c in codes) + (f", oblique by up to {oblique:.1f} degrees" if oblique > 0.1 else "")),
        Entry("handedness", bool(np.linalg.det(affine[:3, :3]) > 0), "right-handed" if np.linalg.det(affine[:3, :3]) > 0 else "left-handed"),
        Entry("centre of the grid, RAS [mm]", rounded(volume.centre_ras_mm), in_brackets(volume.centre_ras_mm)),
        Entry("HU range", [float(inside.min()), float(inside.max())], f"{inside.min():.0f} to {inside.max():.0f}"),
        Entry("HU, 1 % to 99 %", [low, high], f"{low:.0f} to {high:.0f}"),
        Entry("padding", float(1 - valid.mean()), f"{100 * (1 - valid.mean()):.1f} % of the voxels"),
    ]
    notes = []
    if grid.is_sheared(affine):
        notes.append("the voxel axes are not perpendicular (a tilted gantry): used as they are")
    body = _body_box(volume, valid)
    if body is None:
        notes.append(f"nothing is denser than {BODY_HU:.0f} HU: there is no body to register")
    else:
        first, last = body
        text = f"{in_brackets(last - first)}, from {in_brackets(first)} to {in_brackets(last)}"
        entries.append(Entry("body's box, RAS [mm]", [rounded(first), rounded(last)], text))
    if volume.labels is not None:
        found = np.unique(volume.labels)
        found = found[found > 0]
        some = ", ".join(map(str, found[:12].tolist())) + (" ..." if len(found) > 12 else "")
        entries.append(Entry("labels", found.tolist(), f"{len(found)}: {some}"))
    if spacing.max() > 3.5:
        notes.append(f"slices or voxels of {spacing.max():.1f} mm are coarse: expect errors of a few tenths of that")
    return Section("CT", tuple(entries), tuple(notes))


def _describe_case(files: CaseFiles, said: GeometryValues) -> Description:
    volume = Volume.read(files.ct, labels=files.labels)
    sections = [_frames_section(), describe_volume(volume)]
    for number, view in enumerate(files.views, start=1):
        sections += _view_sections(view, number, "" if len(files.views) == 1 else f" {number}", volume, said)
    return Description(f"case {files.path}", tuple(sections))


def _view_sections(view: ViewFiles, number: int, suffix: str, volume: Volume | None, said: GeometryValues) -> list[Section]:
    known = first_known(said, view_geometry(view, number))
    stored, note = _read_some_frame(view.xray, None if known.frame is None else known.frame.value)
    values = first_known(known, stored.header)
    usable = usable_pixels(stored, view.mask, f"X-ray {view.xray}")
    problem, complete_view = "", None
    try:
        complete_view = complete(values, stored.size_px, stored.likely_intensity, f"X-ray {view.xray}")
        values = complete_view.values
    except InputError as error:
        problem = str(error)
        values = with_defaults(values, stored.size_px, stored.likely_intensity)
    sections = [
        _xray_section(view, stored, values, usable, suffix, note),
        _geometry_section(values, f"Geometry{suffix}", complete_view, problem),
    ]
    if complete_view is not None and number == 1:
        camera = complete_view.camera.flip_columns() if complete_view.mirrored else complete_view.camera
        centre = np.zeros(3) if volume is None else volume.centre_ras_mm
        start = start_pose(values, camera, centre)
        sides = _sides_section(start, complete_view)
        trouble = None if volume is None or start is None else overlap_problem(camera, start.value, volume)
        sections.append(sides if trouble is None else replace(sides, notes=(f"at the initial pose {trouble}", *sides.notes)))
    return sections


def _read_some_frame(path: Path, frame: int | None) -> tuple[StoredImage, str]:
    """The frame asked for, else the first of several, with a note."""
    try:
        return read_pixels(path, frame), ""
    except InputError as error:
        if frame is not None or " frames: say which one" not in str(error):
            raise
    stored = read_pixels(path, 0)
    which = f'registration needs "frame" in geometry.json (0 to {stored.frames - 1}), or --frame'
    return stored, f"the file has {stored.frames} frames and the first is described: {which}"


def _xray_section(view: ViewFiles, stored: StoredImage, values: GeometryValues, usable: np.ndarray, suffix: str, note: str) -> Section:
    percents = (0.1, 1, 50, 99, 99.9)
    levels = np.percentile(stored.grey[usable], percents)
    mask, shape = open_field(stored, usable, values.inverted is not None and values.inverted.value)
    used = float((mask & usable).mean())
    columns, rows = stored.size_px
    kind = f"{stored.value_type}, {stored.bits} bits" if stored.bits else f"{stored.value_type}, floating point"
    collimator = "none found" if not shape else f"{shape}, leaves {100 * mask.mean():.0f} % of the image"
    entries = [
        Entry("file", str(view.xray), str(view.xray)),
        Entry("size [pixels]", [columns, rows], f"{columns} x {rows} (columns x rows)"),
        Entry("values", stored.value_type, kind),
        Entry("frames", stored.frames, f"{stored.frames}" + (f", frame {stored.frame} is described" if stored.frames > 1 else "")),
        Entry("percentiles", dict(zip(map(str, percents), levels.tolist())), ", ".join(f"{p:g} %: {v:.5g}" for p, v in zip(percents, levels))),
        Entry("collimator", shape or None, collimator),
        Entry("pixels used", used, f"{100 * used:.0f} %"),
    ]
    if view.mask is not None:
        entries.append(Entry("mask", str(view.mask), str(view.mask)))
    notes = [line for line in (note, stored.note) if line]
    top = stored.grey[usable].max()
    saturated = float((stored.grey[usable] == top).mean())
    if stored.bits and saturated > 0.02:
        notes.append(f"{100 * saturated:.0f} % of the usable pixels have the highest value {top:g}: saturated parts carry no information")
    return Section(f"X-ray{suffix}", tuple(entries), tuple(notes))


def _geometry_section(values: GeometryValues, title: str, view: ViewGeometry | None = None, problem: str = "") -> Section:
    entries = []
    for name, sourced in describe_origins(values).items():
        value = _plain(sourced.value)
        entries.append(Entry(LABELS[name], value, in_words(sourced.value), sourced.origin))
    if view is not None:
        camera = view.camera
        width, height = (s * n for s, n in zip(camera.pixel_spacing_mm, camera.size_px))
        entries.append(Entry("detector seen [mm]", rounded(np.array([width, height])), f"{width:.0f} x {height:.0f}"))
        focal = camera.focal_length_px
        entries.append(Entry("focal length [pixels]", rounded(np.array(focal)), f"{focal[0]:.1f}, {focal[1]:.1f}"))
    notes = [*values.warnings] if not problem else [problem]
    assumed = [LABELS[name].split(" (")[0].split(",")[0] for name, sourced in describe_origins(values).items() if sourced.is_default]
    if assumed:
        notes.append(f"assumed, not known: {', '.join(assumed)}; look here first where a registration fails")
    if view is not None:
        notes += _doubts(view)
    return Section(title, tuple(entries), tuple(notes))


def _doubts(view: ViewGeometry) -> list[str]:
    """Values that are possible but seldom meant."""
    camera, notes = view.camera, []
    width = max(s * n for s, n in zip(camera.pixel_spacing_mm, camera.size_px))
    if not 300 <= camera.sdd_mm <= 4000:
        notes.append(f"a source-to-detector distance of {camera.sdd_mm:g} mm is unusual: is it in mm?")
    if not 50 <= width <= 600:
        notes.append(f"a detector of {width:.0f} mm is unusual: is the pixel spacing in mm, and on the detector?")
    column, row = camera.principal_point_px
    if not (0 <= column < camera.columns and 0 <= row < camera.rows):
        notes.append(f"the central ray meets the detector outside the image, at ({column:.0f}, {row:.0f})")
    return notes


def _sides_section(start: Sourced[np.ndarray] | None, view: ViewGeometry) -> Section:
    """Which side of the stored image is which side of the patient."""
    entries: list[Entry] = []
    if start is not None:
        entries.append(_sides("stored image", start.value, view.mirrored, start.origin))
        direction = start.value[2, :3]
        entries.append(Entry("the beam runs to the patient's", _letter(direction), NAMES[_letter(direction)]))
    else:
        for name in ("ap", "pa"):
            pose = np.eye(4)
            pose[:3, :3] = _upright(Start(name).beam_ras())
            entries.append(_sides(f"stored image, if the view is {name}", pose, view.mirrored, ""))
    now, other = ("", "not ") if view.mirrored else ("not ", "")
    note = (
        f"the stored image is taken to be {now}mirrored. If the patient's left is on its other side it is {other}mirrored: set "
        f'"mirrored": {str(not view.mirrored).lower()} in geometry.json; in doubt try both (register --mirrored, --no-mirrored) '
        "and keep the better registration"
    )
    return Section("Which side is which", tuple(entries), (note,))


def _sides(name: str, pose: np.ndarray, mirrored: bool, origin: str) -> Entry:
    letters = edge_letters(pose, mirrored)
    value = {"left": letters.left, "right": letters.right, "top": letters.top, "bottom": letters.bottom}
    return Entry(name, value, ", ".join(f"its {edge} is the patient's {NAMES[letter]}" for edge, letter in value.items()), origin)


def _frames_section() -> Section:
    lines = {
        "world": "the CT's own RAS frame in mm (x right, y anterior, z superior), never re-centred",
        "camera": "origin at the X-ray source, x along image columns, y along image rows (down), z from source to detector, mm",
        "pixel": "(column, row), (0, 0) is the centre of the first pixel; the image is the one seen from the source",
        "pose": "camera_from_world, 4 x 4: x_camera = camera_from_world x_world",
    }
    return Section("Frames", tuple(Entry(name, text, text) for name, text in lines.items()))


def _looks_like_case(path: Path) -> bool:
    return (path / "case.json").exists() or any(path.glob("xray.*")) or any(path.glob("geometry*.json")) or (path / "ct").is_dir()


def _is_ct(path: Path) -> bool:
    """By content: a DICOM file of modality CT, or an image of several slices that is no PNG, TIFF or array."""
    if is_dicom(path):
        import pydicom

        return str(pydicom.dcmread(path, force=True, stop_before_pixels=True).get("Modality", "")) == "CT"
    if suffix_of(path) not in (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"):
        return False
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return suffix_of(path).startswith(".nii")  # the reader that is asked for next says what is wrong
    return reader.GetDimension() == 3 and reader.GetSize()[2] >= FEWEST_CT_SLICES


def _body_box(volume: Volume, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """First and last corner (3,) RAS of the smallest box along the world's axes around what is denser than the skin."""
    body = (volume.hu > BODY_HU) & valid
    if not body.any():
        return None
    ranges = [np.flatnonzero(body.any(axis=tuple(a for a in range(3) if a != axis)))[[0, -1]] for axis in range(3)]
    corners = grid.apply(volume.world_from_voxel, np.array(np.meshgrid(*ranges, indexing="ij")).reshape(3, -1).T.astype(float))
    return corners.min(0), corners.max(0)


def _upright(beam: np.ndarray) -> np.ndarray:
    """Rotation (3, 3) of a camera that looks along a horizontal beam with the head up."""
    down = np.array([0.0, 0.0, -1.0])
    return np.stack((np.cross(down, beam), down, beam))


def _letter(direction: np.ndarray) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return ("RAH" if direction[axis] > 0 else "LPF")[axis]


def _single(path: Path, section: Section) -> Description:
    return Description(str(path), (section,))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Start):
        return {"base": value.base, "primary_deg": value.primary_deg, "secondary_deg": value.secondary_deg}
    return list(value) if isinstance(value, tuple) else value

