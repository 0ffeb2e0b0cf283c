"""Draws docs/figures/frames.png, the project's frames, from the code that defines them: `python docs/figures/frames.py`."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Polygon

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.se3 import invert
from SphericalRegLib.geometry.views import c_arm_view, named_view

CAMERA = Camera(sdd_mm=1000.0, pixel_spacing_mm=(2.2, 2.2), size_px=(200, 160), principal_point_px=(99.5, 79.5))
CENTRE = np.zeros(3)
HALF_SIZE = np.array([150.0, 100.0, 120.0])
RED, GREEN, BLUE = "tab:red", "tab:green", "tab:blue"
TEXT = (
    ("world", "the CT's own RAS frame, mm;\nc is the centre of the uncropped CT"),
    ("camera", "origin at the source, mm; x along columns,\ny along rows (down), z to the detector"),
    ("pixel", "(column, row); (0, 0) is the first pixel's\ncentre; the image is seen from the source"),
    ("pose", "camera_from_world, 4 x 4:\n$x_{cam} = R\\,(x_{world} - c) + t$"),
    ("tangent", "$(\\omega, v)$, rad and mm, in world axes, about c:\n$R \\leftarrow R\\,\\exp(\\omega)$,   $t \\leftarrow t + R\\,v$"),
)


@dataclass(frozen=True)
class Drawing:
    """World points seen from far away: azimuth from +R towards +A, elevation towards +S, degrees."""

    axes: Axes
    azimuth: float
    elevation: float
    words: bool

    def flat(self, points: np.ndarray) -> np.ndarray:
        a, e = np.radians([self.azimuth, self.elevation])
        towards = np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)])
        right = np.array([-np.sin(a), np.cos(a), 0.0])
        return np.asarray(points) @ np.stack((right, np.cross(towards, right)), axis=-1)

    def line(self, *points: np.ndarray, **style) -> None:
        self.axes.plot(*self.flat(np.stack(points)).T, **style)

    def polygon(self, points: np.ndarray, **style) -> None:
        self.axes.add_patch(Polygon(self.flat(points), **style))

    def arrow(self, start: np.ndarray, vector: np.ndarray, label: str, colour: str) -> None:
        (x0, y0), (x1, y1) = self.flat(start), self.flat(start + vector)
        style = {"arrowstyle": "-|>", "color": colour, "linewidth": 2.2, "mutation_scale": 16, "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", (x1, y1), (x0, y0), arrowprops=style)
        self.axes.plot(x1, y1, alpha=0)  # annotations do not count for the axes' limits
        length = np.hypot(x1 - x0, y1 - y0)
        self.label((x1, y1), ((x1 - x0) / length, (y1 - y0) / length), label, colour)

    def label(self, at: tuple[float, float], direction: tuple[float, float], label: str, colour: str = "black") -> None:
        """Text beyond a point in a direction of the page."""
        side = "left" if direction[0] > 0.5 else "right" if direction[0] < -0.5 else "center"
        height = "bottom" if direction[1] > 0.5 else "top" if direction[1] < -0.5 else "center"
        shift = 7 * direction[0], 7 * direction[1]
        self.axes.annotate(label, at, shift, textcoords="offset points", color=colour, fontsize=11, ha=side, va=height, zorder=20)

    def marker(self, point: np.ndarray, **style) -> None:
        self.axes.scatter(*self.flat(point), zorder=10, **style)


def set_up(drawing: Drawing, world_from_camera: np.ndarray) -> None:
    """Source, detector and CT in the world, for one world_from_camera (4, 4); what is far from the viewer first."""
    rotation, source = world_from_camera[:3, :3], world_from_camera[:3, 3]

    def world(*pixels: tuple[float, float]) -> np.ndarray:
        return CAMERA.back_project(np.array(pixels, dtype=float)) @ rotation.T + source

    words = drawing.words
    right, bottom = CAMERA.columns - 0.5, CAMERA.rows - 0.5
    edge = world((-0.5, -0.5), (right, -0.5), (right, bottom), (-0.5, bottom))
    first, last_column, last_row = world((0, 0), (90, 0), (0, 75))
    (principal,) = world(CAMERA.principal_point_px)
    drawing.polygon(edge, facecolor="0.88", edgecolor="0.3")
    for corner in edge:
        drawing.line(source, corner, color="0.7", linewidth=0.9, linestyle="--")
    drawing.line(source, principal, color=BLUE, linewidth=1.2, linestyle=":")
    drawing.marker(principal, color=BLUE, marker="x", s=45)
    drawing.arrow(first, last_column - first, "columns" if words else "", "black")
    drawing.arrow(first, last_row - first, "rows" if words else "", "black")
    drawing.marker(first, color="black", marker="s", s=40 if words else 22)

    corners = np.array(list(product([-1, 1], repeat=3))) * HALF_SIZE + CENTRE
    for a, b in product(corners, repeat=2):
        if (a != b).sum() == 1:
            drawing.line(a, b, color="0.35", linewidth=1)
    drawing.polygon(corners[corners[:, 1] > 0][[0, 1, 3, 2]], facecolor=GREEN, alpha=0.12)
    for direction, label, name, colour in zip(np.eye(3), ("+R (right)", "+A (anterior)", "+S (head)"), ("R", "A", "S"), (RED, GREEN, BLUE)):
        drawing.arrow(CENTRE, 210 * direction, label if words else name, colour)
    drawing.marker(CENTRE, color="black", s=35)

    for direction, label, name, colour in zip(rotation.T, ("x (columns)", "y (rows)", "z"), ("x", "y", "z"), (RED, GREEN, BLUE)):
        drawing.arrow(source, 150 * direction, label if words else name, colour)
    drawing.marker(source, color="tab:orange", edgecolor="black", s=130 if words else 70)
    if words:
        drawing.label(tuple(drawing.flat(first)), (-1, 0.6), "pixel (0, 0)")
        drawing.label(tuple(drawing.flat(source)), (-1.6, -1.2), "X-ray source,\ncamera origin")
        drawing.label(tuple(drawing.flat(principal)), (0, 1), "principal point", BLUE)
        drawing.label(tuple(drawing.flat(CENTRE)), (-1, -0.6), "c")
        drawing.label(tuple(drawing.flat(edge[3])), (0, -1.2), "detector")
        drawing.label(tuple(drawing.flat(HALF_SIZE * [1, 1, -1])), (0, -1.2), "CT")


def panel(figure: plt.Figure, place: object, pose: object, azimuth: float, title: str, words: bool) -> None:
    axes = figure.add_subplot(place)
    set_up(Drawing(axes, azimuth, 20.0, words), invert(pose).numpy())
    axes.set_aspect("equal")
    axes.margins(0.10 if words else 0.08)
    axes.set_axis_off()
    axes.set_title(title, fontsize=13 if words else 11)


def main() -> None:
    figure = plt.figure(figsize=(14, 9))
    grid = figure.add_gridspec(2, 4, height_ratios=(2, 1), hspace=0.1, wspace=0.05, left=0.02, right=0.98, top=0.95, bottom=0.02)
    panel(figure, grid[0, :3], named_view("ap", CAMERA, CENTRE), 35.0, "ap: source in front of the patient (the tinted face is anterior)", True)
    text = figure.add_subplot(grid[0, 3])
    text.set_axis_off()
    for k, (name, words) in enumerate(TEXT):
        text.text(0.0, 0.93 - 0.19 * k, name, fontsize=11.5, weight="bold", va="top")
        text.text(0.0, 0.88 - 0.19 * k, words, fontsize=10.5, va="top", linespacing=1.4)
    panel(figure, grid[1, 0], named_view("pa", CAMERA, CENTRE), -35.0, "pa: source behind the patient", False)
    panel(figure, grid[1, 1], named_view("left", CAMERA, CENTRE), 55.0, "left: detector on the patient's left", False)
    panel(figure, grid[1, 2], named_view("right", CAMERA, CENTRE), 125.0, "right: detector on the right", False)
    panel(figure, grid[1, 3], c_arm_view(40, 25, CAMERA, CENTRE), -12.0, "C-arm: LAO 40, cranial 25", False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=110)


if __name__ == "__main__":
    main()
