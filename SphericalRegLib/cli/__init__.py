"""The ``sphericalreg`` command: one module per word, each a thin layer over the library. Heavy imports happen inside the commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typer import Typer


def load() -> Typer:
    """The application with all its commands."""
    from . import benchmark, benchmark_method, demo, inspect, landscape, many, panel, register, selftest, simulate, train  # noqa: F401 (each module adds its command)
    from .app import app

    return app


def main() -> None:
    """Entry point of ``sphericalreg`` and ``python -m SphericalRegLib``."""
    load()(prog_name="sphericalreg")
