#!/usr/bin/env python3
"""Writes the file lists that CMake installs, from the folders.

    python Testing/cmake_lists.py            brings the lists up to date
    python Testing/cmake_lists.py --check    says what is missing, and exits with 1
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("SphericalReg", "SphericalRegLib")
NOT_INSTALLED = {"CMakeLists.txt", "files.cmake"}


def listing(folder: Path) -> str:
    """The content of a folder's files.cmake."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _belongs(path.relative_to(folder)))
    scripts = [path for path in files if path.suffix == ".py"]
    resources = [path for path in files if path.suffix != ".py"]
    parts = [_set("MODULE_PYTHON_SCRIPTS", scripts, folder), _set("MODULE_PYTHON_RESOURCES", resources, folder)]
    return "# Written by Testing/cmake_lists.py.\n" + "\n".join(parts)


def _belongs(path: Path) -> bool:
    hidden = any(part.startswith(".") or part in ("__pycache__", "_resources") for part in path.parts)
    return not hidden and path.suffix not in (".pyc", ".part") and path.name not in NOT_INSTALLED


def _set(name: str, paths: list[Path], folder: Path) -> str:
    lines = "".join(f"  {path.relative_to(folder).as_posix()}\n" for path in paths)
    return f"set({name}\n{lines}  )\n"


def main(arguments: list[str]) -> int:
    code = 0
    for name in FOLDERS:
        path, wanted = ROOT / name / "files.cmake", listing(ROOT / name)
        if arguments == ["--check"]:
            if not path.exists() or path.read_text(encoding="utf-8") != wanted:
                print(f"{name}/files.cmake is not up to date: run python Testing/cmake_lists.py", file=sys.stderr)
                code = 1
        else:
            path.write_text(wanted, encoding="utf-8", newline="\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
