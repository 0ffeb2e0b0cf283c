"""The qualitative panel: X-ray, DRR, overlay and difference side by side, one row per case (the paper's Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from SphericalRegLib.errors import InputError
from SphericalRegLib.visualization.difference import COLOUR_MAP, colour_limit, compare_drrs, compare_xray, diverging
from SphericalRegLib.visualization.display import RGB, counted, resize_to_width
from SphericalRegLib.visualization.figures import PAPER, Theme, new_figure
from SphericalRegLib.visualization.overlay import ESTIMATE_COLOUR, INITIAL_COLOUR, TRUTH_COLOUR, draw, edges, grey_pair, toned

DRAWN_COLUMNS = 640  # images are brought to this before edges are drawn, so that lines look alike whatever the detector
FAINTEST = 0.02  # what DRRs differ by where nothing is to be seen, of their grey values' range
FOCUS_MARGIN, FOCUS_SHARE = 0.35, 0.6  # what is shown around a small CT, in its size; a larger share of the image is shown whole


@dataclass(frozen=True)
class PanelRow:
    """One case: images ``(H, W)``, bone bright, on one grid. ``initial_drr`` is the DRR at the start; ``truth_drr`` only in evaluation."""

    label: str
    xray: np.ndarray
    drr: np.ndarray
    mask: np.ndarray | None = None
    truth_drr: np.ndarray | None = None
    initial_drr: np.ndarray | None = None


def resized(row: PanelRow, columns: int = DRAWN_COLUMNS) -> PanelRow:
    """The row with its images ``columns`` wide; what is not finite is outside the mask.

    Raises:
        InputError: if shapes differ or no pixel counts.
    """
    given = _images(row)
    images, valid = counted(given, row.mask)
    changed: dict[str, Any] = {name: resize_to_width(image, columns) for name, image in zip(given, images, strict=True)}
    return replace(row, mask=resize_to_width(valid, columns), **changed)


def focused(row: PanelRow) -> PanelRow:
    """The row cropped to the part of the image that its DRRs reach, and some of what is around, where that is much smaller than the image.

    Raises:
        InputError: if shapes differ or no pixel counts.
    """
    images, valid = counted(_images(row), row.mask)
    named = dict(zip(_images(row), images, strict=True))
    shown = valid & np.any([image > 0.01 * image.max(initial=0.0, where=valid) for name, image in named.items() if name != "xray"], axis=0)
    if not shown.any():
        return row
    hits = [np.flatnonzero(shown.any(axis=1 - axis)) for axis in (0, 1)]
    side = round((1 + 2 * FOCUS_MARGIN) * max(hit[-1] + 1 - hit[0] for hit in hits))  # square, so that the rows of a panel look alike
    if side > FOCUS_SHARE * min(shown.shape):
        return row
    window = []
    for hit, size in zip(hits, shown.shape, strict=True):
        first = min(max(0, (hit[0] + hit[-1] + 1 - side) // 2), size - side)
        window.append(slice(first, first + side))
    cropped: dict[str, Any] = {name: image[tuple(window)] for name, image in _images(row).items()}
    return replace(row, mask=None if row.mask is None else row.mask[tuple(window)], **cropped)


def overlay_picture(row: PanelRow) -> np.ndarray:
    """X-ray in grey, edges of the DRR in sky blue, and of the DRR at the truth in red below them where there is one."""
    picture = toned(row.xray, row.mask)
    if row.truth_drr is not None:
        picture = draw(picture, edges(row.truth_drr, row.mask), TRUTH_COLOUR)
    return draw(picture, edges(row.drr, row.mask), ESTIMATE_COLOUR)


def qualitative_panel(rows: Sequence[PanelRow], theme: Theme = PAPER) -> Figure:
    """X-ray | DRR | overlay | difference, about where the CT is. The difference is that of the DRRs at the truth and at the estimate where the truth
    is given, signed and on one scale for all rows, else X-ray against DRR in red and blue.

    Raises:
        InputError: if there is no row, or a row's images don't fit together.
    """
    if not rows:
        raise InputError("there is no case to draw; expected at least one")
    rows = [resized(focused(row)) for row in rows]
    heights = [row.xray.shape[0] / row.xray.shape[1] for row in rows]
    figure = new_figure(11.2, 2.75 * sum(heights) + 0.35, theme)
    axes = figure.subplots(len(rows), 4, squeeze=False, height_ratios=heights)
    compared = [_compare(row) for row in rows]
    to_truth = [number for number, row in enumerate(rows) if row.truth_drr is not None]
    limit = colour_limit(*(compared[number][1] for number in to_truth), smallest=FAINTEST) if to_truth else 0.0
    for number, (line, row, (red_blue, signed)) in enumerate(zip(axes, rows, compared, strict=True)):
        with_truth = number in to_truth
        difference, what = (diverging(signed, limit), "DRRs: truth minus estimate") if with_truth else (red_blue, "X-ray red, DRR blue")
        pictures = (*grey_pair(row.xray, row.drr, row.mask), overlay_picture(row), difference)
        titles = (row.label, "DRR at the estimated pose", "DRR edges on the X-ray", what)
        for ax, picture, title in zip(line, pictures, titles, strict=True):
            _show(ax, picture, title, theme)
        if with_truth:
            _legend(line[2], {"estimate": ESTIMATE_COLOUR, "truth": TRUTH_COLOUR})
    if to_truth:
        _scale(figure, [axes[number, 3] for number in to_truth], limit, "part of the grey values' range", theme)
    return figure


def before_and_after(rows: Sequence[PanelRow], theme: Theme = PAPER) -> Figure:
    """X-ray | DRR edges at the start | DRR edges at the result | X-ray against DRR at the result: what a registration does, at a glance.

    Raises:
        InputError: if there is no row, a row has no start, or its images don't fit together.
    """
    if not rows:
        raise InputError("there is no case to draw; expected at least one")
    for row in rows:
        if row.initial_drr is None:
            raise InputError(f"{row.label} has no DRR at the start; expected one")
    rows = [resized(focused(row)) for row in rows]
    heights = [row.xray.shape[0] / row.xray.shape[1] for row in rows]
    figure = new_figure(11.2, 2.75 * sum(heights) + 0.35, theme)
    axes = figure.subplots(len(rows), 4, squeeze=False, height_ratios=heights)
    for number, (line, row) in enumerate(zip(axes, rows, strict=True)):
        xray = toned(row.xray, row.mask)
        assert row.initial_drr is not None
        start, result = (draw(xray, edges(drr, row.mask), c) for drr, c in ((row.initial_drr, INITIAL_COLOUR), (row.drr, ESTIMATE_COLOUR)))
        pictures = (xray, start, result, compare_xray(row.xray, row.drr, row.mask)[0])
        words = ("DRR edges at the start", "DRR edges at the result", "X-ray red, DRR blue") if number == 0 else ("", "", "")
        for ax, picture, title in zip(line, pictures, (row.label, *words), strict=True):
            _show(ax, picture, title, theme)
    return figure


def overlay_figure(row: PanelRow, theme: Theme = PAPER) -> Figure:
    """The overlay alone, large, with its legend."""
    row = resized(row, 960)  # as many as the figure has
    figure = new_figure(6.4, 6.4 * row.xray.shape[0] / row.xray.shape[1] + 0.3, theme)
    axes = figure.subplots()
    _show(axes, overlay_picture(row), row.label, theme)
    _legend(axes, {"DRR edges": ESTIMATE_COLOUR} | ({} if row.truth_drr is None else {"at the true pose": TRUTH_COLOUR}))
    return figure


def difference_figure(row: PanelRow, theme: Theme = PAPER) -> Figure:
    """Red-blue difference map and signed map with its colour bar: X-ray against DRR, or truth against estimate where the truth is given."""
    row = resized(row)
    with_truth = row.truth_drr is not None
    first, second = ("truth", "estimate") if with_truth else ("X-ray", "DRR")
    picture, signed = _compare(row)
    limit = colour_limit(signed)
    figure = new_figure(9.6, 4.3 * row.xray.shape[0] / row.xray.shape[1] + 0.5, theme)
    left, right = figure.subplots(1, 2)
    _show(left, picture, f"{first} red, {second} blue, agreement grey", theme)
    _show(right, diverging(signed, limit), f"{first} minus {second}", theme)
    _scale(figure, [right], limit, "part of the grey values' range" if with_truth else "local contrast", theme)
    return figure


def _scale(figure: Figure, axes: list[Axes], limit: float, label: str, theme: Theme) -> None:
    """The colours of `diverging`, beside the pictures that have them."""
    bar = figure.colorbar(ScalarMappable(Normalize(-limit, limit), COLOUR_MAP), ax=axes, shrink=0.85 if len(axes) == 1 else 0.5, pad=0.02)
    bar.set_label(label, color=theme.muted, fontsize=8)
    bar.ax.tick_params(colors=theme.muted, labelsize=8, length=0)
    bar.outline.set_visible(False)


def _images(row: PanelRow) -> dict[str, np.ndarray]:
    named = {"xray": row.xray, "drr": row.drr, "truth_drr": row.truth_drr, "initial_drr": row.initial_drr}
    return {name: image for name, image in named.items() if image is not None}


def _compare(row: PanelRow) -> tuple[np.ndarray, np.ndarray]:
    if row.truth_drr is not None:
        return compare_drrs(row.truth_drr, row.drr, row.mask)
    return compare_xray(row.xray, row.drr, row.mask)


def _show(axes: Axes, picture: np.ndarray, title: str, theme: Theme) -> None:
    axes.imshow(picture, interpolation="antialiased")
    axes.set_title(title, fontsize=9, color=theme.ink, loc="left")
    axes.set_axis_off()


def _legend(axes: Axes, entries: dict[str, RGB]) -> None:
    lines = [Line2D([], [], color=to_hex((colour[0] / 255, colour[1] / 255, colour[2] / 255)), linewidth=2) for colour in entries.values()]
    legend = axes.legend(lines, list(entries), loc="lower right", fontsize=7, frameon=True, framealpha=0.65, facecolor="#10131a", edgecolor="none")
    for text in legend.get_texts():
        text.set_color("#ffffff")
