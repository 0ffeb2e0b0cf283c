"""The command line as such: help, exit codes, streams."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from SphericalRegLib import __version__
from SphericalRegLib.cli import load
from SphericalRegLib.cli.app import SpeakingGroup
from SphericalRegLib.cli.common import check_output_folder, print_json
from SphericalRegLib.cli.progress_bars import progress_bars
from SphericalRegLib.devices import is_out_of_memory, resolve_device
from SphericalRegLib.errors import InputError
from SphericalRegLib.models.shipped import model_file
from SphericalRegLib.progress import Cancelled, Progress

ADVICE = "try a smaller image, a coarser CT, fewer poses, or --device cpu"
COMMANDS = ("register", "batch", "evaluate", "inspect", "simulate", "train", "panel", "landscape", "benchmark", "demo", "selftest")
"""In the order of work."""


def sphericalreg(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "SphericalRegLib", *arguments], capture_output=True, text=True, check=False)


def test_version() -> None:
    assert sphericalreg("--version").stdout.strip() == __version__


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom SphericalRegLib.cli import load\n"
        "from typer.testing import CliRunner\n"
        "print(CliRunner().invoke(load(), ['--help']).output)\n"
        "print(sorted({'torch', 'warp', 'vtk', 'matplotlib', 'SimpleITK', 'scipy', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
    for command in COMMANDS:
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("words", [(), ("benchmark",)])
def test_help_lists_commands_in_order_each_on_a_line_that_is_not_cut(words: tuple[str, ...]) -> None:
    group = typer.main.get_command(load())
    for word in words:
        group = group.commands[word]
    assert set(group.commands) == set(group.listed)
    if not words:
        assert tuple(group.listed) == COMMANDS
    shown = CliRunner().invoke(load(), [*words, "--help"], env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).output.split("Commands:\n")[1]
    assert [line.split()[0] for line in shown.splitlines() if line.strip()] == list(group.listed)
    assert "..." not in shown and all(text in shown for text in group.listed.values())


@pytest.mark.parametrize("command", ["register", "batch", "evaluate", "landscape", "benchmark capture", "benchmark methods", "benchmark optimisers"])
def test_every_model_may_be_the_one_that_comes_along(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "MODEL.safetensors|shipped" in CliRunner().invoke(load(), [*command.split(), "--help"]).output
    shipped = model_file(Path("shipped"))
    assert shipped.name == "pelvis.safetensors" and shipped.is_file() and model_file("other") == Path("other")
    monkeypatch.setattr("SphericalRegLib.models.shipped.shipped_model", lambda name: None)
    with pytest.raises(InputError, match="No model came with this installation"):
        model_file("shipped")


def test_a_missing_case_is_said_before_pytorch_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom SphericalRegLib.cli import load\nfrom typer.testing import CliRunner\n"
        "for command in ('register', 'batch'):\n"
        f"    done = CliRunner().invoke(load(), [command, {str(tmp_path / 'none')!r}, '-o', {str(tmp_path / 'out')!r}])\n"
        "    print(done.exit_code, 'none' in done.stderr)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "True", "2", "True", "False"]


def test_registering_without_a_model_does_not_load_pytorchs_compiler() -> None:
    """It takes longer to import than all the rest together; a library that asks for it (roma does) would be felt at every start."""
    code = "import sys, SphericalRegLib.registration.pipeline, SphericalRegLib.visualization.output\nprint('torch._dynamo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = CliRunner().invoke(load(), [*command.split(), "--help"])
    assert done.exit_code == 0
    assert "Usage" in done.output


def test_help_names_what_can_be_compared() -> None:
    from SphericalRegLib.cli import benchmark_method
    from SphericalRegLib.evaluation.benchmark_ablation import VARIANTS
    from SphericalRegLib.evaluation.methods import METHODS
    from SphericalRegLib.evaluation.optimisers import OPTIMISERS

    assert benchmark_method.METHOD_NAMES.split(", ") == list(METHODS)
    assert benchmark_method.OPTIMISER_NAMES.split(", ") == list(OPTIMISERS)
    assert benchmark_method.VARIANT_NAMES.split(", ") == list(VARIANTS)


@pytest.mark.parametrize(
    "arguments",
    [
        "dance",
        "simulate",
        "simulate --no-such-option",
        "simulate sample:pelvis -o x -n no",
        "register x -o y --label -1",
        "register x -o y --frame -1",
        "landscape x --model m -o y --line-points 2",
        "landscape x --model m -o y --rotation-deg 0",
        "landscape x --model m -o y --translation-mm -1",
        "landscape x --model m -o y --rho-mm 1",
    ],
)
def test_wrong_usage_exits_with_2(arguments: str) -> None:
    done = CliRunner().invoke(load(), arguments.split())
    assert done.exit_code == 2 and "Usage" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("the sea\n  is empty"), 2, "error: the sea is empty\n"),
        (InputError("The sea is empty."), 2, "error: The sea is empty\n"),
        (InputError("the sea is empty ..."), 2, "error: the sea is empty ...\n"),
        (KeyboardInterrupt(), 130, "interrupted: no half-written file was left behind\n"),
        (Cancelled(), 130, "interrupted: no half-written file was left behind\n"),
        (MemoryError("8 GB"), 2, f"error: not enough memory (8 GB): {ADVICE}\n"),
        (RuntimeError("CUDA out of memory.\nTried 2 GiB"), 2, f"error: not enough memory (CUDA out of memory. Tried 2 GiB): {ADVICE}\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/out"), 2, "error: /out could not be read or written: Permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "error: a file could not be read or written: No space left on device\n"),
    ],
)
def test_how_a_command_ends(error: BaseException, code: int, said: str) -> None:
    application = typer.Typer(cls=SpeakingGroup, pretty_exceptions_enable=False)

    @application.callback()
    def options() -> None:
        pass

    @application.command()
    def fail() -> None:
        raise error

    done = CliRunner().invoke(application, ["fail"])
    assert done.exit_code == code
    assert done.stderr == said
    assert done.stdout == ""


@pytest.mark.parametrize(
    "error", [ZeroDivisionError(), RuntimeError("the shapes do not match"), FileNotFoundError(errno.ENOENT, "No such file", "x"), OSError("libx.so")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    application = typer.Typer(cls=SpeakingGroup, pretty_exceptions_enable=False)

    @application.callback()
    def options() -> None:
        pass

    @application.command()
    def fail() -> None:
        raise error

    assert CliRunner().invoke(application, ["fail"]).exception is error


@pytest.mark.parametrize(
    ("error", "so"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),  # PyTorch's OutOfMemoryError is a RuntimeError
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("Failed to allocate 8 bytes on device 'cuda:0'"), True),  # Warp
        (RuntimeError("the shapes do not match"), False),
        (InputError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, so: bool) -> None:
    assert is_out_of_memory(error) == so


@pytest.mark.parametrize("name", ["gpu", "cuda:x", "CPU", "", "cuda:99"])
def test_no_such_device(name: str) -> None:
    with pytest.raises(InputError, match="--device"):
        resolve_device(name, "--device")


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(sys, "platform", "linux")
    assert resolve_device("auto") == "cuda:0"
    assert resolve_device("cuda") == "cuda:0"
    assert resolve_device("cuda:1") == "cuda:1"
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(InputError, match=r"2 CUDA GPU"):
        resolve_device("cuda:2")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert resolve_device("auto") == "cpu"


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"nan": float("nan"), "path": Path("a"), "rows": (1, float("inf"))})
    assert json.loads(capsys.readouterr().out, parse_constant=lambda _: pytest.fail("not JSON")) == {"nan": None, "path": "a", "rows": [1, None]}


def test_an_output_folder_is_checked_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="is a file"):
        check_output_folder(tmp_path / "file")
    with pytest.raises(InputError, match="is a file"):
        check_output_folder(tmp_path / "file" / "below")
    assert not check_output_folder(tmp_path / "new" / "deeper").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        "register {case} -o {out}",
        "batch {case} -o {out}",
        "evaluate {case} -o {out}",
        "simulate sample:pelvis -o {out}",
        "train sample:pelvis -o {out}/m.safetensors",
        "landscape {case} --model m -o {out}",
        "demo -o {out}",
    ],
)
def test_a_folder_that_may_not_be_written_to_is_refused_first(arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access  # tests may run as root, who may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: real(path, mode) and not (mode & os.W_OK and Path(path) == tmp_path))
    done = CliRunner().invoke(load(), arguments.format(case=tmp_path / "none", out=tmp_path / "new" / "out").split())
    assert done.exit_code == 2
    assert "may not be written to" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as report:
        report(Progress("walking", 1, 4))
        report(Progress("walking", 4, 4, "there"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "walking" in err
    assert "4/4" in err
