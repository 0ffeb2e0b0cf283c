"""The shape of an open field from points that may lie on its border: blades are straight, image intensifiers are round.

Anatomy hides parts of a border and adds points that belong to none, so that a shape is what most points agree on (Fischler & Bolles, "Random sample
consensus", CACM 1981); the draws are the same every time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

OUTWARD = np.array([(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)])
"""The sides of an image that its border is looked for from: left, right, top, bottom; (column, row)."""

TOLERANCE = 1.0
"""Pixels that a point may lie off a shape that it belongs to."""
DRAWS, MAX_POINTS = 400, 600
# Lines of an octagon: up to three are seen from one side. A line is seen from a side that it faces within 55 degrees.
LINES_A_SIDE, FACING = 3, np.cos(np.radians(55.0))
# Points on a shape at least; of a line also a share of those seen from its side, and pixels between the two that it is drawn through.
MIN_POINTS, MIN_LINE_SHARE, MIN_APART = 8, 0.05, 4.0
# Radius of a circle over the extent of the points: an arc is part of a larger one, and noise makes small ones.
RADIUS_OVER_EXTENT = (0.3, 1.5)
# A field is convex: of the points on one edge, no more than this share may lie beyond another by more than this.
MAX_CUT_SHARE, CUT_PX = 0.2, 2.0
# Of the weight of the points on blades, that on a circle must be this much: a dozen lines fit what is nearly round better than a circle does.
CIRCLE_SHARE = 0.6
CIRCLE_EDGES = 72


@dataclass(frozen=True)
class OpenField:
    """A convex part of the image.

    Attributes:
        normals: (E, 2) unit normals (column, row), pointing out of the field.
        offsets: (E,) pixels; a pixel p is inside when ``normals @ p <= offsets`` for all edges.
        penumbra: pixels from the border inwards that are shaded by it.
        shape: "rectangle", "circle" or "polygon", for people.
    """

    normals: np.ndarray
    offsets: np.ndarray
    penumbra: float
    shape: str

    def mask(self, columns: int, rows: int, margin: float = 0.0) -> np.ndarray:
        """(rows, columns) bool: pixels inside by at least ``margin`` pixels."""
        # A convex field cuts each row in one interval of columns.
        row = np.arange(rows, dtype=float)
        first, last = np.full(rows, -np.inf), np.full(rows, np.inf)
        for (across, down), offset in zip(self.normals, self.offsets - margin):
            room = offset - down * row
            if abs(across) < 1e-9:
                last[room < 0] = -np.inf
            elif across > 0:
                last = np.minimum(last, room / across)
            else:
                first = np.maximum(first, room / across)
        column = np.arange(columns)[None, :]
        return (column >= first[:, None]) & (column <= last[:, None])

    def scaled(self, across: float, down: float) -> OpenField:
        """The same field on a grid that is finer by these factors, (0, 0) being the centre of the first pixel on both."""
        # n . p <= d with p = (q + 1/2) / s - 1/2
        normals = self.normals / (across, down)
        offsets = self.offsets - (self.normals @ (0.5 / np.array([across, down]) - 0.5))
        length = np.linalg.norm(normals, axis=1)
        return replace(self, normals=normals / length[:, None], offsets=offsets / length, penumbra=self.penumbra * max(across, down))

    def only(self, kept: np.ndarray) -> OpenField:
        """With some of its edges, (E,) bool, and open where the others were."""
        return of_edges(self.normals[kept], self.offsets[kept], self.penumbra)

    def border(self, columns: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Points (N, 2) on the border inside the image, one a pixel, and the edge (N,) that each lies on."""
        points, edges = [np.zeros((0, 2))], [np.zeros(0, dtype=int)]
        corners = np.array([(0, 0), (columns - 1, 0), (0, rows - 1), (columns - 1, rows - 1)], dtype=float)
        for edge, (normal, offset) in enumerate(zip(self.normals, self.offsets)):
            along = np.array([-normal[1], normal[0]])
            reach = corners @ along
            line = offset * normal + np.arange(np.floor(reach.min()), np.ceil(reach.max()) + 1)[:, None] * along
            kept = (line >= 0).all(1) & (line <= (columns - 1, rows - 1)).all(1)
            kept &= (line @ self.normals.T <= self.offsets + 1e-6).all(1)
            points.append(line[kept])
            edges.append(np.full(np.count_nonzero(kept), edge))
        return np.concatenate(points), np.concatenate(edges)

    def is_seen_all_around(self, columns: int, rows: int) -> bool:
        """Whether some of the border lies inside the image on every side of the field: an arc on one side alone may be anatomy's."""
        _, edge = self.border(columns, rows)
        seen = self.normals[np.unique(edge)]
        return len(seen) > 0 and bool((seen @ self.normals.T).max(0).min() > 0)


