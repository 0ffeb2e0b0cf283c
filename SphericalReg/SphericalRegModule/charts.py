"""Curves in the plot view."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer


class Charts:
    """Keeps the nodes of each kind of chart, so that a new curve takes the place of the last one."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[str, int], dict[str, Any]] = {}

    def forget(self) -> None:
        """The scene goes away."""
        self._nodes = {}

    def show(self, kind: str, table: np.ndarray, names: list[str], title: str) -> None:
        """Show columns of a table over its first one, where there is a plot view."""
        manager = slicer.app.layoutManager()
        if manager is None or not manager.plotViewCount:
            return
        nodes = self._nodes.setdefault((kind, len(names)), {})
        chart = slicer.util.plot(table, xColumnIndex=0, columnNames=names, title=title, show=False, nodes=nodes)
        manager.plotWidget(0).mrmlPlotViewNode().SetPlotChartNodeID(chart.GetID())
