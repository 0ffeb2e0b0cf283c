"""Finding the open field: what the collimator's blades, the round image intensifier or an electronic shutter leave of the image.

What lies outside is dark and has no structure, and the border is straight or round, and sharp wherever something bright lies behind it. Anatomy has
none of that at once. So the first steep rise is looked for from every side of the image, a shape is what most of these places agree on
(`imaging.outline`), and it counts only where the image bears it out: dense bone may hide a part of a border, as both sides are dark there, but what
is bright must end at it. No shape, no mask: a wrong mask is worse than none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy import ndimage

from .outline import OUTWARD, BorderPoints, OpenField, fit_outline

# The search runs on an image of about this many pixels a side: blades are large, and averaging removes the noise of the dark part.
SEARCH_SIZE = 256
# Fewer pixels than this show no border.
MIN_SEARCH_SIZE = 16
# Of the brightest air: what is darker is black, so that neither the first grey levels of a display nor noise look like a border.
DARKEST = 0.02
# Scatter spreads over about a tenth of the image; the blocked part shows its share of the signal.
SCATTER_SIGMA, SCATTER_PERCENTILE = 22.0, 3.0
# By how much the (logarithmic, 0 to 1) signal must rise at a border, over how many pixels of the search image to either side; a higher rise than
# the last counts no more.
MIN_JUMP, JUMP_PIXELS, FULL_JUMP = 0.1, 3, 0.5
# Three edges, or a circle, bear each other out; of fewer more is asked.
FEW = 2
# Share of each edge and of the whole border at which it must rise: nearly all of the border where there are few edges, or the rise is low.
MIN_SHARP_EDGE, MIN_SHARP_SHARE, NEARLY_ALL = 0.35, 0.6, 0.94
# How much it must rise there in the median; with few edges it may not be low. Lungs rise as little at their border, but not all along it.
MIN_CONTRAST, LOW_CONTRAST = 0.2, 0.3
# Share of the border that may lie in something bright; pixels of it at least, of the search image.
MAX_BRIGHT_SHARE, MIN_BORDER = 0.05, 8
# How the levels of the outside may spread, over what the inside rises above them.
MAX_OUTSIDE_SPREAD = 0.9
# What is darker than this share of the range of levels is dark.
DARK_SHARE = 0.6
# The share of the outside that may have structure (letters have, and the end of scatter has where a display shows it): beyond one edge where it is
# dark there and where scatter makes it bright, and altogether, of many edges and of few.
MAX_STRUCTURE_DARK, MAX_STRUCTURE_BRIGHT, MAX_STRUCTURE, MAX_STRUCTURE_OF_FEW = 0.45, 0.03, 0.3, 0.05
# Share of the image that is open. Without scatter anything dark looks blocked, so the border must enclose a good part of the image.
FIELD_SHARE, FIELD_SHARE_WITHOUT_SCATTER = (0.1, 0.985), (0.25, 0.96)
# The penumbra inside the border is left out with it: up to where the level has come this near to its value further inside. As search pixels.
PENUMBRA_LEVEL, MIN_PENUMBRA, MAX_PENUMBRA = 0.95, 1.5, 6.0
# An electronic shutter: share of the image's outermost pixels that have its value, of the pixels outside the field that have it (letters do not), of
# those inside that do not where it looks like air or like bone (dense anatomy is as black), of the border on which such pixels lie, and the pixels
# beside its edge that interpolation may have mixed.
MIN_BLANKED_BORDER, MIN_BLANK, MIN_FILLED, MIN_FILLED_BONE, MIN_BLANKED_EDGE, BLANKED_MARGIN = 0.1, 0.96, 0.85, 0.4, 0.6, 1.5
# A shutter cuts off what it covers: at most places along its edge the image is as far from its value close by as three times as deep. The outline of
# a body fades into air: its thickness grows with the root of the depth, which gives 0.6, and up to 0.9 in an image of the signal of a dense body.
MIN_CUT_OFF, MIN_CUT_OFF_EDGE = 0.9, 0.5
# Where that is looked at, from the edge outwards: beyond it, so that a user's mask cuts nothing off, close by, and deep inside.
CUT_OFF_DEPTHS = (BLANKED_MARGIN, -BLANKED_MARGIN, -3 * BLANKED_MARGIN)


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
    counted = usable & mask
    opened = find_open_field(air_bright(counted), counted) if counted.any() else None
    if opened is None and blanked is not None:
        # Far from narrow blades even scatter ends, and counts of zero look blanked: then the blades are found in the whole image.
        opened = find_open_field(air_bright(usable), usable)
    if opened is not None:
        mask &= opened.mask(columns, rows, margin=opened.penumbra)
        fields.append(opened)
    return mask, tuple(fields)


def find_open_field(signal: np.ndarray, usable: np.ndarray | None = None) -> OpenField | None:
    """The open field of an X-ray, or None where the whole image is open.

    Args:
        signal: (H, W) in [0, 1], linear in the detector's signal as far as it is known, air bright.
        usable: (H, W) bool; what is not usable bears nothing out, so that a user's mask makes no border.
    """
    factor = max(1, round(max(signal.shape) / SEARCH_SIZE))
    # What does not count may be anything, infinite too.
    small = _block_mean(signal if usable is None else np.where(usable, signal, 0), factor)
    if min(small.shape) < MIN_SEARCH_SIZE:
        return None
    known = np.ones(small.shape, dtype=bool) if usable is None else _block_mean(usable, factor) == 1
    small = _fill(small, known)
    for level, field_share in ((_level(small), FIELD_SHARE), (_level(_without_scatter(small)), FIELD_SHARE_WITHOUT_SCATTER)):
        search = _Search(level, ndimage.binary_erosion(known, iterations=JUMP_PIXELS, border_value=1), field_share)
        for field in fit_outline(_first_rises(level, search.known), MIN_PENUMBRA):
            borne_out = search.borne_out(field)
            if borne_out is not None:
                return replace(borne_out, penumbra=_penumbra(level, borne_out)).scaled(factor, factor)
    return None


def find_blanked_border(grey: np.ndarray, usable: np.ndarray, air_is_high: bool) -> OpenField | None:
    """The field inside a border that was filled with one value after the exposure (an electronic shutter), or None.

    Such a border may be black or white whatever air is. That it holds exactly one value and leaves a rectangle or a circle tells it from saturated
    air around a body; a limb with straight sides runs through the image, so blades that look like air must lie on three sides at least, a circle
    is seen all around, and neither fades into air as the outline of a body does.

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
    for field in fit_outline(_first_true(open_part), BLANKED_MARGIN):
        if field.shape != "polygon" and _is_blanked(grey, usable, blank, open_part, field, air_is_high):
            return field
    return None


