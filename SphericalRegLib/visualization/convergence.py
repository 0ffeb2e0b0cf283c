"""How the optimiser got there: cost over iterations, stage by stage, and where the seconds went."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from SphericalRegLib.errors import InputError
from SphericalRegLib.registration.result import distinct
from SphericalRegLib.visualization.figures import PAPER, Theme, dress, new_figure

PANELS_IN_A_ROW = 4


@dataclass(frozen=True)
class StageTrace:
    """What one stage did.

    Attributes:
        name: shown as it is.
        seconds: wall-clock time of the whole stage.
        costs: ``(iterations + 1, hypotheses)``, entry 0 the start; the number of columns may be 0 for a stage that only scores (screening).
        kept: column of the hypothesis that was carried on, drawn strongly; the others are faint.
        quantity: what the costs are.
        tried: hypotheses in this stage; by default as many as have costs.
    """

    name: str
    seconds: float
    costs: np.ndarray = field(default_factory=lambda: np.empty((0, 0)))
    kept: int = 0
    quantity: str = "cost"
    tried: int | None = None

    def __post_init__(self) -> None:
        costs = np.asarray(self.costs, float)
        costs = costs[:, None] if costs.ndim == 1 else costs
        if costs.ndim != 2:
            raise InputError(f"stage {self.name}: costs have shape {costs.shape}; expected (iterations + 1, hypotheses)")
        if costs.size and not 0 <= self.kept < costs.shape[1]:
            raise InputError(f"stage {self.name}: hypothesis {self.kept} was kept, but there are only {costs.shape[1]}")
        object.__setattr__(self, "costs", costs)
        if self.tried is None:
            object.__setattr__(self, "tried", costs.shape[1])

    @property
    def iterations(self) -> int:
        """Iterations until the kept hypothesis stood still (finished ones repeat their last entry)."""
        if not self.costs.size:
            return 0
        kept = np.nan_to_num(self.costs[:, self.kept], nan=np.inf)
        return int(np.flatnonzero(kept != kept[-1])[-1] + 1) if (kept != kept[-1]).any() else 0


def stage_traces(stages: Sequence[Mapping[str, Any]]) -> list[StageTrace]:
    """The stages of a result.json (`RegistrationResult.to_dict`): ``costs`` of the kept hypothesis, or of all with ``kept`` saying which."""
    return [
        StageTrace(
            name=name,
            seconds=float(stage["seconds"]),
            costs=np.array(stage.get("costs", ()), float) if len(stage.get("costs", ())) > 1 else np.empty((0, 0)),
            kept=int(stage.get("kept", 0)),
            tried=stage.get("hypotheses"),
        )
        for stage, name in zip(stages, distinct([str(stage["name"]) for stage in stages]))
    ]


def convergence_figure(stages: Sequence[StageTrace], theme: Theme = PAPER) -> Figure:
    """One panel per stage that iterates (cost over iterations, seconds above), four to a row, and below them one bar: where the time went.

    Costs of different stages are different quantities at different resolutions: each panel has its own axis.

    Raises:
        InputError: if there is no stage.
    """
    if not stages:
        raise InputError("there is no stage to draw; expected at least one")
    iterating = [(index, stage) for index, stage in enumerate(stages) if stage.costs.size]
    columns, rows = max(1, min(len(iterating), PANELS_IN_A_ROW)), math.ceil(len(iterating) / PANELS_IN_A_ROW)
    figure = new_figure(max(6.4, 2.7 * columns), 0.9 + 2.7 * rows if rows else 1.3, theme)
    grid = figure.add_gridspec(rows + 1, columns, height_ratios=[3.2] * rows + [1], hspace=0.12)
    for place, (index, stage) in enumerate(iterating):
        row, column = divmod(place, columns)
        _costs(figure.add_subplot(grid[row, column]), stage, theme, theme.stages[index % len(theme.stages)], column == 0)
    _seconds(figure.add_subplot(grid[-1, :]), stages, theme)
    return figure


def _costs(axes: Axes, stage: StageTrace, theme: Theme, colour: str, first: bool) -> None:
    dress(axes, theme, stage.name, "iteration", stage.quantity if first else "")
    costs = np.where(np.isfinite(stage.costs), stage.costs, np.nan)
    iterations = np.arange(len(costs))
    others = np.delete(costs, stage.kept, axis=1)
    if others.shape[1]:
        axes.plot(iterations, others, color=theme.others, linewidth=0.8, alpha=0.45)
    kept = costs[: stage.iterations + 1, stage.kept]
    axes.plot(iterations[: len(kept)], kept, color=colour, linewidth=2.0, marker="o", markersize=3.2)
    lowest, highest = np.nanmin(costs), np.nanmax(costs)
    if lowest > 0 and highest > 20 * lowest:
        axes.set_yscale("log")
        axes.minorticks_off()
    else:
        axes.ticklabel_format(axis="y", useOffset=False)  # an offset would stand on the axis above
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.margins(x=0.04)
    last = max(1, len(costs) - 1)
    per_iteration = max(stage.seconds, 1e-9) / last
    above = axes.secondary_xaxis("top", functions=(lambda i: np.multiply(i, per_iteration), lambda s: np.divide(s, per_iteration)))
    above.tick_params(colors=theme.muted, labelsize=7, length=0, pad=1)
    above.spines["top"].set_visible(False)
    above.xaxis.set_major_locator(MaxNLocator(4))
    above.xaxis.set_major_formatter("{x:g} s")


def _seconds(axes: Axes, stages: Sequence[StageTrace], theme: Theme) -> None:
    dress(axes, theme, "", f"seconds, {sum(stage.seconds for stage in stages):.2f} in all", "")
    axes.grid(False, axis="y")
    axes.set_yticks([])
    total = sum(stage.seconds for stage in stages) or 1.0
    begin = 0.0
    for index, stage in enumerate(stages):
        axes.barh(0, stage.seconds, left=begin, color=theme.stages[index % len(theme.stages)], edgecolor=theme.paper, linewidth=1.0, height=0.7)
        if stage.seconds > 0.14 * total:
            axes.text(begin + stage.seconds / 2, 0, stage.name, color="#ffffff", fontsize=8, ha="center", va="center", clip_on=True)
        begin += stage.seconds
    axes.set_xlim(0, max(begin, 1e-6))
