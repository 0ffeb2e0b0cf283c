"""The layout with the X-ray view: in Slicer's layout menu from the start, so that a saved scene that shows it opens with its views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import slicer

VIEW = "SphericalRegXRay"
LAYOUT_ID = 4753  # any number above Slicer's own

_LAYOUT = f"""
<layout type="horizontal" split="true">
  <item><view class="vtkMRMLSliceNode" singletontag="{VIEW}">
    <property name="orientation" action="default">Axial</property>
    <property name="viewlabel" action="default">X</property>
    <property name="viewcolor" action="default">#4AC8FF</property>
  </view></item>
  <item><layout type="vertical" split="true">
    <item><view class="vtkMRMLViewNode" singletontag="1"><property name="viewlabel" action="default">1</property></view></item>
    <item><view class="vtkMRMLPlotViewNode" singletontag="PlotView1"><property name="viewlabel" action="default">1</property></view></item>
  </layout></item>
</layout>"""


def register_layout() -> None:
    """Make the layout known to the application, and list it in the layout menu of the main window, where there is one."""
    manager = slicer.app.layoutManager()
    if manager is None:
        return
    node = manager.layoutLogic().GetLayoutNode()
    if node.IsLayoutDescription(LAYOUT_ID):
        node.SetLayoutDescription(LAYOUT_ID, _LAYOUT)
    else:
        node.AddLayoutDescription(LAYOUT_ID, _LAYOUT)
    menu = _layout_menu()
    if menu is None or any(action.data() == LAYOUT_ID for action in menu.actions()):
        return
    import qt  # names of this file are wanted where there is no application
    from slicer.i18n import tr as _

    action = menu.addAction(_("SphericalReg: X-ray, 3D and plot"))
    action.setData(LAYOUT_ID)  # the main window switches to the number that the chosen action holds
    action.setIcon(qt.QIcon(str(Path(__file__).resolve().parents[1] / "Resources" / "Icons" / "SphericalReg.png")))
    action.setToolTip(_("The X-ray with the DRR, the set-up in 3D, and the plot"))


def _layout_menu() -> Any:
    """The menu of the first button in Slicer's view tool bar; None in an application that has none."""
    window = slicer.util.mainWindow()
    bars = [] if window is None else slicer.util.findChildren(window, name="ViewToolBar")
    if not bars or not bars[0].actions():
        return None
    button = bars[0].widgetForAction(bars[0].actions()[0])
    return None if button is None or not hasattr(button, "menu") else button.menu()


def show_layout() -> None:
    """Switch to the X-ray, the 3D view and the plot."""
    manager = slicer.app.layoutManager()
    if manager is None:  # no main window
        return
    register_layout()
    manager.setLayout(LAYOUT_ID)
