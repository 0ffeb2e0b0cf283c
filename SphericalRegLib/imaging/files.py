"""Small things about files: JSON that is checked while it is read, and writing that leaves nothing half-written."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

from SphericalRegLib.errors import InputError


def require_file(path: Path, what: str) -> None:
    """Raise InputError unless ``path`` is a file with something in it."""
    if not path.exists():
        raise InputError(f"{what} {path} does not exist")
    if path.is_dir():
        raise InputError(f"{what} {path} is a folder, expected a file")
    if not os.access(path, os.R_OK):
        raise InputError(f"{what} {path} may not be read: check its permissions")
    if path.stat().st_size == 0:
        raise InputError(f"{what} {path} is empty (0 bytes)")


def require_writable_folder(path: Path, what: str) -> None:
    """Raise InputError unless files can be written to the folder ``path``, or it can be made; nothing is made."""
    existing = next((folder for folder in (path.absolute(), *path.absolute().parents) if os.access(folder, os.F_OK)), None)
    if existing is None:
        raise InputError(f"{what} {path} cannot be made: there is no {path.absolute().anchor}")
    if not existing.is_dir():
        raise InputError(f"{what} {path} cannot be made: {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{what} {path} may not be written to: check the permissions of {existing}")


def read_json_object(path: Path, what: str) -> dict[str, Any]:
    """A JSON file that must hold an object.

    Raises:
        InputError: if it is missing, empty, not text, not JSON (with line and column) or not an object.
    """
    require_file(path, what)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{what} {path} is not a UTF-8 text file, expected JSON") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{what} {path} is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise InputError(f"{what} {path} is nested too deeply to be read") from None
    if not isinstance(content, dict):
        raise InputError(f"{what} {path} holds a JSON {type(content).__name__}, expected an object {{...}}")
    return content


ALIKE = 0.7
"""Similarity (difflib's ratio) from which an unknown key is taken for a misspelt one: "miror" and "x_ray" are, "note" and "name" are not."""


def refuse_misspelt(keys: Iterable[str], known: Collection[str], where: str) -> None:
    """Unknown keys of a JSON object are notes, unless one is nearly a known key: then it was meant to have an effect.

    Raises:
        InputError: naming the key and what it may have been meant to be.
    """
    without_unit = {key.removesuffix("_mm").removesuffix("_px"): key for key in known}
    for key in keys:
        if key in known:
            continue
        word = key.lower().replace("-", "_").replace(" ", "_")
        near = [without_unit[word]] if word in without_unit else difflib.get_close_matches(word, sorted(known), n=1, cutoff=ALIKE)
        if near:
            raise InputError(f"{where}: unknown key {key!r}, did you mean {near[0]!r}? (notes may have any other name)")


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary name beside ``path`` and rename the result, so that a reader never sees half a file.

    The temporary name keeps the suffix: writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{uuid4().hex[:12]}{''.join(path.suffixes[-2:])}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # as open as any new file; `tempfile` makes private ones
    mode = temporary.stat().st_mode
    try:
        write(temporary)
        temporary.chmod(mode)  # some writers (safetensors) put a private file of their own in its place
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write an object as indented JSON, atomically; numbers that JSON cannot hold (NaN, infinity) are refused with ValueError."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
