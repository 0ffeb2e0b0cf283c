"""Finding the open field: what the collimator's blades, the round image intensifier or an electronic shutter leave of the image.

Blades and circles have one thing in common: the open field is convex, what lies outside is dark and nearly flat, and the border between them is
sharp along its whole length. Anatomy has none of the three. So the bright part of the image is taken at a few thresholds, its convex hull is the
candidate (dense bone that touches a blade is thereby given back to the field), and a candidate counts only if its border is sharp nearly
everywhere and its outside is flat. No candidate, no mask: a wrong mask is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

# The search runs on an image of about this many pixels a side: blades are large, and averaging removes the noise of the dark part.
SEARCH_SIZE = 256
THRESHOLDS = (0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
# The blocked part holds scatter only, at least this fraction of the brightest air; it keeps the logarithm of nothing finite.
DARKEST = 2e-3
# Scatter spreads over about a tenth of the image; the blocked part shows its share of the signal.
SCATTER_SIGMA, SCATTER_PERCENTILE = 22.0, 3.0
# Share of the border along which the (logarithmic, 0 to 1) signal must rise, by how much, over how many pixels of the search image.
MIN_SHARP_SHARE, MIN_JUMP, JUMP_PIXELS = 0.94, 0.1, 3.0
MAX_OUTSIDE_SPREAD, MIN_CONTRAST = 0.65, 0.3
SHARP_TIE = 0.04
# Share of the image that is open. Without scatter anything dark looks blocked, so the border must enclose a good part of the image.
FIELD_SHARE, FIELD_SHARE_WITHOUT_SCATTER = (0.1, 0.985), (0.25, 0.96)
# The penumbra inside the border is left out with it: up to where the level has come this near to its value further inside. As search pixels.
PENUMBRA_LEVEL, MIN_PENUMBRA, MAX_PENUMBRA = 0.95, 1.5, 6.0
# An electronic shutter: share of the image's outermost pixels that have its value, of the pixels outside the field that have it (letters do not), of
# those inside that do not, and the pixels beside its edge that interpolation may have mixed.
MIN_BLANKED_BORDER, MIN_BLANK, MIN_FILLED, BLANKED_MARGIN = 0.1, 0.96, 0.9, 1.5


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
        return OpenField(normals / length[:, None], offsets / length, self.penumbra * max(across, down), self.shape)


@dataclass(frozen=True)
class _Candidate:
    """A field on the search image with points (N, 2) on its border, about one a pixel, and the outward normals (N, 2) there."""

    field: OpenField
    points: np.ndarray
    normals: np.ndarray


def find_open_field(signal: np.ndarray, usable: np.ndarray | None = None) -> OpenField | None:
    """The open field of an X-ray, or None where the whole image is open.

    Args:
        signal: (H, W) in [0, 1], linear in the detector's signal as far as it is known, air bright.
        usable: (H, W) bool; other pixels take the value of the nearest usable one, so that a user's mask makes no border.
    """
    factor = max(1, round(max(signal.shape) / SEARCH_SIZE))
    small = _block_mean(signal, factor)
    if usable is not None and not usable.all():
        small = _fill(small, _block_mean(usable, factor) == 1)
    for level, field_share in ((_level(small), FIELD_SHARE), (_level(_without_scatter(small)), FIELD_SHARE_WITHOUT_SCATTER)):
        field = _best_field(level, field_share)
        if field is not None:
            return field.scaled(factor, factor)
    return None


def _best_field(level: np.ndarray, field_share: tuple[float, float]) -> OpenField | None:
    found: list[tuple[float, _Candidate]] = []
    for threshold in THRESHOLDS:
        candidate = _candidate(level, threshold)
        sharp = None if candidate is None else _sharp_share(level, candidate, field_share)
        if candidate is not None and sharp is not None:
            found.append((sharp, candidate))
    if not found:
        return None
    # Behind a soft edge the higher threshold leaves out more of the shade, as long as its border is about as sharp.
    best = max(sharp for sharp, _ in found)
    chosen = [candidate for sharp, candidate in found if sharp > best - SHARP_TIE][-1]
    return replace(chosen.field, penumbra=_penumbra(level, chosen))


def open_mask(
    grey: np.ndarray, usable: np.ndarray, air_is_high: bool, air_bright: Callable[[np.ndarray], np.ndarray]
) -> tuple[np.ndarray, tuple[OpenField, ...]]:
    """(H, W) bool mask of the open field without its penumbra, and the fields that make it: what blanking leaves, then what blades leave.

    Args:
        grey: (H, W) stored values.
        usable: (H, W) bool.
        air_is_high: air has high values.
        air_bright: gives the signal in [0, 1], air bright, when told which pixels count.
    """
    rows, columns = grey.shape
    mask, fields = np.ones(grey.shape, dtype=bool), []
    blanked = find_blanked_border(grey, usable, air_is_high)
    if blanked is not None:
        mask &= blanked.mask(columns, rows, margin=blanked.penumbra)
        fields.append(blanked)
    opened = find_open_field(air_bright(usable & mask), usable & mask)
    if opened is None and blanked is not None:
        # Far from narrow blades even scatter ends, and counts of zero look blanked: then the blades are found in the whole image.
        opened = find_open_field(air_bright(usable), usable)
    if opened is not None:
        mask &= opened.mask(columns, rows, margin=opened.penumbra)
        fields.append(opened)
    return mask, tuple(fields)


def find_blanked_border(grey: np.ndarray, usable: np.ndarray, air_is_high: bool) -> OpenField | None:
    """The field inside a border that was filled with one value after the exposure (an electronic shutter), or None.

    Such a border may be black or white whatever air is. That it holds exactly one value and leaves a rectangle or a circle tells it from saturated
    air around a body; a limb with straight sides runs through the image, so a border that looks like air must lie on three sides at least.

    Args:
        grey: (H, W) stored values.
        usable: (H, W) bool; other pixels count as part of the border.
        air_is_high: air has high values.
    """
    border = np.concatenate((grey[0], grey[-1], grey[:, 0], grey[:, -1]))
    values, counts = np.unique(border[np.isfinite(border)], return_counts=True)
    if len(values) == 0 or counts.max() < MIN_BLANKED_BORDER * len(border):
        return None
    blank = values[counts.argmax()]
    open_part = (grey != blank) & usable
    # Letters in the border, and the few pixels of the field that have the border's value by chance, are smaller than this.
    open_part = ndimage.binary_opening(open_part, np.ones((5, 5)))
    parts, count = ndimage.label(open_part)
    if count == 0:
        return None
    open_part = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    rows = np.flatnonzero(open_part.any(1))
    first, last = open_part[rows].argmax(1), grey.shape[1] - 1 - open_part[rows, ::-1].argmax(1)
    outline = _hull(np.concatenate((np.stack((first, rows), 1), np.stack((last, rows), 1))).astype(float), grey.shape)
    if outline is None:
        return None
    field, _ = outline
    inside = field.mask(grey.shape[1], grey.shape[0])
    share = inside.mean()
    filled = open_part[inside].mean()
    if not FIELD_SHARE[0] < share < FIELD_SHARE[1] or filled < MIN_FILLED or field.shape == "polygon":
        return None
    outside = usable & ~field.mask(grey.shape[1], grey.shape[0], margin=-BLANKED_MARGIN)
    if not outside.any() or (grey[outside] == blank).mean() < MIN_BLANK:
        return None
    looks_like_air = (blank > np.median(grey[inside & usable])) == air_is_high
    sides = (inside[0].any(), inside[-1].any(), inside[:, 0].any(), inside[:, -1].any())
    if looks_like_air and field.shape != "circle" and sum(sides) > 1:
        return None
    return replace(field, penumbra=BLANKED_MARGIN)


def _level(signal: np.ndarray) -> np.ndarray:
    """Logarithmic signal, 0 (blocked) to 1 (air), slightly smoothed."""
    return ndimage.gaussian_filter(1 - np.log(np.maximum(signal, DARKEST)) / np.log(DARKEST), 0.7)


def _without_scatter(signal: np.ndarray) -> np.ndarray:
    """The signal less its scatter, which is taken for a fraction of the blurred signal: the fraction that the darkest places show."""
    blurred = ndimage.gaussian_filter(signal, SCATTER_SIGMA)
    fraction = np.percentile(signal / np.maximum(blurred, DARKEST), SCATTER_PERCENTILE)
    return np.maximum(signal - fraction * blurred, 0)


def _block_mean(image: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = (image.shape[0] // factor, image.shape[1] // factor)
    return image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor).mean((1, 3), dtype=np.float64)


def _fill(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    if not known.any():
        return image
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return image[tuple(nearest)]


def _candidate(level: np.ndarray, threshold: float) -> _Candidate | None:
    """The convex hull of the largest bright part, without the edges that the image's own border makes."""
    bright = ndimage.binary_opening(np.pad(level > threshold, 2, mode="edge"), np.ones((3, 3)))[2:-2, 2:-2]
    parts, count = ndimage.label(bright)
    if count == 0:
        return None
    bright = parts == 1 + int(np.bincount(parts.ravel())[1:].argmax())
    if bright.mean() < FIELD_SHARE[0]:
        return None
    row, column = np.nonzero(bright & ~ndimage.binary_erosion(bright))
    outline = _hull(np.stack((column, row), 1).astype(float), level.shape)
    if outline is None:
        return None
    field, ends = outline
    count_on = np.maximum(1, np.round(np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1))).astype(int)
    share = np.concatenate([(np.arange(n) + 0.5) / n for n in count_on])[:, None]
    start, stop = np.repeat(ends[:, 0], count_on, 0), np.repeat(ends[:, 1], count_on, 0)
    points, normals = start + share * (stop - start), np.repeat(field.normals, count_on, 0)
    beyond = points + JUMP_PIXELS * normals
    kept = ((beyond >= 0) & (beyond <= (level.shape[1] - 1, level.shape[0] - 1))).all(1)
    return _Candidate(field, points[kept], normals[kept]) if np.count_nonzero(kept) >= 8 else None