def of_edges(normals: np.ndarray, offsets: np.ndarray, penumbra: float) -> OpenField:
    """Of blades, named by how they are turned against each other."""
    across = np.abs(normals @ normals.T)
    right = bool(((across < np.sin(np.radians(8.0))) | (across > np.cos(np.radians(8.0)))).all())
    return OpenField(normals, offsets, penumbra, "rectangle" if right and len(offsets) <= 4 else "polygon")


@dataclass(frozen=True)
class BorderPoints:
    """The outermost points of an image that may lie on the border of an open field.

    Attributes:
        points: (N, 2), column and row.
        weight: (N,), how much each looks like a border.
        side: (N,) index into `OUTWARD`, the side of the image that each was seen from.
    """

    points: np.ndarray
    weight: np.ndarray
    side: np.ndarray

    def of(self, kept: np.ndarray) -> BorderPoints:
        return BorderPoints(self.points[kept], self.weight[kept], self.side[kept])


def fit_outline(border: BorderPoints, penumbra: float) -> list[OpenField]:
    """Fields whose border runs through points, those with the more weight on it first: a circle, blades, and some of the blades. `penumbra` is what
    they get."""
    found = [(_weight_on(border, blades), blades) for blades in _fit_blades(border, penumbra)]
    circle = _fit_circle(border, penumbra)
    if circle is not None:
        found.append((_weight_on(border, circle) / CIRCLE_SHARE, circle))
    return [field for _, field in sorted(found, key=lambda pair: -pair[0])]


def _weight_on(border: BorderPoints, field: OpenField) -> float:
    off = np.abs((border.points @ field.normals.T - field.offsets).max(1))
    return float(border.weight[off <= TOLERANCE].sum())


def _fit_blades(border: BorderPoints, penumbra: float) -> list[OpenField]:
    """All edges that can be of one convex field, all of them but the weakest, and so on."""
    lines: list[tuple[float, np.ndarray, float]] = []
    for number, outward in enumerate(OUTWARD):
        left = border.of(border.side == number)
        least = max(MIN_POINTS, int(MIN_LINE_SHARE * len(left.points)))
        for _ in range(LINES_A_SIDE):
            line = _line(left, outward)
            if line is None or np.count_nonzero(on := _on_line(left.points, *line)) < least:
                break
            lines.append((float(left.weight[on].sum()), *line))
            left = left.of(~on)
    kept: list[tuple[np.ndarray, float]] = []
    for _, normal, offset in sorted(lines, key=lambda line: -line[0]):
        if all(_convex(border.points, normal, offset, *other) for other in kept):
            kept.append((normal, offset))
    normals, offsets = np.array([normal for normal, _ in kept]), np.array([offset for _, offset in kept])
    return [of_edges(normals[:count], offsets[:count], penumbra) for count in range(len(kept), 0, -1)]


def _on_line(points: np.ndarray, normal: np.ndarray, offset: float) -> np.ndarray:
    return np.abs(points @ normal - offset) <= TOLERANCE


def _convex(points: np.ndarray, normal: np.ndarray, offset: float, other: np.ndarray, there: float) -> bool:
    """Whether two lines can both be edges of a convex field, and are not one that was seen from two sides."""
    here, on_other = points[_on_line(points, normal, offset)], points[_on_line(points, other, there)]
    cut = ((here @ other > there + CUT_PX).mean(), (on_other @ normal > offset + CUT_PX).mean())
    same = (np.abs(here @ other - there) < CUT_PX).mean()
    return max(cut) <= MAX_CUT_SHARE and same < 0.5


