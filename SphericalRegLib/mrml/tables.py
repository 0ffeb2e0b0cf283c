"""Results of many registrations as a table node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import vtk
from vtk.util import numpy_support

POSE_COLUMNS = tuple(f"camera_from_world {row} {column}" for row in range(3) for column in range(4))


def result_row(result: Mapping[str, Any], seconds: float | None, error: str | None) -> dict[str, Any]:
    """What a results table says of one registration; `result` is `RegistrationResult.to_dict`'s, empty where there is none."""
    return {
        "verdict": result.get("verdict"),
        "score": result.get("score"),
        "doubt": result.get("doubt"),
        "seconds": seconds,
        "error": error,
        "camera_from_world": result.get("camera_from_world"),
    }


def flat(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with `camera_from_world`, (4, 4) or None, as the twelve columns of `POSE_COLUMNS`: its upper three rows."""
    made = []
    for row in rows:
        pose = row.get("camera_from_world")
        numbers = [None] * 12 if pose is None else np.asarray(pose, dtype=np.float64)[:3].ravel().tolist()
        plain = {title: value for title, value in row.items() if title != "camera_from_world"}
        made.append({**plain, **(dict(zip(POSE_COLUMNS, numbers)) if "camera_from_world" in row else {})})
    return made


def fill_table(node: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put rows, made `flat`, into a vtkMRMLTableNode; all have the keys of the first, in its order.

    A column of numbers has NaN where a row has None, one of texts an empty text.
    """
    table = vtk.vtkTable()
    plain = flat(rows)
    for title in plain[0] if plain else ():
        values = [row[title] for row in plain]
        if any(isinstance(value, str) for value in values) or all(value is None for value in values):
            table.AddColumn(_texts(title, values))
        else:
            table.AddColumn(_numbers(title, np.array([np.nan if value is None else value for value in values], dtype=np.float64)))
    node.SetAndObserveTable(table)


def _texts(title: str, values: Sequence[Any]) -> vtk.vtkStringArray:
    column = vtk.vtkStringArray()
    column.SetName(title)
    for value in values:
        column.InsertNextValue("" if value is None else str(value))
    return column


def _numbers(title: str, values: np.ndarray) -> vtk.vtkDoubleArray:
    column = numpy_support.numpy_to_vtk(np.ascontiguousarray(values), deep=True)
    column.SetName(title)
    return column
