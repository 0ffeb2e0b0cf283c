"""Packages that Slicer does not bring: asked for, installed, listed, removed. Nothing here reaches the network."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from SphericalRegLib.errors import InputError

sys.path.insert(0, str(Path(__file__).parent))
from tiny_wheels import write_wheel

MODULE = Path(__file__).resolve().parents[3] / "SphericalReg" / "SphericalReg.py"


@pytest.fixture
def dependencies(slicer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module, which misses two packages that nobody has."""
    from SphericalRegModule import dependencies as module

    monkeypatch.setattr(module, "TORCH", {"tiny_torch": "tiny-torch>=2"})
    monkeypatch.setattr(module, "REQUIRED", {"tiny": "tiny>=1", "rich": "rich>=1"})
    module._forget_what_is_there()
    yield module
    for key in (module.INSTALLED_SETTING, module.OFFLINE_SETTING):
        slicer.app.settings().remove(key)
    module._forget_what_is_there()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that this process, and those that it starts, import from; stands for Slicer's site-packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    yield folder
    for name in ("tiny", "tiny_torch", "tiny_part"):
        sys.modules.pop(name, None)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Wheels that lie ready."""
    folder = tmp_path / "a folder of wheels"
    write_wheel(folder, "tiny", "1.5", ["tiny-part", "numpy>=999", "tiny-torch"])
    write_wheel(folder, "tiny-part", "0.3")
    write_wheel(folder, "tiny-torch", "2.7")
    write_wheel(folder, "numpy", "999.0")
    return folder


def real_pip(site: Path) -> Any:
    """What slicer.util.pip_install does, into `site`: real pip, its output printed line by line."""

    def install(arguments: list[str]) -> None:
        command = [sys.executable, "-m", "pip", "install", "--target", str(site), "--no-cache-dir", "--disable-pip-version-check", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            print(line.rstrip())
        if process.wait():
            raise subprocess.CalledProcessError(process.returncode, command, output=process.stdout)

    return install


def yes(question: str) -> bool:
    return True


def never(*_: Any) -> Any:
    raise AssertionError("must not be called")


def test_nothing_is_asked_where_nothing_is_missing(slicer: ModuleType) -> None:
    from SphericalRegModule.dependencies import ensure, missing

    assert missing() == []
    ensure(never, never, never)


def test_missing_looks_only(dependencies: Any) -> None:
    assert dependencies.missing() == ["tiny-torch>=2", "tiny>=1"]
    assert "tiny" not in sys.modules


def test_an_old_version_is_missing_too(dependencies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dependencies, "REQUIRED", {"h5py": "h5py>=999"})
    monkeypatch.delitem(sys.modules, "h5py", raising=False)
    assert "h5py>=999" in dependencies.missing()


def test_what_a_package_lacks_is_missing_too(dependencies: Any, site: Path, shelf: Path) -> None:
    """An installation broke off: the package is there, a part of it is not."""
    real_pip(site)(["--no-deps", "--no-index", "--find-links", str(shelf), "tiny", "tiny-torch"])
    assert dependencies.missing() == ["tiny-part"]


def test_declining_changes_nothing(dependencies: Any) -> None:
    questions: list[str] = []
    with pytest.raises(InputError, match="tiny-torch>=2, tiny>=1 are needed and were not installed"):
        dependencies.ensure(questions.append, never, never)
    assert "tiny-torch>=2\ntiny>=1" in questions[0]
    assert "Install them now?" in questions[0]


def test_nobody_to_ask(slicer: ModuleType, dependencies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a window a message box would hang; in testing mode it would always say yes."""
    with pytest.raises(InputError, match="nobody can be asked here"):
        dependencies.ensure(None, never, never)
    monkeypatch.setattr(slicer.app, "testingEnabled", lambda: False)
    with pytest.raises(InputError, match="nobody can be asked here"):
        dependencies.ensure(None, never, never)
    monkeypatch.setattr(slicer.util, "mainWindow", lambda: object())
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, windowTitle: "tiny>=1" not in text)
    with pytest.raises(InputError, match="were not installed"):
        dependencies.ensure(None, never, never)


