"""Trainings side by side: error over training time, and what the time buys (the paper's Fig. 4, left)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from SphericalRegLib.errors import InputError

from .figures import PAPER, Theme, dress, legend_above, look, new_figure

TITLES = {
    "mtre_mm": "after spherical LM, median",
    "regressor_mtre_mm": "regressor alone, median",
    "in_plane_mm": "after spherical LM, in-plane, median",
}
"""Of the figures of a curve that can be drawn."""


@dataclass(frozen=True)
class Effort:
    """What the length of a training is told in: an axis's title, the key in a card and in a curve's points, and how much of that is one."""

    title: str
    key: str
    unit: float = 1.0

    def of(self, values: Mapping[str, float]) -> float:
        """The length so far."""
        return float(values[self.key]) / self.unit


MINUTES = Effort("minutes of training", "seconds", 60.0)
EFFORTS = {"minutes": MINUTES, "steps": Effort("steps of training", "iterations")}
"""Minutes are a machine's, and whatever else it does in them; steps are the same on every machine."""

LONG = 4.0
"""Trainings whose lengths differ by a larger factor are drawn over the logarithm of time."""


@dataclass(frozen=True)
class Training:
    """One training's curve: points with "seconds", "iterations" and figures in mm, as in a model card; `reached`: minutes to the criterion."""

    name: str
    curve: Sequence[Mapping[str, float]]
    reached: float | None = None


def training_figure(
    trainings: Sequence[Training], quantities: Sequence[str], criterion_mm: float | None = None, theme: Theme = PAPER, effort: Effort = MINUTES
) -> Figure:
    """A panel for each quantity over the length of training, and one with the time to the criterion against the last error.

    Args:
        trainings: one or more, each with a curve.
        quantities: what is drawn, keys of `TITLES` and of the curves; the first is what the criterion is about.
        criterion_mm: drawn as a line; without it there is no last panel.
        theme: colours.
        effort: of the horizontal axes; the last panel is about minutes.

    Raises:
        InputError: no training, or one without a curve.
    """
    if not trainings or not all(training.curve for training in trainings):
        raise InputError("there is no training curve to draw; expected at least one validation of each training")
    count = len(quantities) + (criterion_mm is not None)
    figure = new_figure(4.1 * count, 3.9, theme)
    panels = figure.subplots(1, count, squeeze=False)[0]
    for axes, key in zip(panels, quantities):
        dress(axes, theme, TITLES[key], effort.title, "mm")
        for number, training in enumerate(trainings):
            points = [point for point in training.curve if key in point]
            lengths, errors = [effort.of(point) for point in points], [point[key] for point in points]
            axes.plot(lengths, errors, linewidth=1.7, markersize=4, label=training.name, **look(number, theme))
        _log_mm(axes)
        _length_axis(axes, [effort.of(training.curve[-1]) for training in trainings])
    if criterion_mm is not None:
        panels[0].axhline(criterion_mm, color=theme.truth, linewidth=1.0, alpha=0.7)
        _against(panels[-1], trainings, quantities[0], criterion_mm, theme)
    legend_above(figure, theme, *panels[0].get_legend_handles_labels())
    return figure


def capture_figure(
    shares: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], limit_mm: float = 2.0, theme: Theme = PAPER, effort: Effort = MINUTES
) -> Figure:
    """A panel for each method, a line for each spread of the starts: the share that ends below a limit, over the length of training. Lines that lie
    on each other are all seen: each is thinner than those below it. A panel that lacks a spread says so.

    Args:
        shares: method -> spread -> points (length, share in [0, 1]).
        limit_mm: of the share.
        theme: colours.
        effort: what the lengths are told in.

    Raises:
        InputError: nothing to draw.
    """
    if not shares or not all(lines and all(lines.values()) for lines in shares.values()):
        raise InputError("there is no share to draw; expected at least one model for each method and spread")
    figure = new_figure(4.4 * len(shares), 3.9, theme)
    panels = figure.subplots(1, len(shares), squeeze=False, sharey=True)[0]
    lengths = [length for lines in shares.values() for points in lines.values() for length, _ in points]
    fullest_first = sorted(shares.values(), key=len, reverse=True)  # whose order is that of the legend
    spreads = list(dict.fromkeys(spread for lines in fullest_first for spread in lines))
    handles: dict[str, Line2D] = {}
    for axes, (method, lines) in zip(panels, shares.items()):
        dress(axes, theme, method, effort.title, f"below {limit_mm:g} mm, %")
        for spread, points in lines.items():
            number = spreads.index(spread)
            over = len(spreads) - 1 - number
            length, percent = zip(*((length, 100 * share) for length, share in points))
            sizes = {"linewidth": 1.5 + 2.2 * over, "markersize": 4.5 + 3.0 * over}
            handles[spread] = axes.plot(length, percent, label=spread, clip_on=False, **sizes, **look(number, theme))[0]
        if missing := [spread for spread in spreads if spread not in lines]:
            axes.annotate(
                f"not with this method: {', '.join(missing)}", (0.99, 0.03), xycoords="axes fraction", ha="right", fontsize=8, color=theme.muted
            )
        axes.set_ylim(0, 100)
        _length_axis(axes, lengths)
    legend_above(figure, theme, [handles[spread] for spread in spreads], spreads)
    return figure


def _length_axis(axes: Axes, lengths: Sequence[float]) -> None:
    """A linear axis from zero; a logarithmic one where trainings of minutes stand beside trainings of hours."""
    if max(lengths) <= LONG * min(lengths):
        axes.set_xlim(left=0)
        return
    axes.set_xscale("log")
    axes.set_xticks(_ticks(*axes.get_xlim()))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def _against(axes: Axes, trainings: Sequence[Training], key: str, criterion_mm: float, theme: Theme) -> None:
    """Minutes to the criterion against the error at the end, marked as in the legend; those that never met it stand at the right edge, hollow."""
    dress(axes, theme, f"time to {criterion_mm:g} mm and error at the end", "minutes to the criterion (hollow: not reached)", "mm")
    longest = max(point["seconds"] for training in trainings for point in training.curve) / 60
    for number, training in enumerate(trainings):
        drawn = look(number, theme)
        x = 1.08 * longest if training.reached is None else training.reached
        axes.plot(x, training.curve[-1][key], markersize=8, markerfacecolor="none" if training.reached is None else drawn["color"], **drawn)
    axes.set_xlim(0, 1.2 * longest)
    _log_mm(axes)


def _log_mm(axes: Axes) -> None:
    """A logarithmic axis with plain numbers, a decade at least."""
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    if high < 10 * low:
        middle = np.sqrt(low * high)
        axes.set_ylim(middle / np.sqrt(10), middle * np.sqrt(10))
    axes.set_yticks(_ticks(*axes.get_ylim()))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def _ticks(low: float, high: float) -> list[float]:
    """Plain numbers of a logarithmic axis: 1, 2, 5, 10, ..."""
    return [tick for tick in (m * 10.0**e for e in range(-3, 5) for m in (1, 2, 5)) if low <= tick <= high]
