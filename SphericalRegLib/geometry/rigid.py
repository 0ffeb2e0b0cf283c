"""The one check of a rigid motion that a user gave: a matrix in a file, an argument, a transform node. No torch is needed here."""

from __future__ import annotations

from typing import Any

import numpy as np

from SphericalRegLib.errors import InputError

TOLERANCE = 1e-3
"""Of |R^T R - I|. Entries printed with four decimals are off by 5e-5; ten times that is a typing error, not a rounding one."""

ROUND_OFF = 1e-12
"""Of |R^T R - I|: a rotation as near as this is left as it is, so that checking it again changes no digit."""


def checked_rigid(matrix: Any, name: str) -> np.ndarray:
    """A rigid motion as a new array (4, 4) of float64, its rotation the nearest one to what was given (polar decomposition): rounding is mended.

    Args:
        matrix: 4 x 4 numbers, in whatever holds them.
        name: what it is and where, for messages.

    Raises:
        InputError: not 4 x 4 finite numbers, last row not (0, 0, 0, 1), scaled or sheared, or a reflection.
    """
    try:
        given = np.asarray(matrix)
    except ValueError:
        raise InputError(f"{name} is not a matrix of numbers, its rows differ in length; expected 4 x 4 numbers") from None
    if given.dtype.kind not in "iuf":
        raise InputError(f"{name} is not a matrix of numbers; expected 4 x 4 numbers")
    if given.shape != (4, 4):
        raise InputError(f"{name} has shape {given.shape}, expected 4 x 4 numbers")
    given = given.astype(np.float64)
    if not np.isfinite(given).all():
        raise InputError(f"{name} holds numbers that are not finite")
    if np.abs(given[3] - (0, 0, 0, 1)).max() > 1e-6:
        raise InputError(f"{name} has the last row {given[3].tolist()}, expected [0, 0, 0, 1]: is it transposed?")
    rotation = given[:3, :3]
    defect = np.abs(rotation.T @ rotation - np.eye(3)).max()
    if defect > TOLERANCE:
        raise InputError(f"{name} is not rigid: its 3 x 3 part is off a rotation by {defect:.2g} (scaled or sheared?)")
    if np.linalg.det(rotation) < 0:
        raise InputError(f"{name} is a reflection (determinant -1), expected a rotation: a mirrored image is said with \"mirrored\": true")
    if defect > ROUND_OFF:
        left, _, right = np.linalg.svd(rotation)
        given[:3, :3] = left @ right
    given[3] = (0, 0, 0, 1)
    return given
