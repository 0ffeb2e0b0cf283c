"""Python packages that Slicer does not bring: installed on first use, after asking, without touching those that it brings.

PyTorch comes through the PyTorch extension, which knows the build that fits the graphics driver. The others come through `slicer.packaging` (Slicer
5.12 and later) or `installer` (before). Where there is no network, the setting "SphericalReg/OfflinePackages" names a folder of wheels that
``pip download`` filled elsewhere: then all of them come from there.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError

from .installer import install_selectively, lacking, satisfied
from .training import NO_WINDOW, python_executable

# Import name -> requirement. Kept short: what registration and training need, not what benchmarks need.
REQUIRED = {
    "warp": "warp-lang>=1.15",
    "roma": "roma>=1.5",
    "safetensors": "safetensors>=0.4",
    "timm": "timm>=1.0",
    "matplotlib": "matplotlib>=3.8",
    "rich": "rich>=13",
    "typer": "typer>=0.12",
}
TORCH_VERSION = ">=2.4"
TORCH = {"torch": f"torch{TORCH_VERSION}", "torchvision": "torchvision"}

# Slicer's own, some of them special builds: never replaced.
BUNDLED = ("vtk", "SimpleITK", "numpy", "scipy", "requests", "pillow", "pydicom")
LAST_LINES = 25
OFFLINE_SETTING = "SphericalReg/OfflinePackages"
INSTALLED_SETTING = "SphericalReg/InstalledPackages"

Ask = Callable[[str], bool]
Install = Callable[[list[str]], None]


def missing() -> list[str]:
    """Requirements that are not met, torch first, and what packages that are there lack. Looks only, imports nothing."""
    found = [requirement for name, requirement in TORCH.items() if not _met(name, requirement)]
    for name, requirement in REQUIRED.items():
        found += _lacking(requirement) if _met(name, requirement) else [requirement]
    if found:
        _forget_what_is_there()  # so that the next call sees what was installed meanwhile
    return list(dict.fromkeys(found))


def ensure(ask: Ask | None = None, install: Install | None = None, install_torch: Install | None = None) -> None:
    """Install what is missing, after asking. Quick where nothing is.

    Args:
        ask: gets the question, answers whether to go on; None: a message box. A script that needs no asking gives ``lambda question: True``.
        install, install_torch: bring requirements; None: as this Slicer does it.

    Raises:
        InputError: PyTorch is missing and so is its extension, declined, nobody is there to be asked, or the installation failed; then the message
            ends with pip's last lines.
    """
    needed = missing()
    if not needed:
        return
    torch = [requirement for requirement in needed if requirement in TORCH.values()]
    if torch and install_torch is None:
        _check_extension()  # before the question: its answer could not be followed
    question = _("SphericalReg needs Python packages that Slicer does not have yet:\n\n{names}\n\nInstall them now? This can take some minutes.")
    if not (ask or _message_box)(question.format(names="\n".join(needed))):
        raise InputError(_("The packages {names} are needed and were not installed.").format(names=", ".join(needed)))
    before, said = _versions(), deque[str](maxlen=LAST_LINES)
    others = [requirement for requirement in needed if requirement not in torch]
    try:
        with _listening(said), _offline():
            if torch:
                (install_torch or _install_torch)(torch)
            if others:
                (install or _install)(others)
    except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
        raise InputError(_("The installation failed: {why}").format(why=_why(error, said))) from error
    finally:
        _remember(before)
    left = missing()
    if left:
        names, lines = ", ".join(left), "\n".join(said)
        raise InputError(_("After the installation {names} are still missing. Its last lines:\n{lines}").format(names=names, lines=lines))
    verify()


def constraints() -> str:
    """Lines of a constraints file that pins what Slicer brings to the versions that it has."""
    versions = _versions()
    return "".join(f"{name}=={versions[name.lower()]}\n" for name in BUNDLED if name.lower() in versions)


def verify() -> None:
    """Import every package in a process of its own, so that a broken one cannot take Slicer along.

    Raises:
        InputError: one of them does not import.
    """
    code = "import " + ", ".join([*TORCH, *REQUIRED])
    done = subprocess.run([python_executable(), "-c", code], capture_output=True, text=True, check=False, creationflags=NO_WINDOW)
    if done.returncode:
        lines = "\n".join(done.stderr.splitlines()[-LAST_LINES:])
        raise InputError(_("The packages are installed but do not load: restart Slicer and try again. The last lines:\n{lines}").format(lines=lines))


def installed() -> dict[str, str]:
    """Packages that `ensure` brought and that are still there, with their versions."""
    return dict(_still_there(slicer.app.settings().value(INSTALLED_SETTING) or "{}"))


def remove_installed(uninstall: Install | None = None) -> list[str]:
    """Uninstall what `ensure` brought; it is gone after a restart. Returns the packages' names.

    Raises:
        InputError: pip failed; the message ends with its last lines, and the list of what was installed stays.
    """
    names, said = list(installed()), deque[str](maxlen=LAST_LINES)
    try:
        if names:
            with _listening(said):
                (uninstall or slicer.util.pip_uninstall)(names)
    except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
        raise InputError(_("The packages could not be removed: {why}").format(why=_why(error, said))) from error
    importlib.invalidate_caches()
    _forget_what_is_there()
    slicer.app.settings().setValue(INSTALLED_SETTING, "{}")
    return names


# How this Slicer installs ------------------------------------------------------------------------------------------------------------------------


def _install_torch(requirements: list[str]) -> None:
    """Through the PyTorch extension; from the folder of wheels where there is no network."""
    if offline_folder() is not None:
        _walk(requirements)
        return
    import PyTorchUtils

    if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=TORCH_VERSION) is None:
        raise RuntimeError(_("The PyTorch extension could not install PyTorch."))


def _check_extension() -> None:
    """Raises InputError: the PyTorch extension is missing, and there is no folder of wheels in its place."""
    if offline_folder() is None and sys.modules.get("PyTorchUtils") is None and importlib.util.find_spec("PyTorchUtils") is None:
        raise InputError(_("SphericalReg needs Slicer's PyTorch extension: install it with the Extensions Manager, and restart Slicer."))


def _install(requirements: list[str]) -> None:
    try:
        import slicer.packaging  # Slicer 5.12 and later
    except ModuleNotFoundError:
        _walk(requirements)
        return
    with _pins() as pins:
        slicer.packaging.pip_install(requirements, constraints=pins, skip_packages=[*BUNDLED, *TORCH], requester="SphericalReg")


def _walk(requirements: list[str]) -> None:
    asked_for = {requirement for requirement in requirements if requirement in TORCH.values()}
    untouched = [*BUNDLED, *(name for name, requirement in TORCH.items() if requirement not in asked_for)]
    with _pins() as pins:
        install_selectively(requirements, untouched, slicer.util.pip_install, ["-c", pins])


@contextlib.contextmanager
def _pins() -> Iterator[str]:
    """A constraints file for as long as pip runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text(constraints(), encoding="utf-8")
        yield str(path)


