"""A case's CT as a model was trained on it: where its card names labels (one bone of several), these alone are rendered."""

from __future__ import annotations

import numpy as np

from SphericalRegLib.errors import InputError
from SphericalRegLib.imaging.case import Case
from SphericalRegLib.models.checkpoint import Model
from SphericalRegLib.registration.options import RegistrationOptions
from SphericalRegLib.registration.pipeline import prepare
from SphericalRegLib.registration.resolution import VolumePyramid


def prepared_as_trained(case: Case, model: Model, device: str) -> VolumePyramid:
    """The case's CT, ready to be rendered.

    Raises:
        InputError: the model was trained on labels, and the case has no label map or none of them.
    """
    labels, there = model.labels, case.volume.labels
    if labels is not None and (there is None or not np.isin(there, labels).any()):
        found = "no label map (labels.*)" if there is None else f"a label map with {', '.join(map(str, np.unique(there)))} alone"
        raise InputError(f"the model was trained on {_named(labels)} of its CT, but the case {case.path} has {found}; expected that label map")
    return prepare(case.volume, RegistrationOptions(labels=labels), device)


def labels_notes(model: Model) -> tuple[str, ...]:
    """What a reader should know where not the whole CT is rendered."""
    return () if model.labels is None else (f"The CT's {_named(model.labels)} alone {_is(model.labels)} rendered, as the model was trained.",)


def _named(labels: tuple[int, ...]) -> str:
    return f"label{'s' if len(labels) > 1 else ''} {', '.join(map(str, labels))}"


def _is(labels: tuple[int, ...]) -> str:
    return "are" if len(labels) > 1 else "is"
