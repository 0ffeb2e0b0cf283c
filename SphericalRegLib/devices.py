"""Where computing happens: names of devices as users give them, and threads."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from SphericalRegLib.errors import InputError

if TYPE_CHECKING:
    import torch


def resolve_device(name: str, said: str = "The device") -> str:
    """"cpu" or "cuda:N", for "auto" (the GPU where there is one; on macOS the CPU), "cpu", "cuda" or "cuda:N".

    Args:
        name: what the user chose.
        said: how messages call it.

    Raises:
        InputError: a word that is no device, or a GPU that is not there.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise InputError(f"{said} is {name!r}; expected auto, cpu, cuda or cuda:N")
    if name == "cpu" or (name == "auto" and sys.platform == "darwin"):
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        if name == "auto":
            return "cpu"
        raise InputError(f"{said} is {name}, but PyTorch finds no CUDA GPU on this machine; use cpu or auto")
    number = int(name.partition(":")[2] or 0)
    if number >= torch.cuda.device_count():
        raise InputError(f"{said} is {name}, but this machine has {torch.cuda.device_count()} CUDA GPU(s), numbered from 0")
    return f"cuda:{number}"


def numbered(device: torch.device | str) -> torch.device:
    """The GPU that torch means by a plain "cuda"; any other device as it is. Only so two names of one device are equal."""
    import torch

    device = torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if device.type == "cuda" and device.index is None else device


OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "failed to allocate")
"""How PyTorch on a GPU, PyTorch on the CPU and Warp say it, in lower case."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the machine's or a GPU's."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(words in said for words in OUT_OF_MEMORY))


# Torch's number of threads is the process's, so what is remembered of it must be, too.
_lock = threading.Lock()
_threads_before: list[int] = []


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Torch works on one thread of the CPU inside, and on as many as before afterwards.

    For many small operations, most of them too short to be worth a second one: on two threads (hyperthreads of one core), which wait for each other
    between operations, a registration took a sixth to two fifths longer. The renderer's own threads are not touched. Torch has one such number for
    the process, which new threads begin with, and one for each thread: where several are inside at once, each stays on one thread until it leaves,
    and all of them leave with what the first one found.
    """
    import torch

    with _lock:
        found = torch.get_num_threads()  # a thread takes up the process's number when first asked, and must not do so only inside
        _threads_before.append(_threads_before[0] if _threads_before else found)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            torch.set_num_threads(_threads_before.pop())
