"""Slice, 3D and plot views: Slicer's real view pipelines, rendered off screen and shown as pictures."""

from __future__ import annotations

import itertools
from importlib.util import find_spec
from typing import Any

import numpy as np
import slicer
import vtk
from PySide6.QtGui import QColor, QImage, QPainter, QPen, QPixmap
from PySide6.QtWidgets import QLabel, QWidget
from vtk.util import numpy_support

if find_spec("triton") is not None:
    import triton._C.libtriton  # noqa: F401  # its copy of LLVM crashes when it is loaded after that of Mesa's software renderer

SLICE_MANAGERS = ("vtkMRMLModelSliceDisplayableManager", "vtkMRMLMarkupsDisplayableManager")
THREE_D_MANAGERS = (
    "vtkMRMLCameraDisplayableManager",
    "vtkMRMLViewDisplayableManager",
    "vtkMRMLModelDisplayableManager",
    "vtkMRMLThreeDSliceDisplayableManager",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLVolumeRenderingDisplayableManager",
)


class View(QLabel):
    """A picture of a VTK renderer."""

    def __init__(self, name: str, size: tuple[int, int]) -> None:
        super().__init__()
        self._name = name
        self.setMinimumSize(*size)
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetMultiSamples(0)
        self._window.SetSize(*size)
        self._renderer = vtk.vtkRenderer()
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()  # displayable managers crash without one
        self._interactor.SetRenderWindow(self._window)

    def _managers(self, factory: Any, names: tuple[str, ...], node: Any) -> Any:
        factory.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        for name in names:
            if hasattr(slicer, name) and not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        group = factory.InstantiateDisplayableManagers(self._renderer)
        group.SetMRMLDisplayableNode(node)
        return group

    def adopt_size(self) -> None:
        """Render at the widget's present size."""
        self._window.SetSize(max(self.width, 32), max(self.height, 32))

    def renderWindow(self) -> vtk.vtkRenderWindow:
        return self._window

    def forceRender(self) -> None:
        self.picture()

    def scheduleRender(self) -> None:
        """Pictures are made when somebody looks."""

    def picture(self) -> np.ndarray:
        """(H, W, 3) uint8, row 0 on top; shown in the widget as well."""
        self._window.Render()
        grab = vtk.vtkWindowToImageFilter()
        grab.SetInput(self._window)
        grab.ReadFrontBufferOff()
        grab.Update()
        image = grab.GetOutput()
        columns, rows, _ = image.GetDimensions()
        pixels = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, 3)[::-1].copy()
        self.setPixmap(QPixmap.fromImage(QImage(pixels.data, columns, rows, 3 * columns, QImage.Format.Format_RGB888).copy()))
        return pixels


class SliceView(View):
    """vtkMRMLSliceLogic's blended image with the displayable managers on top."""

    def __init__(self, name: str, logic: Any, size: tuple[int, int] = (300, 300)) -> None:
        super().__init__(name, size)
        self._logic = logic
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._renderer.AddViewProp(self._actor)
        node = logic.GetSliceNode()
        node.SetDimensions(*size, 1)
        self._group = self._managers(slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance(), SLICE_MANAGERS, node)

    def adopt_size(self) -> None:
        super().adopt_size()
        self._logic.GetSliceNode().SetDimensions(*self._window.GetSize(), 1)
        self._logic.FitSliceToBackground()

    def picture(self) -> np.ndarray:
        connection = self._logic.GetImageDataConnection()
        self._actor.SetVisibility(connection is not None)
        if connection is not None:
            self._mapper.SetInputConnection(connection)
        return super().picture()


class SliceWidget:
    """`layoutManager.sliceWidget(name)`."""

    def __init__(self, view: SliceView, logic: Any) -> None:
        self._view, self._logic = view, logic

    def sliceLogic(self) -> Any:
        return self._logic

    def mrmlSliceNode(self) -> Any:
        return self._logic.GetSliceNode()

    def sliceView(self) -> SliceView:
        return self._view


