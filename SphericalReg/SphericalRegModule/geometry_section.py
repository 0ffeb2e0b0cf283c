"""The geometry of the X-ray: values in the parameter node, origins beside them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.imaging.geometry_file import read_geometry, write_geometry
from SphericalRegLib.imaging.geometry_values import GeometryValues, Sourced, describe_origins, first_known, with_defaults
from SphericalRegLib.mrml.detector import is_mirrored, placed_camera
from SphericalRegLib.mrml.geometry_attribute import keep_geometry, kept_geometry
from SphericalRegLib.mrml.poses import pose_of
from SphericalRegLib.mrml.xrays import node_geometry, stored_image

from .choices import ALL_VIEWS, ASK_MODEL, SCENE, XRAY_SAYS

if TYPE_CHECKING:
    from SphericalRegLib.imaging.dicom import DicomGeometry

    from .panel import Panel

LONGEST_ORIGIN = 24
EDITED = "edited"
PLACED = "the placed detector"

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
            for label in (*LABELS.values(), "sizeLabel", "geometryWarningLabel"):
                getattr(self.ui, label).text = ""
            self._say_start()
            self._say_sides()
            return
        if self.known is None or xray.GetID() != self._xray_id:
            self._xray_id, self.known = xray.GetID(), known_geometry(xray)
            to_parameters(self.known, p)
            if not restored:  # the choices of a scene that was loaded stay
                self._choose_start()
        else:
            values = from_parameters(p, self.known)
            if edited(values, self.known):
                keep_geometry(xray, values)
                # Whether white is bone by default goes with the intensity.
                self.known = replace(values, inverted=known_geometry(xray).inverted)
                p.inverted = self.known.inverted.value
                if p.initial == SCENE:  # the X-ray that was placed is what will be registered
                    self.panel.initial.refresh_placed()
        show_origins(self.ui, self.known)
        self._say_start()
        self._say_sides()

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

    def _say_sides(self) -> None:
        """Which side of the patient is where in the X-ray view: a letter on the film that says otherwise tells of a mirrored image."""
        from SphericalRegLib.visualization.orientation import NAMES, edge_letters

        p, words = self.panel.parameters, ""
        try:
            placed = None if p.placedXray is None or p.ctVolume is None else placed_camera(p.placedXray)
            pose = None if placed is None else pose_of(p.ctVolume, placed.world_from_camera)
        except InputError:  # of nodes that are warped or scaled; a registration says so
            pose = None
        if pose is not None:
            edges = edge_letters(pose, is_mirrored(p.placedXray))
            words = _("In the X-ray view: the patient's {left} at the left edge, {top} at the top.")
            words = words.format(left=NAMES[edges.left], top=NAMES[edges.top])
        self.ui.sidesLabel.text = words
        self.ui.sidesLabel.visible = bool(words)

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


def known_geometry(xray: Any) -> GeometryValues:
    """All that is known of an X-ray node's geometry: what was kept with it, its DICOM instance, its spacing, and assumptions where there is none.

    Raises:
        InputError: a damaged attribute, or a node without an image.
    """
    placed = placed_camera(xray)
    if placed is not None:
        return GeometryValues(
            **{name: Sourced(value, PLACED) for name, value in vars(placed.camera).items()},
            intensity=Sourced("line_integral", PLACED),
            inverted=Sourced(True, PLACED),
            mirrored=Sourced(False, PLACED),
        )
    stored = stored_image(xray, 0)
    known = first_known(kept_geometry(xray), dicom_geometry(xray), node_geometry(xray))
    return with_defaults(known, stored.size_px, stored.likely_intensity)


def dicom_geometry(xray: Any) -> GeometryValues:
    """What the node's DICOM instance says of the image as Slicer has read it; nothing for a node of another origin."""
    try:
        header = dicom_header(xray)
    except InputError as error:
        return GeometryValues(warnings=(str(error),))
    return GeometryValues() if header is None else header.as_read_by_itk


def dicom_header(xray: Any) -> DicomGeometry | None:
    """The geometry in the node's DICOM instance; None for a node of another origin. Raises InputError where it cannot be read."""
    uids = (xray.GetAttribute("DICOM.instanceUIDs") or "").split()
    database = getattr(slicer, "dicomDatabase", None)
    path = database.fileForInstance(uids[0]) if uids and database is not None else ""
    if not path:
        return None
    from SphericalRegLib.imaging.dicom import read_dicom_geometry

    return read_dicom_geometry(path)


def as_in_the_file(values: GeometryValues, xray: Any) -> GeometryValues:
    """Values of the image as Slicer has it for the image as stored, or the other way round: they differ where ITK has turned it round on reading."""
    from SphericalRegLib.imaging.dicom import turned_round

    try:
        header = dicom_header(xray)
    except InputError:
        return values
    return turned_round(values) if header is not None and header.dark_first else values


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
    said = list(values.warnings)
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


def load(path: str | Path, xray: Any) -> None:
    """Take a geometry file for an X-ray and keep it with the node.

    Raises:
        InputError: the file, or its size against the image.
    """
    given = as_in_the_file(read_geometry(path), xray)
    size = stored_image(xray, 0).size_px
    if given.size_px is not None and tuple(given.size_px.value) != size:
        (across, down), (columns, rows) = given.size_px.value, size
        raise InputError(f"{path} is for an image of {across} x {down} pixels; expected the {columns} x {rows} of the X-ray {xray.GetName()!r}.")
    keep_geometry(xray, first_known(given, kept_geometry(xray)))


def save(path: str | Path, values: GeometryValues, xray: Any) -> None:
    """Write the values of an X-ray to a geometry file, which describes the image as stored.

    Raises:
        InputError: a value is missing, or the file cannot be written.
    """
    known = describe_origins(as_in_the_file(values, xray))
    missing = [name for name in ("sdd_mm", "pixel_spacing_mm", "size_px", "principal_point_px") if name not in known]
    if missing:
        raise InputError(f"The geometry lacks {', '.join(missing)}: enter it before saving.")
    camera = Camera(*(known[name].value for name in ("sdd_mm", "pixel_spacing_mm", "size_px", "principal_point_px")))
    flags = {name: known[name].value for name in ("intensity", "inverted", "mirrored") if name in known}
    write_geometry(path, camera, **flags)


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
