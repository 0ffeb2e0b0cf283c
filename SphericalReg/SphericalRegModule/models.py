"""Which model is meant: none, the one that comes along, a file, or one that is loaded already."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from SphericalRegLib.errors import InputError
from SphericalRegLib.models import shipped

if TYPE_CHECKING:
    import numpy as np


def model_file(model: Any) -> Path | None:
    """The weights of a model; None for none.

    Args:
        model: None, "shipped", or a path.

    Raises:
        InputError: no model comes along with this installation, or a loaded model, whose file nobody knows.
    """
    if model is None:
        return None
    if not isinstance(model, (str, Path)):
        raise InputError(f"The model is a {type(model).__name__}; expected a model's file here.")
    return shipped.model_file(model)


def loaded(model: Any) -> Any:
    """The model itself, on the CPU: a SphericalRegLib Model is taken as it is, the rest as of `model_file`; None for none.

    Raises:
        InputError: as of `model_file`, or the file is no model.
    """
    from SphericalRegLib.models.checkpoint import Model, load_model

    if isinstance(model, Model):
        return model
    path = model_file(model)
    return None if path is None else load_model(path)


def regressed_pose(model: Any, radiograph: Any, centre: np.ndarray) -> np.ndarray:
    """camera_from_world (4, 4): the likeliest pose that a model's regressor sees in an X-ray, about a CT's centre (3,), RAS mm."""
    import torch

    from SphericalRegLib.geometry.se3 import recentred
    from SphericalRegLib.registration.learned import regressed_poses

    with torch.no_grad():
        poses = regressed_poses(model.to("cpu"), radiograph, 1, 0)
        return recentred(poses, model.regressor.centre.double(), torch.as_tensor(centre, dtype=torch.float64))[0].numpy()
