"""Descriptions as data first (`Description.to_dict` for programs) and text second (plain, or through rich)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .orientation import NAMES


@dataclass(frozen=True)
class Entry:
    """One line: a name, its value as JSON could hold it, the value in words, and where it comes from."""

    name: str
    value: Any
    text: str
    origin: str = ""


@dataclass(frozen=True)
class Section:
    title: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Description:
    title: str
    sections: tuple[Section, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """For JSON: sections by title, each with its entries (value and, where known, origin) and its notes."""
        return {
            "title": self.title,
            "sections": [
                {
                    "title": section.title,
                    "entries": {e.name: {"value": e.value, "origin": e.origin} if e.origin else {"value": e.value} for e in section.entries},
                    "notes": list(section.notes),
                }
                for section in self.sections
            ],
        }

    def to_text(self, width: int = 110) -> str:
        """Plain text without colours."""
        return "\n".join(self._lines(width)) + "\n"

    def __rich__(self) -> Any:
        """For `rich.print`: a table for each section, origins dimmed, notes marked."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = [Text(self.title, style="bold")]
        for section in self.sections:
            table = Table(title=section.title, title_justify="left", title_style="bold cyan", box=None, show_header=False, pad_edge=False)
            table.add_column(style="dim", no_wrap=True)
            table.add_column()
            table.add_column(style="dim italic")
            for entry in section.entries:
                table.add_row(Text(entry.name), Text(entry.text), Text(entry.origin))
            parts += [Text(), table, *(Text(f"! {note}", style="yellow") for note in section.notes)]
        return Group(*parts)

    def _lines(self, width: int) -> Iterator[str]:
        yield self.title
        for section in self.sections:
            yield ""
            yield section.title
            names = max((len(entry.name) for entry in section.entries), default=0)
            for entry in section.entries:
                first, *more = entry.text.splitlines() or [""]
                yield f"  {entry.name:<{names}}  {first}" + (f"   <- {entry.origin}" if entry.origin else "")
                yield from (f"  {'':<{names}}  {line}" for line in more)
            for note in section.notes:
                yield from textwrap.wrap(note, width, initial_indent="  ! ", subsequent_indent="    ")


def rounded(values: np.ndarray) -> list[float]:
    """Plain numbers with four decimals, for JSON."""
    return [round(float(v), 4) for v in values]


def in_brackets(values: np.ndarray) -> str:
    """Coordinates in mm for reading."""
    return "(" + ", ".join(f"{v:.1f}" for v in values) + ")"


def in_words(value: Any) -> str:
    """A value for reading: a matrix in rows, yes and no, patient directions by their names."""
    if isinstance(value, np.ndarray):
        return "\n".join("  ".join(f"{v:10.4f}" for v in row) for row in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple):
        return ", ".join(in_words(v) if not isinstance(v, str) else NAMES.get(v, v) for v in value)
    return str(value)
