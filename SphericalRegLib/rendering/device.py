"""Warp beside torch on one device."""

from __future__ import annotations

import torch
import warp as wp

from ..devices import numbered


def start_warp() -> None:
    """Initialises Warp without its banner, unless somebody has done so."""
    if wp.config.log_level == wp.LOG_INFO:
        wp.config.log_level = wp.LOG_WARNING
    wp.init()


def warp_device(device: torch.device) -> wp.Device:
    """Torch's device in Warp, which knows GPUs by their numbers alone."""
    return wp.device_from_torch(numbered(device))


def current_stream(device: torch.device) -> wp.Stream | None:
    """Torch's CUDA stream, so that launches keep their place among torch's own; None on the CPU."""
    return wp.stream_from_torch(numbered(device)) if device.type == "cuda" else None
