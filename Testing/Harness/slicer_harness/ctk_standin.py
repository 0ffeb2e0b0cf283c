"""The `ctk` module: the widgets of the CommonToolkit that the module uses, from their public behaviour."""

from __future__ import annotations

import re
import sys
import types
from fnmatch import fnmatch
from typing import Any

from PySide6.QtCore import Property, Qt, Signal
from PySide6.QtWidgets import QComboBox, QDoubleSpinBox, QFileDialog, QFrame, QHBoxLayout, QSlider, QToolButton, QWidget

from .ui_loader import custom_widget


@custom_widget
class ctkCollapsibleButton(QFrame):
    """A heading that shows and hides what is below it."""

    SIGNALS = ("contentsCollapsed(bool)", "toggled(bool)", "clicked(bool)")
    contentsCollapsed = Signal(bool)
    toggled = Signal(bool)
    clicked = Signal(bool)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._text, self._collapsed, self._height = "", False, 0
        self._heading = QToolButton(self)
        self._heading.setAutoRaise(True)
        self._heading.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._heading.clicked.connect(self._on_heading)
        self._heading.move(0, 0)
        self._heading.setStyleSheet("QToolButton { font-weight: bold; text-align: left; }")
        self.setContentsMargins(0, 26, 0, 0)
        self._retitle()

    def _retitle(self) -> None:
        self._heading.setArrowType(Qt.ArrowType.RightArrow if self._collapsed else Qt.ArrowType.DownArrow)
        self._heading.setText(self._text)
        self._heading.adjustSize()

    def _set_text(self, text: str) -> None:
        self._text = text
        self._retitle()

    def _set_collapsed(self, collapsed: bool) -> None:
        changed, self._collapsed = collapsed != self._collapsed, bool(collapsed)
        for child in self.findChildren(QWidget, options=Qt.FindChildOption.FindDirectChildrenOnly):
            if child is not self._heading:
                child.setVisible(not collapsed)
        self.setMaximumHeight(26 if collapsed else 16777215)
        self.setContentsMargins(0, 26, 0, 0)  # a widget that is loaded collapsed has lost them
        self._retitle()
        if changed:
            self.contentsCollapsed.emit(self._collapsed)
            self.toggled.emit(not self._collapsed)

    def childEvent(self, event: Any) -> None:
        super().childEvent(event)
        child = event.child()
        if self._collapsed and event.added() and child.isWidgetType() and child is not self._heading:
            child.setVisible(False)

    def _on_heading(self) -> None:
        self._set_collapsed(not self._collapsed)
        self.clicked.emit(not self._collapsed)

    def setText(self, text: str) -> None:
        self._set_text(text)

    def click(self) -> None:
        self._on_heading()

    text = Property(str, lambda self: self._text, _set_text)
    collapsed = Property(bool, lambda self: self._collapsed, _set_collapsed)
    checked = Property(bool, lambda self: not self._collapsed, lambda self, value: self._set_collapsed(not value))
    contentsLineWidth = Property(int, lambda self: 1, lambda self, value: None)


@custom_widget
class ctkSliderWidget(QWidget):
    """A slider and a spin box with one value."""

    SIGNALS = ("valueChanged(double)", "valueIsChanging(double)")
    valueChanged = Signal(float)
    valueIsChanging = Signal(float)
    _STEPS = 1000

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._slider, self._spin, self._busy = QSlider(Qt.Orientation.Horizontal, self), QDoubleSpinBox(self), False
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider, 1)
        row.addWidget(self._spin)
        self._slider.setRange(0, self._STEPS)
        self._spin.valueChanged.connect(self._on_spin)
        self._slider.valueChanged.connect(self._on_slider)

    def _sync(self) -> None:
        low, high = self._spin.minimum, self._spin.maximum
        self._busy = True
        self._slider.setValue(round(self._STEPS * (self._spin.value - low) / (high - low)) if high > low else 0)
        self._busy = False

    def _on_spin(self, value: float) -> None:
        self._sync()
        self.valueChanged.emit(value)

    def _on_slider(self, step: int) -> None:
        if not self._busy:
            low, high = self._spin.minimum, self._spin.maximum
            self._spin.setValue(low + (high - low) * step / self._STEPS)

    def _limit(self, low: float, high: float) -> None:
        self._spin.setRange(low, high)
        self._sync()

    def setValue(self, value: float) -> None:
        self._spin.setValue(value)

    value = Property(float, lambda self: self._spin.value, setValue)
    minimum = Property(float, lambda self: self._spin.minimum, lambda self, value: self._limit(value, self._spin.maximum))
    maximum = Property(float, lambda self: self._spin.maximum, lambda self, value: self._limit(self._spin.minimum, value))
    singleStep = Property(float, lambda self: self._spin.singleStep, lambda self, value: self._spin.setSingleStep(value))
    decimals = Property(int, lambda self: self._spin.decimals, lambda self, value: self._spin.setDecimals(value))
    suffix = Property(str, lambda self: self._spin.suffix, lambda self, value: self._spin.setSuffix(value))


