"""Torch's threads in a registration, and after it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from SphericalRegLib.devices import one_torch_thread


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_one_thread_inside_and_as_many_as_before_afterwards() -> None:
    with one_torch_thread():
        assert torch.get_num_threads() == 1
        with one_torch_thread():
            assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(KeyboardInterrupt), one_torch_thread():
        raise KeyboardInterrupt
    assert torch.get_num_threads() == 3


def test_what_overlaps_leaves_no_process_on_one_thread() -> None:
    first_is_in, second_is_in, first_is_out = threading.Event(), threading.Event(), threading.Event()
    inside: list[int] = []
    after: list[int] = []

    def first() -> None:
        with one_torch_thread():
            first_is_in.set()
            second_is_in.wait(10)
        after.append(torch.get_num_threads())
        first_is_out.set()

    def second() -> None:
        first_is_in.wait(10)
        with one_torch_thread():
            second_is_in.set()
            first_is_out.wait(10)
            inside.append(torch.get_num_threads())
        after.append(torch.get_num_threads())

    jobs = [threading.Thread(target=job) for job in (first, second)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    late = threading.Thread(target=lambda: after.append(torch.get_num_threads()))
    late.start()
    late.join()
    assert inside == [1]
    assert after == [3, 3, 3]
