"""Methods side by side: where the median and the quartiles of their errors lie, and how many end below a limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from SphericalRegLib.errors import InputError

from .figures import PAPER, Theme, dress, legend_above, new_figure


def error_figure(errors: Mapping[str, Mapping[str, Sequence[float]]], limit_mm: float = 2.0, theme: Theme = PAPER) -> Figure:
    """One panel for each group, one line for each method in it: median (dot), quartiles (bar), share below the limit (number); one scale for all.

    Args:
        errors: group -> method -> errors in mm; infinite ones (failed) count.
        limit_mm: of the share.
        theme: colours.

    Raises:
        InputError: a group or a method without an error.
    """
    if not errors or not all(methods and all(len(values) for values in methods.values()) for methods in errors.values()):
        raise InputError("there is no error to draw; expected at least one of each method")
    methods = list(dict.fromkeys(name for group in errors.values() for name in group))
    across = min(2, len(errors))
    down = -(-len(errors) // across)
    figure = new_figure(4.8 * across + 1.2, down * (0.3 * len(methods) + 1.1), theme)
    panels = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()  # what lies farther to the right is worse in all of them
    for axes in panels[len(errors) :]:
        axes.set_axis_off()
    for axes, (group, of) in zip(panels, errors.items()):
        dress(axes, theme, group, "mm", "")
        axes.set_xscale("log")
        axes.axvline(limit_mm, color=theme.truth, linewidth=1.0, alpha=0.7)
        for row, name in enumerate(methods):
            if name not in of:
                continue
            values = np.clip(np.nan_to_num(np.array(of[name], dtype=np.float64), nan=1e3, posinf=1e3), 1e-3, 1e3)
            low, middle, high = np.percentile(values, (25, 50, 75))
            axes.plot([low, high], [row, row], color=theme.estimate, linewidth=3, alpha=0.35, solid_capstyle="round")
            axes.plot(middle, row, "o", color=theme.estimate, markersize=6)
            share = f"{100 * np.mean(np.array(of[name]) < limit_mm):.0f} %"
            axes.annotate(share, (1.0, row), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center")
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.tick_params(labelbottom=True)  # shared axes would have them below alone
        axes.annotate(f"< {limit_mm:g} mm", (1.0, 1.0), xycoords="axes fraction", xytext=(4, 4), textcoords="offset points", fontsize=8)
    legend_above(figure, theme, *_key(limit_mm, theme))
    return figure


def _key(limit_mm: float, theme: Theme) -> tuple[list[Line2D], list[str]]:
    """What dot, bar and line mean."""
    return (
        [
            Line2D([], [], color=theme.estimate, marker="o", linestyle="none"),
            Line2D([], [], color=theme.estimate, linewidth=3, alpha=0.35),
            Line2D([], [], color=theme.truth, linewidth=1.0, alpha=0.7),
        ],
        ["median", "quartiles", f"{limit_mm:g} mm; to the right, the share below"],
    )