def _line(border: BorderPoints, outward: np.ndarray) -> tuple[np.ndarray, float] | None:
    """(outward normal, offset) of the line through most of the points' weight; None where there is none that faces outward."""
    points, some = border.points, _some(border)
    if len(some.points) < 2:
        return None
    first, second = some.points[_draws(len(some.points), 2)].transpose(1, 0, 2)
    along = second - first
    length = np.linalg.norm(along, axis=1)
    normals = np.stack((-along[:, 1], along[:, 0]), 1) / np.maximum(length, 1e-9)[:, None]
    normals *= np.sign(normals @ outward)[:, None]
    offsets = (normals * first).sum(1)
    weights = some.weight @ (np.abs(some.points @ normals.T - offsets) <= TOLERANCE)
    weights[(normals @ outward < FACING) | (length < MIN_APART)] = 0
    best = int(weights.argmax())
    if not weights[best] > 0:
        return None
    normal, offset = normals[best], offsets[best]
    for _ in range(3):  # least squares over the points on it
        on = points[_on_line(points, normal, offset)]
        if len(on) < 2:
            return None
        centre = on.mean(0)
        normal = np.linalg.svd(on - centre, full_matrices=False)[2][1]
        normal = normal * np.sign(normal @ outward or 1.0)
        offset = float(normal @ centre)
    return normal, float(offset)


def _fit_circle(border: BorderPoints, penumbra: float) -> OpenField | None:
    points, some = border.points, _some(border)
    if len(some.points) < 3:
        return None
    least, most = np.ptp(points, axis=0).max() * np.array(RADIUS_OVER_EXTENT)
    three = some.points[_draws(len(some.points), 3)]
    centres, radii = _circles(three)
    weights = some.weight @ (np.abs(np.linalg.norm(some.points[:, None] - centres, axis=2) - radii) <= TOLERANCE)
    weights[~((least < radii) & (radii < most))] = 0
    best = int(weights.argmax())
    if not weights[best] > 0:
        return None
    centre, radius = centres[best], float(radii[best])
    for _ in range(3):
        on = points[np.abs(np.linalg.norm(points - centre, axis=1) - radius) <= TOLERANCE]
        if len(on) < MIN_POINTS:
            return None
        centre, radius = _least_squares_circle(on)
    angle = 2 * np.pi * np.arange(CIRCLE_EDGES) / CIRCLE_EDGES
    normals = np.stack((np.cos(angle), np.sin(angle)), 1)
    # Edges half of which lie inside the circle, half outside.
    offsets = normals @ centre + radius * (1 + np.cos(np.pi / CIRCLE_EDGES)) / 2
    return OpenField(normals, offsets, penumbra, "circle")


def _circles(three: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centres (D, 2) and radii (D,) of the circles through three points (D, 3, 2); a radius of infinity where they lie on a line."""
    a, b, c = three.transpose(1, 0, 2)
    ab, ac = b - a, c - a
    cross = 2 * (ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])
    square_b, square_c = (ab**2).sum(1), (ac**2).sum(1)
    flat = np.abs(cross) < 1e-6
    cross = np.where(flat, 1.0, cross)
    offset = np.stack((ac[:, 1] * square_b - ab[:, 1] * square_c, ab[:, 0] * square_c - ac[:, 0] * square_b), 1) / cross[:, None]
    return a + offset, np.where(flat, np.inf, np.linalg.norm(offset, axis=1))


def _least_squares_circle(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Kasa (1976): |p|^2 = 2 c . p + (r^2 - |c|^2)."""
    middle = points.mean(0)
    about = points - middle
    solution, *_ = np.linalg.lstsq(np.column_stack((2 * about, np.ones(len(about)))), (about**2).sum(1), rcond=None)
    return middle + solution[:2], float(np.sqrt(max(solution[2] + solution[:2] @ solution[:2], 0)))


def _some(border: BorderPoints) -> BorderPoints:
    return border.of(np.arange(0, len(border.points), max(1, -(-len(border.points) // MAX_POINTS))))


def _draws(count: int, size: int) -> np.ndarray:
    """(DRAWS, size) indices."""
    return np.random.default_rng(0).integers(0, count, (DRAWS, size))
