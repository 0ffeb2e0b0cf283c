"""Models that come with the package, by the sample CT that they were trained on."""

from __future__ import annotations

from pathlib import Path

from SphericalRegLib.resources import resource_path


def shipped_model(name: str) -> Path | None:
    """The weights of a sample CT's model ("pelvis"), or None where none comes along."""
    try:
        path = resource_path(f"Models/{name}.safetensors")
        resource_path(f"Models/{name}.json")
    except FileNotFoundError:
        return None
    return path