def _hull(points: np.ndarray, shape: tuple[int, ...]) -> tuple[OpenField, np.ndarray] | None:
    """The convex hull of pixels (N, 2) and the ends (E, 2, 2) of its edges, without the edges that the image's own border makes."""
    rows, columns = shape
    try:
        hull = ConvexHull(points)
    except QhullError:
        return None
    ends = hull.points[hull.simplices]
    on_border = (ends < 1.5).all(1) | (ends > np.array([columns, rows]) - 2.5).all(1)
    inner = ~on_border.any(1)
    if not inner.any():
        return None
    ends, normals, offsets = ends[inner], hull.equations[inner, :2], -hull.equations[inner, 2]
    return OpenField(normals, offsets, MIN_PENUMBRA, _name_shape(normals, ends, np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1))), ends


def _sharp_share(level: np.ndarray, candidate: _Candidate, field_share: tuple[float, float]) -> float | None:
    """Share of the border along which the level rises steeply inwards; None where this is no open field."""
    rows, columns = level.shape
    inside = candidate.field.mask(columns, rows)
    outside = ~candidate.field.mask(columns, rows, margin=-JUMP_PIXELS)
    if not field_share[0] < inside.mean() < field_share[1] or not outside.any():
        return None
    low, middle, high = np.percentile(level[outside], (10, 50, 90))
    contrast = np.median(level[inside]) - middle
    if contrast < MIN_CONTRAST or high - low > MAX_OUTSIDE_SPREAD * contrast:
        return None
    step = JUMP_PIXELS * candidate.normals
    share = float((_sample(level, candidate.points - step) - _sample(level, candidate.points + step) > MIN_JUMP).mean())
    return share if share >= MIN_SHARP_SHARE else None


