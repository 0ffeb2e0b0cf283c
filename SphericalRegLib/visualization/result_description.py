"""Poses in files, and registrations that found them, in words: what `inspect` says of result.json, ct_to_xray.tfm and other transforms."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from SphericalRegLib.imaging.files import read_json_object
from SphericalRegLib.imaging.transforms import RESULT, is_placement, read_pose, read_transform
from SphericalRegLib.registration.result import RegistrationResult, distinct

from .orientation import NAMES, edge_letters
from .section import Entry, Section, in_brackets, in_words, rounded


def pose_sections(path: Path) -> tuple[Section, ...]:
    """A JSON file with camera_from_world: a registration's result, or a pose alone.

    Raises:
        InputError: the pose is none, or the result is not whole.
    """
    pose, content = _pose(read_pose(path), str(path)), read_json_object(path, "The result")
    return (_result(RegistrationResult.from_dict(content)), pose) if "stages" in content else (pose,)


def transform_sections(path: Path) -> tuple[Section, ...]:
    """An ITK file: a pose, or where a registration places the CT.

    Raises:
        InputError: as of `read_pose`.
    """
    matrix = read_transform(path)
    if not is_placement(path, matrix):
        return (_pose(read_pose(path), str(path)),)
    entry = Entry("CT node's transform to its parent, RAS", matrix.tolist(), in_words(matrix), str(path))
    note = f"where a registration places the CT for 3D Slicer, so that it fits the X-ray; the pose, camera_from_world, is in {path.with_name(RESULT)}"
    return (Section("CT to X-ray", (entry,), (note,)),)


def _pose(pose: np.ndarray, origin: str) -> Section:
    letters = edge_letters(pose, False)
    source = -pose[:3, :3].T @ pose[:3, 3]
    entries = (
        Entry("camera_from_world", pose.tolist(), in_words(pose), origin),
        Entry("source in the world, RAS [mm]", rounded(source), in_brackets(source)),
        Entry("image edges face", {"left": letters.left, "right": letters.right}, f"left: {NAMES[letters.left]}, right: {NAMES[letters.right]}"),
    )
    return Section("Pose", entries)


def _result(result: RegistrationResult) -> Section:
    """What is known about how far to trust it comes first."""
    labels, model, options = result.options.get("labels"), result.model, dict(result.options)
    stages = list(zip(distinct([stage.name for stage in result.stages]), result.stages))
    said = {name: options[name] for name in ("device", "mirrored", "frame") if name in options}
    deviations = result.standard_deviations
    across = f"{np.degrees(deviations[:3]).max():.2g} deg, {deviations[3:].max():.2g} mm"
    entries = (
        Entry("doubt", result.doubt, result.doubt or "none was seen, which proves nothing"),
        Entry("score", result.score, f"{result.score:.3f} (a similarity of at most 1)"),
        Entry("verdict", result.verdict, result.verdict),
        Entry("standard deviation, largest", deviations.tolist(), f"{across} (of turns, of shifts; not calibrated)"),
        Entry("model", None if model is None else dict(model), "none" if model is None else model.get("file") or "one that never was on disk"),
        Entry("rendered", labels, "the whole CT" if labels is None else f"labels {', '.join(map(str, labels))} of the CT"),
        Entry("options", options, ", ".join(f"{name} {in_words(value)}" for name, value in said.items()) or "not recorded"),
        Entry("seed", result.seed, str(result.seed)),
        Entry("stages", [name for name, _ in stages], ", ".join(f"{name} {stage.seconds:.2f} s" for name, stage in stages)),
        Entry("time [s]", result.seconds, f"{result.seconds:.2f}"),
        Entry("versions", dict(result.versions), ", ".join(f"{name} {version}" for name, version in result.versions.items())),
    )
    return Section("Registration", entries, result.notes)
