"""Outcomes of a long experiment in a file of JSON lines, written as they come, so that a run that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from SphericalRegLib.errors import InputError

from .tables import write_text


class Journal:
    """The first line says which experiment it is, each further one holds an outcome.

    Args:
        file: made with its folder if need be.
        header: plain values that decide the outcomes; a file with others is refused.
        recompute: forget what is there.

    Attributes:
        entries: outcomes so far, in the order they came. A last line that was cut short by a crash is dropped.

    Raises:
        InputError: the folder is a file, or the file holds another experiment's outcomes.
    """

    def __init__(self, file: Path, header: Mapping[str, Any], *, recompute: bool = False) -> None:
        self.file, self.header = file, json.loads(json.dumps(dict(header)))
        if file.parent.exists() and not file.parent.is_dir():
            raise InputError(f"{file.parent} is a file, expected a folder for the outcomes.")
        file.parent.mkdir(parents=True, exist_ok=True)
        self.entries: list[dict[str, Any]] = [] if recompute else self._read()
        self.keep(self.entries)

    def keep(self, entries: list[dict[str, Any]]) -> None:
        """Replace the outcomes, in the file too."""
        self.entries = list(entries)
        lines = [json.dumps(self.header), *(json.dumps(entry, allow_nan=False) for entry in self.entries)]
        write_text(self.file, "\n".join(lines) + "\n")

    def add(self, entry: Mapping[str, Any]) -> None:
        """One more outcome, on the disk when this returns: a whole line or none."""
        self.entries.append(dict(entry))
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(self.entries[-1], allow_nan=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self) -> list[dict[str, Any]]:
        if not self.file.exists():
            return []
        lines = self.file.read_text(encoding="utf-8").splitlines()
        earlier = _parse(lines[0]) if lines else None
        if earlier != self.header:
            before = earlier or {}
            changed = sorted(key for key in {*self.header, *before} if before.get(key) != self.header.get(key))
            raise InputError(f"{self.file} holds another run's outcomes ({', '.join(changed)} differ): choose another folder or recompute.")
        return [values for line in lines[1:] if (values := _parse(line)) is not None]


def _parse(line: str) -> dict[str, Any] | None:
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None
