"""The set-up in 3D: where source, detector and CT stand in the world, and which way is left.

Drawn with matplotlib in RAS millimetres. The detector carries the X-ray as seen from the source; letters say which side of the patient is where,
at the CT and at the image's edges alike, so that a mirrored image or an inverse pose can be seen at a glance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path as Polygon
from mpl_toolkits.mplot3d import proj3d
from mpl_toolkits.mplot3d.art3d import Line3DCollection, Poly3DCollection
from mpl_toolkits.mplot3d.axes3d import Axes3D

from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.geometry.views import named_view
from SphericalRegLib.imaging import grid
from SphericalRegLib.imaging.case import Case
from SphericalRegLib.imaging.radiograph import Radiograph
from SphericalRegLib.imaging.volume import Volume

from .display import display_window, resize_to_width, to_unit
from .figures import PAPER, Theme, new_figure, write_figure
from .orientation import edge_letters

# The detector's picture in 3D is a mosaic of this many columns; matplotlib draws every tile as a polygon.
MOSAIC_COLUMNS = 110
BONE_HU, BONE_POINTS = 250.0, 5000
# Height of the eye, and the cosine between its direction and the beams'.
ELEVATION_DEG, FRONTALITY = 17.0, 0.6
COMPASS_SIZE = (0.13, 0.26)  # in parts of the figure
HALO = [patheffects.withStroke(linewidth=3, foreground="white")]
SHOWN = {"H": "S", "F": "I"}  # Slicer's letters: superior, inferior
SIDE_COLOURS = {"R": "#c2417c", "L": "#c2417c", "A": "#12999b", "P": "#12999b", "H": "#7a5af8", "F": "#7a5af8"}


@dataclass(frozen=True, eq=False)
class PlacedView:
    """An X-ray and its pose ``camera_from_world`` (4, 4); ``note`` says where the pose comes from."""

    radiograph: Radiograph
    camera_from_world: np.ndarray
    note: str = ""

    @property
    def world_from_camera(self) -> np.ndarray:
        return np.linalg.inv(np.asarray(self.camera_from_world, dtype=float))


def draw_case(case: Case, path: str | Path) -> Path:
    """Draw a case at its initial pose (an assumed PA view where it has none) to a PNG."""
    return write_figure(setup_figure(case.volume, placed_views(case)), path)


def placed_views(case: Case) -> list[PlacedView]:
    """The case's X-rays at the initial pose; without one, as if the first were a PA view."""
    first, note = case.initial_camera_from_world, f"pose: {case.initial_origin}"
    if first is None:
        radiograph = case.views[0].radiograph
        first = named_view("pa", radiograph.camera, case.volume.centre_ras_mm.tolist(), radiograph.sod_fraction).numpy()
        note = "no initial pose: drawn as a PA view"
    return [PlacedView(view.radiograph, view.camera_from_camera1 @ first, note) for view in case.views]


def setup_figure(volume: Volume | None, views: Sequence[PlacedView], theme: Theme = PAPER) -> Figure:
    """The set-up in 3D on the left, each X-ray with the letters of its sides on the right.

    Args:
        volume: the CT; without one, source and detector alone are drawn.
        views: at least one.
    """
    figure = new_figure(11.0, 5.5, theme)
    figure.set_layout_engine("none")
    scene: Axes3D = figure.add_axes((0.05, 0.05, 0.5, 0.5 * 11.0 / 5.5), projection="3d")  # type: ignore[assignment]
    scene.view_init(elev=ELEVATION_DEG, azim=_azimuth([view.camera_from_world[2, :3] for view in views]))
    scene.set_axis_off()
    scene.set_proj_type("persp", focal_length=0.8)
    corners = None if volume is None else _draw_ct(scene, volume, theme)
    drawn = [] if corners is None else [corners]
    height = 0.84 / len(views)
    for index, view in enumerate(views):
        number = str(index + 1) if len(views) > 1 else ""
        drawn.append(_draw_view(scene, view, number, theme))
        bottom = 0.12 + (len(views) - 1 - index) * (height + 0.02)
        _draw_image(figure.add_axes((0.695, bottom + 0.16 * height, 0.275, 0.68 * height)), view, number, theme)
    _fit(scene, np.concatenate(drawn), (0.05, 0.12, 0.63, 0.95))
    if corners is not None:
        _draw_sides(scene, corners, views)
    for artist in scene.get_children():
        artist.set_clip_on(False)
    _draw_compass(figure, scene, _free_corner(scene, drawn), theme)
    return figure


