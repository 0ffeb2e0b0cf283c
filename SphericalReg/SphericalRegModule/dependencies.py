"""Python packages that Slicer does not bring: installed on first use, after asking, without touching those that it brings."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError

# Import name -> requirement. Kept short: what a registration needs, not what training or benchmarks need.
REQUIRED = {
    "warp": "warp-lang>=1.15",
    "roma": "roma>=1.5",
    "safetensors": "safetensors>=0.4",
    "timm": "timm>=1.0",
    "matplotlib": "matplotlib>=3.8",
}
TORCH = ">=2.4"

# Slicer's own, some of them special builds: never replaced.
BUNDLED = ("vtk", "SimpleITK", "numpy", "scipy", "requests", "pillow", "pydicom")
SKIPPED = (*BUNDLED, "torch", "torchvision", "pyvista")
LAST_LINES = 25
OFFLINE_SETTING = "SphericalReg/OfflinePackages"
INSTALLED_SETTING = "SphericalReg/InstalledPackages"


def missing() -> list[str]:
    """Requirements that are not met; torch first. Looks only, imports nothing."""
    wanted = {"torch": f"torch{TORCH}", **REQUIRED}
    return [requirement for name, requirement in wanted.items() if name not in sys.modules and importlib.util.find_spec(name) is None]


def ensure() -> None:
    """Install what is missing, after asking.

    Raises:
        InputError: declined, or the installation failed; the message holds pip's last lines.
    """
    needed = missing()
    if not needed:
        return
    question = _("SphericalReg needs Python packages that Slicer does not have yet:\n\n{names}\n\nInstall them now? This can take some minutes.")
    if not slicer.util.confirmOkCancelDisplay(question.format(names="\n".join(needed)), windowTitle="SphericalReg"):
        raise InputError(_("The packages {names} are needed and were not installed.").format(names=", ".join(needed)))
    before = _versions()
    others = [requirement for requirement in needed if not requirement.startswith("torch>")]
    try:
        if len(others) < len(needed):
            _install_torch()
        if others:
            _install(others)
    except (subprocess.CalledProcessError, RuntimeError, OSError) as error:
        raise InputError(_("The installation failed. Its last lines:\n{lines}").format(lines=_last_lines(error))) from error
    finally:
        _remember(before)
    left = missing()
    if left:
        raise InputError(_("After the installation {names} are still missing: restart Slicer and try again.").format(names=", ".join(left)))
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
    code = "import " + ", ".join(["torch", *REQUIRED])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = "\n".join(done.stderr.splitlines()[-LAST_LINES:])
        raise InputError(_("The packages are installed but do not load:\n{lines}").format(lines=lines))


def installed() -> dict[str, str]:
    """Packages that `ensure` brought, with their versions."""
    return json.loads(slicer.app.settings().value(INSTALLED_SETTING) or "{}")


def remove_installed() -> None:
    """Uninstall what `ensure` brought; they are gone after a restart."""
    names = list(installed())
    if names:
        slicer.util.pip_uninstall(" ".join(names))
    slicer.app.settings().setValue(INSTALLED_SETTING, "{}")


def _install_torch() -> None:
    """Through the PyTorch extension, which knows the wheel that fits the graphics driver."""
    try:
        import PyTorchUtils
    except ModuleNotFoundError:
        raise RuntimeError(_("The PyTorch extension is missing: install it with the Extensions Manager and restart Slicer.")) from None
    if PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=False, torchVersionRequirement=TORCH) is None:
        raise RuntimeError(_("The PyTorch extension could not install PyTorch."))


def _install(requirements: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "constraints.txt"
        pins.write_text(constraints(), encoding="utf-8")
        try:
            import slicer.packaging  # Slicer 5.12 and later
        except ModuleNotFoundError:
            _install_one_by_one(requirements, pins)
            return
        slicer.packaging.pip_install(requirements, constraints=str(pins), skip_packages=list(SKIPPED), requester="SphericalReg")


def _install_one_by_one(requirements: list[str], pins: Path) -> None:
    """Without dependencies: all of theirs are in the list, among Slicer's own, or not needed for a registration."""
    offline = slicer.app.settings().value(OFFLINE_SETTING)
    source = f'--no-index --find-links "{offline}"' if offline else ""
    for requirement in requirements:
        slicer.util.pip_install(f'--no-deps {source} -c "{pins}" "{requirement}"')


def _versions() -> dict[str, str]:
    return {str(found.metadata["Name"]).lower(): found.version for found in importlib.metadata.distributions() if found.metadata["Name"]}


def _remember(before: dict[str, str]) -> None:
    importlib.invalidate_caches()
    new = {name: version for name, version in _versions().items() if name not in before}
    if new:
        slicer.app.settings().setValue(INSTALLED_SETTING, json.dumps({**installed(), **new}))


def _last_lines(error: Any) -> str:
    text = getattr(error, "output", None) or getattr(error, "stderr", None) or str(error)
    return "\n".join(str(text).splitlines()[-LAST_LINES:])
