"""Installs Python packages one by one, without those that must not be touched. Knows nothing of Slicer: pip is given.

pip itself cannot leave out a dependency. So each package is installed with ``--no-deps``, and what it asks for is looked up afterwards and installed
the same way. Slicer 5.12 has the like (`slicer.packaging`); this is for those before it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Collection, Iterable
from typing import Any

Pip = Callable[[list[str]], None]
"""Takes what follows ``pip install``; raises if it fails."""


def install_selectively(requirements: Iterable[str], untouched: Collection[str], pip: Pip, options: Iterable[str] = ()) -> list[str]:
    """Install requirements with all that they need, except for some packages.

    Args:
        requirements: as pip writes them, such as "timm>=1.0".
        untouched: names of packages that are neither installed nor replaced, whoever asks for them.
        pip: called once for each package.
        options: further arguments of each call, such as a constraints file.

    Returns:
        The names of the packages that were installed, in order.

    Raises:
        Whatever `pip` raises: the first failure ends it. What was installed before stays.
    """
    canonical = _packaging("utils").canonicalize_name
    seen = {canonical(name) for name in untouched}
    done: list[str] = []

    def install(requirement: Any) -> None:
        name = canonical(requirement.name)
        if name in seen:
            return
        seen.add(name)
        if not _satisfied(requirement):
            pip(["--no-deps", *options, f"{requirement.name}{requirement.specifier}"])
            importlib.invalidate_caches()
            done.append(requirement.name)
        for needed in _needs(requirement):
            install(needed)

    for text in requirements:
        install(_packaging("requirements").Requirement(text))
    return done


def satisfied(requirement: str) -> bool:
    """Whether a package is installed in a version that suits."""
    return _satisfied(_packaging("requirements").Requirement(requirement))


def lacking(requirement: str, untouched: Collection[str]) -> list[str]:
    """What an installed package needs, directly or not, and is not there: an installation that broke off left it so."""
    canonical = _packaging("utils").canonicalize_name
    seen = {canonical(name) for name in untouched}
    found: list[str] = []

    def look(one: Any) -> None:
        for needed in _needs(one):
            if canonical(needed.name) in seen:
                continue
            seen.add(canonical(needed.name))
            if _version(needed) is None:
                found.append(f"{needed.name}{needed.specifier}")
            else:
                look(needed)

    look(_packaging("requirements").Requirement(requirement))
    return found


def _satisfied(requirement: Any) -> bool:
    version = _version(requirement)
    return version is not None and bool(requirement.specifier.contains(version, prereleases=True))


def _version(requirement: Any) -> str | None:
    try:
        return importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _needs(requirement: Any) -> list[Any]:
    """What an installed package asks for here: on this system, with the extras that are wanted."""
    try:
        texts = importlib.metadata.requires(requirement.name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    wanted = ["", *requirement.extras]
    found = map(_packaging("requirements").Requirement, texts)
    return [one for one in found if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in wanted)]


def _packaging(module: str) -> Any:
    """The `packaging` library, or the copy of it that pip brings."""
    try:
        return importlib.import_module(f"packaging.{module}")
    except ModuleNotFoundError:
        return importlib.import_module(f"pip._vendor.packaging.{module}")