def _is_blanked(grey: np.ndarray, usable: np.ndarray, blank: float, open_part: np.ndarray, field: OpenField, air_is_high: bool) -> bool:
    rows, columns = grey.shape
    inside = field.mask(columns, rows)
    outside = usable & ~field.mask(columns, rows, margin=-BLANKED_MARGIN)
    if not FIELD_SHARE[0] < inside.mean() < FIELD_SHARE[1] or not outside.any() or (grey[outside] == blank).mean() < MIN_BLANK:
        return False
    usual = np.median(grey[inside & usable])
    looks_like_air = blank >= usual if air_is_high else blank <= usual
    if open_part[inside].mean() < (MIN_FILLED if looks_like_air else MIN_FILLED_BONE):
        return False
    if field.shape == "circle" and not field.is_seen_all_around(columns, rows):
        return False
    points, edge = field.border(columns, rows)
    within = open_part[tuple(np.round(points - BLANKED_MARGIN * field.normals[edge]).clip(0, (columns - 1, rows - 1)).astype(int).T[::-1])]
    if not len(within) or within.mean() < MIN_BLANKED_EDGE:
        return False
    if not looks_like_air:
        return True
    sides = (inside[0].any(), inside[-1].any(), inside[:, 0].any(), inside[:, -1].any())
    return (field.shape == "circle" or sum(sides) <= 1) and _is_cut_off(grey, usable, blank, field)


def _is_cut_off(grey: np.ndarray, usable: np.ndarray, blank: float, field: OpenField) -> bool:
    """Whether the image ends at the field's edge, as at a shutter, and does not fade into the border's value, as a body does into air."""
    points, edge = field.border(*grey.shape[::-1])
    places = [points + depth * field.normals[edge] for depth in CUT_OFF_DEPTHS]
    counted = np.all([_sample(usable.astype(float), place) == 1 for place in places], axis=0)
    _, close, deep = (np.abs(_sample(grey.astype(float), place[counted]) - blank) for place in places)
    return bool(counted.any() and (close >= MIN_CUT_OFF * deep).mean() >= MIN_CUT_OFF_EDGE)