def _azimuth(beams: Sequence[np.ndarray]) -> float:
    """Look from the sources' side, so that the detectors show their pictures, and from beside the beams."""
    elevation = np.radians(ELEVATION_DEG)
    angles = np.radians(np.arange(0.0, 360.0, 2.0))
    eyes = np.stack((np.cos(elevation) * np.cos(angles), np.cos(elevation) * np.sin(angles), np.full_like(angles, np.sin(elevation))), 1)
    cost = ((eyes @ -np.stack(beams).T - FRONTALITY) ** 2).sum(1) + 1e-3 * (angles - np.radians(300)) ** 2
    return float(np.degrees(angles[cost.argmin()]))


def _draw_ct(scene: Axes3D, volume: Volume, theme: Theme) -> np.ndarray:
    """The CT's box and its bone as a cloud of points. Returns the box's corners (8, 3)."""
    corners = grid.apply(volume.world_from_voxel, grid.box_corners(volume.shape))
    edges = [(a, b) for a in range(8) for b in range(a + 1, 8) if (a ^ b).bit_count() == 1]
    scene.add_collection3d(Line3DCollection([corners[[a, b]] for a, b in edges], colors=theme.muted, linewidths=1.0, alpha=0.8), autolim=False)
    bone = np.argwhere(volume.hu > BONE_HU)
    if len(bone):
        chosen = bone[np.random.default_rng(0).choice(len(bone), min(BONE_POINTS, len(bone)), replace=False)]
        points = grid.apply(volume.world_from_voxel, chosen.astype(float))
        scene.scatter(*points.T, s=3.5, c="#a8752f", alpha=0.45, linewidths=0, depthshade=True)  # type: ignore[arg-type]
    return corners


def _draw_sides(scene: Axes3D, corners: np.ndarray, views: Sequence[PlacedView]) -> None:
    """The letters of the patient's sides about the CT's box (8, 3): before the middle of a face, or where that would fall on a detector or on
    another label, at one of the face's edges. The scene must have its final scale.

    The letters of a small CT (one bone in the whole scene) stand further off, so that they do not fall on each other.
    """
    scene_mm = max(view.radiograph.camera.sdd_mm for view in views)
    middle, half = (corners.min(0) + corners.max(0)) / 2, (corners.max(0) - corners.min(0)) / 2
    small = half.max() < 0.1 * scene_mm
    reach = np.maximum(half + 0.16 * half.max(), 0.11 * scene_mm if small else 0.0)
    detectors = [Polygon(_on_figure(scene, _on_detector(view, _image_corners(view.radiograph.camera)))) for view in views]
    taken = [_text_points(scene, text.get_position_3d(), text.get_text(), text.get_fontsize()) for text in scene.texts]
    for axis, (positive, negative) in enumerate((("R", "L"), ("A", "P"), ("H", "F"))):
        to_edges = np.delete(np.eye(3), axis, 0) if axis == 2 else np.eye(3)[2:]
        for letter, sign in ((positive, 1.0), (negative, -1.0)):
            face = middle + sign * reach * np.eye(3)[axis]
            places = [face, *(face + step * reach * edge for step in (-1.0, 1.0, -1.25) for edge in to_edges)]
            text = SHOWN.get(letter, letter) + (" (patient's left)" if letter == "L" and not small else "")
            size = (8.0 if small else 11.0) + (2.0 if letter == "L" else 0.0)
            spots = [_text_points(scene, place, text, size) for place in places]
            best = min(range(len(places)), key=lambda k: _covered(spots[k], detectors) + _crowded(spots[k], taken))
            taken.append(spots[best])
            _letter(scene, places[best], letter, size, text[1:])


