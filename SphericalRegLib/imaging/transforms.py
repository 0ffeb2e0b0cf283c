"""Poses and transforms in files.

**What an ITK file means.** ITK (.tfm, .txt, .h5) keeps the map *from the parent to the node*, for resampling, in LPS. 3D Slicer shows the map
*from the node to the parent*, in RAS: what a transform node applied to a CT does to it. With F = diag(-1, -1, 1, 1)

    parent_from_node_ras = inv(F M_itk F)

and back the same way. A pose in an ITK file is such a transform, too: `camera_from_world` takes the place of parent_from_node, so a pose saved
from a Slicer transform node or written by `write_transform` reads back as it was. A pose in JSON is the plain 4 x 4 matrix under `camera_from_world`.

**What is no pose.** A registration writes `ct_to_xray.tfm` for 3D Slicer: where the CT is to be placed in the world so that it fits the X-ray. It is
rigid, as a pose is, and would be taken for one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.rigid import checked_rigid

from .files import read_json_object, require_file, write_atomically
from .grid import RAS_FROM_LPS

ITK_SUFFIXES = (".tfm", ".txt", ".h5", ".hdf5", ".hdf", ".mat", ".xfm")
_WRITTEN = (".tfm", ".txt", ".h5")
PLACEMENT, RESULT = "ct_to_xray.tfm", "result.json"
"""The CT's transform for 3D Slicer and what holds the pose, as a registration names them in its folder."""


def ras_from_itk(matrix: np.ndarray) -> np.ndarray:
    """parent_from_node (4, 4) in RAS of an ITK matrix (parent to node, LPS)."""
    return np.linalg.inv(RAS_FROM_LPS @ np.asarray(matrix, dtype=np.float64) @ RAS_FROM_LPS)


def itk_from_ras(parent_from_node: np.ndarray) -> np.ndarray:
    """The ITK matrix (4, 4), parent to node in LPS, of parent_from_node in RAS."""
    return RAS_FROM_LPS @ np.linalg.inv(np.asarray(parent_from_node, dtype=np.float64)) @ RAS_FROM_LPS


def read_pose(path: str | Path) -> np.ndarray:
    """A pose, camera_from_world (4, 4) float64, from an ITK transform file or a .json with `camera_from_world`.

    The rotation is replaced by the nearest one, which mends rounded decimals.

    Raises:
        InputError: missing, empty or damaged file; unknown suffix; a transform that is not linear or not 3D; a matrix that is not rigid; a
            registration's `ct_to_xray.tfm`, which is no pose.
    """
    path = Path(path)
    if path.suffix.lower() != ".json":
        matrix = _read_itk(path, "a pose")
        if is_placement(path, matrix):
            words = "is where a registration places the CT for 3D Slicer, not a pose"
            raise InputError(f"{path} {words}; expected {path.with_name(RESULT)}, which holds the pose")
        return checked_rigid(matrix, f"The pose in {path}")
    content = read_json_object(path, "The pose file")
    if "camera_from_world" not in content:
        raise InputError(f"{path} has no camera_from_world; expected a 4 x 4 matrix under that key.")
    return checked_rigid(content["camera_from_world"], f"camera_from_world in {path}")


def is_placement(path: Path, parent_from_node_ras: np.ndarray) -> bool:
    """Whether a transform (4, 4) that was read from `path` is a registration's `ct_to_xray.tfm`, by that name or by the result.json beside it."""
    by_name = path.name == PLACEMENT
    if not path.with_name(RESULT).is_file():
        return by_name
    try:
        content = read_json_object(path.with_name(RESULT), "The result")
        pose, reference = (np.array(content[key], dtype=np.float64) for key in ("camera_from_world", "world_from_camera_reference"))
        if np.allclose(parent_from_node_ras, pose, atol=1e-6):  # where the X-ray's camera is the world's origin, both are one matrix
            return False
        return by_name or np.allclose(parent_from_node_ras, reference @ pose, atol=1e-6)
    except (InputError, KeyError, TypeError, ValueError):  # some other result.json
        return by_name


def read_transform(path: str | Path) -> np.ndarray:
    """parent_from_node (4, 4) in RAS from an ITK transform file: any linear 3D transform. Raises InputError as `read_pose` does."""
    return _read_itk(Path(path), "a transform")


def write_transform(path: str | Path, parent_from_node_ras: np.ndarray) -> None:
    """Write a transform so that Slicer, on loading it, has `parent_from_node_ras` (4, 4) as the node's toParent matrix. Atomic.

    Raises:
        InputError: a matrix that is not finite, not 4 x 4 or singular; a suffix other than .tfm, .txt, .h5; a place that cannot be written.
    """
    path = Path(path)
    matrix = np.asarray(parent_from_node_ras, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or np.linalg.matrix_rank(matrix) < 4:
        raise InputError(f"The transform for {path} has shape {matrix.shape}; expected a finite, invertible 4 x 4 matrix.")
    if path.suffix.lower() not in _WRITTEN:
        raise InputError(f"A transform cannot be written as {path.name}; expected the suffix {', '.join(_WRITTEN)}.")
    itk = itk_from_ras(matrix)
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(itk[:3, :3].ravel().tolist())
    transform.SetTranslation(itk[:3, 3].tolist())
    try:
        write_atomically(path, lambda temporary: sitk.WriteTransform(transform, str(temporary)))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} cannot be written: {error}") from None


def matrix_of(transform: sitk.Transform) -> np.ndarray:
    """The matrix (4, 4), in ITK's own sense, of any linear 3D transform: Euler, versor, similarity, affine, or composed of such.

    Read off from where it takes the origin and the unit vectors, so no parametrisation has to be known.

    Raises:
        InputError: another dimension, or not linear (B-spline, displacement field, thin plates).
    """
    if transform.GetDimension() != 3:
        raise InputError(f"The transform is {transform.GetDimension()}D; expected a 3D transform.")
    if not transform.IsLinear():
        raise InputError(f"The transform is not linear ({transform.GetName()}); expected a rigid or affine transform.")
    matrix = np.eye(4)
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    for axis, unit in enumerate(np.eye(3).tolist()):
        matrix[:3, axis] = np.subtract(transform.TransformPoint(unit), matrix[:3, 3])
    return matrix


def _read_itk(path: Path, what: str) -> np.ndarray:
    if path.suffix.lower() not in ITK_SUFFIXES:
        raise InputError(f"{path} has no suffix of {what}; expected {', '.join(ITK_SUFFIXES)} or, for a pose, .json.")
    require_file(path, "The transform file")
    try:
        matrix = matrix_of(sitk.ReadTransform(str(path)))
    except RuntimeError:
        raise InputError(f"{path} cannot be read as an ITK transform: it is truncated, damaged or of another kind.") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise InputError(f"The transform in {path} is singular or not finite; expected an invertible one.")
    return ras_from_itk(matrix)