class ThreeDView(View):
    """The 3D view with its displayable managers."""

    def __init__(self, name: str, node: Any, size: tuple[int, int] = (300, 300)) -> None:
        super().__init__(name, size)
        self._node = node
        self._renderer.SetBackground(0.75, 0.77, 0.9)
        self._group = self._managers(slicer.vtkMRMLThreeDViewDisplayableManagerFactory.GetInstance(), THREE_D_MANAGERS, node)

    def mrmlViewNode(self) -> Any:
        return self._node

    def resetFocalPoint(self) -> None:
        self.resetCamera()

    def resetCamera(self) -> None:
        self._window.Render()
        self._renderer.ResetCamera()
        self._renderer.ResetCameraClippingRange()


class ThreeDWidget:
    """`layoutManager.threeDWidget(index)`."""

    def __init__(self, view: ThreeDView) -> None:
        self._view = view

    def threeDView(self) -> ThreeDView:
        return self._view

    def mrmlViewNode(self) -> Any:
        return self._view.mrmlViewNode()


class PlotView(QWidget):
    """The chart of a plot view node, drawn plainly: Slicer's own plot widget is C++ and Qt."""

    def __init__(self, node: Any) -> None:
        super().__init__()
        self._node = node
        self.setMinimumSize(300, 160)

    def curves(self) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Name, x and y of each series in the chart that the view shows."""
        chart = slicer.mrmlScene.GetNodeByID(self._node.GetPlotChartNodeID() or "")
        found = []
        for index in range(chart.GetNumberOfPlotSeriesNodes() if chart is not None else 0):
            series = chart.GetNthPlotSeriesNode(index)
            table = series.GetTableNode().GetTable()
            y = numpy_support.vtk_to_numpy(table.GetColumnByName(series.GetYColumnName()))
            x_name = series.GetXColumnName()
            x = numpy_support.vtk_to_numpy(table.GetColumnByName(x_name)) if x_name else np.arange(len(y))
            found.append((series.GetName(), np.asarray(x, float), np.asarray(y, float)))
        return found

    def paintEvent(self, _event: Any) -> None:
        painter = QPainter(self)
        area = self.rect.adjusted(44, 22, -14, -34)
        painter.fillRect(self.rect, QColor("white"))
        curves = self.curves()
        if not curves:
            return
        chart = slicer.mrmlScene.GetNodeByID(self._node.GetPlotChartNodeID())
        painter.drawText(12, 15, chart.GetTitle() or "")
        everything = [np.concatenate(parts) for parts in zip(*((x, y) for _, x, y in curves))]
        (x0, x1), (y0, y1) = ((float(np.nanmin(part)), float(np.nanmax(part))) for part in everything)
        painter.setPen(QPen(QColor("grey")))
        painter.drawRect(area)
        for value, row in ((y1, area.top() + 11), (y0, area.bottom())):
            painter.drawText(4, row, f"{value:.3g}")
        painter.drawText(area.left(), area.bottom() + 14, f"{x0:.3g}")
        painter.drawText(area.right() - 24, area.bottom() + 14, f"{x1:.3g}")
        painter.drawText(area.left() + 40, area.bottom() + 14, chart.GetNthPlotSeriesNode(0).GetXColumnName() or "")
        for number, (_, x, y) in enumerate(curves):
            name = chart.GetNthPlotSeriesNode(number).GetYColumnName() or ""
            painter.setPen(QColor.fromHsv((210 + 60 * number) % 360, 200, 180))
            painter.drawText(area.left() + number * area.width() // len(curves), area.bottom() + 28, name)
            painter.setPen(QPen(QColor.fromHsv((210 + 60 * number) % 360, 200, 180), 2))
            across = area.left() + (x - x0) / max(x1 - x0, 1e-9) * area.width()
            up = area.bottom() - (y - y0) / max(y1 - y0, 1e-9) * area.height()
            shown = np.isfinite(across) & np.isfinite(up)
            points = list(zip(across[shown], up[shown]))
            for (xa, ya), (xb, yb) in itertools.pairwise(points):
                painter.drawLine(int(xa), int(ya), int(xb), int(yb))


class PlotWidget:
    """`layoutManager.plotWidget(index)`."""

    def __init__(self, view: PlotView, node: Any) -> None:
        self._view, self._node = view, node

    def plotView(self) -> PlotView:
        return self._view

    def mrmlPlotViewNode(self) -> Any:
        return self._node