def _on_figure(scene: Axes3D, points: np.ndarray) -> np.ndarray:
    """(..., 2) in inches of the figure, of points (..., 3) of the world."""
    across, down, _ = proj3d.proj_transform(*np.moveaxis(np.asarray(points, dtype=float), -1, 0), scene.get_proj())
    figure = scene.get_figure()
    assert figure is not None
    pixels = scene.transData.transform(np.stack((np.ravel(across), np.ravel(down)), 1))
    return figure.dpi_scale_trans.inverted().transform(pixels).reshape(*np.shape(points)[:-1], 2)


def _text_points(scene: Axes3D, place: Sequence[float] | np.ndarray, text: str, size: float) -> np.ndarray:
    """(75, 2) inches: points of a text that is centred at a place of the world."""
    width, height = 0.6 * size / 72 * len(text), size / 72
    across, down = np.meshgrid(np.linspace(-0.5, 0.5, 25) * width, np.linspace(-0.5, 0.5, 3) * height)
    return _on_figure(scene, np.asarray(place)) + np.stack((across.ravel(), down.ravel()), 1)


def _covered(spot: np.ndarray, detectors: Sequence[Polygon]) -> float:
    """How much of a text lies over a detector, in [0, 1]."""
    return float(np.mean([any(detector.contains_point(point) for detector in detectors) for point in spot]))


def _crowded(spot: np.ndarray, taken: Sequence[np.ndarray]) -> float:
    """1 where a text would touch another one, else 0."""
    return float(any(np.linalg.norm(spot[:, None] - other, axis=-1).min() < 0.08 for other in taken))


def _draw_view(scene: Axes3D, view: PlacedView, number: str, theme: Theme) -> np.ndarray:
    """Source, detector with its picture, frustum and central ray. Returns the points that the drawing must show."""
    camera = view.radiograph.camera
    source = view.world_from_camera[:3, 3]
    corners = _on_detector(view, _image_corners(camera))
    principal = _on_detector(view, np.array([camera.principal_point_px]))[0]
    _draw_mosaic(scene, view)
    scene.add_collection3d(Line3DCollection([np.array([source, corner]) for corner in corners], colors=theme.estimate, linewidths=0.8, alpha=0.55))
    sides = [np.array([source, corners[k], corners[(k + 1) % 4]]) for k in range(4)]
    scene.add_collection3d(Poly3DCollection(sides, facecolors=theme.estimate, alpha=0.035, edgecolors="none"))
    scene.add_collection3d(Line3DCollection([np.vstack((corners, corners[:1]))], colors=theme.ink, linewidths=1.2))
    scene.plot(*np.array([source, principal]).T, color=theme.truth, linewidth=1.2, linestyle=(0, (5, 3)), zorder=30)
    scene.scatter(*source[:, None], s=70, c=theme.truth, marker="o", depthshade=False, zorder=40)  # type: ignore[misc]
    lift = 0.05 * camera.sdd_mm * np.array([0, 0, 1.0])
    scene.text(*(source + lift), f"source {number}".strip(), color=theme.truth, fontsize=9, ha="center", zorder=50)
    letters = edge_letters(view.camera_from_world)
    middles = {"left": (corners[0] + corners[3]) / 2, "right": (corners[1] + corners[2]) / 2}
    centre = corners.mean(0)
    for edge, letter in (("left", letters.left), ("right", letters.right)):
        _letter(scene, centre + 1.14 * (middles[edge] - centre), letter, 11)
    label = centre + 1.1 * ((corners[0] + corners[1]) / 2 - centre)
    scene.text(*label, f"detector {number}".strip(), color=theme.ink, fontsize=9, ha="center", va="bottom", zorder=50, path_effects=HALO)
    return np.vstack((corners, source[None], label[None]))


