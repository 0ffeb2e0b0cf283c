"""Where a node of the scene comes from, in its attributes: saved with the scene, shown in Slicer's Data module."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..registration.result import RegistrationResult

RESULT = "SphericalReg.Result"
"""Attribute with the registration's result as JSON: result.json without its history."""

ROLE = "SphericalReg.Role"
CT = "SphericalReg.CT"
XRAY = "SphericalReg.XRay"


def describe(node: Any, role: str, result: RegistrationResult, ct: Any, xray: Any) -> None:
    """Write a node's provenance.

    Args:
        node: the node that the registration made.
        role: "transform", "drr", "difference" ...
        result: of the registration.
        ct: the CT's node.
        xray: the X-ray's node.
    """
    was_modifying = node.StartModify()
    try:
        node.SetAttribute(ROLE, role)
        node.SetAttribute(CT, ct.GetName())
        node.SetAttribute(XRAY, xray.GetName())
        node.SetAttribute(RESULT, json.dumps(without_history(result.to_dict())))
        version = result.versions.get("sphericalreg", "")
        node.SetDescription(
            f"SphericalReg {version}: {ct.GetName()} to {xray.GetName()}, similarity {result.score:.3f}, verdict {result.verdict}, seed {result.seed}"
        )
    finally:
        node.EndModify(was_modifying)


def without_history(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result's dictionary without what only plots need."""
    stages = [{key: value for key, value in stage.items() if key not in ("costs", "poses")} for stage in result["stages"]]
    return {**result, "stages": stages}


def result_of(node: Any) -> RegistrationResult | None:
    """The result that a node carries, without its history; None for a node of another origin."""
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