def offline_folder() -> Path | None:
    """The folder of wheels that the settings name.

    Raises:
        InputError: it is not there.
    """
    text = str(slicer.app.settings().value(OFFLINE_SETTING) or "")
    if not text:
        return None
    folder = Path(text)
    if not folder.is_dir():
        raise InputError(_("The folder of packages that the settings name, {folder}, is not there.").format(folder=folder))
    return folder


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """pip looks into the folder of wheels alone, however it is called."""
    folder = offline_folder()
    values = {} if folder is None else {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": folder.resolve().as_uri()}  # a path with blanks would be two
    kept = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# What is said ------------------------------------------------------------------------------------------------------------------------------------


class _Ear:
    """Writes on to where the output goes, and keeps its last lines: Slicer prints what pip says, and its exceptions do not hold it."""

    def __init__(self, stream: Any, lines: deque[str]) -> None:
        self._stream, self._lines, self._rest = stream, lines, ""

    def write(self, text: str) -> int:
        *whole, self._rest = (self._rest + text).split("\n")
        self._lines.extend(line for line in whole if line.strip())
        if self._stream is not None:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if hasattr(self._stream, "flush"):
            self._stream.flush()


@contextlib.contextmanager
def _listening(lines: deque[str]) -> Iterator[None]:
    with contextlib.redirect_stdout(_Ear(sys.stdout, lines)):  # type: ignore[type-var]
        yield


def _why(error: Exception, said: deque[str]) -> str:
    reason = _("pip ended with code {code}.").format(code=error.returncode) if isinstance(error, subprocess.CalledProcessError) else str(error)
    own = [text for text in (getattr(error, "output", None), getattr(error, "stderr", None)) if isinstance(text, str)]
    lines = list(said) or "\n".join(own).splitlines()[-LAST_LINES:]
    return "\n".join([reason, _("The last lines:"), *lines]) if lines else reason


def _message_box(question: str) -> bool:
    """Ask in a window; where there is none, or in Slicer's testing mode (which would always answer yes), nothing is installed."""
    if slicer.app.testingEnabled() or slicer.util.mainWindow() is None:
        raise InputError(
            _(
                "Python packages are missing and nobody can be asked here: start Slicer with its window once and open SphericalReg, or call "
                "SphericalRegModule.dependencies.ensure(ask=lambda question: True).\n\n{question}"
            ).format(question=question)
        )
    return bool(slicer.util.confirmOkCancelDisplay(question, windowTitle="SphericalReg"))


def _forget_what_is_there() -> None:
    for look in (_met, _lacking, _still_there):
        look.cache_clear()


@functools.lru_cache(maxsize=1)
def _still_there(listed: str) -> tuple[tuple[str, str], ...]:
    """(name, version) of packages of a JSON list; kept, for the panel asks with every change, and to look up all packages takes a moment."""
    there = _versions()
    return tuple((name, there[name]) for name in json.loads(listed) if name in there)


@functools.lru_cache
def _lacking(requirement: str) -> tuple[str, ...]:
    return tuple(lacking(requirement, [*BUNDLED, *TORCH]))


@functools.lru_cache
def _met(name: str, requirement: str) -> bool:
    """Whether a package is there; kept, for a live DRR asks with every frame."""
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        return False
    project = requirement.partition(">")[0]
    try:
        importlib.metadata.version(project)
    except importlib.metadata.PackageNotFoundError:
        return True  # there without a record: nobody knows its version
    return satisfied(requirement)


def _versions() -> dict[str, str]:
    return {str(found.metadata["Name"]).lower(): found.version for found in importlib.metadata.distributions() if found.metadata["Name"]}


def _remember(before: dict[str, str]) -> None:
    importlib.invalidate_caches()
    _forget_what_is_there()
    new = {name: version for name, version in _versions().items() if name not in before}
    if new:
        slicer.app.settings().setValue(INSTALLED_SETTING, json.dumps({**installed(), **new}))
