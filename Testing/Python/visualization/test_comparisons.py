"""Figures that compare several things: each is told from the others, and what is drawn is said."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from SphericalRegLib.visualization.figures import PAPER, look, png_bytes
from SphericalRegLib.visualization.landscape import Line, Plane, line_figure, plane_figure
from SphericalRegLib.visualization.searches import Search, search_figure
from SphericalRegLib.visualization.shares import error_figure
from SphericalRegLib.visualization.trainings import EFFORTS, Training, capture_figure, training_figure


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_things_that_are_compared_differ_in_colour_and_mark() -> None:
    looks = [look(number, PAPER) for number in range(12)]
    assert len({tuple(found.values()) for found in looks}) == 12
    assert len({found["color"] for found in looks[:8]}) == 8 and len({found["marker"] for found in looks[:7]}) == 7
    assert PAPER.truth not in PAPER.series


def test_lines_that_lie_on_each_other_are_both_seen_and_a_spread_that_is_missing_is_named() -> None:
    level = [(100.0, 0.9), (900.0, 0.9)]
    figure = capture_figure({"full": {"none": level, "15/30": level}, "spherical LM": {"15/30": level}}, effort=EFFORTS["steps"])
    first, second = figure.axes[0].lines
    assert first.get_linewidth() > second.get_linewidth() + 2 and first.get_markersize() > second.get_markersize() + 2
    assert legend(figure) == ["none", "15/30"]
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], ["not with this method: none"]]
    assert figure.axes[1].lines[0].get_color() == second.get_color()
    png_bytes(figure)


def test_a_training_has_one_mark_in_all_panels() -> None:
    names = ["tiny", "resnet10t", "resnet18", "mobilenetv3_small_100", "regnetx_002", "efficientnet_lite0", "convnext_atto"]
    curves = [[{"seconds": 60.0 * k, "mtre_mm": 40.0 / k + 0.1 * number} for k in (1, 2)] for number in range(7)]
    figure = training_figure([Training(name, curve, 1.0 if name == "tiny" else None) for name, curve in zip(names, curves)], ["mtre_mm"], 30.0)
    over_time, against = figure.axes
    curves_drawn, points = over_time.lines[:7], against.lines
    assert [(line.get_color(), line.get_marker()) for line in curves_drawn] == [(line.get_color(), line.get_marker()) for line in points]
    assert points[0].get_markerfacecolor() != "none" and points[1].get_markerfacecolor() == "none"
    assert legend(figure) == names and not against.texts
    assert figure.legends[0]._ncols == 4  # seven in two rows


def test_errors_are_on_one_scale_and_the_marks_are_explained() -> None:
    figure = error_figure({"near": {"a": [0.1, 0.2], "b": [0.3]}, "far": {"a": [20.0, 300.0]}})
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()
    assert legend(figure) == ["median", "quartiles", "2 mm; to the right, the share below"]
    png_bytes(figure)
    assert all(axes.get_xlabel() == "mm" and axes.xaxis.get_tick_params()["labelbottom"] for axes in figure.axes)


def test_all_panels_of_searches_have_titles_labels_and_numbers() -> None:
    searches = [Search(m, "c", 0, np.arange(4) * 0.1, np.array([9.0, 4.0, 2.0, 1.0]), np.array([4.0, 2.0, 1.0, 0.5]), 4) for m in ("a", "b")]
    figure = search_figure(searches)
    assert all(axes.get_title(loc="left") and axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    assert all(axes.yaxis.get_tick_params()["labelleft"] for axes in figure.axes)
    assert legend(figure) == ["a", "b"]


def test_landscapes_say_what_is_drawn_and_draw_all_similarities() -> None:
    offsets, names = np.linspace(-1, 1, 5), [f"similarity {number}" for number in range(7)]
    figure = line_figure([Line("se(3)", "turn", "deg", offsets, {name: -np.abs(offsets) for name in names})])
    assert legend(figure) == [*names, "truth"] and len(figure.axes[0].lines) == 8
    assert figure.axes[0].get_ylabel() == "se(3): similarity,\n0 least, 1 greatest"
    plane = Plane("se(3)", ("x", "y"), ("mm", "mm"), (offsets, offsets), {"ncc": -np.add.outer(offsets**2, offsets**2)})
    assert legend(plane_figure([plane])) == ["the map's best point", "truth", "every tenth of the map's own range"]
