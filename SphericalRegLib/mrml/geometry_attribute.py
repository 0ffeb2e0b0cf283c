"""An X-ray's geometry as it is known, value by value with origins, kept with its node."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..errors import InputError
from ..imaging.geometry_file import KEYS, parse_geometry
from ..imaging.geometry_values import PLAUSIBLE_MM, GeometryValues, Sourced, describe_origins, implausible
from .frames import lasting

GEOMETRY = "SphericalReg.Geometry"
"""Attribute: JSON of {"values": keys of geometry.json, "origins": where each value comes from}."""


def keep_geometry(node: Any, values: GeometryValues) -> None:
    """Write what is known into the node's attribute (of a run: its sequence's), so that it is saved with the scene.

    What is only assumed is left out, and what a geometry file cannot say or must not (an implausible length): a header says it again.
    """
    known = {name: sourced for name, sourced in describe_origins(values).items() if name in KEYS and not sourced.is_default}
    known = {name: sourced for name, sourced in known.items() if _can_be_read(name, sourced.value)}
    content = {
        "values": {name: sourced.value.tolist() if isinstance(sourced.value, np.ndarray) else sourced.value for name, sourced in known.items()},
        "origins": {name: sourced.origin for name, sourced in known.items()},
    }
    lasting(node).SetAttribute(GEOMETRY, json.dumps(content))


def kept_geometry(node: Any) -> GeometryValues:
    """What `keep_geometry` wrote; nothing known for any other node.

    Raises:
        InputError: the attribute is damaged.
    """
    text = lasting(node).GetAttribute(GEOMETRY)
    if not text:
        return GeometryValues()
    try:
        content = json.loads(text)
        parsed = describe_origins(parse_geometry(content["values"], f"attribute {GEOMETRY} of {node.GetName()!r}"))
        known: dict[str, Any] = {name: Sourced(sourced.value, str(content["origins"][name])) for name, sourced in parsed.items()}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"The attribute {GEOMETRY} of {node.GetName()!r} is damaged ({error}): remove it.") from None
    return GeometryValues(**known)


def _can_be_read(name: str, value: Any) -> bool:
    return name not in PLAUSIBLE_MM or not any(implausible(name, length) for length in np.ravel(value))
