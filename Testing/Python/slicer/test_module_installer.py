"""The selective installer: with a pip that only writes down, and with the real one in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from types import ModuleType

import pytest
from SphericalRegModule import installer

sys.path.insert(0, str(Path(__file__).parent))
from tiny_wheels import write_wheel

MODULE = Path(__file__).resolve().parents[3] / "SphericalReg"


class Shelf:
    """Stands for importlib.metadata, and for pip."""

    def __init__(self, packages: dict[str, tuple[str, list[str]]], installed: dict[str, str]) -> None:
        self.packages, self.there, self.calls = packages, dict(installed), []

    class PackageNotFoundError(Exception):
        pass

    def version(self, name: str) -> str:
        if name not in self.there:
            raise self.PackageNotFoundError(name)
        return self.there[name]

    def requires(self, name: str) -> list[str] | None:
        self.version(name)
        return self.packages.get(name, ("", []))[1] or None

    def pip(self, arguments: list[str]) -> None:
        self.calls.append(arguments)
        name = arguments[-1].partition(">")[0]
        self.there[name] = self.packages[name][0]


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    packages = {
        "timm": ("1.0.9", ["torch", "huggingface_hub[torch]", "PyYAML"]),
        "huggingface_hub": ("0.30", ["fsspec>=2023", 'safetensors; extra == "torch"', 'mypy; extra == "dev"', 'old; python_version < "3"']),
        "fsspec": ("2025.1", ["timm"]),  # a circle
        "PyYAML": ("6.0", []),
        "safetensors": ("0.5", ["numpy>=99"]),
    }
    made = Shelf(packages, {"numpy": "1.26", "fsspec": "2020.1"})
    monkeypatch.setattr(installer.importlib, "metadata", made)
    return made


def test_what_is_needed_and_nothing_else(shelf: Shelf) -> None:
    done = installer.install_selectively(["timm>=1.0"], ["NumPy", "torch"], shelf.pip, ["-c", "pins.txt"])
    assert done == ["timm", "huggingface_hub", "fsspec", "safetensors", "PyYAML"]
    assert shelf.calls[0] == ["--no-deps", "-c", "pins.txt", "timm>=1.0"]
    assert shelf.there["numpy"] == "1.26", "Slicer's own is left alone, though it does not suit"


def test_a_second_time_does_nothing(shelf: Shelf) -> None:
    installer.install_selectively(["timm>=1.0"], ["numpy", "torch"], shelf.pip)
    shelf.calls.clear()
    assert installer.install_selectively(["timm>=1.0"], ["numpy", "torch"], shelf.pip) == []
    assert shelf.calls == []


def test_an_interrupted_installation_is_completed(shelf: Shelf) -> None:
    """The package is there, what it needs is not."""
    shelf.there["timm"] = "1.0.9"
    assert "huggingface_hub" in installer.install_selectively(["timm>=1.0"], ["numpy", "torch"], shelf.pip)


def test_the_first_failure_ends_it(shelf: Shelf) -> None:
    def broken(arguments: list[str]) -> None:
        if "fsspec" in arguments[-1]:
            raise subprocess.CalledProcessError(1, "pip")
        shelf.pip(arguments)

    with pytest.raises(subprocess.CalledProcessError):
        installer.install_selectively(["timm>=1.0"], ["numpy", "torch"], broken)
    assert "PyYAML" not in shelf.there


def test_pips_own_copy_of_packaging_serves_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    real = installer.importlib.import_module

    def without(name: str) -> ModuleType:
        if name.startswith("packaging."):
            raise ModuleNotFoundError(name)
        return real(name)

    monkeypatch.setattr(installer.importlib, "import_module", without)
    assert installer.satisfied("pytest>=1")
    assert not installer.satisfied("pytest<1")
    assert not installer.satisfied("no-such-package")


def test_real_pip_leaves_slicers_packages_alone(tmp_path: Path) -> None:
    """In a fresh environment: a package with a dependency comes in, numpy (old, and asked for in a newer version that lies ready) stays as it is."""
    shelf, home = tmp_path / "a folder of wheels", tmp_path / "venv"
    write_wheel(shelf, "tiny", "1.2", ["tiny-part>=2", "numpy>=2", "vtk", 'unwanted; extra == "more"', 'never; python_version < "3"'])
    write_wheel(shelf, "tiny-part", "2.1")
    for name in ("numpy", "vtk", "unwanted", "never"):
        write_wheel(shelf, name, "9.9")
    old = write_wheel(tmp_path / "bundled", "numpy", "1.0")
    venv.create(home, with_pip=True, symlinks=sys.platform != "win32")
    python = str(home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python"))
    environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": shelf.as_uri(), "PYTHONPATH": str(MODULE), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-index", str(old)], check=True, capture_output=True)
    code = (
        "import json, subprocess, sys\n"
        "from SphericalRegModule.installer import install_selectively\n"
        "pip = lambda arguments: subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', *arguments], check=True)\n"
        "done = install_selectively(['tiny>=1'], ['vtk', 'numpy'], pip)\n"
        "import tiny, tiny_part, numpy, importlib.util as u\n"
        "print(json.dumps([done, tiny.version, tiny_part.version, numpy.version, [n for n in ('vtk', 'unwanted', 'never') if u.find_spec(n)]]))\n"
        "install_selectively(['absent>=1'], [], pip)\n"
    )
    done = subprocess.run([python, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout) == [["tiny", "tiny-part"], "1.2", "2.1", "1.0", []], done.stderr
    assert done.returncode
    assert "No matching distribution found for absent" in done.stderr
