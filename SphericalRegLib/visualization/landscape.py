"""Similarity landscapes: how a similarity looks around the true pose, along lines and on planes (the paper's Fig. 3).

Every curve and map is min-max normalised on its own, 1 at its best: only shapes compare, which is what convergence depends on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from SphericalRegLib.errors import InputError

from .figures import PAPER, Theme, dress, legend_above, look, new_figure


@dataclass(frozen=True)
class Line:
    """One coordinate varied: `offsets` (P,) from the truth, and for each similarity its values (P,), higher is better."""

    chart: str
    axis: str
    unit: str
    offsets: np.ndarray
    values: dict[str, np.ndarray]


@dataclass(frozen=True)
class Plane:
    """Two coordinates varied: values (P, Q), rows for the first; offsets in the units of their axes."""

    chart: str
    axes: tuple[str, str]
    units: tuple[str, str]
    offsets: tuple[np.ndarray, np.ndarray]
    values: dict[str, np.ndarray]


def normalised(values: np.ndarray) -> np.ndarray:
    """Values of any shape, stretched to [0, 1]; 0 everywhere where they are all the same. What is not finite counts as worst."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros_like(values, dtype=np.float64)
    low, high = values[finite].min(), values[finite].max()
    return np.where(finite, (values - low) / (high - low), 0.0) if high > low else np.zeros_like(values, dtype=np.float64)


def line_figure(lines: Sequence[Line], theme: Theme = PAPER) -> Figure:
    """One row per chart, one panel per coordinate, one curve per similarity.

    Raises:
        InputError: no line, or charts with different numbers of them.
    """
    charts = _by_chart(lines)
    columns = len(next(iter(charts.values())))
    figure = new_figure(2.3 * columns, 2.1 * len(charts) + 0.5, theme)
    grid = figure.subplots(len(charts), columns, squeeze=False, sharey=True)
    names = list(lines[0].values)
    for row, (chart, of_chart) in zip(grid, charts.items()):
        for column, (axes, line) in enumerate(zip(row, of_chart, strict=True)):
            dress(axes, theme, line.axis, line.unit, f"{chart}: similarity,\n0 least, 1 greatest" if column == 0 else "")
            axes.axvline(0.0, color=theme.truth, linewidth=1.0, alpha=0.7, label="truth")
            for number, name in enumerate(names):
                drawn = {**look(number, theme), "marker": ""}
                axes.plot(line.offsets, normalised(line.values[name]), linewidth=1.6, label=name, **drawn)
            axes.set_ylim(-0.03, 1.05)
    (truth, *handles), (at_truth, *labels) = grid[0][0].get_legend_handles_labels()
    legend_above(figure, theme, [*handles, truth], [*labels, at_truth])
    return figure


def plane_figure(planes: Sequence[Plane], theme: Theme = PAPER) -> Figure:
    """One row per chart and similarity, one map per plane; contours every tenth, the truth in red, the map's best point as a ring.

    Raises:
        InputError: no plane, or charts with different numbers of them.
    """
    charts = _by_chart(planes)
    columns = len(next(iter(charts.values())))
    rows = [(chart, name) for chart in charts for name in charts[chart][0].values]
    figure = new_figure(2.9 * columns, 2.5 * len(rows) + 0.2, theme)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (chart, name) in zip(grid, rows):
        for column, (axes, plane) in enumerate(zip(line, charts[chart], strict=True)):
            _map(axes, plane, name, f"{chart}, {name}" if column == 0 else "", theme)
    ring = Line2D([], [], linestyle="none", marker="o", markersize=8, markerfacecolor="none", markeredgecolor=theme.muted, markeredgewidth=1.5)
    cross = Line2D([], [], linestyle="none", marker="+", markersize=10, color=theme.truth, markeredgewidth=2.0)
    line = Line2D([], [], color=theme.muted, linewidth=0.6)
    legend_above(figure, theme, [ring, cross, line], ["the map's best point", "truth", "every tenth of the map's own range"])
    return figure


def _map(axes: Axes, plane: Plane, name: str, title: str, theme: Theme) -> None:
    dress(axes, theme, title, f"{plane.axes[0]}, {plane.units[0]}", f"{plane.axes[1]}, {plane.units[1]}")
    axes.grid(False)
    x, y = plane.offsets
    height = normalised(plane.values[name]).T
    axes.contourf(x, y, height, levels=np.linspace(0, 1, 21), cmap="viridis")
    axes.contour(x, y, height, levels=np.linspace(0.1, 0.9, 9), colors="white", linewidths=0.4, alpha=0.6)
    row, column = np.unravel_index(int(height.argmax()), height.shape)
    axes.plot(x[column], y[row], "o", markersize=8, markerfacecolor="none", markeredgecolor="white", markeredgewidth=1.5)
    axes.plot(0.0, 0.0, "+", markersize=10, color=theme.truth, markeredgewidth=2.0)


def _by_chart(slices: Sequence[Line] | Sequence[Plane]) -> dict[str, list]:
    charts: dict[str, list] = {}
    for part in slices:
        charts.setdefault(part.chart, []).append(part)
    if not charts or len({len(parts) for parts in charts.values()}) > 1:
        raise InputError(f"a landscape needs as many slices in every chart, not {[len(parts) for parts in charts.values()]}")
    return charts
