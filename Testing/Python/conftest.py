"""Tests that need a library of the operating system are skipped by name where it is missing."""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path

import pytest


def system_libraries() -> dict[str, str]:
    """What run.py would install: shared library -> Debian packages."""
    spec = importlib.util.spec_from_file_location("run_script", Path(__file__).resolve().parents[2] / "run.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SYSTEM_LIBRARIES


def is_missing(soname: str) -> bool:
    try:
        ctypes.CDLL(soname)
    except OSError:
        return True
    return False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever asks for the `slicer` fixture loads Qt or VTK, which would end the whole run where they find no libEGL."""
    waiting = [item for item in items if "slicer" in getattr(item, "fixturenames", ())]
    if not waiting or not sys.platform.startswith("linux"):
        return
    missing = {soname: packages for soname, packages in system_libraries().items() if is_missing(soname)}
    if missing:
        reason = f"needs the system's {', '.join(missing)}: apt install {' '.join(missing.values())}"
        for item in waiting:
            item.add_marker(pytest.mark.skip(reason=reason))
