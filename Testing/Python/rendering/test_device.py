"""Torch's names for devices, as Warp takes them."""

from __future__ import annotations

import pytest
import torch

from SphericalRegLib.rendering.device import current_stream, numbered, start_warp, warp_device


@pytest.mark.parametrize(("name", "expected"), [("cpu", "cpu"), ("cuda", "cuda:2"), ("cuda:1", "cuda:1")])
def test_a_plain_cuda_is_the_current_gpu(monkeypatch, name: str, expected: str) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    assert numbered(torch.device(name)) == torch.device(expected)


def test_the_cpu_needs_no_stream() -> None:
    start_warp()
    assert not warp_device(torch.device("cpu")).is_cuda
    assert current_stream(torch.device("cpu")) is None
