"""How the project's figures look, and how they become PNG files and theme-aware SVG.

Figures are made with matplotlib's object interface (no pyplot, no global state), so they may be drawn from any thread. A figure's colours come from
a `Theme`: `PAPER` for files, `WEB` for HTML, whose colours are replaced by CSS variables so that one drawing follows light and dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from SphericalRegLib.imaging.files import write_atomically


@dataclass(frozen=True)
class Theme:
    """Colours of a figure, hexadecimal."""

    paper: str
    ink: str
    muted: str
    rule: str
    estimate: str  # what was computed, the kept hypothesis
    truth: str  # what it is compared with
    others: str  # hypotheses that were not kept
    stages: tuple[str, ...]
    series: tuple[str, ...]  # things that are compared: as far apart as can be, red left to the truth


PAPER = Theme(
    "#ffffff",
    "#1b1f2a",
    "#667085",
    "#dfe3ea",
    "#1f6feb",
    "#d1432f",
    "#9aa4b5",
    stages=("#1f6feb", "#12999b", "#7a5af8", "#d98324", "#c2417c"),
    series=("#1f6feb", "#e08a1e", "#12936b", "#b03fc4", "#1b1f2a", "#9c6b3c", "#6ab7e8", "#a3b52b"),
)
# Stand-ins that occur nowhere else: `themed_svg` turns them into CSS variables.
_STAGES = tuple(f"#fe001{i}" for i in range(5))
WEB = Theme("#fe0001", "#fe0002", "#fe0003", "#fe0004", "#fe0005", "#fe0006", "#fe0007", _STAGES, _STAGES)
_VARIABLES = {
    **{getattr(WEB, name): f"var(--{name})" for name in ("paper", "ink", "muted", "rule", "estimate", "truth", "others")},
    **{colour: f"var(--stage-{i})" for i, colour in enumerate(WEB.stages)},
}


def new_figure(width_in: float, height_in: float, theme: Theme = PAPER) -> Figure:
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    figure.set_facecolor(theme.paper if theme is not WEB else "none")
    return figure


def dress(axes: Axes, theme: Theme, title: str = "", x: str = "", y: str = "") -> None:
    """Title, labels, light grid, no box."""
    axes.set_facecolor("none")
    axes.set_title(title, color=theme.ink, fontsize=10, loc="left")
    axes.set_xlabel(x, color=theme.muted, fontsize=9)
    axes.set_ylabel(y, color=theme.muted, fontsize=9)
    axes.tick_params(colors=theme.muted, which="both", labelsize=8, length=0)
    axes.grid(True, color=theme.rule, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.rule)


LINES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX"


def look(number: int, theme: Theme) -> dict[str, Any]:
    """How the line of one of several things is drawn, so that it is told from the others in a legend and in print: colour, marker, line."""
    return {
        "color": theme.series[number % len(theme.series)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number // len(theme.series) % len(LINES)],
    }


def legend_above(figure: Figure, theme: Theme, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """One legend over all panels, in as few rows of alike length as six names a row need."""
    rows = -(-len(labels) // 6)
    legend = figure.legend(
        handles, labels, loc="outside upper center", ncols=-(-len(labels) // rows), frameon=False, fontsize=8, handlelength=3.6, columnspacing=1.6
    )
    for text in legend.get_texts():
        text.set_color(theme.ink)


def png_bytes(figure: Figure, dpi: int = 150) -> bytes:
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_figure(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


def picture_bytes(picture: np.ndarray) -> bytes:
    """A uint8 picture ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)`` as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_figure(figure: Figure, path: str | Path, dpi: int = 150) -> Path:
    """Write a figure as PNG, whole or not at all."""
    return _write(png_bytes(figure, dpi), path)


def write_picture(picture: np.ndarray, path: str | Path) -> Path:
    """Write a uint8 picture as PNG, whole or not at all."""
    return _write(picture_bytes(picture), path)


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _write(content: bytes, path: str | Path) -> Path:
    write_atomically(Path(path), lambda temporary: _put(temporary, content))
    return Path(path)


def themed_svg(figure: Figure, prefix: str) -> str:
    """A figure drawn with `WEB` as an ``<svg>`` element to be put into a page that defines the CSS variables.

    Its ids are renumbered under ``prefix``, so that several can share a page and the same figure always gives the same text. It has no size of its
    own beyond the view box: it fills its container.
    """
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    names = {name: f"{prefix}-{i}" for i, name in enumerate(dict.fromkeys(re.findall(r'\sid="([^"]+)"', text)))}
    text = re.sub(r'(\sid="|url\(#|href="#)([^")]+)', lambda m: m.group(1) + names.get(m.group(2), m.group(2)), text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text.strip()
