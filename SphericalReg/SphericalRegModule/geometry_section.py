"""The geometry of the X-ray: values in the parameter node, origins beside them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.geometry_values import GeometryValues, Sourced, describe_origins
from SphericalRegLib.mrml.geometry_attribute import keep_geometry

from .choices import ALL_VIEWS, ASK_MODEL, SCENE, XRAY_SAYS
from .xray_geometry import implausible_lengths, known_geometry, load, save

if TYPE_CHECKING:
    from .panel import Panel

LONGEST_ORIGIN = 24
EDITED = "edited"

# field of GeometryValues -> parameters that hold it; pairs are (column, row)
PARAMETERS = {
    "sdd_mm": ("sddMm",),
    "pixel_spacing_mm": ("spacingColumnMm", "spacingRowMm"),
    "principal_point_px": ("principalColumnPx", "principalRowPx"),
    "intensity": ("intensity",),
    "inverted": ("inverted",),
    "mirrored": ("mirrored",),
}
LABELS = {
    "sdd_mm": "sddOriginLabel",
    "pixel_spacing_mm": "spacingOriginLabel",
    "principal_point_px": "principalOriginLabel",
    "intensity": "intensityOriginLabel",
    "inverted": "invertedOriginLabel",
    "mirrored": "mirroredOriginLabel",
}


class GeometrySection:
    """Follows the chosen X-ray: its values go into the parameters, edits back into what is kept with its node."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.ui = panel, panel.ui
        self.known: GeometryValues | None = None
        self._xray_id: str | None = None
        self._restored = True
        self.ui.loadGeometryButton.connect("clicked(bool)", self.on_load)
        self.ui.saveGeometryButton.connect("clicked(bool)", self.on_save)

    def forget(self) -> None:
        """Another parameter node, or none."""
        self._forget_xray()
        self._restored = True

    def _forget_xray(self) -> None:
        self.known, self._xray_id = None, None

    def show_state(self, busy: bool) -> None:
        self.ui.saveGeometryButton.enabled = self.known is not None

    def update(self) -> None:
        """Another X-ray was chosen, or a value was edited."""
        p = self.panel.parameters
        xray = p.xrayVolume
        restored, self._restored = self._restored, False
        if xray is None or xray.GetImageData() is None:
            self._forget_xray()
            self._say_nothing()
            return
        if self.known is None or xray.GetID() != self._xray_id:
            self._xray_id, self.known = xray.GetID(), None  # should reading it fail, another X-ray's geometry is not this one's
            self._say_nothing()
            self.known = known_geometry(xray)
            to_parameters(self.known, p)
            if not restored:  # the choices of a scene that was loaded stay
                self._choose_start()
        else:
            values = from_parameters(p, self.known)
            if edited(values, self.known):
                self._take(values)
        show_origins(self.ui, self.known)
        self._say_start()

    def _say_nothing(self) -> None:
        for label in (*LABELS.values(), "sizeLabel", "geometryWarningLabel"):
            getattr(self.ui, label).text = ""
        self._say_start()

    def _take(self, values: GeometryValues) -> None:
        """An edit: it is kept with the node, unless a length is implausible; then it is shown, and refused, and what was kept before stays."""
        p = self.panel.parameters
        self.known = values
        if implausible_lengths(values):
            return
        keep_geometry(p.xrayVolume, values)
        again = known_geometry(p.xrayVolume)
        # Whether white is bone by default goes with the intensity; and what was damaged is replaced.
        self.known = replace(values, inverted=again.inverted, warnings=again.warnings)
        p.inverted = self.known.inverted.value
        if p.initial == SCENE:  # the X-ray that was placed is what will be registered
            self.panel.initial.refresh_placed()

    def wrong(self) -> str:
        """What keeps the geometry of the chosen X-ray from being used, or an empty text."""
        return _("The X-ray cannot be used") if self.known is None else " ".join(implausible_lengths(self.known))

    # -- what the X-ray says of where it was taken from

    @property
    def start(self) -> Sourced[Any] | None:
        """The pose, or the view, that the X-ray's geometry says it was taken from."""
        return None if self.known is None else self.known.initial_camera_from_world or self.known.start

    def missing_start(self) -> str:
        """What is wrong with the X-ray's own word for a start, if that is chosen; or an empty text."""
        p = self.panel.parameters
        if p is None or p.initial != XRAY_SAYS or self.start is not None:
            return ""
        return _("The X-ray does not say where it was taken from: choose another start")

    def _choose_start(self) -> None:
        """As for a case folder, what a new X-ray says goes before what the panel chose; a view or angles that somebody chose stay."""
        p = self.panel.parameters
        before_another = p.initial == SCENE and p.placedFrom is not p.xrayVolume
        if self.start is not None and (p.initial in (ALL_VIEWS, ASK_MODEL) or before_another):
            p.initial = XRAY_SAYS
        elif self.start is None and p.initial == XRAY_SAYS:
            p.initial = ALL_VIEWS

    def _say_start(self) -> None:
        said, what = self.start, ""
        if said is not None and self.panel.parameters.initial == XRAY_SAYS:
            pose = self.known is not None and said is self.known.initial_camera_from_world
            what = _("The X-ray says: {what} ({origin}).").format(what=_("a pose") if pose else said.value, origin=said.origin)
        self.ui.startLabel.text = what
        self.ui.startLabel.visible = bool(what)

    # -- files

    def on_load(self, checked: bool = False) -> None:
        """Take the values of a file."""
        with self.panel.reporting(self.ui.geometryCollapsibleButton):
            path = self.ui.geometryPathLineEdit.currentPath
            if not path or self.panel.parameters.xrayVolume is None:
                raise InputError(_("Choose an X-ray and a geometry file first."))
            load(path, self.panel.parameters.xrayVolume)
            self._forget_xray()  # so that the new values are taken over
            self.panel.update()

    def on_save(self, checked: bool = False) -> None:
        """Write the values to a file."""
        with self.panel.reporting(self.ui.geometryCollapsibleButton):
            path = self.ui.geometryPathLineEdit.currentPath
            if not path or self.known is None:
                raise InputError(_("Choose an X-ray and a file to write first."))
            save(path, self.known, self.panel.parameters.xrayVolume)
            self.ui.statusLabel.text = _("Saved {path}.").format(path=Path(path).name)


