"""Loading a scripted module as Slicer does, from its .py file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from PySide6 import QtWidgets

from .application import boot

slicer = boot()


class qSlicerScriptedLoadableModule:
    """The C++ half of a module: what its Python class gets as `parent`."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = str(path), path.stem
        self.title, self.helpText, self.acknowledgementText = "", "", ""
        self.categories: list[str] = []
        self.dependencies: list[str] = []
        self.contributors: list[str] = []
        self.icon: Any = None
        self._panel: ModulePanel | None = None

    def widgetRepresentation(self) -> Any:
        return self._panel


class ModulePanel(slicer.qMRMLWidget):  # type: ignore[misc,name-defined]
    """The module panel: what the Python widget class gets as `parent`."""

    def __init__(self) -> None:
        super().__init__()
        QtWidgets.QVBoxLayout(self)
        self._entered = True
        self._widget: Any = None

    isEntered = property(lambda self: self._entered, lambda self, value: setattr(self, "_entered", value))

    def self(self) -> Any:
        return self._widget

    def reload(self) -> None:
        """Make the widget anew from the module's current Python code."""
        name = type(self._widget).__name__
        self.set_up(getattr(sys.modules[name.removesuffix("Widget")], name))

    def set_up(self, widget_class: type) -> Any:
        self._widget = widget_class(self)
        setattr(slicer.modules, widget_class.__name__, self._widget)
        self._widget.setup()
        return self._widget

    def enter(self) -> None:
        self._entered = True
        self._widget.enter()

    def exit(self) -> None:
        self._entered = False
        self._widget.exit()


slicer.qSlicerScriptedLoadableModule = qSlicerScriptedLoadableModule
slicer.qSlicerScriptedLoadableModuleWidget = ModulePanel


def load_module(path: str | Path) -> Any:
    """Import a scripted module's file and make its module object: `slicer.modules.<name>`. Returns the Python module."""
    path = Path(path).resolve()
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    module = importlib.import_module(path.stem)
    described = qSlicerScriptedLoadableModule(path)
    setattr(slicer.modules, path.stem.lower(), described)
    getattr(module, path.stem)(described)
    slicer.app.finish_startup()
    return module


def open_module(path: str | Path) -> tuple[Any, Any]:
    """Load a module and set up its panel; returns (the Python widget, the panel)."""
    module = load_module(path)
    name = Path(path).stem
    panel = ModulePanel()
    panel.setObjectName(f"{name}ModuleWidget")
    getattr(slicer.modules, name.lower())._panel = panel
    return panel.set_up(getattr(sys.modules[module.__name__], f"{name}Widget")), panel
