"""The inputs of registrations and trainings, read from the scene."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from SphericalRegLib.devices import resolve_device
from SphericalRegLib.imaging.radiograph import geometry_values
from SphericalRegLib.mrml.session import read_ct
from SphericalRegLib.training.files import check_target

from .models import loaded, model_file
from .prepared import Prepared, key
from .rendering import radiograph_of
from .training import OPTIONS, TrainingRequest
from .xray_geometry import kept_geometry_of


def registration_inputs(
    known: Prepared | None,
    ct: Any,
    xray: Any,
    *,
    geometry: Any = None,
    initial: Any = None,
    model: Any = None,
    labelsNode: Any = None,
    labels: Iterable[int | str] | None = None,
    maskNode: Any = None,
    device: str = "auto",
    seed: int = 0,
    options: Any = None,
) -> dict[str, Any]:
    """Keywords of the library's `read_request`, from those of `SphericalRegLogic.register`; `known` is a CT that was prepared before."""
    where = resolve_device(device)
    chosen = None if labels is None else tuple(labels)
    here = known is not None and known.key == key(ct, labelsNode, chosen, where, options)
    return {
        "geometry": kept_geometry_of(xray) if geometry is None else geometry_values(geometry),
        "initial": initial,
        "model": loaded(model),
        "labels": labelsNode,
        "parts": chosen,
        "mask": maskNode,
        "options": options,
        "device": where,
        "seed": seed,
        "prepared": known.pyramid if known is not None and here else None,
    }


def training_request(
    ct: Any,
    path: str | Path,
    xray: Any,
    geometry: Any,
    *,
    labelsNode: Any = None,
    labels: Iterable[int | str] | None = None,
    frame: int | None = None,
    resume: bool,
    device: str,
    seed: int,
    options: dict[str, Any],
) -> TrainingRequest:
    """All that a training needs, from the keywords of `SphericalRegLogic.trainModel`.

    Raises:
        InputError: input that cannot be used, in one sentence.
        TypeError: an option that is not known.
    """
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise TypeError(f"trainModel knows no {', '.join(unknown)}; it knows {', '.join(OPTIONS)}")
    out = Path(path).absolute()
    out = out if out.suffix else out.with_suffix(".safetensors")
    check_target(out, resume)
    base = options.get("base")
    words = {**options, "device": device, "seed": seed, **({} if base is None else {"base": model_file(base)})}
    radiograph = None if xray is None else radiograph_of(xray, geometry, frame)
    volume, read = read_ct(ct, labelsNode, None if labels is None else tuple(labels))
    return TrainingRequest(volume, radiograph, out, words, resume, read.labels)