def to_parameters(values: GeometryValues, parameters: Any) -> None:
    """Write values into the parameter node; a length that is not known becomes 0."""
    known = describe_origins(values)
    modified = parameters.StartModify()
    try:
        for field, names in PARAMETERS.items():
            value = known[field].value if field in known else 0.0
            for name, part in zip(names, value if isinstance(value, tuple) else (value,) * len(names)):
                setattr(parameters, name, part)
    finally:
        parameters.EndModify(modified)


def from_parameters(parameters: Any, known: GeometryValues) -> GeometryValues:
    """Values of the parameter node, as strong as they are shown; those that differ from what is known were edited."""
    before = describe_origins(known)
    found: dict[str, Any] = {}
    for field, names in PARAMETERS.items():
        parts = tuple(getattr(parameters, name) for name in names)
        if field in ("sdd_mm", "pixel_spacing_mm") and min(parts) <= 0:
            continue
        value = parts if len(parts) == 2 else parts[0]
        same = field in before and _alike(value, before[field].value)
        found[field] = before[field] if same else Sourced(value, EDITED)
    return replace(known, **{name: found.get(name) for name in PARAMETERS})  # the rest has no widget: i0, collimator, ...


def show_origins(ui: Any, values: GeometryValues) -> None:
    """Write where each value comes from, and a warning where one is missing or guessed."""
    known = describe_origins(values)
    for field, label in LABELS.items():
        origin = origin_in_words(known[field], field) if field in known else _("not known: enter it")
        getattr(ui, label).text = shortened(origin, field)
        getattr(ui, label).toolTip = origin
    ui.sizeLabel.text = "{} x {} px".format(*known["size_px"].value) if "size_px" in known else ""
    said = [*values.warnings, *implausible_lengths(values)]
    needed = {"sdd_mm": _("the source-to-detector distance"), "pixel_spacing_mm": _("the pixel spacing")}
    missing = [name for field, name in needed.items() if field not in known]
    if missing:
        said.append(_("Not known: {names}.").format(names=", ".join(missing)))
    if any(known[field].is_default for field in LABELS if field in known):
        said.append(_("Values marked 'default' are guesses: check them."))
    ui.geometryWarningLabel.text = " ".join(said)
    ui.geometryWarningLabel.visible = bool(said)


def origin_in_words(value: Sourced[Any], field: str) -> str:
    """Where a value comes from; what is assumed in the user's language."""
    if not value.is_default:
        return str(value.origin)
    return {
        "principal_point_px": _("default: the central ray meets the middle of the image"),
        "mirrored": _("default: the image is the one seen from the source"),
    }.get(field, str(value.origin))


def shortened(origin: str, field: str) -> str:
    """An origin that fits beside its value; all of it is in the tool tip. Of a tag its number is kept, of a file its name."""
    tags = re.findall(r"\([0-9A-Fa-f]{4},[0-9A-Fa-f]{4}\)", origin)
    if tags:
        return f"DICOM {tags[0]}{', ...' if len(tags) > 1 else ''}"
    text = origin.removesuffix(f": {field}")
    return text if len(text) <= LONGEST_ORIGIN else f"{text[:LONGEST_ORIGIN - 3]}..."


def edited(values: GeometryValues, known: GeometryValues) -> bool:
    """Whether a value or its origin changed."""
    now, before = describe_origins(values), describe_origins(known)
    if any((name in now) != (name in before) for name in PARAMETERS):
        return True
    return any(now[name].origin != before[name].origin or not _alike(now[name].value, before[name].value) for name in PARAMETERS if name in now)


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return all(_alike(x, y) for x, y in zip(a, b))
    return a == b if isinstance(a, (str, bool)) else abs(a - b) <= 1e-6 * max(abs(a), abs(b), 1e-6)
