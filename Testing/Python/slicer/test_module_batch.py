"""Many cases: the console gives the command line's poses, and so does the script without a window."""

from __future__ import annotations

import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from SphericalRegLib.errors import InputError

ROOT = Path(__file__).resolve().parents[3]
MODULE = ROOT / "SphericalReg" / "SphericalReg.py"
SCRIPT = ROOT / "SphericalReg" / "Resources" / "Scripts" / "register_cases.py"
NAMES = ("case_000", "case_001")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small simulated cases of one CT."""
    from SphericalRegLib.imaging.samples import sample_volume
    from SphericalRegLib.resources import resource_path
    from SphericalRegLib.simulation.cases import SimulationOptions, flat_panel, simulate_cases

    folder = tmp_path_factory.mktemp("cases")
    simulate_cases(sample_volume("pelvis"), folder, 2, SimulationOptions(camera=flat_panel(72, 72)), ct=resource_path("SampleData/pelvis.nii.gz"))
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line and console have no options to be given here: the library's are replaced by quicker ones."""
    from SphericalRegLib.evaluation import registrar
    from SphericalRegLib.registration.options import MultiStart, RegistrationOptions, Stage

    search = MultiStart(poses=30, finalists=0, image_px=32)
    options = RegistrationOptions(stages=(Stage(48, iterations=6),), multi_start=search, wide_start=search)
    monkeypatch.setattr(registrar, "RegistrationOptions", lambda: options)


@pytest.fixture
def logic(slicer: ModuleType) -> Any:
    from slicer_harness.modules import load_module

    return load_module(MODULE).SphericalRegLogic()


def from_command_line(cases: Path, out: Path) -> dict[str, np.ndarray]:
    from typer.testing import CliRunner

    from SphericalRegLib.cli import load

    done = CliRunner().invoke(load(), ["batch", str(cases), "-o", str(out), "--no-pictures", "--device", "cpu", "--seed", "5", "--quiet"])
    assert done.exit_code == 0, done.output
    return {name: np.array(json.loads((out / name / "result.json").read_text())["camera_from_world"]) for name in NAMES}


