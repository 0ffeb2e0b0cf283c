"""3D Slicer's scripted-module surroundings without the Slicer application.

Real MRML nodes and logics come from slicer-core, real Qt from PySide6; the thin layer between, which Slicer has in C++ (PythonQt, CTK, qMRML
widgets, `slicer.app`), is stood in for here, strictly: what has no stand-in raises. With the environment variable SLICER_PY set to the
``Base/Python/slicer`` folder of a Slicer source tree, Slicer's own ScriptedLoadableModule and parameterNodeWrapper run in place of the stand-ins.

    from slicer_harness import boot
    slicer = boot()
    from slicer_harness.modules import open_module
    widget, panel = open_module("SphericalReg/SphericalReg.py")

What it cannot see (PythonQt's ownership rules, real CTK looks, packaging, interactive view widgets) needs the real application.
"""

from __future__ import annotations

from .application import boot

__all__ = ["boot"]
