"""Which side of the patient is where in an image: the letters at its edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_POSITIVE, _NEGATIVE = ("R", "A", "H"), ("L", "P", "F")  # RAS axes: right, anterior, head; and left, posterior, feet
NAMES = {"R": "right", "L": "left", "A": "anterior", "P": "posterior", "H": "head", "F": "feet"}


@dataclass(frozen=True)
class EdgeLetters:
    """The side of the patient that each edge of the shown image faces."""

    left: str
    right: str
    top: str
    bottom: str


def edge_letters(camera_from_world: np.ndarray, mirrored: bool = False) -> EdgeLetters:
    """Letters for an image at a pose ``(4, 4)``; ``mirrored`` if it is *shown* mirrored, as radiology shows a PA view.

    Image columns run along camera x and rows along camera y, whose directions in the world (RAS) are the rows of the pose's rotation.
    """
    rotation = np.asarray(camera_from_world, float)[:3, :3]
    right, bottom = _facing(-rotation[0] if mirrored else rotation[0]), _facing(rotation[1])
    return EdgeLetters(left=_opposite(right), right=right, top=_opposite(bottom), bottom=bottom)


def _facing(direction: np.ndarray) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return (_POSITIVE if direction[axis] > 0 else _NEGATIVE)[axis]


def _opposite(letter: str) -> str:
    return (_NEGATIVE + _POSITIVE)[(_POSITIVE + _NEGATIVE).index(letter)]
