"""run.py: the parts that can be tried without making an environment."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def script(tmp_path: Path) -> ModuleType:
    """run.py as a module, pointed at an empty folder."""
    module = load(ROOT / "run.py")
    module.VENV = tmp_path / ".venv"
    module.STAMP, module.LOG = module.VENV / module.STAMP.name, module.VENV / module.LOG.name
    module.PYTHON = module.VENV / module.PYTHON.relative_to(ROOT / ".venv")
    return module


def test_it_needs_the_standard_library_alone() -> None:
    tree = ast.parse((ROOT / "run.py").read_text(encoding="utf-8"))
    imported = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= set(sys.stdlib_module_names)


def test_an_old_python_can_read_it() -> None:
    ast.parse((ROOT / "run.py").read_text(encoding="utf-8"), feature_version=(3, 6))


def test_every_extra_exists() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tree = ast.parse((ROOT / "run.py").read_text(encoding="utf-8"))
    assignment = next(node for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "EXTRAS")
    for extra in set().union(*ast.literal_eval(assignment.value).values()):
        assert f"\n{extra} = [" in pyproject


@pytest.mark.parametrize(("arguments", "code", "said"), [(["--help"], 0, "demo"), ([], 2, "demo"), (["dance"], 1, "dance")])
def test_words(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_half_made_environment_is_made_anew(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    script.PYTHON.parent.mkdir(parents=True)
    script.PYTHON.write_text("not an interpreter", encoding="utf-8")
    script.make_environment()
    assert script.works(script.PYTHON)
    assert script.has_module("pip")
    assert "anew" in capsys.readouterr().out


def test_an_installation_is_repeated_only_when_something_changed(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    script.PYTHON.parent.mkdir(parents=True)
    commands: list[list[object]] = []
    monkeypatch.setattr(script, "works", lambda _: True)
    monkeypatch.setattr(script, "has_module", lambda _: True)
    monkeypatch.setattr(script, "logged", lambda command, advice: commands.append(command))
    script.install({"test"})
    script.install({"test"})
    assert [str(command[-1]) for command in commands] == [".[test]"]
    script.install({"reference"})
    script.install({"test"})
    assert [str(command[-1]) for command in commands] == [".[test]", ".[reference,test]"]
    script.STAMP.write_text("another-digest test", encoding="utf-8")
    script.install({"test"})
    assert len(commands) == 3


def test_a_failed_installation_leaves_no_stamp_and_says_what_to_do(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    script.VENV.mkdir()
    monkeypatch.setattr(script, "make_environment", lambda: None)
    monkeypatch.setattr(script, "installer", lambda: [sys.executable, "-c", "import sys; sys.exit('no such package')"])
    with pytest.raises(script.Failure, match=r"no such package[\s\S]*run the same command again"):
        script.install({"test"})
    assert not script.STAMP.exists()


def test_missing_system_libraries_are_installed_by_root_and_named_otherwise(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[object]] = []
    monkeypatch.setattr(script.sys, "platform", "linux")
    monkeypatch.setattr(script, "loads", lambda soname: soname != "libEGL.so.1")
    monkeypatch.setattr(script, "succeeds", lambda command, **_: commands.append(command) or True)
    monkeypatch.setattr(script.shutil, "which", lambda _: "/usr/bin/apt-get")
    monkeypatch.setattr(script.os, "geteuid", lambda: 1000, raising=False)
    script.provide_system_libraries()
    assert commands == []
    assert "apt install libegl1 libgl1-mesa-dri" in capsys.readouterr().out
    monkeypatch.setattr(script.os, "geteuid", lambda: 0, raising=False)
    script.provide_system_libraries()
    assert commands[-1][-2:] == ["libegl1", "libgl1-mesa-dri"]


def test_the_slicer_demo_runs_in_the_slicer_that_is_named(script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With SLICER set no environment is made; the executable gets the module's folder and Python code that stands on its own."""
    calls: list[list[str]] = []
    monkeypatch.setattr(script, "install", lambda extras: pytest.fail("nothing is to be installed"))
    monkeypatch.setattr(script.subprocess, "call", lambda command, **_: calls.append(command) or 0)
    monkeypatch.setenv("SLICER", "/opt/Slicer/Slicer")
    assert script.main(["slicer-demo", "--screenshot", "picture.png"]) == 0
    assert calls == [[sys.executable, str(ROOT / "Testing" / "Harness" / "slicer_demo.py"), "--screenshot", "picture.png"]]

    demo = load(ROOT / "Testing" / "Harness" / "slicer_demo.py")
    monkeypatch.setattr(demo.subprocess, "call", lambda command: calls.append(command) or 0)
    for arguments in ([], ["--screenshot", str(tmp_path / "picture.png")], ["--measure"]):
        assert demo.main(arguments) == 0
        executable, option, folder, python, code = calls[-1]
        assert (executable, option, python) == ("/opt/Slicer/Slicer", "--additional-module-path", "--python-code")
        assert (Path(folder) / "SphericalReg.py").is_file()
        ast.parse(code)


@pytest.mark.parametrize(("system", "machine", "newest"), [("darwin", "arm64", (3, 14)), ("linux", "aarch64", (3, 14)), ("linux", "x86_64", (3, 0))])
def test_the_slicer_demo_is_refused_where_there_is_no_stand_in(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, system: str, machine: str, newest: tuple[int, int]
) -> None:
    monkeypatch.setattr(script, "install", lambda extras: pytest.fail("nothing is to be installed"))
    monkeypatch.setattr(script.sys, "platform", system)
    monkeypatch.setattr(script.platform, "machine", lambda: machine)
    monkeypatch.setattr(script, "TOO_NEW_FOR_SLICER", newest)
    monkeypatch.delenv("SLICER", raising=False)
    with pytest.raises(script.Failure, match="SLICER"):
        script.main(["slicer-demo"])


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("cores", "gigabytes", "expected"), [(1, 64, 1), (2, 24, 2), (16, 64, 4), (8, 7.7, 2), (4, 2, 1)])
def test_as_many_tests_run_at_once_as_there_are_cores_and_memory(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, cores: int, gigabytes: float, expected: int
) -> None:
    monkeypatch.setattr(script.os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(script.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(gigabytes * 2**18)}[name], raising=False)
    assert script.test_processes() == expected
