"""How fast optimisers converge: error and cost over iterations and over seconds (the paper's Fig. 4, right)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from SphericalRegLib.errors import InputError

from .figures import PAPER, Theme, dress, legend_above, look, new_figure


@dataclass(frozen=True)
class Search:
    """One search by one method; entry 0 of seconds, errors (mm) and costs (K + 1,) is the start."""

    method: str
    case: str
    start: int
    seconds: np.ndarray
    errors: np.ndarray
    costs: np.ndarray
    evaluations: int


def search_figure(searches: Sequence[Search], theme: Theme = PAPER) -> Figure:
    """Median over the searches of each method, with the quartiles of the error: error above, cost relative to the start's below, over iterations to
    the left and over seconds to the right.

    Raises:
        InputError: there is no search.
    """
    if not searches:
        raise InputError("there is no search to draw; expected at least one")
    methods = list(dict.fromkeys(search.method for search in searches))
    figure = new_figure(10.5, 6.6, theme)
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    longest = max(len(search.errors) for search in searches)
    last = max(float(search.seconds[-1]) for search in searches)
    first = min((float(search.seconds[1]) for search in searches if len(search.seconds) > 1), default=last)
    iterations = np.unique(np.round(np.geomspace(1, longest, 120))).astype(int) - 1
    seconds = np.geomspace(0.7 * max(first, 1e-4), max(last, 2e-4), 160)
    for number, method in enumerate(methods):
        of = [search for search in searches if search.method == method]
        colour, style = (look(number, theme)[name] for name in ("color", "linestyle"))
        for column, grid in enumerate((iterations, seconds)):
            for row in (0, 1):
                values = np.stack([_at(search, grid, column == 1, row == 1) for search in of])
                _band(axes[row][column], grid, values, colour, style, method, quartiles=row == 0)
    for column, label in enumerate(("iterations", "seconds")):
        for row, title in enumerate(("error (median, quartiles)", "cost (median)")):
            ax = axes[row][column]
            dress(ax, theme, f"{title} over {label}", label, ("mean 3D displacement, mm", "part of the start's")[row])
            ax.tick_params(labelleft=True, labelbottom=True)  # shared axes would have them at the left and below alone
            ax.set_yscale("log")
            if column == 0:
                ax.set_xscale("symlog", linthresh=1.0)
                ax.set_xlim(0, longest - 1 or 1)
            else:
                ax.set_xscale("log")
            ax.xaxis.set_major_formatter("{x:g}")
            ax.minorticks_off()
    axes[0][0].yaxis.set_major_formatter("{x:g}")
    for ax in axes[0]:
        ax.axhline(2.0, color=theme.truth, linewidth=1.0, alpha=0.7)
        ax.annotate("2 mm", (0.0, 2.0), (2, 2), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=7, color=theme.truth)
    legend_above(figure, theme, *axes[0][0].get_legend_handles_labels())
    return figure


def _at(search: Search, grid: np.ndarray, by_seconds: bool, cost: bool) -> np.ndarray:
    """The value that holds at each point of the grid: an iterate counts from when it is there, and the last one for ever."""
    values = search.costs / max(search.costs[0], 1e-300) if cost else search.errors
    index = np.searchsorted(search.seconds, grid, side="right") - 1 if by_seconds else grid
    return np.maximum(values[np.clip(index, 0, len(values) - 1)], 1e-6)


def _band(axes: Axes, grid: np.ndarray, values: np.ndarray, colour: str, style: str, label: str, quartiles: bool) -> None:
    with np.errstate(invalid="ignore"):
        low, middle, high = np.nanpercentile(np.where(np.isfinite(values), values, 1e6), (25, 50, 75), axis=0)
    axes.plot(grid, middle, color=colour, linestyle=style, linewidth=1.8, label=label)
    if quartiles and len(values) > 2:
        axes.fill_between(grid, low, high, color=colour, alpha=0.1, linewidth=0)
