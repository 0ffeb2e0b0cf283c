"""Difference maps: where two images of one scene disagree.

Two drawings of the same thing. `difference_map` is the paper's Fig. 2: one image in red, the other in blue. `signed_difference` is the number behind
it, drawn by `diverging` with a colour bar.
"""

from __future__ import annotations

import matplotlib
import numpy as np

from SphericalRegLib.visualization.display import OUTSIDE, Window, counted, display_window, local_contrast, to_bytes, to_unit

LOCAL_WINDOW = (-2.5, 2.5)
COLOUR_MAP = "RdBu_r"  # + (only in fixed) red, - (only in moving) blue: the colours of `difference_map`


def difference_map(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray | None = None, *, window: Window | None = None) -> np.ndarray:
    """The fixed image in red and the moving one in blue, uint8 RGB ``(H, W, 3)``.

    With f and m the two images scaled to [0, 1] (by ``window`` if given, else each by its own robust window inside the mask), a pixel is
    ``(red, green, blue) = (f, min(f, m), m)``. Where they agree it is the neutral grey of that value; where only the fixed image is bright it is
    red, where only the moving one is bright it is blue, and the strength of the colour is ``|f - m|``. Pixels outside the mask, or not finite in
    either image, are slate.

    For two DRRs (truth against estimate) give one ``window`` for both, as `compare_drrs` does; for an X-ray and a DRR see `compare_xray`.

    Raises:
        InputError: if shapes differ or no pixel counts.
    """
    (fixed, moving), valid = counted({"fixed": fixed, "moving": moving}, mask)
    f = to_unit(fixed, window or display_window(fixed, valid))
    m = to_unit(moving, window or display_window(moving, valid))
    picture = to_bytes(np.stack([f, np.minimum(f, m), m], axis=-1))
    picture[~valid] = OUTSIDE
    return picture


def signed_difference(fixed: np.ndarray, moving: np.ndarray, mask: np.ndarray | None = None, *, window: Window | None = None) -> np.ndarray:
    """``f - m`` in [-1, 1], float32 ``(H, W)``, with f and m as in `difference_map`; NaN where a pixel doesn't count.

    Positive: brighter (denser) in the fixed image. Negative: denser in the moving one.
    """
    (fixed, moving), valid = counted({"fixed": fixed, "moving": moving}, mask)
    f = to_unit(fixed, window or display_window(fixed, valid))
    m = to_unit(moving, window or display_window(moving, valid))
    return np.where(valid, f - m, np.nan).astype(np.float32)


def diverging(values: np.ndarray, limit: float) -> np.ndarray:
    """Signed values as colours, uint8 RGB ``(H, W, 3)``: white at 0, full red from ``+limit``, full blue from ``-limit``, slate where NaN."""
    known = np.isfinite(values)
    picture = to_bytes(matplotlib.colormaps[COLOUR_MAP](np.where(known, values, 0.0) / (2 * limit) + 0.5)[..., :3])
    picture[~known] = OUTSIDE
    return picture


def colour_limit(*maps: np.ndarray, share: float = 0.99, smallest: float = 0.15) -> float:
    """One limit for several signed maps that are to be compared: the ``share`` quantile of ``|value|`` over all.

    It is at least ``smallest``, so that noise alone stays pale.
    """
    values = np.abs(np.concatenate([m[np.isfinite(m)] for m in maps]))
    return max(smallest, float(np.quantile(values, share))) if values.size else smallest


def compare_xray(xray: np.ndarray, drr: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`difference_map` and `signed_difference` of an X-ray (red, +) and a DRR (blue, -): needs no truth.

    Both images are brought to local contrast first (`display.local_contrast`), so that the X-ray's scatter, exposure and display curve don't pass for
    displacement; black to white, and a signed difference of 1, are five local standard deviations.
    """
    counted({"xray": xray, "drr": drr}, mask)
    fixed, moving = local_contrast(xray, mask), local_contrast(drr, mask)
    # NaN goes on, so that the pixel is left out of the map
    fixed, moving = np.where(np.isfinite(xray), fixed, np.nan), np.where(np.isfinite(drr), moving, np.nan)
    return difference_map(fixed, moving, mask, window=LOCAL_WINDOW), signed_difference(fixed, moving, mask, window=LOCAL_WINDOW)


def compare_drrs(truth: np.ndarray, estimate: np.ndarray, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """`difference_map` and `signed_difference` of the DRR at the true pose (red, +) and at the estimated pose (blue, -), one window for both.

    The paper's Fig. 2. It needs the truth: for evaluation only.
    """
    window = display_window(truth, mask)
    return difference_map(truth, estimate, mask, window=window), signed_difference(truth, estimate, mask, window=window)
