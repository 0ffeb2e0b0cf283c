"""Writing files: whole or not at all, and as open to others as any new file is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from SphericalRegLib.imaging.files import write_atomically


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_written_file_has_a_new_files_permissions(tmp_path, monkeypatch, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        with monkeypatch.context() as patch:
            patch.delattr(os, "umask")  # it is the process's: for the moment of asking, other threads would make files that anybody may write
            write_atomically(tmp_path / "a" / "file.nii.gz", lambda temporary: temporary.write_text("x"))
            write_atomically(tmp_path / "a" / "private.bin", _in_its_place)
    finally:
        os.umask(before)
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["file.nii.gz", "private.bin"]
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "a").iterdir()] == [mode, mode]


def _in_its_place(temporary: Path) -> None:
    """As safetensors writes: a private file of its own takes the place of what was there."""
    own = temporary.with_name("own")
    own.touch(0o600)
    own.replace(temporary)


def test_a_writer_that_fails_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        assert temporary.parent == tmp_path and temporary.suffix == ".json"
        temporary.write_text("ne")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["old"]
