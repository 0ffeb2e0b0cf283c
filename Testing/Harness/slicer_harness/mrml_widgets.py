"""qMRML and qSlicer widgets, bound to a real vtkMRMLScene."""

from __future__ import annotations

from typing import Any

import shiboken6
import slicer
from PySide6.QtCore import Property, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QWidget

from .ctk_standin import ctkSliderWidget
from .ui_loader import custom_widget


def in_slicer(cls: type) -> type:
    """Class decorator: a widget that Slicer has as `slicer.<name>` and .ui files may name."""
    setattr(slicer, cls.__name__, cls)
    return custom_widget(cls)


@in_slicer
class qMRMLWidget(QWidget):
    """A widget that knows a scene and tells its children."""

    SIGNALS = ("mrmlSceneChanged(vtkMRMLScene*)",)
    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene


def _flag(name: str) -> Any:
    return Property(bool, lambda self: self._flags[name], lambda self, value: self._set_flag(name, value))


@in_slicer
class qMRMLNodeComboBox(QWidget):
    """Chooses a node of the scene, by class and attribute; follows the scene."""

    SIGNALS = (
        "currentNodeChanged(vtkMRMLNode*)",
        "currentNodeIDChanged(QString)",
        "nodeAddedByUser(vtkMRMLNode*)",
        "mrmlSceneChanged(vtkMRMLScene*)",
    )
    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)
    nodeAddedByUser = Signal(object)
    mrmlSceneChanged = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._box = QComboBox(self)
        row = QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self._scene: Any = None
        self._tags: list[int] = []
        self._types: list[str] = []
        self._attributes: dict[tuple[str, str], str | None] = {}
        self._base_name = ""
        self._current: str | None = None
        self._ids: list[str | None] = []
        self._flags = {
            "noneEnabled": False,
            "addEnabled": True,
            "removeEnabled": True,
            "renameEnabled": False,
            "editEnabled": False,
            "showHidden": False,
            "showChildNodeTypes": True,
            "selectNodeUponCreation": True,
        }
        self._box.activated.connect(self._on_activated)

    # -- the scene

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._scene, self._tags = scene, []
        if scene is not None:
            events = (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndCloseEvent, scene.EndImportEvent, scene.EndBatchProcessEvent)
            self._tags = [scene.AddObserver(event, self._on_scene) for event in events]
        self._refresh()
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        return self._scene

    def _on_scene(self, caller: Any, _event: str) -> None:
        if shiboken6.isValid(self) and shiboken6.isValid(self._box):
            if not caller.IsBatchProcessing():  # at its end there is one event for all
                self._refresh()
            return
        for tag in self._tags:  # the widget is gone, its Python half is still observing
            caller.RemoveObserver(tag)
        self._tags.clear()

    def _matches(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._flags["showHidden"]:
            return False
        fits = [name for name in self._types if (node.IsA(name) if self._flags["showChildNodeTypes"] else node.GetClassName() == name)]
        wanted = [(key, value) for (name, key), value in self._attributes.items() if name in fits]
        return bool(fits) and all(
            node.GetAttribute(key) is not None if value is None else node.GetAttribute(key) == value for key, value in wanted
        )

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        nodes = (self._scene.GetNthNode(index) for index in range(self._scene.GetNumberOfNodes()))
        return [node for node in nodes if self._matches(node)]

    def nodeCount(self) -> int:
        return len(self._nodes())

    def _refresh(self) -> None:
        nodes = self._nodes()
        none = self._flags["noneEnabled"]
        self._ids = [*([None] if none else []), *(node.GetID() for node in nodes)]
        self._box.clear()
        self._box.addItems([*(["None"] if none else []), *(node.GetName() or "" for node in nodes)])
        if self._flags["addEnabled"]:
            self._box.addItems([f"Create new {name.removeprefix('vtkMRML').removesuffix('Node')}" for name in self._types])
        if self._current not in self._ids:
            automatic = bool(nodes) and not none and not self._scene.IsClosing()
            self._select(nodes[0].GetID() if automatic else None)
        self._box.setCurrentIndex(self._ids.index(self._current) if self._current in self._ids else -1)

    # -- choosing

    def _select(self, node_id: str | None) -> None:
        if node_id == self._current:
            return
        self._current = node_id
        self._box.setCurrentIndex(self._ids.index(node_id) if node_id in self._ids else -1)
        self.currentNodeChanged.emit(self.currentNode())
        self.currentNodeIDChanged.emit(node_id or "")

    def _on_activated(self, index: int) -> None:
        if index < len(self._ids):
            self._select(self._ids[index])
        else:
            self.addNode(self._types[index - len(self._ids)])

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def setCurrentNode(self, node: Any) -> None:
        self._select(node.GetID() if node is not None else None)

    def setCurrentNodeID(self, node_id: str) -> None:
        self._select(node_id or None)

    def addNode(self, class_name: str = "") -> Any:
        name = class_name or self._types[0]
        base = self._base_name or name.removeprefix("vtkMRML").removesuffix("Node")
        node = self._scene.AddNewNodeByClass(name, self._scene.GenerateUniqueName(base))
        for (type_name, key), value in self._attributes.items():
            if type_name == name:
                node.SetAttribute(key, value or "")
        self.setCurrentNode(node)
        self.nodeAddedByUser.emit(node)
        return node

    def addAttribute(self, type_name: str, key: str, value: str | None = None) -> None:
        self._attributes[(type_name, key)] = value
        self._refresh()

    def _set_types(self, names: list[str]) -> None:
        self._types = list(names)
        self._refresh()

    def _set_flag(self, name: str, value: bool) -> None:
        self._flags[name] = bool(value)
        self._refresh()

    def _set_base_name(self, name: str) -> None:
        self._base_name = name

    nodeTypes = Property("QStringList", lambda self: self._types, _set_types)
    baseName = Property(str, lambda self: self._base_name, _set_base_name)
    currentNodeID = Property(str, lambda self: self._current or "", setCurrentNodeID)
    noneEnabled = _flag("noneEnabled")
    addEnabled = _flag("addEnabled")
    removeEnabled = _flag("removeEnabled")
    renameEnabled = _flag("renameEnabled")
    editEnabled = _flag("editEnabled")
    showHidden = _flag("showHidden")
    showChildNodeTypes = _flag("showChildNodeTypes")
    selectNodeUponCreation = _flag("selectNodeUponCreation")


@in_slicer
class qMRMLSliderWidget(ctkSliderWidget):
    """A slider that may show the scene's units."""

    def setMRMLScene(self, scene: Any) -> None:
        """Units are of no concern here."""


# Slicer's own parameterNodeWrapper names these classes; a .ui file that uses one fails in the loader.
for _name in (
    "qMRMLRangeWidget",
    "qMRMLSpinBox",
    "qMRMLSubjectHierarchyComboBox",
    "qMRMLSubjectHierarchyTreeView",
    "qMRMLCheckableNodeComboBox",
    "qSlicerSimpleMarkupsWidget",
    "qSlicerWidget",
):
    setattr(slicer, _name, type(_name, (QWidget,), {"__doc__": "Named, not built."}))
