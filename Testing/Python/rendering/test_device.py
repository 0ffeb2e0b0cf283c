"""Torch's names for devices, as Warp takes them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import scenes

from SphericalRegLib.devices import numbered
from SphericalRegLib.rendering.backends import warp_backend
from SphericalRegLib.rendering.device import current_stream, start_warp, warp_device


@pytest.mark.parametrize(("name", "expected"), [("cpu", "cpu"), ("cuda", "cuda:2"), ("cuda:1", "cuda:1")])
def test_a_plain_cuda_is_the_current_gpu(monkeypatch, name: str, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert numbered(torch.device(name)) == torch.device(expected)


def test_a_projector_stays_on_the_gpu_that_it_was_made_on(monkeypatch) -> None:
    """Its volume, its images and its launches, wherever torch is sent afterwards."""
    packed_on: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    monkeypatch.setattr(warp_backend, "warp_device", lambda device: SimpleNamespace(is_cuda=True))
    monkeypatch.setattr(warp_backend, "pack", lambda mu, device: packed_on.append(device))
    backend = warp_backend.WarpBackend(scenes.smooth_attenuation(), 1.0, torch.device("cuda"))
    assert [backend._device, *packed_on] == [torch.device("cuda:2")] * 2


def test_the_cpu_needs_no_stream() -> None:
    start_warp()
    assert not warp_device(torch.device("cpu")).is_cuda
    assert current_stream(torch.device("cpu")) is None
