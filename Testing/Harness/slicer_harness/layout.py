"""`slicer.app.layoutManager()`: Slicer's real layout logic makes the view nodes, stand-ins show them."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import slicer
import vtk
from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from .views import PlotView, PlotWidget, SliceView, SliceWidget, ThreeDView, ThreeDWidget


class LayoutManager:
    """The views of the current layout; views that were made stay known by name, as in Slicer."""

    def __init__(self, application_logic: Any) -> None:
        self._application_logic = application_logic
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._slices: dict[str, SliceWidget] = {}
        self._three_d: dict[str, ThreeDWidget] = {}
        self._plots: dict[str, PlotWidget] = {}
        self._viewport: QWidget | None = None
        self.layout = 0

    def layoutLogic(self) -> Any:
        return self._logic

    def setLayout(self, layout: int) -> None:
        node = self._logic.GetLayoutNode()
        node.SetViewArrangement(layout)
        self.layout = layout
        views = self._logic.GetViewNodes()
        for index in range(views.GetNumberOfItems()):
            self._make(views.GetItemAsObject(index))

    def viewport(self) -> QWidget:
        """The current layout's views, arranged as its description says."""
        node = self._logic.GetLayoutNode()
        self._viewport = self._arrange(ElementTree.fromstring(node.GetCurrentLayoutDescription()))
        return self._viewport

    def _arrange(self, element: ElementTree.Element) -> QWidget:
        if element.tag == "view":
            known: dict[str, Any] = {
                "vtkMRMLSliceNode": lambda tag: self._slices[tag].sliceView(),
                "vtkMRMLViewNode": lambda tag: self._three_d[tag].threeDView(),
                "vtkMRMLPlotViewNode": lambda tag: self._plots[tag].plotView(),
            }
            return known[element.attrib["class"]](element.attrib["singletontag"])
        box = QWidget()
        row: Any = QHBoxLayout(box) if element.get("type", "horizontal") == "horizontal" else QVBoxLayout(box)
        row.setContentsMargins(0, 0, 0, 0)
        for item in element.findall("item"):
            row.addWidget(self._arrange(item[0]))
        return box

    def _make(self, node: Any) -> None:
        tag = node.GetLayoutName()
        if node.IsA("vtkMRMLSliceNode") and tag not in self._slices:
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(self._application_logic)
            logic.SetMRMLScene(slicer.mrmlScene)
            logic.SetSliceNode(node)
            self._application_logic.GetSliceLogics().AddItem(logic)
            self._slices[tag] = SliceWidget(SliceView(tag, logic), logic)
        elif node.IsA("vtkMRMLViewNode") and tag not in self._three_d:
            self._three_d[tag] = ThreeDWidget(ThreeDView(tag, node))
        elif node.IsA("vtkMRMLPlotViewNode") and tag not in self._plots:
            self._plots[tag] = PlotWidget(PlotView(node), node)

    def sliceViewNames(self) -> list[str]:
        return list(self._slices)

    def sliceWidget(self, name: str) -> SliceWidget | None:
        return self._slices.get(name)

    def mrmlSliceLogics(self) -> vtk.vtkCollection:
        return self._application_logic.GetSliceLogics()

    @property
    def threeDViewCount(self) -> int:
        return len(self._three_d)

    def threeDWidget(self, index: int) -> ThreeDWidget:
        return list(self._three_d.values())[index]

    @property
    def plotViewCount(self) -> int:
        return len(self._plots)

    def plotWidget(self, index: int) -> PlotWidget:
        return list(self._plots.values())[index]

    def resetSliceViews(self) -> None:
        for widget in self._slices.values():
            widget.sliceLogic().FitSliceToAll()

    def resetThreeDViews(self) -> None:
        for widget in self._three_d.values():
            widget.threeDView().resetCamera()
