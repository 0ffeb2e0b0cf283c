"""A small good case, and the ways in which real input is bad. Each way changes the case (or the command line) and names what the error must say."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from PIL import Image

IDENTITY = np.eye(4).tolist()
GEOMETRY: dict[str, Any] = {
    "sdd_mm": 1000.0,
    "pixel_spacing_mm": [6.0, 6.0],
    "size_px": [32, 32],
    "principal_point_px": [15.5, 15.5],
    "intensity": "counts",
}
Spoil = Callable[[Path], None]


@dataclass(frozen=True)
class Bad:
    """`spoil` makes the case in its folder bad; `command` and `options` follow ``sphericalreg``, with {case}, {out} and {folder} filled in."""

    name: str
    says: str
    spoil: Spoil = lambda folder: None
    command: str = "register {case} -o {out} --device cpu --quiet"
    options: tuple[str, ...] = field(default=())


def good_case(folder: Path) -> Path:
    """A CT of a bony ellipsoid, an X-ray and its geometry."""
    case = folder / "case"
    case.mkdir()
    write_ct(case, body())
    write_xray(case, xray())
    write_json(case / "geometry.json", GEOMETRY)
    write_json(case / "truth.json", {"camera_from_world": IDENTITY, "fiducials_ras_mm": [[0, 0, 0]]})
    return case


def body(shape: tuple[int, ...] = (24, 28, 20)) -> np.ndarray:
    """HU (K, J, I) of a soft ellipsoid with a bone inside, in air."""
    squared = sum(np.meshgrid(*(np.linspace(-1, 1, n) ** 2 for n in shape), indexing="ij"))
    return np.select([squared < 0.2, squared < 0.8], [900, 40], -1000).astype(np.int16)


def xray() -> np.ndarray:
    rows, columns = np.mgrid[-1:1:32j, -1:1:32j]
    return (60000 - 40000 * np.exp(-3 * (rows**2 + 2 * columns**2))).astype(np.uint16)


def write_ct(case: Path, hu: np.ndarray, spacing: tuple[float, ...] = (5.0, 5.0, 6.0), name: str = "ct.nii.gz", vector: bool = False) -> None:
    (case / "ct.nii.gz").unlink(missing_ok=True)
    image = sitk.GetImageFromArray(hu, isVector=vector)
    image.SetSpacing(spacing[: image.GetDimension()])
    sitk.WriteImage(image, str(case / name))


def write_xray(case: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(case / "xray.png")


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def ct(hu: Any, **options: Any) -> Spoil:
    return lambda case: write_ct(case, hu(body()) if callable(hu) else hu, **options)


def ct_bytes(change: Callable[[bytearray], bytes | bytearray], inside: bool = True) -> Spoil:
    """Changes the bytes of the CT file: of the NIfTI within, or of the compressed file."""

    def spoil(case: Path) -> None:
        path = case / "ct.nii.gz"
        data = path.read_bytes()
        path.write_bytes(gzip.compress(bytes(change(bytearray(gzip.decompress(data))))) if inside else bytes(change(bytearray(data))))

    return spoil


def header(offset: int, values: Any, code: str = "<f4") -> Callable[[bytearray], bytearray]:
    """Overwrites a field of the NIfTI-1 header."""

    def change(data: bytearray) -> bytearray:
        new = np.asarray(values, dtype=code).tobytes()
        data[offset : offset + len(new)] = new
        return data

    return change


def xray_as(pixels: Any) -> Spoil:
    return lambda case: write_xray(case, pixels(xray()) if callable(pixels) else pixels)


def xray_npy(array: np.ndarray, pickled: bool = False) -> Spoil:
    def spoil(case: Path) -> None:
        (case / "xray.png").unlink()
        np.save(case / "xray.npy", array, allow_pickle=pickled)

    return spoil


def geometry(**changes: Any) -> Spoil:
    """geometry.json with other values; None leaves a key out."""

    def spoil(case: Path) -> None:
        content = {key: value for key, value in {**GEOMETRY, **changes}.items() if value is not None}
        write_json(case / "geometry.json", content)

    return spoil


def text(name: str, content: str) -> Spoil:
    return lambda case: (case / name).write_text(content, encoding="utf-8") and None


def gone(name: str) -> Spoil:
    return lambda case: (case / name).unlink()


def also(*spoils: Spoil) -> Spoil:
    def spoil(case: Path) -> None:
        for one in spoils:
            one(case)

    return spoil


def cut(name: str, share: float) -> Spoil:
    """The file's first bytes alone, as after a full disk or a broken copy."""

    def spoil(case: Path) -> None:
        data = (case / name).read_bytes()
        (case / name).write_bytes(data[: int(len(data) * share)])

    return spoil


def second_view(geometry_2: dict[str, Any]) -> Spoil:
    def spoil(case: Path) -> None:
        (case / "xray_2.png").write_bytes((case / "xray.png").read_bytes())
        write_json(case / "geometry_2.json", geometry_2)

    return spoil


def transform(name: str, made: sitk.Transform) -> Spoil:
    return lambda case: sitk.WriteTransform(made, str(case.parent / name))


def beside(name: str, content: str) -> Spoil:
    return lambda case: (case.parent / name).write_text(content, encoding="utf-8") and None
