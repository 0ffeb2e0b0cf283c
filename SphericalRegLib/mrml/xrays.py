"""X-ray nodes and `Radiograph`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..imaging.geometry_values import GeometryValues, Sourced, first_known
from ..imaging.pixels import StoredImage
from ..imaging.radiograph import Radiograph
from .detector import PlacedCamera, set_image
from .voxels import voxels

INPUT_SPACING_ORIGIN = "the volume in the scene"

DICOM_UIDS = "DICOM.instanceUIDs"
"""Slicer's attribute of nodes that its DICOM module made."""

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
"""Formats that know a resolution for printing at most: 72 dpi would be a plausible detector's 0.35 mm."""

_NEEDED = {"sdd_mm": "source-to-detector distance (sdd_mm)", "pixel_spacing_mm": "pixel spacing on the detector (pixel_spacing_mm)"}


def stored_image(node: Any, frame: int | None = None) -> StoredImage:
    """The grey values of a node as its file has them: i runs along columns, j down the rows, as Slicer's readers load images.

    Args:
        node: vtkMRMLScalarVolumeNode with one slice, or with several: then they are frames. Colours whose channels are alike count as grey.
        frame: which slice of several, from 0.

    Raises:
        InputError: no image, colours, several slices without `frame`, a frame that is not there.
    """
    values = voxels(node)
    name = repr(node.GetName())
    if values.ndim == 4:
        if np.any(values[..., :1] != values[..., : min(3, values.shape[3])]):
            raise InputError(f"The X-ray {name} is coloured; expected grey values.")
        values = values[..., 0]
    frames = len(values)
    if frame is None and frames > 1:
        raise InputError(f"The X-ray {name} has {frames} slices; expected one image, or the number of a frame.")
    chosen = 0 if frame is None else int(frame)
    if not 0 <= chosen < frames:
        raise InputError(f"The X-ray {name} has no frame {chosen}; expected 0 to {frames - 1}.")
    return StoredImage.from_array(values[chosen], frames, chosen)


def node_geometry(node: Any) -> GeometryValues:
    """What a node itself knows of the detector: its size, and its spacing where that is told in millimetres on the detector.

    It is not by 1 mm, which stands for nothing; by `PICTURES`, as on the command line; and by DICOM, whose header tells it, or leaves it open because
    its spacing is the patient's.
    """
    columns, rows = node.GetImageData().GetDimensions()[:2] if node.GetImageData() is not None else (0, 0)
    across, down = node.GetSpacing()[:2]
    storage = node.GetStorageNode()
    picture = storage is not None and (storage.GetFileName() or "").lower().endswith(PICTURES)
    told = (across, down) != (1.0, 1.0) and not picture and not node.GetAttribute(DICOM_UIDS)
    return GeometryValues(
        pixel_spacing_mm=Sourced((across, down), INPUT_SPACING_ORIGIN) if told else None,
        size_px=Sourced((columns, rows), "the image"),
    )


@dataclass(frozen=True, eq=False)
class Exposure:
    """How a node's stored values become radiographs; nothing in it belongs to the scene.

    Attributes:
        values: the geometry of the image as stored, value by value.
        mask: (H, W), zero excludes a pixel; None: all count.
        collimator: whether the collimated border is found and excluded; None: as `values` say, else yes.
        name: of the X-ray.
    """

    values: GeometryValues
    mask: np.ndarray | None
    collimator: bool | None
    name: str

    def radiograph(self, stored: StoredImage) -> Radiograph:
        """Raises InputError for anything that cannot be used, in one sentence."""
        missing = [words for name, words in _NEEDED.items() if getattr(self.values, name) is None]
        if missing:
            why = "".join(f" {warning}" for warning in self.values.warnings)
            raise InputError(f"The X-ray {self.name!r} has no {' and no '.join(missing)}: enter it under Geometry, or give it as `geometry`.{why}")
        return Radiograph.from_stored(
            stored, self.values, mask=self.mask, collimator=self.collimator, name=self.name, where=f"X-ray {self.name!r}"
        )


def exposure_of(node: Any, geometry: GeometryValues | None = None, *, mask: Any = None, collimator: bool | None = None) -> Exposure:
    """How an X-ray node is read; arguments as of `radiograph_from_node`."""
    values = first_known(*(part for part in (geometry, node_geometry(node)) if part is not None))
    return Exposure(values, mask_pixels(mask, node), collimator, node.GetName())


def mask_pixels(mask: Any, xray: Any) -> np.ndarray | None:
    """(H, W) of a mask's node for an X-ray's; None for no mask.

    Raises:
        InputError: the mask has another size.
    """
    if mask is None:
        return None
    sizes = [voxels(node).shape[2:0:-1] for node in (mask, xray)]
    if sizes[0] != sizes[1]:
        found, expected = (f"{columns} x {rows}" for columns, rows in sizes)
        raise InputError(f"The mask {mask.GetName()!r} has {found} pixels; expected the {expected} of the X-ray {xray.GetName()!r}.")
    return stored_image(mask, 0).grey


def radiograph_from_node(
    node: Any, geometry: GeometryValues | None = None, *, frame: int | None = None, mask: Any = None, collimator: bool | None = None
) -> Radiograph:
    """An X-ray node's image, ready for registration; the values are copied.

    Args:
        node: see `stored_image`.
        geometry: of the image as stored; what it leaves open is taken from the node.
        frame: which slice of several, from 0.
        mask: a volume or label map node of the same size; zero excludes a pixel.
        collimator: find the collimated border and exclude it; None: as `geometry` says, else yes.

    Raises:
        InputError: anything that cannot be used, in one sentence.
    """
    stored = stored_image(node, frame)  # first: its messages say what is wrong with the node
    return exposure_of(node, geometry, mask=mask, collimator=collimator).radiograph(stored)


def radiograph_to_node(scene: Any, radiograph: Radiograph, world_from_camera: np.ndarray, name: str = "", node: Any = None) -> Any:
    """The X-ray as registration sees it (bone bright, seen from the source), on its detector at `world_from_camera` (4, 4) in the scene.

    Args:
        scene: where a new vtkMRMLScalarVolumeNode is added, unless `node` is one to be filled.
    """
    if node is None:
        node = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name or f"{radiograph.name} on the detector")
    set_image(node, radiograph.image, PlacedCamera(radiograph.camera, world_from_camera), mirrored=radiograph.mirrored)
    return node