def _draw_mosaic(scene: Axes3D, view: PlacedView) -> None:
    """The X-ray on the detector, as film shows it: bone bright."""
    radiograph = view.radiograph
    columns = min(MOSAIC_COLUMNS, radiograph.camera.columns)
    picture = to_unit(resize_to_width(radiograph.image, columns), display_window(radiograph.image, radiograph.mask))
    used = resize_to_width(radiograph.mask, columns)
    rows = picture.shape[0]
    shade = np.where(used, 0.08 + 0.88 * picture, 0.05)
    width, height = radiograph.camera.size_px
    across, down = np.meshgrid(np.linspace(-0.5, width - 0.5, columns + 1), np.linspace(-0.5, height - 0.5, rows + 1))
    places = _on_detector(view, np.stack((across, down), -1))
    colours = np.stack((shade, shade, shade, np.ones_like(shade)), -1)
    scene.plot_surface(
        places[..., 0], places[..., 1], places[..., 2], facecolors=colours, rstride=1, cstride=1, shade=False, linewidth=0, antialiased=False
    )


def _draw_image(axes: Axes, view: PlacedView, number: str, theme: Theme) -> None:
    """The X-ray as seen from the source, with the patient's sides at its edges."""
    radiograph = view.radiograph
    camera = radiograph.camera
    columns = min(600, camera.columns)
    picture = to_unit(resize_to_width(radiograph.image, columns), display_window(radiograph.image, radiograph.mask))
    extent = (-0.5, camera.columns - 0.5, camera.rows - 0.5, -0.5)
    aspect = camera.pixel_spacing_mm[1] / camera.pixel_spacing_mm[0]
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, extent=extent, aspect=aspect, interpolation="bilinear")
    used = resize_to_width(radiograph.mask, columns)
    if not used.all() and used.any():
        axes.contour(used, levels=[0.5], colors=[theme.stages[3]], linewidths=0.9, extent=extent, origin="upper")
    column, row = camera.principal_point_px
    axes.plot([column], [row], "+", color=theme.truth, markersize=11, markeredgewidth=1.4, scalex=False, scaley=False, clip_on=True)
    letters = edge_letters(view.camera_from_world)
    places = {letters.left: (-0.06, 0.5), letters.right: (1.06, 0.5), letters.top: (0.5, 1.06), letters.bottom: (0.5, -0.06)}
    for letter, place in places.items():
        text = SHOWN.get(letter, letter)
        axes.text(*place, text, transform=axes.transAxes, color=SIDE_COLOURS[letter], fontsize=12, fontweight="bold", ha="center", va="center")
    title = f"X-ray {number}".strip() + ", seen from the source"
    if radiograph.mirrored:
        title += " (stored mirrored)"
    axes.text(0.5, 1.12, title, transform=axes.transAxes, color=theme.ink, fontsize=9.5, ha="center", va="bottom")
    used_share = f"{100 * radiograph.mask.mean():.0f} % used"
    lines = [f"SDD {camera.sdd_mm:.5g} mm, {camera.columns} x {camera.rows} pixels, {used_share}", view.note]
    axes.text(0.5, -0.14, "\n".join(line for line in lines if line), transform=axes.transAxes, color=theme.muted, fontsize=7.5, ha="center", va="top")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _free_corner(scene: Axes3D, drawn: Sequence[np.ndarray]) -> tuple[float, float]:
    """Left bottom of the compass, in parts of the figure: the corner of the 3D drawing with least of it, the left bottom one if all are alike."""
    figure = scene.get_figure()
    assert figure is not None
    share = np.linspace(0, 1, 30)[:, None, None, None]
    lines = [share * points[:, None] + (1 - share) * points for points in drawn]
    shown = np.concatenate([_on_figure(scene, line.reshape(-1, 3)) for line in lines]) / figure.get_size_inches()  # type: ignore[union-attr]
    corners = [(x, y) for y in (0.0, 0.72) for x in (0.0, 0.5)]
    inside = [((shown > corner) & (shown < np.add(corner, COMPASS_SIZE))).all(1).sum() for corner in corners]
    return corners[int(np.argmin(inside))]


