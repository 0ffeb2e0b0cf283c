"""The module's own test class, unchanged, as Slicer runs it."""

from __future__ import annotations

import importlib
import os
import unittest
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def tests(slicer: ModuleType) -> type[unittest.TestCase]:
    from slicer_harness.modules import load_module

    return load_module(Path(__file__).resolve().parents[3] / "SphericalReg" / "SphericalReg.py").SphericalRegTest


def test_all_cases_pass(slicer: ModuleType, tests: type[unittest.TestCase]) -> None:
    """As slicer_add_python_unittest runs them: each in an instance of its own."""
    suite = unittest.TestLoader().loadTestsFromTestCase(tests)
    assert suite.countTestCases() == 4
    result = unittest.TextTestRunner(verbosity=2).run(suite)
    assert result.wasSuccessful(), [text for _, text in (*result.failures, *result.errors)]
    slicer.mrmlScene.Clear()


def test_reload_and_test_runs_every_case(tests: type[unittest.TestCase], monkeypatch: pytest.MonkeyPatch) -> None:
    """The button calls `runTest`."""
    from SphericalRegModule import selftest

    ran: list[str] = []
    names = [name for name in dir(selftest) if name.startswith("check_")]
    for name in names:
        monkeypatch.setattr(selftest, name, lambda _logic, name=name: ran.append(name))
    tests().runTest()
    assert sorted(ran) == names


def test_without_packages_every_case_is_skipped(tests: type[unittest.TestCase], monkeypatch: pytest.MonkeyPatch) -> None:
    """Slicer's dashboard has no PyTorch, and nobody there can be asked."""
    from SphericalRegModule import dependencies

    monkeypatch.setattr(dependencies, "missing", lambda: ["torch>=2.4"])
    result = unittest.TextTestRunner(verbosity=2).run(unittest.TestLoader().loadTestsFromTestCase(tests))
    assert result.wasSuccessful()
    assert ["torch>=2.4" in why for _, why in result.skipped] == [True] * 4
    shown: list[str] = []
    case = tests()
    monkeypatch.setattr(case, "delayDisplay", shown.append, raising=False)
    case.runTest()
    assert ["torch>=2.4" in text for text in shown] == [True] * 4


@pytest.mark.parametrize("name", ["ScriptedLoadableModule", "i18n", "parameterNodeWrapper"])
def test_slicers_own_python_runs_where_it_is_named(slicer: ModuleType, name: str) -> None:
    """With SLICER_PY all tests of this folder run with Slicer's own files, otherwise with the stand-ins."""
    used = Path(importlib.import_module(f"slicer.{name}").__file__ or "").resolve()
    standins = Path(__file__).resolve().parents[2] / "Harness" / "slicer_harness" / "standins"
    assert used.is_relative_to(Path(os.environ["SLICER_PY"]).resolve() if "SLICER_PY" in os.environ else standins)