def _first_rises(level: np.ndarray, known: np.ndarray) -> BorderPoints:
    """Where the level first rises steeply, weighed by how far, as scatter beyond a border also ends somewhere, but not in so high a step."""
    border = _from_each_side(level, _first_rise)
    column, row = np.round(border.points).astype(int).T
    return border.of(known[row, column])


def _first_true(part: np.ndarray) -> BorderPoints:
    """The first pixels of a part (H, W), but those on the image's own border."""
    return _from_each_side(part, lambda seen: (seen.argmax(1).astype(float), (seen.any(1) & ~seen[:, 0]).astype(float)))


def _from_each_side(image: np.ndarray, first: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]) -> BorderPoints:
    """What a search along the rows of an image, which gives the first place in each and its weight, finds from left, right, top and bottom."""
    points, weights, sides = [], [], []
    for side, (across, down) in enumerate(OUTWARD):
        seen = image if across else image.T
        backwards = across + down > 0
        place, weight = first(seen[:, ::-1] if backwards else seen)
        along = np.flatnonzero(weight)
        into = (seen.shape[1] - 1 - place if backwards else place)[along]
        points.append(np.stack((into, along) if across else (along, into), 1).astype(float))
        weights.append(weight[along])
        sides.append(np.full(len(along), side))
    return BorderPoints(np.concatenate(points), np.concatenate(weights), np.concatenate(sides))


