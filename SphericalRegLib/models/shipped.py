"""Models that come with the package, by the sample CT that they were trained on."""

from __future__ import annotations

from pathlib import Path

from SphericalRegLib.errors import InputError
from SphericalRegLib.resources import resource_path

SHIPPED, SHIPPED_SAMPLE = "shipped", "pelvis"
"""What a user calls the model that comes along, and the sample CT that it is of."""


def model_file(name: str | Path) -> Path:
    """The file of a model that a user names: `SHIPPED`, or a file as it is.

    Raises:
        InputError: no model came with this installation.
    """
    if Path(name) != Path(SHIPPED):
        return Path(name)
    path = shipped_model(SHIPPED_SAMPLE)
    if path is None:
        raise InputError("No model came with this installation; expected a model's .safetensors file, or train one")
    return path


def shipped_model(name: str) -> Path | None:
    """The weights of a sample CT's model ("pelvis"), or None where none comes along."""
    try:
        path = resource_path(f"Models/{name}.safetensors")
        resource_path(f"Models/{name}.json")
    except FileNotFoundError:
        return None
    return path