def _penumbra(level: np.ndarray, candidate: _Candidate) -> float:
    """Pixels from the border inwards until the level, in the median along the border, has nearly reached its value a little further in."""
    depth = np.arange(0, MAX_PENUMBRA + 0.5, 0.5)
    profile = np.array([np.median(_sample(level, candidate.points - d * candidate.normals)) for d in depth])
    outside = np.median(_sample(level, candidate.points + JUMP_PIXELS * candidate.normals))
    reached = np.flatnonzero(profile - outside >= PENUMBRA_LEVEL * (profile[-1] - outside))
    return float(np.clip(depth[reached[0]], MIN_PENUMBRA, MAX_PENUMBRA))


def _sample(level: np.ndarray, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(level, points[:, ::-1].T, order=1, mode="nearest")


def _name_shape(normals: np.ndarray, ends: np.ndarray, length: np.ndarray) -> str:
    """Blades have a few straight edges; a circle turns evenly."""
    angle = np.arctan2(normals[:, 1], normals[:, 0])
    # Edges whose directions agree within a few degrees are one edge, jagged by the pixels.
    bins = np.zeros(72)
    np.add.at(bins, np.floor((angle + np.pi) / (2 * np.pi) * 72).astype(int) % 72, length)
    smooth = bins + np.roll(bins, 1) + np.roll(bins, -1)
    strongest = 0.0
    for _ in range(4):
        peak = int(smooth.argmax())
        strongest += smooth[peak]
        for k in range(-2, 3):
            smooth[(peak + k) % 72] = 0
    if strongest > 0.85 * length.sum():
        return "rectangle"
    radius, error = _fit_circle(ends.reshape(-1, 2))
    return "circle" if radius > 0 and error < 0.02 * radius else "polygon"


def _fit_circle(points: np.ndarray) -> tuple[float, float]:
    """Least-squares circle (Kasa 1976): |p|^2 = 2 c . p + (r^2 - |c|^2). Gives the radius and the rms distance from the circle."""
    system = np.column_stack((2 * points, np.ones(len(points))))
    solution, *_ = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)
    centre = solution[:2]
    radius = float(np.sqrt(max(solution[2] + centre @ centre, 0)))
    error = float(np.sqrt(np.mean((np.linalg.norm(points - centre, axis=1) - radius) ** 2)))
    return radius, error
