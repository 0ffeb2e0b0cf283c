"""The stages of a registration, for people."""

from __future__ import annotations

import re

from slicer.i18n import tr as _


def in_words(stage: str) -> str:
    """A stage of a registration for people; what stands before it, a frame's or a pair's number, stays."""
    words = {
        "search": _("searching"),
        "regressor": _("asking the model"),
        "spherical LM": _("refining with the model"),
    }
    before, comma, last = stage.rpartition(", ")
    size = re.fullmatch(r"refine (\d+) px", last)
    return before + comma + (_("refining at {size} pixels").format(size=size[1]) if size else words.get(last, last))
