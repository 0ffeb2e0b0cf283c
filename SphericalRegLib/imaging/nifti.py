"""NIfTI files, read slice by slice.

ITK reads NIfTI too, but fills up a truncated file without a word, replaces a sheared sform by an orthogonal one (or refuses it), and holds the voxels
twice. This reader takes single-file NIfTI-1 and NIfTI-2 (.nii, .nii.gz) and agrees with ITK elsewhere, so with what Slicer shows. Format:
https://nifti.nimh.nih.gov/nifti-1 (nifti1.h, nifti2.h).
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from SphericalRegLib.errors import InputError

from . import grid

_TYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
_OTHER_TYPES = {1: "one bit", 32: "complex", 128: "RGB", 1536: "128-bit float", 1792: "complex", 2048: "complex", 2304: "RGBA"}
_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}
_READ_AT_ONCE = 1 << 24  # bytes


@dataclass(frozen=True)
class NiftiHeader:
    """What is used of a header. Lengths are in the file's unit, `mm_per_unit` millimetres; affines are RAS."""

    dim: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float
    pixdim: tuple[float, ...]
    qform_code: int
    sform_code: int
    quaternion: tuple[float, float, float]
    qoffset: tuple[float, float, float]
    sform: np.ndarray
    mm_per_unit: float


def is_nifti(path: Path) -> bool:
    """Whether a file is a single-file NIfTI, by its first bytes (a damaged gzip stream counts by its name)."""
    try:
        with _opened(path) as file:
            start = file.read(348)
    except (OSError, EOFError, zlib.error):
        return path.name.lower().endswith((".nii", ".nii.gz"))
    return start[344:347] == b"n+1" or start[4:7] == b"n+2"


def read_nifti(path: Path, most_voxels: int) -> tuple[np.ndarray, np.ndarray]:
    """Values (I, J, K) in the file's type, or float32 where the file scales them; and world_from_voxel (4, 4), RAS mm.

    Raises:
        InputError: damaged or truncated; not one value a voxel; not 3D; larger than `most_voxels`; no usable affine.
    """
    try:
        with _opened(path) as file:
            header = _read_header(file, path)
            shape = _shape(header, path, most_voxels)
            affine = nifti_affine(header, path.name)
            return _read_values(file, header, shape, path), affine
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is truncated or damaged: its compressed data cannot be read ({error}).") from None


def nifti_affine(header: NiftiHeader, name: str) -> np.ndarray:
    """world_from_voxel (4, 4), RAS mm: the sform or the qform, as ITK chooses, but a sheared sform is taken as it stands.

    The sform is taken if its code is set and it is invertible, unless the qform is set too, the sform's code is not 1 ("scanner") and the two
    differ. With neither, the voxels are put on LPS axes at the origin, as ITK does.
    """
    spacing = np.abs(np.array(header.pixdim[1:4], dtype=np.float64))
    scale = np.diag([header.mm_per_unit] * 3 + [1.0])
    sform = np.vstack([header.sform, (0, 0, 0, 1)]) if header.sform_code > 0 else None
    if sform is not None and not (np.isfinite(sform).all() and abs(np.linalg.det(sform[:3, :3])) > 0):
        if header.qform_code <= 0:
            raise InputError(f"The affine of {name} (its sform) is singular or not finite; expected an invertible 4 x 4 matrix.")
        sform = None
    if sform is None or (header.qform_code > 0 and header.sform_code != 1 and not grid.is_sheared(sform)):
        if not np.isfinite(spacing).all() or spacing.min() <= 0:
            raise InputError(f"The voxel spacing of {name} is {' x '.join(f'{v:g}' for v in spacing)}; expected three positive lengths.")
        qform = _qform(header, spacing) if header.qform_code > 0 else grid.RAS_FROM_LPS @ np.diag([*spacing, 1.0])
        if sform is None or not np.allclose(sform, qform, rtol=1e-3, atol=1e-3):
            return scale @ qform
    return scale @ sform


def _qform(header: NiftiHeader, spacing: np.ndarray) -> np.ndarray:
    b, c, d = header.quaternion
    a = np.sqrt(max(0.0, 1.0 - b * b - c * c - d * d))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing * (1.0, 1.0, -1.0 if header.pixdim[0] < 0 else 1.0)
    affine[:3, 3] = header.qoffset
    return affine


def _read_header(file: BinaryIO, path: Path) -> NiftiHeader:
    start = file.read(540)
    for order in "<>":
        size = struct.unpack_from(order + "i", start)[0] if len(start) >= 4 else 0
        if size == 348 and len(start) >= 348:
            return _header1(start, order, path)
        if size == 540 and len(start) >= 540:
            return _header2(start, order, path)
    raise InputError(f"{path} is truncated or damaged: it has no complete NIfTI header.")


