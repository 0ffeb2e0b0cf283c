"""The report's pictures of one view: the viewer that lays the DRR over the X-ray, and the difference maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np

from SphericalRegLib.visualization.difference import COLOUR_MAP, colour_limit, compare_drrs, compare_xray, diverging
from SphericalRegLib.visualization.display import RGB, counted, resize_to_width, to_bytes
from SphericalRegLib.visualization.html import Html, image, tag
from SphericalRegLib.visualization.orientation import NAMES, edge_letters
from SphericalRegLib.visualization.overlay import ESTIMATE_COLOUR, INITIAL_COLOUR, TRUTH_COLOUR, edge_overlay, edges, grey_pair

VIEWER_COLUMNS, MAP_COLUMNS = 800, 520


@dataclass(frozen=True)
class ReportView:
    """One X-ray and what was rendered for it: images ``(H, W)`` on one grid, bone bright, seen from the source.

    Attributes:
        title: for the heading ("View 1: xray.dcm").
        xray, drr: the X-ray and the DRR at the estimated pose.
        mask: True where the X-ray was used.
        camera_from_world: the estimated pose ``(4, 4)``; puts R/L, A/P, H/F at the image's edges.
        mirrored: show it mirrored, as it was stored.
        initial_drr: DRR at the start, if one was given.
        truth_drr: DRR at the true pose, in evaluation only.
    """

    title: str
    xray: np.ndarray
    drr: np.ndarray
    mask: np.ndarray | None = None
    camera_from_world: np.ndarray | None = None
    mirrored: bool = False
    initial_drr: np.ndarray | None = None
    truth_drr: np.ndarray | None = None


def shown(view: ReportView, columns: int) -> ReportView:
    """The view on the grid it is shown on: ``columns`` wide (smaller and larger images alike), flipped if mirrored, its mask checked.

    Raises:
        InputError: if shapes differ or no pixel counts.
    """
    named = {"xray": view.xray, "drr": view.drr, "initial_drr": view.initial_drr, "truth_drr": view.truth_drr}
    given = {name: array for name, array in named.items() if array is not None}
    arrays, mask = counted(given, view.mask)
    step = -1 if view.mirrored else 1
    resized: dict[str, Any] = {name: resize_to_width(array[:, ::step], columns) for name, array in zip(given, arrays, strict=True)}
    return replace(view, mask=resize_to_width(mask[:, ::step], columns), **resized)


def viewer(view: ReportView, number: int) -> Html:
    """X-ray below, DRR above it, edges on top; a slider between them, and blend, swipe, checkerboard and blink modes."""
    v = shown(view, VIEWER_COLUMNS)
    xray, drr = grey_pair(v.xray, v.drr, v.mask)
    lines: list[tuple[str, str, RGB, np.ndarray, bool]] = [("edges", "DRR edges", ESTIMATE_COLOUR, v.drr, True)]
    if v.initial_drr is not None:
        lines.append(("initial-edges", "DRR edges at the start", INITIAL_COLOUR, v.initial_drr, False))
    if v.truth_drr is not None:
        lines.append(("truth-edges", "DRR edges at the truth", TRUTH_COLOUR, v.truth_drr, False))
    # The DRR wears the X-ray's grey values: what changes when the two are switched is then the position, not the contrast.
    layers = [
        image(xray[..., 0], "X-ray", class_="xray"),
        image(drr[..., 0], "DRR at the estimated pose", class_="layer drr"),
        *(image(_line_layer(drawn, v.mask, colour), label, class_=f"layer {name}") for name, label, colour, drawn, _ in lines),
        _edge_letters(v),
        tag("div", class_="showing", hidden=True, aria_hidden="true"),
    ]
    modes = [
        tag("label", tag("input", type="radio", name=f"mode-{number}", value=name, checked=name == "blend"), text)
        for name, text in (("blend", "Blend"), ("swipe", "Swipe"), ("checker", "Checker"), ("blink", "Blink"))
    ]
    ticks = [
        tag("label", tag("input", type="checkbox", data_layer=name, checked=on), tag("span", class_="swatch", style=f"--swatch: rgb{colour}"), label)
        for name, label, colour, _, on in lines
    ]
    controls = tag(
        "div",
        tag("fieldset", tag("legend", "Compare X-ray and DRR by"), tag("div", modes, class_="modes")),
        tag(
            "label",
            tag("span", "Opacity of the DRR", data_part="label"),
            " ",
            tag("output", "50 %"),
            tag("input", type="range", min=0, max=100, value=50),
            tag("span", tag("span", "X-ray", data_part="left"), tag("span", "DRR", data_part="right"), class_="ends"),
            class_="slider",
        ),
        tag("fieldset", tag("legend", "Draw"), ticks, tag("label", tag("input", type="checkbox"), "Bone dark"), class_="ticks"),
        tag("p", "Right pose: nothing jumps when the images change, and the coloured edges lie on the anatomy's own borders.", class_="note"),
        class_="controls js",
    )
    return tag("div", tag("div", layers, class_="stage"), controls, class_="viewer")


def difference_maps(view: ReportView) -> Html:
    """X-ray against DRR (at the start too, where there was one), and truth against estimate where the truth is known; one scale for each kind."""
    v = shown(view, MAP_COLUMNS)
    compared = [("at the result", *compare_xray(v.xray, v.drr, v.mask))]
    if v.initial_drr is not None:
        compared.insert(0, ("at the start", *compare_xray(v.xray, v.initial_drr, v.mask)))
    limit = colour_limit(*(signed for _, _, signed in compared))
    figures = []
    for when, picture, signed in compared:
        figures.append(_figure(picture, f"X-ray red, DRR blue, {when}", _red_blue("only X-ray", "agree", "only DRR")))
        figures.append(_figure(diverging(signed, limit), f"X-ray minus DRR, {when}", _scale(limit)))
    if v.truth_drr is not None:
        picture, signed = compare_drrs(v.truth_drr, v.drr, v.mask)
        limit = colour_limit(signed)
        figures.append(_figure(picture, "DRR at the true pose red, at the estimated pose blue", _red_blue("only truth", "agree", "only estimate")))
        figures.append(_figure(diverging(signed, limit), "DRR at the true pose minus DRR at the estimated pose", _scale(limit)))
    return tag("div", figures, class_="pictures")


def thumbnail(view: ReportView, columns: int = 256) -> np.ndarray:
    """X-ray with the DRR's edges, small, uint8 RGB."""
    v = shown(view, VIEWER_COLUMNS // 2)
    return resize_to_width(edge_overlay(v.xray, v.drr, v.mask), columns)


def _line_layer(drr: np.ndarray, mask: np.ndarray | None, colour: RGB) -> np.ndarray:
    opacity = to_bytes(edges(drr, mask))
    return np.dstack([np.broadcast_to(np.array(colour, np.uint8), (*opacity.shape, 3)), opacity])


def _edge_letters(view: ReportView) -> Html | None:
    if view.camera_from_world is None:
        return None
    letters = edge_letters(view.camera_from_world, view.mirrored)
    sides = ("left", "right", "top", "bottom")
    description = "; ".join(f"{side} edge: patient {NAMES[getattr(letters, side)]}" for side in sides)
    shown_letters = [tag("span", getattr(letters, side), class_=f"edge {side}", aria_hidden="true") for side in sides]
    return tag("div", shown_letters, role="note", aria_label=description, title=description)


def _figure(picture: np.ndarray, title: str, scale: Html) -> Html:
    return tag("figure", image(picture, title), tag("figcaption", title, scale))


def _scale(limit: float) -> Html:
    stops = [matplotlib.colormaps[COLOUR_MAP](x / 8) for x in range(9)]
    gradient = ", ".join(f"rgb({r * 255:.0f} {g * 255:.0f} {b * 255:.0f})" for r, g, b, _ in stops)
    bar = tag("i", style=f"background: linear-gradient(90deg, {gradient})")
    return tag("div", tag("span", f"-{limit:.2f}"), bar, tag("span", f"+{limit:.2f}"), class_="scale")


def _red_blue(red: str, neutral: str, blue: str) -> Html:
    bar = tag("i", style="background: linear-gradient(90deg, rgb(230 30 30), rgb(160 160 160) 45% 55%, rgb(30 30 230))", title=neutral)
    return tag("div", tag("span", red), bar, tag("span", blue), class_="scale")
