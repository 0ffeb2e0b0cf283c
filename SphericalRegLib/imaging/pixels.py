"""Reading one two-dimensional grey image from a file, whatever its format."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.files import require_file
from SphericalRegLib.imaging.geometry_values import GeometryValues, Sourced, assumed

ITK_SUFFIXES = (".png", ".tif", ".tiff", ".nrrd", ".nhdr", ".mha", ".mhd", ".nii", ".nii.gz", ".jpg", ".jpeg", ".bmp")
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
SUFFIXES = (*ITK_SUFFIXES, ".npy", *DICOM_SUFFIXES)
# Below this an image holds no anatomy that could be registered, and above it is a mistake (a mammogram has 4096 x 5120).
MIN_SIDE, MAX_SIDE = 8, 16384


@dataclass(frozen=True)
class StoredImage:
    """Grey values as stored, one frame of them.

    Attributes:
        grey: (H, W) float32.
        value_type: e.g. "uint16", of the file.
        bits: significant bits of an integer type, 0 for floating point.
        frames: frames in the file; ``frame`` is the one read.
        header: what the file itself knows of the geometry: all that a DICOM header says, of other files the full scale.
        note: what was done on reading that a user should know, in words; empty if nothing.
        valid: (H, W) bool, False where the file itself says that there is no image (DICOM's shutter, collimator, padding); None: everywhere.
    """

    grey: np.ndarray
    value_type: str
    bits: int
    frames: int = 1
    frame: int = 0
    header: GeometryValues = field(default_factory=GeometryValues)
    valid: np.ndarray | None = None
    note: str = ""

    @classmethod
    def from_array(cls, grey: np.ndarray, frames: int = 1, frame: int = 0, note: str = "") -> StoredImage:
        """Grey values (H, W) in the type that they were stored in, of a file that says no more about them."""
        kind = grey.dtype
        if kind.kind == "f":
            return cls(grey.astype(np.float32), str(kind), 0, frames, frame, note=note)
        bits, highest = (1, 1) if kind.kind == "b" else (8 * kind.itemsize, np.iinfo(kind).max)
        header = GeometryValues(full_scale=Sourced(float(highest), f"{kind} values"))
        return cls(grey.astype(np.float32), str(kind), bits, frames, frame, header, note=note)

    @property
    def size_px(self) -> tuple[int, int]:
        return (self.grey.shape[1], self.grey.shape[0])

    @property
    def likely_intensity(self) -> Sourced[str]:
        """What such a file usually holds when nobody says: 8 bits are a display image, more are counts, floating point is line integrals."""
        if self.bits == 0:
            return assumed("line_integral", "floating-point file")
        if self.bits <= 8:
            return assumed("display", f"{self.bits}-bit file")
        return assumed("counts", f"{self.bits}-bit file")


def suffix_of(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def is_dicom(path: Path) -> bool:
    """By content (DICM after the preamble), or by name for files that lack the preamble."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        head = stream.read(132)
    return head[128:] == b"DICM" or suffix_of(path) in DICOM_SUFFIXES


def read_pixels(path: str | Path, frame: int | None = None) -> StoredImage:
    """Read a grey image.

    PNG, TIFF, NRRD, MHA/MHD, NIfTI, JPEG, BMP (through SimpleITK), NPY and DICOM. Several slices are frames.

    Args:
        frame: which frame of several, counted from 0.

    Raises:
        InputError: missing, empty, unknown or damaged file; coloured (equal colour channels are no colour); three-dimensional
            without ``frame``; absurd size.
    """
    path, where = Path(path), f"X-ray {path}"
    require_file(path, "X-ray")
    if is_dicom(path):
        from SphericalRegLib.imaging.dicom_pixels import read_dicom

        stored = read_dicom(path, frame)
        check_size(stored.grey, where)
        return stored
    array = _read_array(path, where)
    note = f"stored in {array.shape[-1]} channels that hold one grey image: read as grey" if array.ndim == 4 else ""
    array = single_channel(array, where)
    chosen = choose_frame(len(array), frame, where)
    check_size(array[chosen], where)
    return StoredImage.from_array(array[chosen], len(array), chosen, note)


def read_mask(path: str | Path) -> np.ndarray:
    """(H, W) bool: where a file of a kind that ``read_pixels`` takes holds anything but zero, as stored. Raises as that does."""
    path, where = Path(path), f"mask {path}"
    require_file(path, "mask")
    if is_dicom(path):
        from SphericalRegLib.imaging.dicom_pixels import stored_frame

        return stored_frame(path, None, "mask")[2] != 0
    array = single_channel(_read_array(path, where), where)
    return array[choose_frame(len(array), None, where)] != 0


def _read_array(path: Path, where: str) -> np.ndarray:
    """(frames, H, W) or (frames, H, W, channels) of a file that is not DICOM."""
    if suffix_of(path) == ".npy":
        return _read_npy(path, where)
    if suffix_of(path) in ITK_SUFFIXES:
        return _read_itk(path, where)
    raise InputError(f"{where} has the suffix {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")


def choose_frame(frames: int, frame: int | None, where: str) -> int:
    """The frame asked for, or the only one."""
    if frame is None:
        if frames > 1:
            raise InputError(f"{where} has {frames} frames: say which one with \"frame\" in geometry.json (0 to {frames - 1})")
        return 0
    if not 0 <= frame < frames:
        raise InputError(f"{where} has {frames} frame{'s' if frames > 1 else ''}, frame {frame} was asked for (the first is 0)")
    return int(frame)


def single_channel(array: np.ndarray, where: str) -> np.ndarray:
    """(frames, H, W) from (frames, H, W, channels): a grey image stored as colours is one channel, an alpha channel is dropped.

    Many programs export grey images as RGB. Where all channels are equal nothing is guessed; where they are not, a conversion to grey would be.

    Raises:
        InputError: the channels differ.
    """
    if array.ndim == 3:
        return array
    channels = array.shape[-1]
    colours = array[..., : 3 if channels >= 3 else 1]
    if any(not np.array_equal(colours[..., 0], colours[..., c]) for c in range(1, colours.shape[-1])):
        raise InputError(f"{where} is a colour image, expected a grey one (a screenshot with annotations, perhaps?)")
    return colours[..., 0]


def check_size(grey: np.ndarray, where: str) -> None:
    rows, columns = grey.shape
    if min(rows, columns) < MIN_SIDE or max(rows, columns) > MAX_SIDE:
        raise InputError(f"{where} has {columns} x {rows} pixels, expected {MIN_SIDE} to {MAX_SIDE} on each side")


def _read_npy(path: Path, where: str) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{where} cannot be read as an .npy array of numbers: {error}") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where} holds values of type {array.dtype}, expected integers or real numbers")
    if array.ndim == 2:
        return array[None]
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        return array[None]
    if array.ndim == 3:
        return array
    raise InputError(f"{where} is an array of shape {array.shape}, expected (rows, columns) or (frames, rows, columns)")


def _read_itk(path: Path, where: str) -> np.ndarray:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{where} cannot be read: {_last_sentence(error)}") from None
    array = sitk.GetArrayViewFromImage(image).copy()
    if array.dtype.kind not in "fiub":
        raise InputError(f"{where} holds values of type {array.dtype}, expected integers or real numbers")
    dimension = image.GetDimension()
    if dimension == 2:
        return array[None]
    if dimension == 3:
        return array
    raise InputError(f"{where} has {dimension} dimensions, expected a two-dimensional image")


def _last_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "sitk::ERROR" not in line]
    return (lines[-1] if lines else "damaged or of another format").split("Error: ")[-1]