def _first_rise(level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Along each row, the middle of the first steep rise, and how far it rises; 0 where there is none."""
    reach = JUMP_PIXELS
    rise = np.zeros_like(level)
    rise[:, reach:-reach] = level[:, 2 * reach :] - level[:, : -2 * reach]
    steep = rise > MIN_JUMP
    window = np.minimum(steep.argmax(1)[:, None] + np.arange(2 * reach + 1), level.shape[1] - 1)
    values = np.clip(np.take_along_axis(rise, window, 1), 0, None)
    most = values.max(1)
    values = values * (values > 0.8 * most[:, None])  # a sharp step's rises are a plateau, whose middle is the step
    return (values * window).sum(1) / np.maximum(values.sum(1), 1e-9), np.where(steep.any(1), np.minimum(most, FULL_JUMP), 0.0)


class _Search:
    """What an image says of a field.

    Args:
        level: (H, W), of the search image.
        known: (H, W) bool, where it says anything, with everything within `JUMP_PIXELS`.
        field_share: least and greatest share of the image that a field may have.
    """

    def __init__(self, level: np.ndarray, known: np.ndarray, field_share: tuple[float, float]) -> None:
        self.level, self.known, self.field_share = level, known, field_share
        size = 2 * JUMP_PIXELS + 1
        low, high = np.percentile(level, (5, 95))
        self._dark = low + DARK_SHARE * (high - low)
        self._steep = ndimage.maximum_filter(level, size) - ndimage.minimum_filter(level, size) > 2 * MIN_JUMP

    def borne_out(self, field: OpenField) -> OpenField | None:
        """The field, less the edges that the image does not bear out; None where it is none."""
        if field.shape != "circle":
            edges = np.arange(len(field.offsets))
            field = field.only(np.array([self._plain_beyond(field.only(edges == edge)) for edge in edges]))
            while len(field.offsets) and (sharp := self._sharp_at_edges(field)).min() < MIN_SHARP_EDGE:
                field = field.only(np.arange(len(sharp)) != sharp.argmin())
        return field if len(field.offsets) and self._bears_out(field) else None

    def _bears_out(self, field: OpenField) -> bool:
        rows, columns = self.level.shape
        outside = self._outside(field, JUMP_PIXELS)
        if not self.field_share[0] < field.mask(columns, rows).mean() < self.field_share[1] or not outside.any():
            return False
        if field.shape == "circle" and not field.is_seen_all_around(columns, rows):
            return False
        within, beyond, _ = self._at_border(field)
        rises = within - beyond > MIN_JUMP
        if len(rises) < MIN_BORDER or rises.mean() < MIN_SHARP_SHARE:
            return False
        light, dark = np.median(within[rises]), np.median(beyond[rises])
        few, low_rise = len(field.offsets) <= FEW, light - dark < LOW_CONTRAST
        if light - dark < MIN_CONTRAST or (few and low_rise) or ((few or low_rise) and rises.mean() < NEARLY_ALL):
            return False
        low, high = np.percentile(self.level[outside], (10, 90))
        if high - low > MAX_OUTSIDE_SPREAD * max(light - low, LOW_CONTRAST):
            return False
        middle = (light + dark) / 2
        if np.median(self.level[outside]) > middle or (~rises & (beyond > middle)).mean() > MAX_BRIGHT_SHARE:
            return False
        return self._structure(field) < (MAX_STRUCTURE_OF_FEW if few else MAX_STRUCTURE)

    def _plain_beyond(self, edge: OpenField) -> bool:
        """Whether there is little to be seen beyond a single edge."""
        outside = self._outside(edge, JUMP_PIXELS)
        if not outside.any():
            return False
        dark = np.median(self.level[outside]) < self._dark
        return self._structure(edge) < (MAX_STRUCTURE_DARK if dark else MAX_STRUCTURE_BRIGHT)

    def _sharp_at_edges(self, field: OpenField) -> np.ndarray:
        """(E,): share of each edge at which the level rises."""
        within, beyond, edge = self._at_border(field)
        rises = within - beyond > MIN_JUMP
        return np.array([rises[edge == number].mean() if (edge == number).any() else 0.0 for number in range(len(field.offsets))])

    def _at_border(self, field: OpenField) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """At points along the border, about one a pixel, where the image says anything: (the level just inside, just outside, the edge)."""
        rows, columns = self.level.shape
        points, edge = field.border(columns, rows)
        step = JUMP_PIXELS * field.normals[edge]
        kept = ((points + step >= 0) & (points + step <= (columns - 1, rows - 1))).all(1)
        column, row = np.round(points).astype(int).T
        kept &= self.known[row, column]
        points, edge, step = points[kept], edge[kept], step[kept]
        return _sample(self.level, points - step), _sample(self.level, points + step), edge

    def _structure(self, field: OpenField) -> float:
        """Share of the outside in which the level changes by more than noise does, within a few pixels."""
        outside = self._outside(field, 2 * JUMP_PIXELS)
        return float(self._steep[outside].mean()) if outside.any() else 0.0

    def _outside(self, field: OpenField, margin: float) -> np.ndarray:
        """(H, W) bool: what is known of the outside beyond a margin."""
        rows, columns = self.level.shape
        return ~field.mask(columns, rows, margin=-margin) & self.known


def _level(signal: np.ndarray) -> np.ndarray:
    """Logarithmic signal, 0 (blocked) to 1 (air), slightly smoothed."""
    return ndimage.gaussian_filter(np.log1p(np.maximum(signal, 0) / DARKEST) / np.log1p(1 / DARKEST), 0.7)


def _without_scatter(signal: np.ndarray) -> np.ndarray:
    """The signal less its scatter, which is taken for a fraction of the blurred signal: the fraction that the darkest places show."""
    blurred = ndimage.gaussian_filter(signal, SCATTER_SIGMA)
    fraction = np.percentile(signal / np.maximum(blurred, DARKEST), SCATTER_PERCENTILE)
    return np.maximum(signal - fraction * blurred, 0)


def _block_mean(image: np.ndarray, factor: int) -> np.ndarray:
    rows, columns = (image.shape[0] // factor, image.shape[1] // factor)
    return image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor).mean((1, 3), dtype=np.float64)


def _fill(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """With the nearest known values where none are known."""
    if known.all() or not known.any():
        return image
    nearest = ndimage.distance_transform_edt(~known, return_distances=False, return_indices=True)
    return image[tuple(nearest)]


def _penumbra(level: np.ndarray, field: OpenField) -> float:
    """Pixels from the border inwards until the level, in the median along the border, has nearly reached its value a little further in."""
    points, edge = field.border(*level.shape[::-1])
    normals = field.normals[edge]
    depth = np.arange(0, MAX_PENUMBRA + 0.5, 0.5)
    profile = np.array([np.median(_sample(level, points - d * normals)) for d in depth])
    outside = np.median(_sample(level, points + JUMP_PIXELS * normals))
    reached = np.flatnonzero(profile - outside >= PENUMBRA_LEVEL * (profile[-1] - outside))
    return float(np.clip(depth[reached[0]], MIN_PENUMBRA, MAX_PENUMBRA)) if len(reached) else MAX_PENUMBRA


def _sample(level: np.ndarray, points: np.ndarray) -> np.ndarray:
    return ndimage.map_coordinates(level, points[:, ::-1].T, order=1, mode="nearest")