def _header1(data: bytes, order: str, path: Path) -> NiftiHeader:
    def get(code: str, offset: int) -> tuple:
        return struct.unpack_from(order + code, data, offset)

    return NiftiHeader(
        dim=get("8h", 40),
        dtype=_dtype(get("h", 70)[0], order, path),
        offset=_offset(get("f", 108)[0], path),
        slope=get("f", 112)[0],
        intercept=get("f", 116)[0],
        pixdim=get("8f", 76),
        qform_code=get("h", 252)[0],
        sform_code=get("h", 254)[0],
        quaternion=get("3f", 256),
        qoffset=get("3f", 268),
        sform=np.array(get("12f", 280), dtype=np.float64).reshape(3, 4),
        mm_per_unit=_MM_PER_UNIT.get(data[123] & 7, 1.0),
    )


def _header2(data: bytes, order: str, path: Path) -> NiftiHeader:
    def get(code: str, offset: int) -> tuple:
        return struct.unpack_from(order + code, data, offset)

    return NiftiHeader(
        dim=get("8q", 16),
        dtype=_dtype(get("h", 12)[0], order, path),
        offset=_offset(get("q", 168)[0], path),
        slope=get("d", 176)[0],
        intercept=get("d", 184)[0],
        pixdim=get("8d", 104),
        qform_code=get("i", 344)[0],
        sform_code=get("i", 348)[0],
        quaternion=get("3d", 352),
        qoffset=get("3d", 376),
        sform=np.array(get("12d", 400), dtype=np.float64).reshape(3, 4),
        mm_per_unit=_MM_PER_UNIT.get(get("i", 500)[0] & 7, 1.0),
    )


def _offset(value: float, path: Path) -> int:
    """Bytes from the file's start to the voxels; NIfTI-1 writes it as floating point."""
    if not 0 <= value < np.inf:
        raise InputError(f"{path} is damaged: its header says that the voxels begin at byte {value}.")
    return int(value)


def _dtype(code: int, order: str, path: Path) -> np.dtype:
    if code not in _TYPES:
        raise InputError(f"{path} holds {_OTHER_TYPES.get(code, f'values of the unknown type {code}')}; expected one real number a voxel.")
    return np.dtype(order + _TYPES[code])


def _shape(header: NiftiHeader, path: Path, most_voxels: int) -> tuple[int, int, int]:
    rank = header.dim[0]
    sizes = header.dim[1 : rank + 1]
    if not 1 <= rank <= 7 or min(sizes) < 1:
        raise InputError(f"{path} is damaged: its header gives the size {header.dim[1:]} in {rank} dimensions.")
    if rank < 3 or any(size > 1 for size in sizes[3:]):
        raise InputError(f"{path.name} is {rank}D with size {sizes}; expected a 3D volume.")
    shape = sizes[:3]
    if np.prod([float(size) for size in shape]) > most_voxels:
        raise InputError(f"{path.name} has {shape[0]} x {shape[1]} x {shape[2]} voxels; expected at most {most_voxels:,}.")
    return shape  # type: ignore[return-value]


def _read_values(file: BinaryIO, header: NiftiHeader, shape: tuple[int, int, int], path: Path) -> np.ndarray:
    needed, present = header.offset + int(np.prod(shape)) * header.dtype.itemsize, path.stat().st_size
    if not isinstance(file, gzip.GzipFile) and present < needed:
        raise InputError(f"{path} is truncated: it has {present:,} bytes, its header promises {needed:,}.")
    file.seek(header.offset)
    scaled = np.isfinite(header.slope) and header.slope != 0 and (header.slope, header.intercept) != (1.0, 0.0)
    values = np.empty(shape, dtype=np.float32 if scaled else header.dtype.newbyteorder("="), order="F")
    flat = values.reshape(-1, order="F")
    step = _READ_AT_ONCE // header.dtype.itemsize
    for start in range(0, flat.size, step):
        count = min(step, flat.size - start)
        data = file.read(count * header.dtype.itemsize)
        if len(data) < count * header.dtype.itemsize:
            raise InputError(f"{path} is truncated: it holds {start + len(data) // header.dtype.itemsize:,} of {flat.size:,} voxels.")
        part = np.frombuffer(data, dtype=header.dtype)
        flat[start : start + count] = part * header.slope + header.intercept if scaled else part
    while file.read(_READ_AT_ONCE):  # a gzip stream compares its checksum only when it is read to the end
        continue
    return values


def _opened(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if compressed else path.open("rb")  # type: ignore[return-value]