def test_torch_and_the_others_go_separate_ways(dependencies: Any, site: Path, shelf: Path) -> None:
    calls: list[tuple[str, list[str]]] = []
    pip = real_pip(site)

    def bring(name: str) -> Any:
        def install(requirements: list[str]) -> None:
            calls.append((name, requirements))
            parts = ["tiny-part"] if name == "pip" else []
            pip(["--no-deps", "--no-index", "--find-links", str(shelf), *requirements, *parts])

        return install

    dependencies.ensure(yes, bring("pip"), bring("torch"))
    assert calls == [("torch", ["tiny-torch>=2"]), ("pip", ["tiny>=1"])]
    assert dependencies.installed() == {"tiny-torch": "2.7", "tiny": "1.5", "tiny-part": "0.3"}
    dependencies.ensure(never, never, never)


def test_slicer_5_10_offline(slicer: ModuleType, dependencies: Any, site: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No slicer.packaging, no network: real pip brings a package and its dependency from a folder, numpy stays; then all of it is removed."""
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", real_pip(site))
    slicer.app.settings().setValue(dependencies.OFFLINE_SETTING, str(shelf))
    numpy = metadata.version("numpy")
    dependencies.ensure(yes)
    assert dependencies.installed() == {"tiny-torch": "2.7", "tiny": "1.5", "tiny-part": "0.3"}
    assert metadata.version("numpy") == numpy
    assert "PIP_NO_INDEX" not in os.environ

    def uninstall(names: list[str]) -> None:
        for name in names:
            for path in site.glob(f"{name.replace('-', '_')}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    assert sorted(dependencies.remove_installed(uninstall)) == ["tiny", "tiny-part", "tiny-torch"]
    assert dependencies.installed() == {}
    assert dependencies.missing() == ["tiny-torch>=2", "tiny>=1"]


def test_slicer_5_12(slicer: ModuleType, dependencies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def pip_install(requirements: list[str], **keywords: Any) -> None:
        calls.append((requirements, keywords, Path(keywords["constraints"]).read_text()))

    packaging = ModuleType("slicer.packaging")
    packaging.pip_install = pip_install  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    monkeypatch.setattr(slicer, "packaging", packaging, raising=False)
    with pytest.raises(InputError, match="After the installation tiny-torch>=2, tiny>=1 are still missing"):
        dependencies.ensure(yes, None, lambda requirements: None)
    ((requirements, keywords, pins),) = calls
    assert requirements == ["tiny>=1"]
    assert set(keywords["skip_packages"]) == {*dependencies.BUNDLED, "tiny_torch"}
    assert keywords["requester"] == "SphericalReg"
    assert f"numpy=={metadata.version('numpy')}\n" in pins
    assert f"vtk=={metadata.version('vtk')}\n" in pins


def test_slicer_5_12_for_real(
    slicer: ModuleType, dependencies: Any, site: Path, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slicer's own slicer.packaging, with real pip behind a PythonSlicer of ours; runs where SLICER_PY names Slicer's Python."""
    pytest.importorskip("slicer.packaging", reason="needs SLICER_PY: <Slicer's source>/Base/Python/slicer")
    launcher = tmp_path / "bin" / "PythonSlicer"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", f"{launcher.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PIP_TARGET", str(site))
    slicer.app.settings().setValue(dependencies.OFFLINE_SETTING, str(shelf))
    numpy = metadata.version("numpy")
    dependencies.ensure(yes)
    assert dependencies.installed() == {"tiny-torch": "2.7", "tiny": "1.5", "tiny-part": "0.3"}
    assert metadata.version("numpy") == numpy
    for path in site.glob("tiny_part*"):  # as after an installation that broke off: slicer.packaging only logs when a part fails
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    dependencies._forget_what_is_there()
    assert dependencies.missing() == ["tiny-part"]
    dependencies.ensure(yes)
    assert "tiny-part" in dependencies.installed()


def test_the_pins_are_what_slicer_has(dependencies: Any) -> None:
    lines = dependencies.constraints().splitlines()
    assert {line.partition("==")[0] for line in lines} == {name for name in dependencies.BUNDLED if name.lower() in dependencies._versions()}
    assert f"SimpleITK=={metadata.version('SimpleITK')}" in lines


def test_a_failure_ends_with_pips_last_lines(slicer: ModuleType, dependencies: Any, site: Path, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Slicer has it: what pip says is printed, the exception holds a stream that was read already."""
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", real_pip(site))
    (shelf / "tiny_part-0.3-py3-none-any.whl").unlink()
    slicer.app.settings().setValue(dependencies.OFFLINE_SETTING, str(shelf))
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stdout", heard)
    with pytest.raises(InputError, match="pip ended with code 1") as caught:
        dependencies.ensure(yes)
    assert "No matching distribution found for tiny-part" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= dependencies.LAST_LINES + 2
    assert "No matching distribution" in heard.getvalue(), "and the log has it too"
    assert dependencies.installed() == {"tiny-torch": "2.7", "tiny": "1.5"}, "what came in before can be removed"


def test_an_exception_that_holds_text_is_read(dependencies: Any) -> None:
    def fail(requirements: list[str]) -> None:
        raise subprocess.CalledProcessError(2, "pip", output="\n".join(str(number) for number in range(100)))

    with pytest.raises(InputError) as caught:
        dependencies.ensure(yes, fail, lambda requirements: None)
    assert str(caught.value).splitlines()[-dependencies.LAST_LINES :] == [str(number) for number in range(75, 100)]


def test_torch_comes_through_the_pytorch_extension(dependencies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    utils = SimpleNamespace(PyTorchUtilsLogic=lambda: SimpleNamespace(installTorch=lambda **_: None))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", utils)
    with pytest.raises(InputError, match="could not install PyTorch"):
        dependencies.ensure(yes, never)


def test_without_its_extension_nobody_is_asked(slicer: ModuleType, dependencies: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The question comes where its answer can be followed: with the extension, with a folder of wheels, or where torch is there already."""
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(InputError, match="needs Slicer's PyTorch extension: install it with the Extensions Manager"):
        dependencies.ensure(never, never)
    slicer.app.settings().setValue(dependencies.OFFLINE_SETTING, str(tmp_path))
    with pytest.raises(InputError, match="were not installed"):
        dependencies.ensure(lambda question: False, never)
    slicer.app.settings().remove(dependencies.OFFLINE_SETTING)
    monkeypatch.setattr(dependencies, "missing", lambda: ["tiny>=1"])
    with pytest.raises(InputError, match="were not installed"):
        dependencies.ensure(lambda question: False, never)


def test_the_list_of_what_was_brought_is_looked_up_once(slicer: ModuleType, dependencies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The panel asks with every change, a dragged slider's too."""
    slicer.app.settings().setValue(dependencies.INSTALLED_SETTING, '{"rich": "14"}')
    looked, versions = [], dependencies._versions
    monkeypatch.setattr(dependencies, "_versions", lambda: looked.append(1) or versions())
    for _ in range(3):
        assert list(dependencies.installed()) == ["rich"]
    assert len(looked) == 1
    dependencies.remove_installed(lambda names: None)
    assert dependencies.installed() == {}


def test_the_pytorch_extension_is_told_what_is_needed(dependencies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    utils = SimpleNamespace(PyTorchUtilsLogic=lambda: SimpleNamespace(installTorch=lambda **keywords: told.update(keywords) or "torch"))
    monkeypatch.setitem(sys.modules, "PyTorchUtils", utils)
    dependencies._install_torch(["torch>=2.4"])
    assert told == {"askConfirmation": False, "torchVersionRequirement": ">=2.4"}


def test_an_offline_folder_that_is_gone_is_named(slicer: ModuleType, dependencies: Any, tmp_path: Path) -> None:
    slicer.app.settings().setValue(dependencies.OFFLINE_SETTING, str(tmp_path / "gone"))
    with pytest.raises(InputError, match="gone, is not there"):
        dependencies.ensure(yes, never, never)


def test_a_package_that_does_not_load_is_told(dependencies: Any, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "tiny.py").write_text("raise ImportError('DLL load failed')")
    (site / "tiny_torch.py").write_text("")
    with pytest.raises(InputError, match=r"do not load: restart Slicer(.|\n)*DLL load failed"):
        dependencies.verify()


def test_what_cannot_be_removed_stays_listed(slicer: ModuleType, dependencies: Any, site: Path) -> None:
    slicer.app.settings().setValue(dependencies.INSTALLED_SETTING, '{"rich": "14", "gone": "1"}')

    def fail(names: list[str]) -> None:
        print("Permission denied")
        raise subprocess.CalledProcessError(1, "pip")

    with pytest.raises(InputError, match=r"could not be removed: pip ended with code 1(.|\n)*Permission denied"):
        dependencies.remove_installed(fail)
    assert list(dependencies.installed()) == ["rich"], "what is gone already is not listed"


def test_loading_and_opening_the_module_asks_nothing(slicer: ModuleType, dependencies: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from slicer_harness.modules import open_module

    monkeypatch.setattr(dependencies, "_message_box", never)
    slicer.mrmlScene.Clear()
    widget, panel = open_module(MODULE)
    widget.cleanup()
    panel.deleteLater()
    slicer.app.processEvents()