def _draw_compass(figure: Figure, scene: Axes3D, corner: tuple[float, float], theme: Theme) -> None:
    """The RAS axes in a corner, seen from the same side as the scene, and what the letters mean."""
    small: Axes3D = figure.add_axes((*corner, *COMPASS_SIZE), projection="3d")  # type: ignore[assignment]
    small.patch.set_visible(False)
    small.view_init(elev=scene.elev, azim=scene.azim)
    small.set_axis_off()
    small.set_box_aspect((1, 1, 1))
    for axis, (letter, name) in enumerate((("R", "R"), ("A", "A"), ("H", "S"))):
        tip = np.eye(3)[axis]
        small.quiver(0, 0, 0, *tip, color=SIDE_COLOURS[letter], linewidth=2, arrow_length_ratio=0.22)
        small.text(*(1.25 * tip), name, color=SIDE_COLOURS[letter], fontsize=10, fontweight="bold", ha="center", va="center")
    for set_limit in (small.set_xlim, small.set_ylim, small.set_zlim):
        set_limit(-0.4, 1.1)
    legend = "R right   L left   A anterior   P posterior   S superior (head)   I inferior (feet)      world: RAS, mm      dashed: central ray"
    figure.text(0.13, 0.03, legend, color=theme.muted, fontsize=7.5)


def _fit(scene: Axes3D, points: np.ndarray, area: tuple[float, float, float, float]) -> None:
    """Equal scale on all axes, and as large as fits into (left, bottom, right, top) of the figure."""
    low, high = points.min(0), points.max(0)
    for set_limit, first, last in zip((scene.set_xlim, scene.set_ylim, scene.set_zlim), low, high):
        set_limit(first, last)
    scene.set_box_aspect(tuple(np.maximum(high - low, 1e-6)))
    scene.apply_aspect()
    across, down, _ = proj3d.proj_transform(*points.T, scene.get_proj())
    figure = scene.get_figure()
    assert figure is not None
    shown = figure.transSubfigure.inverted().transform(scene.transData.transform(np.stack((across, down), 1)))
    first, last = shown.min(0), shown.max(0)
    scale = min((area[2] - area[0]) / (last[0] - first[0]), (area[3] - area[1]) / (last[1] - first[1]))
    box = scene.get_position()
    corner = np.array([(area[0] + area[2]) / 2, (area[1] + area[3]) / 2]) - scale * ((first + last) / 2 - np.array([box.x0, box.y0]))
    scene.set_position((*corner, scale * box.width, scale * box.height))  # type: ignore[arg-type]


def _letter(scene: Axes3D, place: np.ndarray, letter: str, size: float, more: str = "") -> None:
    """A side of the patient, with a halo that keeps it legible over lines."""
    text = SHOWN.get(letter, letter) + more
    colour = SIDE_COLOURS[letter]
    scene.text(*place, text, color=colour, fontsize=size, fontweight="bold", ha="center", va="center", zorder=60, path_effects=HALO)


def _image_corners(camera: Camera) -> np.ndarray:
    """(4, 2) outer corners: top left, top right, bottom right, bottom left."""
    right, bottom = camera.columns - 0.5, camera.rows - 0.5
    return np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])


def _on_detector(view: PlacedView, pixels: np.ndarray) -> np.ndarray:
    """Places (..., 3) in the world of pixels (..., 2)."""
    points = view.radiograph.camera.back_project(pixels)
    world = view.world_from_camera
    return points @ world[:3, :3].T + world[:3, 3]
