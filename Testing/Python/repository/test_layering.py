"""Imports run one way: a room imports only itself and the rooms listed above it in docs/architecture.md."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import SphericalRegLib

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "SphericalRegLib"

# Rooms of one line may not import each other; a room may import every line above its own.
ORDER = (
    {"errors", "progress", "resources"},
    {"devices"},
    {"geometry"},
    {"imaging"},
    {"rendering"},
    {"simulation"},
    {"models"},
    {"similarity"},
    {"optimization"},
    {"registration"},
    {"training"},
    {"visualization"},
    {"evaluation"},
    {"mrml"},
    {"cli"},
    {"__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path, package: Path) -> str:
    return path.relative_to(package).parts[0].removesuffix(".py")


def imported_rooms(path: Path, package: Path) -> dict[str, int]:
    """Rooms that a module imports, inside functions too, with the line; `from SphericalRegLib import X` counts as the room that X lives in."""
    found: dict[str, int] = {}
    inside = path.relative_to(package.parent).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = [*inside[: len(inside) - node.level], *(node.module or "").split(".")] if node.level else (node.module or "").split(".")
            names = [".".join([*filter(None, base), alias.name]) for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] != package.name or len(parts) < 2:
                continue
            target = SphericalRegLib._PUBLIC.get(parts[1], parts[1]).split(".")[0]
            if target in LEVEL:
                found.setdefault(target, node.lineno)
    return found


def violations(path: Path, package: Path) -> list[str]:
    room = room_of(path, package)
    return [
        f"{path.relative_to(package.parent).as_posix()}:{line}: {room} imports {target}"
        for target, line in imported_rooms(path, package).items()
        if target != room and LEVEL[target] >= LEVEL[room]
    ]


def test_every_room_has_its_place() -> None:
    rooms = {room_of(path, PACKAGE) for path in MODULES}
    assert rooms <= set(LEVEL), f"say in docs/architecture.md and here where these rooms stand: {sorted(rooms - set(LEVEL))}"


def test_the_order_is_the_one_that_is_written_down() -> None:
    table = [line for line in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    written = [tuple(re.findall(r"`(\w+)`", line.split("|")[1])) for line in table]
    order = [set(rooms) for rooms in written]
    assert order == [rooms for rooms in ORDER if rooms & set().union(*order)]


def test_no_import_runs_upward() -> None:
    assert MODULES
    assert not [line for path in MODULES for line in violations(path, PACKAGE)]


@pytest.mark.parametrize(
    "line",
    [
        "from SphericalRegLib.cli.app import app",
        "import SphericalRegLib.registration.pipeline",
        "from SphericalRegLib import register",
        "from SphericalRegLib import similarity",
        "from ..imaging import volume",
        "def f():\n    from SphericalRegLib.rendering.projector import Projector",
    ],
)
def test_the_check_sees_an_upward_import(tmp_path: Path, line: str) -> None:
    module = tmp_path / "SphericalRegLib" / "geometry" / "wrong.py"
    module.parent.mkdir(parents=True)
    module.write_text(line, encoding="utf-8")
    assert violations(module, tmp_path / "SphericalRegLib")


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "warp", "vtk", "matplotlib", "numpy", "SimpleITK", "timm", "diffdrr"}
    code = f"import sys, SphericalRegLib; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = SphericalRegLib.no_such_name


@pytest.mark.parametrize("name", SphericalRegLib.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(SphericalRegLib, name) is not None
