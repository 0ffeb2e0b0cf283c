"""Several processes that train one model, played by threads: a stand-in for Fabric that carries values between them."""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "registration"))
import registration_phantom as phantom

from SphericalRegLib.errors import InputError
from SphericalRegLib.geometry.camera import Camera
from SphericalRegLib.models.encoder import EncoderConfig
from SphericalRegLib.models.trunk import TrunkConfig
from SphericalRegLib.progress import Cancelled, Progress, silent
from SphericalRegLib.training import parallel
from SphericalRegLib.training.options import TrainingOptions
from SphericalRegLib.training.parallel import Alone, FabricGroup, launch
from SphericalRegLib.training.trainer import Trainer
from SphericalRegLib.training.validation import ValidationOptions

CAMERA = Camera(1000.0, (7.0, 7.0), (32, 32), (15.5, 15.5))
OPTIONS = TrainingOptions(
    iterations=3,
    batch=2,
    encoder=EncoderConfig(TrunkConfig(image_size=32, width=32, blocks=1), elements=2),
    regressor=None,
    validation=ValidationOptions(times=1, xrays=2, iterations=1),
)


class Wire:
    """What two threads tell each other; each call waits for both."""

    def __init__(self, size: int) -> None:
        self.size, self.values, self.messages = size, [None] * size, 0
        self.barrier = threading.Barrier(size, timeout=60)

    def exchange(self, rank: int, value):
        self.values[rank] = value
        self.barrier.wait()
        seen = list(self.values)
        self.messages += rank == 0
        self.barrier.wait()
        return seen


class FakeFabric:
    """The part of Fabric's interface that is used."""

    def __init__(self, wire: Wire, rank: int) -> None:
        self.wire, self.global_rank, self.world_size, self.device = wire, rank, wire.size, torch.device("cpu")

    def broadcast(self, value, src: int = 0):
        return self.wire.exchange(self.global_rank, value)[src]

    def all_reduce(self, value: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "mean"
        return torch.stack(self.wire.exchange(self.global_rank, value)).mean(0)


def together(size: int, work) -> list:
    """Results of `work(group)` of each process, or its exception."""
    wire, results = Wire(size), [None] * size
    groups = [FabricGroup(FakeFabric(wire, rank)) for rank in range(size)]

    def run(rank: int) -> None:
        try:
            results[rank] = work(groups[rank])
        except BaseException as error:  # handed to the test, which looks at it
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    return results


def trainers(size: int = 2, options: TrainingOptions = OPTIONS) -> list[Trainer]:
    """Made one after the other: the seed of the weights is the process's, not the thread's."""
    return [Trainer([phantom.volume()], CAMERA, options, group=SimpleNamespace(rank=rank, size=size)) for rank in range(size)]


def joined(made: list[Trainer], group: FabricGroup) -> Trainer:
    made[group.rank].group = group
    return made[group.rank]


def weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in trainer.networks.parameters()])


def test_gradients_are_averaged_in_one_message() -> None:
    wire_messages = []

    def work(group: FabricGroup) -> list[torch.Tensor]:
        parameters = [torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(1))]
        parameters[0].grad, parameters[1].grad = torch.full((2, 3), 1.0 + group.rank), torch.arange(4.0) * (1 - group.rank)
        group.average_gradients(parameters)
        wire_messages.append(group.fabric.wire.messages)
        assert parameters[2].grad is None
        return [parameter.grad for parameter in parameters[:2]]

    a, b = together(2, work)
    for gradients in (a, b):
        assert torch.equal(gradients[0], torch.full((2, 3), 1.5)) and torch.equal(gradients[1], torch.arange(4.0) / 2)
    assert max(wire_messages) == 1


