"""Training on several GPUs or machines: every process draws X-rays of its own, and their gradients are averaged at each step.

Lightning Fabric starts the processes and carries what they tell each other. The networks are not wrapped (a wrapper for data parallelism cannot
differentiate twice, which gradient matching does): gradients are averaged by hand, in one message. Fabric is optional
(`pip install lightning`); on one device nothing of it is imported.
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from collections.abc import Iterable
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from SphericalRegLib.errors import InputError

T = TypeVar("T")


class Group(Protocol):
    """The processes that train one model; `rank` 0 is the one that validates, reports and writes."""

    rank: int
    size: int

    def from_first(self, value: T) -> T:
        """The value that the process of rank 0 has; all of them must ask."""
        ...

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their mean over the processes; all of them must have gradients of the same parameters."""
        ...


class Alone:
    """The only process."""

    rank = 0
    size = 1

    def from_first(self, value: T) -> T:
        return value

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        return None


ALONE = Alone()


class FabricGroup:
    """The processes of a launched `lightning.fabric.Fabric`."""

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric
        self.rank = int(fabric.global_rank)
        self.size = int(fabric.world_size)

    @property
    def device(self) -> torch.device:
        """This process's."""
        return self.fabric.device

    def from_first(self, value: T) -> T:
        return self.fabric.broadcast(value, src=0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        mean = self.fabric.all_reduce(torch.cat([gradient.flatten() for gradient in gradients]), reduce_op="mean")
        for gradient, part in zip(gradients, mean.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(part.view_as(gradient))


def launch(devices: int, nodes: int, device: str) -> FabricGroup:
    """Start `devices` processes on each of `nodes` machines (this one's number is Fabric's business); returns in every one of them.

    Args:
        devices: how many on each machine.
        nodes: how many machines.
        device: "cpu" or "cuda...": what kind they are.

    Raises:
        InputError: Lightning Fabric is not installed.
    """
    module = next((found for name in ("lightning.fabric", "lightning_fabric") if (found := _try_import(name)) is not None), None)
    if module is None:
        raise InputError("Training on several devices needs Lightning Fabric; expected `pip install lightning`.")
    fabric = module.Fabric(accelerator="cuda" if device.startswith("cuda") else "cpu", devices=devices, num_nodes=nodes, strategy="ddp")
    fabric.launch()
    if fabric.global_rank > 0:  # the first process hears of Ctrl-C, and ends the others with it where the state is whole
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    return FabricGroup(fabric)


def _end_with(parent: int) -> None:
    """An orphan would wait for messages for ever, deaf to Ctrl-C."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def _try_import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None
