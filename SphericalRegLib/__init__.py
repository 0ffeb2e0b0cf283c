"""SphericalReg: intraoperative 2D/3D registration of a CT and an X-ray.

``from SphericalRegLib import Volume, Radiograph, Camera, register`` is enough for a script. Importing the package imports no torch: names are
resolved on first use, so that 3D Slicer starts fast.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# OpenMP, which comes with torch, reads this when torch is loaded; it does nothing where that was before. Its threads wait for each other by spinning:
# beside programs that filled the cores, a registration took 10 s in place of 6 by that. On free cores it costs nothing.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_PUBLIC = {
    "Attenuation": "imaging.attenuation",
    "AttenuationModel": "imaging.attenuation",
    "Camera": "geometry.camera",
    "Case": "imaging.case",
    "InputError": "errors",
    "Projector": "rendering.projector",
    "Radiograph": "imaging.radiograph",
    "RegistrationOptions": "registration.pipeline",
    "RegistrationResult": "registration.result",
    "Volume": "imaging.volume",
    "attenuation": "imaging.attenuation",
    "load_case": "imaging.case",
    "load_model": "models.checkpoint",
    "pose_from_landmarks": "geometry.pnp",
    "register": "registration.pipeline",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