@custom_widget
class ctkPathLineEdit(QWidget):
    """A path to type or to choose. As in CTK, only a path that the name filters allow is told of, and the filters decide what "..." opens."""

    SIGNALS = ("currentPathChanged(QString)",)
    currentPathChanged = Signal(str)
    Dirs, Files, Drives, AllEntries, Readable, Writable, Executable = 1, 2, 4, 7, 16, 32, 64
    DontConfirmOverwrite = 4

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._box, self._button = QComboBox(self), QToolButton(self)
        self._box.setEditable(True)
        self._box.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self._edit = self._box.lineEdit()
        self._button.setText("...")
        self._values: dict[str, Any] = {"nameFilters": [], "filters": self.AllEntries | self.Readable | self.Executable, "options": 0}
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box, 1)
        row.addWidget(self._button)
        self._edit.textChanged.connect(self._on_text)
        self._button.clicked.connect(lambda _checked: self.browse())

    def _keep(self, key: str, value: Any) -> None:
        self._values[key] = value

    def _on_text(self, text: str) -> None:
        patterns = re.findall(r"\*\.\w+", " ".join(self._values["nameFilters"])) or ["*"]
        if text and any(fnmatch(text, pattern) for pattern in patterns):
            self.currentPathChanged.emit(text)

    def comboBox(self) -> QComboBox:
        return self._box

    def browse(self) -> None:
        """What "..." does: files to write or to open, or a folder where files are not among the filters."""
        if not self._values["filters"] & self.Files:
            path = QFileDialog.getExistingDirectory(self, "", self.currentPath)
        else:
            ask = QFileDialog.getSaveFileName if self._values["filters"] & self.Writable else QFileDialog.getOpenFileName
            path = ask(self, "", self.currentPath, ";;".join(self._values["nameFilters"]))[0]
        if path:
            self.setCurrentPath(path)

    def setCurrentPath(self, path: str) -> None:
        self._edit.setText(path)

    currentPath = Property(str, lambda self: self._edit.text, setCurrentPath)
    nameFilters = Property("QStringList", lambda self: self._values["nameFilters"], lambda self, value: self._keep("nameFilters", value))
    filters = Property(int, lambda self: self._values["filters"], lambda self, value: self._keep("filters", value))
    options = Property(int, lambda self: self._values["options"], lambda self, value: self._keep("options", value))


# Slicer's own parameterNodeWrapper names these classes; a .ui file that uses one fails in the loader.
_NAMED_ONLY = (
    "ctkCheckBox",
    "ctkCheckablePushButton",
    "ctkCollapsibleGroupBox",
    "ctkColorPickerButton",
    "ctkComboBox",
    "ctkDirectoryButton",
    "ctkDoubleRangeSlider",
    "ctkDoubleSlider",
    "ctkDoubleSpinBox",
    "ctkRangeWidget",
)


def install() -> types.ModuleType:
    """Make the module importable as `ctk`; a second call returns the same module."""
    if "ctk" in sys.modules:
        return sys.modules["ctk"]
    module = types.ModuleType("ctk", __doc__)
    for cls in (ctkCollapsibleButton, ctkSliderWidget, ctkPathLineEdit):
        setattr(module, cls.__name__, cls)
    for name in _NAMED_ONLY:
        setattr(module, name, type(name, (QWidget,), {"__doc__": "Named, not built."}))
    sys.modules["ctk"] = module
    return module
