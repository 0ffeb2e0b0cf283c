"""Small tables as csv, Markdown and aligned text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from SphericalRegLib.imaging.files import write_atomically

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Table:
    """Column titles and rows; every row has one value per column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row has {len(row)} values, the table {len(self.columns)} columns")

    def to_csv(self) -> str:
        """Full precision, for programs; None is empty."""
        return rows_to_csv([self.columns, *self.rows])

    def to_markdown(self, digits: int = 2) -> str:
        """Rounded, for people; numbers are aligned to the right."""
        cells = [[_escape(format_value(v, digits)) for v in row] for row in self.rows]
        rule = ["---:" if self._is_numeric(c) else "---" for c in range(len(self.columns))]
        lines = [[_escape(title) for title in self.columns], rule, *cells]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"

    def to_text(self, digits: int = 2) -> str:
        """Aligned columns for a terminal."""
        cells = [[format_value(v, digits) for v in row] for row in self.rows]
        widths = [max(len(line[c]) for line in [self.columns, *cells]) for c in range(len(self.columns))]
        numeric = [self._is_numeric(c) for c in range(len(self.columns))]

        def line(values: Sequence[str]) -> str:
            return "  ".join(v.rjust(w) if right else v.ljust(w) for v, w, right in zip(values, widths, numeric)).rstrip()

        return "\n".join([line(self.columns), *(line(row) for row in cells)]) + "\n"

    def write(self, stem: Path, digits: int = 2, heading: str = "") -> tuple[Path, Path]:
        """Write stem.csv and stem.md (under a heading), atomically; returns both paths."""
        csv_path, markdown_path = stem.with_name(stem.name + ".csv"), stem.with_name(stem.name + ".md")
        write_text(csv_path, self.to_csv())
        write_text(markdown_path, (heading + "\n\n" if heading else "") + self.to_markdown(digits))
        return csv_path, markdown_path

    def _is_numeric(self, column: int) -> bool:
        values = [row[column] for row in self.rows if row[column] is not None]
        return bool(values) and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


def rows_to_csv(rows: Iterable[Sequence[Value]]) -> str:
    """Lines of comma-separated values in full precision; None is empty."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(["" if value is None else value for value in row] for row in rows)
    return buffer.getvalue()


def format_value(value: Value, digits: int = 2) -> str:
    """One cell for people: floats with fixed digits, infinity as "failed", None as "-"."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if math.isfinite(value) else "failed"
    return str(value)


def write_text(path: Path, text: str) -> None:
    """UTF-8, atomically."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