def run_script(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(ended.value.code or 0)


def test_the_console_gives_the_command_lines_poses(
    logic: Any, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """To 1e-6 in every entry: from folders, and from the script that needs no window. A pose is not the start."""
    expected = from_command_line(cases, tmp_path / "cli")
    rows = logic.registerBatch(cases, tmp_path / "console", device="cpu", seed=5)
    assert [row["name"] for row in rows] == list(NAMES)
    for row in rows:
        assert row["error"] is None
        assert np.abs(np.array(row["camera_from_world"]) - expected[row["name"]]).max() < 1e-6
        start = json.loads((cases / row["name"] / "geometry.json").read_text())["initial_camera_from_world"]
        assert np.abs(expected[row["name"]] - start).max() > 1e-3
    assert (tmp_path / "console" / "batch.csv").is_file()

    code = run_script([str(cases / name) for name in NAMES] + ["-o", str(tmp_path / "script"), "--device", "cpu", "--seed", "5"], monkeypatch)
    said = capsys.readouterr().out
    assert code == 0, said
    assert "case_001: score" in said
    for name in NAMES:
        found = json.loads((tmp_path / "script" / name / "result.json").read_text())["camera_from_world"]
        assert np.abs(np.array(found) - expected[name]).max() < 1e-6


def test_a_batch_of_the_command_line_is_continued_in_the_console(
    logic: Any, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from SphericalRegLib.evaluation import registrar

    expected = from_command_line(cases, tmp_path / "out")

    def no_more(*_: Any, **__: Any) -> Any:
        raise AssertionError("registered again")

    monkeypatch.setattr(registrar, "register", no_more)
    rows = logic.registerBatch([cases / name for name in NAMES], tmp_path / "out", device="cpu", seed=5)
    assert [row["error"] for row in rows] == [None, None]
    assert np.array(rows[1]["camera_from_world"]) == pytest.approx(expected["case_001"])


def test_a_start_for_all_cases(logic: Any, cases: Path, tmp_path: Path) -> None:
    (row,) = logic.registerBatch([cases / "case_000"], tmp_path / "out", initial="ap", device="cpu")
    assert row["error"] is None
    result = json.loads((tmp_path / "out" / "case_000" / "result.json").read_text())
    assert any("named view ap" in note for note in result["notes"])


def test_a_start_that_folders_cannot_begin_from_is_refused_before_the_first(logic: Any, cases: Path, tmp_path: Path) -> None:
    for start, words in (("scene", "expected one of ap"), ("regressor", "there is no model")):
        with pytest.raises(InputError, match=words):
            logic.registerBatch(cases, tmp_path / "out", initial=start, device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_ct_is_prepared_once(cases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from SphericalRegLib.evaluation import registrar
    from SphericalRegLib.imaging.case import load_case

    prepared: list[Any] = []
    real = registrar.prepare
    monkeypatch.setattr(registrar, "prepare", lambda *arguments: prepared.append(1) or real(*arguments))
    chosen = registrar.CaseRegistrar(device="cpu")
    assert chosen.prepared(load_case(cases / "case_000")) is chosen.prepared(load_case(cases / "case_001"))
    assert len(prepared) == 1


def test_a_failed_case_is_the_scripts_exit_code(
    slicer: ModuleType, logic: Any, cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    broken = tmp_path / "cases" / "broken"
    shutil.copytree(cases / "case_000", broken)
    (broken / "xray.png").write_bytes(b"no picture") if (broken / "xray.png").exists() else next(broken.glob("xray.*")).write_bytes(b"no picture")
    case = json.loads((broken / "case.json").read_text()) if (broken / "case.json").exists() else None
    if case is not None and "ct" in case:
        case["ct"] = str((cases / "case_000" / case["ct"]).resolve())
        (broken / "case.json").write_text(json.dumps(case))
    assert run_script([str(broken), "-o", str(tmp_path / "out"), "--device", "cpu"], monkeypatch) == 1
    assert "broken: " in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["case"], ["case", "-o", "out", "--initial", "front"]])
def test_wrong_arguments_end_the_script(
    slicer: ModuleType, logic: Any, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert run_script(arguments, monkeypatch) == 2
    assert "usage: register_cases.py" in capsys.readouterr().err


def test_the_script_always_ends(
    slicer: ModuleType, logic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Slicer would stay open otherwise, without a window to close."""
    assert run_script([str(tmp_path / "gone"), "-o", str(tmp_path / "out")], monkeypatch) == 2
    assert "gone is missing" in capsys.readouterr().err

    def crash(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(sys.modules["SphericalReg"].SphericalRegLogic, "registerBatch", crash)
    assert run_script([str(tmp_path), "-o", str(tmp_path / "out")], monkeypatch) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_missing_packages_are_installed_only_when_told_to(
    slicer: ModuleType, logic: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from SphericalRegModule import dependencies

    monkeypatch.setattr(dependencies, "missing", lambda: ["tiny>=1"])
    told: list[Any] = []
    assert run_script([str(tmp_path), "-o", str(tmp_path / "out")], monkeypatch) == 2
    assert "nobody can be asked here" in capsys.readouterr().err
    monkeypatch.setattr(dependencies, "ensure", lambda ask=None: told.append(ask))
    run_script([str(tmp_path), "-o", str(tmp_path / "out"), "--install"], monkeypatch)
    assert told[0]("?") is True


def test_in_a_process_of_its_own(slicer: ModuleType, tmp_path: Path) -> None:
    """The exit code reaches the shell."""
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(ROOT / 'Testing' / 'Harness')!r})\n"
        f"from slicer_harness.modules import load_module; load_module({str(MODULE)!r})\n"
        f"sys.argv = ['register_cases.py', {str(tmp_path)!r}, '-o', {str(tmp_path / 'out')!r}]\n"
        f"runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "holds no case" in done.stderr
    assert not (tmp_path / "out").exists()
