"""Trainings side by side: error over training time, and what the time buys (the paper's Fig. 4, left)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from SphericalRegLib.errors import InputError

from .figures import PAPER, Theme, dress, new_figure

STYLES = ("-", "--", "-.", ":")

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
            colour, style = _look(number, theme)
            lengths, errors = [effort.of(point) for point in points], [point[key] for point in points]
            axes.plot(lengths, errors, color=colour, linestyle=style, linewidth=1.7, marker="o", markersize=2.6, label=training.name)
        _log_mm(axes)
        _length_axis(axes, [effort.of(training.curve[-1]) for training in trainings])
    if criterion_mm is not None:
        panels[0].axhline(criterion_mm, color=theme.truth, linewidth=1.0, alpha=0.7)
        _against(panels[-1], trainings, quantities[0], criterion_mm, theme)
    _legend(figure, panels[0], theme)
    return figure


def capture_figure(
    shares: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], limit_mm: float = 2.0, theme: Theme = PAPER, effort: Effort = MINUTES
) -> Figure:
    """A panel for each method, a line for each spread of the starts: the share that ends below a limit, over the length of training.

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
    spreads = list(dict.fromkeys(spread for lines in shares.values() for spread in lines))
    for axes, (method, lines) in zip(panels, shares.items()):
        dress(axes, theme, method, effort.title, f"below {limit_mm:g} mm, %")
        for spread, points in lines.items():
            number = spreads.index(spread)
            colour, style = _look(number, theme)[0], STYLES[number % len(STYLES)]  # lines that lie on each other are both seen
            length, percent = zip(*((length, 100 * share) for length, share in points))
            axes.plot(length, percent, color=colour, linestyle=style, linewidth=1.7, marker="o", markersize=4, label=spread, clip_on=False)
        axes.set_ylim(0, 100)
        _length_axis(axes, lengths)
    _legend(figure, max(panels, key=lambda axes: len(axes.lines)), theme)
    return figure


def _legend(figure: Figure, axes: Axes, theme: Theme) -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside upper center", ncols=min(6, len(labels)), frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_color(theme.ink)


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
    """Minutes to the criterion against the error at the end; those that never met it stand at the right edge, hollow."""
    dress(axes, theme, f"time to {criterion_mm:g} mm and error at the end", "minutes to the criterion (hollow: not reached)", "mm")
    longest = max(point["seconds"] for training in trainings for point in training.curve) / 60
    names = []
    for number, training in enumerate(trainings):
        colour, _ = _look(number, theme)
        x = 1.08 * longest if training.reached is None else training.reached
        last = training.curve[-1][key]
        axes.plot(x, last, "o", markersize=8, color=colour, markerfacecolor="none" if training.reached is None else colour)
        names.append((training.name, x, last, colour))
    axes.set_xlim(0, 1.2 * longest)
    _log_mm(axes)
    _write_names(axes, names)


def _write_names(axes: Axes, points: Sequence[tuple[str, float, float, str]]) -> None:
    """Names to the left of points (name, x, y, colour), or to the right where there is no room, moved apart where they would cover each other."""
    low, high = np.log(axes.get_ylim())
    below = -np.inf
    for name, x, y, colour in sorted(points, key=lambda point: point[2]):
        below = max(float(np.log(y)), below + 0.045 * (high - low))
        offset, side = ((-8, -2), "right") if x > 0.3 * axes.get_xlim()[1] else ((8, -2), "left")
        axes.annotate(name, (x, float(np.exp(below))), xytext=offset, textcoords="offset points", fontsize=7, color=colour, ha=side)


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


def _look(number: int, theme: Theme) -> tuple[str, str]:
    return theme.stages[number % len(theme.stages)], STYLES[number // len(theme.stages) % len(STYLES)]