def test_two_processes_draw_differently_and_stay_together() -> None:
    made = trainers()
    alone = Trainer([phantom.volume()], CAMERA, OPTIONS)
    assert torch.equal(weights(made[0]), weights(made[1])) and torch.equal(weights(made[0]), weights(alone))
    draws = [torch.rand(3, generator=trainer.generator) for trainer in (*made, alone)]
    assert not torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
    reports: list[tuple[int, Progress]] = []

    def work(group: FabricGroup) -> Trainer:
        trainer = joined(made, group)
        trainer.run(lambda step: reports.append((group.rank, step)))
        return trainer

    first, second = together(2, work)
    assert isinstance(first, Trainer) and isinstance(second, Trainer), (first, second)
    assert torch.equal(weights(first), weights(second)) and not torch.equal(weights(first), weights(alone))
    assert first.count.iteration == second.count.iteration == 3
    assert first.count.curve == second.count.curve and len(first.count.curve) == 1
    assert {rank for rank, _ in reports} == {0}


def test_a_gradient_that_is_not_finite_in_one_process_is_a_lost_step_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made = trainers(options=replace(OPTIONS, iterations=3, validation=replace(OPTIONS.validation, times=0)))
    phase = made[1].phases[0]
    right = phase.loss
    monkeypatch.setattr(phase, "loss", lambda *given: (float("nan") * right(*given)[0], {}))
    first, second = together(2, lambda group: joined(made, group).step() and weights(made[group.rank]))
    assert torch.equal(first, second) and bool(torch.isfinite(first).all())
    assert made[0].count.steps_lost == made[1].count.steps_lost == 1


def test_cancelling_one_ends_all_with_one_state(tmp_path: Path) -> None:
    made = trainers()

    def stop(step: Progress) -> None:
        raise Cancelled

    first, second = together(2, lambda group: joined(made, group).run(stop, tmp_path / "m.state"))
    assert isinstance(first, Cancelled) and isinstance(second, Cancelled)
    assert [path.name for path in tmp_path.iterdir()] == ["m.state"]
    assert made[0].count.iteration == made[1].count.iteration == 1
    again = trainers()
    for trainer in again:
        trainer.resume(tmp_path / "m.state")
    assert torch.equal(weights(again[0]), weights(made[0]))
    together(2, lambda group: joined(again, group).run())
    assert again[0].count.iteration == again[1].count.iteration == 3 and torch.equal(weights(again[0]), weights(again[1]))
    assert not torch.equal(*(torch.rand(3, generator=trainer.generator) for trainer in again))


def test_alone_nothing_is_averaged() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    Alone().average_gradients([parameter])
    assert torch.equal(parameter.grad, torch.ones(2)) and Alone().from_first("x") == "x"
    trainer = Trainer([phantom.volume()], CAMERA, replace(OPTIONS, iterations=2))
    trainer.run(silent)
    assert trainer.count.iteration == 2


def test_fabric_is_launched_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_try_import", lambda name: None)
    with pytest.raises(InputError, match="pip install lightning"):
        launch(2, 1, "cpu")
    seen = {}

    class Fabric(FakeFabric):
        def __init__(self, **given) -> None:
            super().__init__(Wire(1), 0)
            seen.update(given)

        def launch(self) -> None:
            seen["launched"] = True

    monkeypatch.setattr(parallel, "_try_import", lambda name: SimpleNamespace(Fabric=Fabric) if name == "lightning_fabric" else None)
    group = launch(4, 2, "cuda:0")
    assert seen == {"accelerator": "cuda", "devices": 4, "num_nodes": 2, "strategy": "ddp", "launched": True}
    assert (group.rank, group.size, group.device) == (0, 1, torch.device("cpu"))


def test_other_processes_leave_ctrl_c_to_the_first_and_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Second(FakeFabric):
        def __init__(self, **_) -> None:
            super().__init__(Wire(2), 1)

        def launch(self) -> None:
            pass

    parents, ended = iter([7, 7, 1]), []
    monkeypatch.setattr(parallel, "_try_import", lambda name: SimpleNamespace(Fabric=Second))
    monkeypatch.setattr(parallel.os, "getppid", lambda: next(parents, 1))
    monkeypatch.setattr(parallel.os, "_exit", ended.append)
    monkeypatch.setattr(parallel.time, "sleep", lambda _: None)
    monkeypatch.setattr(parallel.threading, "Thread", lambda target, args, daemon: SimpleNamespace(start=lambda: target(*args)))
    before = signal.getsignal(signal.SIGINT)
    try:
        launch(2, 1, "cpu")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == [1]
