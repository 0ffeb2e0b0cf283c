"""`qt.QUiLoader` that makes stand-ins for Slicer's own widgets and checks the connections of a .ui file."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools

from .qt_standin import StandInError

CUSTOM_WIDGETS: dict[str, type] = {}
"""Class name in a .ui file -> stand-in."""


def custom_widget(cls: type) -> type:
    """Class decorator: .ui files may name this class."""
    CUSTOM_WIDGETS[cls.__name__] = cls
    return cls


class UiLoader(QtUiTools.QUiLoader):
    """Loads .ui files; Slicer's signatures (vtkMRMLScene*) mean nothing to Qt, so connections are made here."""

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        made = CUSTOM_WIDGETS.get(class_name)
        if made is None:
            if not class_name.startswith("Q"):
                raise StandInError(f"no stand-in for the widget {class_name}")
            return super().createWidget(class_name, parent, name)
        widget = made(parent)
        widget.setObjectName(name)
        return widget

    def load(self, device: Any, parent: Any = None) -> Any:
        root = ElementTree.fromstring(bytes(device.readAll().data()))
        connections = root.find("connections")
        if connections is not None:
            root.remove(connections)
        _number_flags(root)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(root))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = super().load(buffer, parent)
        for connection in connections if connections is not None else ():
            self._connect(widget, connection)
        return widget

    def _connect(self, widget: Any, connection: ElementTree.Element) -> None:
        sender, signal, receiver, slot = (connection.findtext(key) or "" for key in ("sender", "signal", "receiver", "slot"))
        ends = [widget if widget.objectName == name else widget.findChild(QtCore.QObject, name) for name in (sender, receiver)]
        if None in ends:
            raise StandInError(f"the .ui file connects {sender}.{signal} to {receiver}.{slot}, but one of them does not exist")
        ends[0].connect(signal, ends[1], slot)


def _number_flags(root: ElementTree.Element) -> None:
    """Write flags of stand-ins ("ctkPathLineEdit::Files|ctkPathLineEdit::Writable") as numbers: Qt's loader knows those of C++ classes alone."""
    for described in root.iter("property"):
        flags = described.find("set")
        names = [] if flags is None else [text.partition("::") for text in (flags.text or "").split("|")]
        if flags is None or not all(owner in CUSTOM_WIDGETS for owner, _, _ in names):
            continue
        unknown = [f"{owner}::{flag}" for owner, _, flag in names if not isinstance(getattr(CUSTOM_WIDGETS[owner], flag, None), int)]
        if unknown:
            raise StandInError(f"no stand-in for {', '.join(unknown)}")
        described.remove(flags)
        ElementTree.SubElement(described, "number").text = str(sum({getattr(CUSTOM_WIDGETS[owner], flag) for owner, _, flag in names}))
