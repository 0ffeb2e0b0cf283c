"""HTML built from escaped parts: text is escaped unless it is `Html`, so a hostile file name stays text."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image

from SphericalRegLib.imaging.files import write_atomically
from SphericalRegLib.visualization.figures import picture_bytes


class Html(str):
    """Text that is markup already. Only `tag`, `joined` and trusted constants make it."""

    __slots__ = ()


Child = str | int | float | None | Iterable["Child"]
_VOID = {"img", "input", "meta", "br", "hr", "link", "col"}


def escaped(value: Child) -> Html:
    """A value as markup: `Html` as it is, None as nothing, sequences joined, all else escaped."""
    if isinstance(value, Html):
        return value
    if value is None:
        return Html("")
    if isinstance(value, (str, int, float)):
        return Html(html.escape(str(value), quote=True))
    return Html("".join(escaped(child) for child in value))


def tag(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """One element. Attribute names lose a trailing underscore and turn inner ones to hyphens (``class_``, ``aria_label``).

    True gives a bare attribute; None and False leave it out.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{html.escape(str(value), quote=True)}"')
    opening = f"<{name}{''.join(written)}>"
    return Html(opening if name in _VOID else f"{opening}{escaped(children)}</{name}>")


def data_uri(picture: np.ndarray) -> str:
    """A uint8 picture as a ``data:`` address, so that a page needs no second file.

    Grey and RGB become JPEG at high quality (a noisy difference map is ten times larger as PNG); what has transparency becomes PNG.
    """
    if picture.ndim == 3 and picture.shape[2] in (2, 4):
        kind, content = "png", picture_bytes(picture)
    else:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format="JPEG", quality=90, subsampling=0, optimize=True)
        kind, content = "jpeg", buffer.getvalue()
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")


def image(picture: np.ndarray, alt: str, **attributes: str | int | float | bool | None) -> Html:
    rows, columns = picture.shape[:2]
    return tag("img", src=data_uri(picture), alt=alt, width=columns, height=rows, **attributes)


def table(header: Iterable[Child], rows: Iterable[Iterable[Child]], caption: str, *, numeric: Iterable[int] = (), class_: str | None = None) -> Html:
    """A table with a caption; ``numeric`` columns are right-aligned; the first cell of a row is its header."""
    right = dict.fromkeys(numeric, "number")
    head = tag("tr", [tag("th", name, scope="col", class_=right.get(i)) for i, name in enumerate(header)])
    body = [
        tag("tr", [tag("th", c, scope="row", class_=right.get(i)) if i == 0 else tag("td", c, class_=right.get(i)) for i, c in enumerate(row)])
        for row in rows
    ]
    content = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", body), class_=class_)
    return tag("div", content, class_="scroll", tabindex=0, role="region", aria_label=caption)


def facts(entries: Mapping[str, Child]) -> Html:
    """Names and values as a description list."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in entries.items()], class_="facts")


def page(title: str, body: Child, subtitle: Child = None) -> str:
    """A whole page, self-contained: style and script inline, and a policy that forbids every request to elsewhere."""
    assets = files("SphericalRegLib.visualization") / "assets"
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Html(style)),
    )
    top = tag(
        "header",
        tag("div", tag("p", "SphericalReg", class_="brand"), tag("h1", title), tag("p", subtitle, class_="subtitle") if subtitle else None),
        tag("button", "Light / dark", type="button", class_="theme js", aria_pressed="false"),
        class_="top",
    )
    warning = tag("footer", tag("p", tag("strong", "Research software, not a medical device."), " Not for diagnosis or treatment."))
    content = tag("body", top, tag("main", body), warning, tag("script", Html(script)))
    return "<!doctype html>\n" + tag("html", head, content, lang="en") + "\n"


def write_page(text: str, path: str | Path) -> Path:
    """Write a page, whole or not at all; returns its path."""

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8", newline="\n")

    write_atomically(Path(path), write)
    return Path(path)
