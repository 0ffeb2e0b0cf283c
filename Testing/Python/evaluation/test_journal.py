"""A file of outcomes: what it keeps, what it drops, what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from SphericalRegLib.errors import InputError
from SphericalRegLib.evaluation.journal import Journal


def test_it_goes_on_and_drops_half_a_line(tmp_path: Path) -> None:
    file = tmp_path / "new" / "j.jsonl"
    journal = Journal(file, {"a": 1, "b": (2, 3)})
    journal.add({"x": 1})
    journal.add({"x": 2})
    file.write_text(file.read_text(encoding="utf-8") + '{"x": 3', encoding="utf-8")
    again = Journal(file, {"a": 1, "b": [2, 3]})
    assert again.entries == [{"x": 1}, {"x": 2}]
    assert len(file.read_text(encoding="utf-8").splitlines()) == 3
    again.keep(again.entries[1:])
    assert Journal(file, {"a": 1, "b": (2, 3)}).entries == [{"x": 2}]
    assert Journal(file, {"a": 1, "b": (2, 3)}, recompute=True).entries == []


def test_another_experiment_is_named(tmp_path: Path) -> None:
    Journal(tmp_path / "j.jsonl", {"a": 1, "b": 2})
    with pytest.raises(InputError, match=r"\(b differ\)"):
        Journal(tmp_path / "j.jsonl", {"a": 1, "b": 3})
    with pytest.raises(InputError, match=r"\(b differ\)"):
        Journal(tmp_path / "j.jsonl", {"a": 1})
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        Journal(tmp_path / "file" / "j.jsonl", {})
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="a differ"):
        Journal(tmp_path / "empty.jsonl", {"a": 1})
