"""Where a node of the scene comes from, in its attributes: saved with the scene, shown in Slicer's Data module."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..registration.result import RegistrationResult

RESULT = "SphericalReg.Result"
"""Attribute with the registration's result as JSON: result.json without its history."""

ROLE = "SphericalReg.Role"
CT = "SphericalReg.CT"
XRAY = "SphericalReg.XRay"
"""Attribute with the node's name, and role of the reference to the node itself; `CT` likewise."""

DETECTOR, DRR, TABLE = "detector", "drr", "table"
"""`ROLE` of an X-ray on its detector, of a DRR, and of a table of poses; that of transforms is `poses.POSE`."""

MOVED = "SphericalReg.Moved"
"""Attribute, "1" where the CT stands elsewhere than the result says: it, or the X-ray, was moved since."""

_MOVED_WORDS = "Moved since the registration. "


def describe(node: Any, role: str, result: RegistrationResult, ct: Any, xray: Any) -> None:
    """Write a node's provenance.

    Args:
        node: the node that the registration made.
        role: `DRR`, `poses.POSE` ...
        result: of the registration.
        ct: the CT's node.
        xray: the X-ray's node.
    """
    was_modifying = node.StartModify()
    try:
        belong(node, role, ct, xray)
        node.SetAttribute(RESULT, json.dumps(result.summary()))
        node.RemoveAttribute(MOVED)
        version = result.versions.get("sphericalreg", "")
        node.SetDescription(
            f"SphericalReg {version}: {ct.GetName()} to {xray.GetName()}, similarity {result.score:.3f}, verdict {result.verdict}, seed {result.seed}"
        )
    finally:
        node.EndModify(was_modifying)


def belong(node: Any, role: str, ct: Any, xray: Any) -> None:
    """Say what a node is and which CT and X-ray it is of, so that nothing of another pair is written into it: see `may_hold`.

    Args:
        xray: as it was loaded, or on its detector: that stands for the one that was loaded.
    """
    node.SetAttribute(ROLE, role)
    node.SetAttribute(CT, ct.GetName())
    node.SetAttribute(XRAY, as_loaded(xray).GetName())
    refer(node, ct, as_loaded(xray))


def refer(node: Any, ct: Any, xray: Any) -> None:
    """Make a node refer to a CT and an X-ray, or to none; those that were removed from the scene count as none."""
    for role, other in ((CT, ct), (XRAY, xray)):
        node.SetNodeReferenceID(role, None if other is None or other.GetScene() is None else other.GetID())


def pair_of(node: Any) -> tuple[Any, Any]:
    """The CT and the X-ray that a node is of; None for what is not known, or not in the scene any more."""
    return node.GetNodeReference(CT), node.GetNodeReference(XRAY)


def may_hold(node: Any, ct: Any, xray: Any) -> bool:
    """Whether a node may be filled for a CT and an X-ray (see `belong`): it is theirs, or nobody's and without a result yet."""
    pair = pair_of(node)
    if pair == (None, None):
        return not node.GetAttribute(RESULT)
    return pair[0] is ct and pair[1] is as_loaded(xray)


def as_loaded(xray: Any) -> Any:
    """The X-ray that was loaded, of one on its detector; any other node is what it is."""
    loaded = xray.GetNodeReference(XRAY) if xray.GetAttribute(ROLE) == DETECTOR else None
    return xray if loaded is None else loaded


def result_of(node: Any) -> RegistrationResult | None:
    """The result that a node carries, without its history; None for a node of another origin.

    Its pose is that of the registration: `MOVED` says where the CT stands elsewhere by now.
    """
    text = node.GetAttribute(RESULT)
    if not text:
        return None
    values = json.loads(text)
    for stage in values["stages"]:
        stage.update(costs=[], poses=[])
    return RegistrationResult.from_dict(values)


def transform_of(result: RegistrationResult) -> np.ndarray:
    """(4, 4): where the registered CT stands in the scene, world_from_camera_reference @ camera_from_world."""
    return result.world_from_camera_reference @ result.camera_from_world


def moved_since(result: RegistrationResult, camera_from_world: np.ndarray) -> tuple[float, float]:
    """How far the CT stands, at `camera_from_world` (4, 4) now, from where it was registered: the way of its centre in mm, the turn in degrees."""
    centre = np.append(result.centre_ras_mm, 1.0)
    turn = result.camera_from_world[:3, :3].T @ camera_from_world[:3, :3]
    sine = np.linalg.norm([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    way = np.linalg.norm((camera_from_world - result.camera_from_world) @ centre)
    return float(way), float(np.degrees(np.arctan2(sine, (np.trace(turn) - 1) / 2)))


def mark_moved(node: Any, moved: bool) -> None:
    """Say on a node, in its attributes and its description, whether the CT stands elsewhere than the result says that the node carries."""
    if moved == bool(node.GetAttribute(MOVED)):
        return
    words = (node.GetDescription() or "").removeprefix(_MOVED_WORDS)
    was_modifying = node.StartModify()
    try:
        if moved:
            node.SetAttribute(MOVED, "1")
        else:
            node.RemoveAttribute(MOVED)
        node.SetDescription(_MOVED_WORDS + words if moved else words)
    finally:
        node.EndModify(was_modifying)
