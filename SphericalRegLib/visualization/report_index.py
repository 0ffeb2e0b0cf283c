"""The page that leads to several reports: a demo's two cases, a batch's hundred."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.visualization.html import Html, facts, image, page, table, tag, write_page


@dataclass(frozen=True)
class IndexEntry:
    """One case of the list.

    Attributes:
        title: its name.
        report: path of its report relative to the index; None where there is none (the case failed).
        picture: uint8 RGB, see `report_pictures.thumbnail`.
        values: column -> number or text. A number is shown with two decimals and sorts as a number; None leaves the cell empty.
    """

    title: str
    report: str | None
    picture: np.ndarray | None = None
    values: Mapping[str, float | int | str | None] = field(default_factory=dict)


def index_html(title: str, entries: Sequence[IndexEntry], summary: Mapping[str, str] | None = None, note: str = "") -> str:
    """The page as text; columns are those of the entries, in the order in which they first occur.

    Raises:
        InputError: if there is no entry.
    """
    if not entries:
        raise InputError(f"index {title}: there is no case to list; expected at least one")
    columns = list(dict.fromkeys(name for entry in entries for name in entry.values))
    numeric = [i for i, name in enumerate(columns, 2) if any(isinstance(entry.values.get(name), (int, float)) for entry in entries)]
    rows = [
        (
            tag("a", entry.title, href=quote(entry.report)) if entry.report else entry.title,
            image(entry.picture, f"Overlay of {entry.title}", loading="lazy") if entry.picture is not None else "",
            *(_cell(entry.values.get(name)) for name in columns),
        )
        for entry in entries
    ]
    listing = table(("Case", "Overlay", *columns), rows, _count(entries), numeric=numeric, class_="cases")
    sections = [
        tag("section", tag("h2", "At a glance"), facts(summary)) if summary else None,
        tag("section", tag("h2", "Cases"), tag("p", note) if note else None, listing, style=f"--rows: {len(entries)}"),
    ]
    return page(title, sections)


def write_index(title: str, entries: Sequence[IndexEntry], path: str | Path, summary: Mapping[str, str] | None = None, note: str = "") -> Path:
    """Write the index, whole or not at all; returns its path."""
    return write_page(index_html(title, entries, summary, note), path)


def _cell(value: float | int | str | None) -> Html | str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return ""
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _count(entries: Sequence[IndexEntry]) -> str:
    return "1 case" if len(entries) == 1 else f"{len(entries)} cases; click a heading to sort"
