"""The application: which words there are, and how each of them ends."""

from __future__ import annotations

import errno
import sys
from textwrap import shorten
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

from SphericalRegLib import __version__
from SphericalRegLib.devices import is_out_of_memory
from SphericalRegLib.errors import InputError
from SphericalRegLib.progress import Cancelled

BAD_INPUT = 2
INTERRUPTED = 130  # what shells expect after Ctrl-C: 128 + SIGINT
NOT_A_BUG = ("EACCES", "EPERM", "EROFS", "ENOSPC", "EDQUOT", "EFBIG", "EIO", "EBUSY", "ESTALE", "ENAMETOOLONG", "EISDIR", "ENOTDIR")
"""What disks and permissions say. A file that is not there is missing from the list: input is looked for before it is opened."""


class ListedGroup(TyperGroup):
    """Its help has the commands in the order of work, each with a line that fits a terminal and is not cut."""

    listed: ClassVar[dict[str, str]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=lambda name: list(self.listed).index(name) if name in self.listed else len(self.listed))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.listed.get(name, "")) for name in self.list_commands(ctx)])


class SpeakingGroup(ListedGroup):
    """Turns what a user can cause into one sentence and an exit code; a traceback stays what it should be: a report of a bug."""

    listed: ClassVar[dict[str, str]] = {
        "register": "Find the pose of a CT in its X-ray, or in several jointly.",
        "batch": "Register many cases.",
        "evaluate": "Register many cases, and compare with their true poses.",
        "inspect": "Say what is understood of a file or a case; draw its set-up.",
        "simulate": "Make cases with simulated X-rays of a CT.",
        "train": "Train a model of a CT, so that no initial pose is needed.",
        "panel": "Draw registered cases in one figure.",
        "landscape": "Draw the similarity around a case's true pose.",
        "benchmark": "Measure speed, reach, and what the method's parts bring.",
        "demo": "Register two real CTs to simulated X-rays.",
        "selftest": "Check in a minute that all works here, and how fast.",
    }

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            print(f"error: {_alike(str(error))}", file=sys.stderr)
            raise typer.Exit(BAD_INPUT) from None
        except (KeyboardInterrupt, Cancelled):
            print("interrupted: no half-written file was left behind", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except OSError as error:
            if errno.errorcode.get(error.errno or 0) not in NOT_A_BUG:
                raise
            print(f"error: {error.filename or 'a file'} could not be read or written: {error.strerror}", file=sys.stderr)
            raise typer.Exit(BAD_INPUT) from None
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            said = shorten(str(error), 100, placeholder=" ...") or "allocation failed"  # PyTorch goes on about its settings
            print(f"error: not enough memory ({said}): try a smaller image, a coarser CT, fewer poses, or --device cpu", file=sys.stderr)
            raise typer.Exit(BAD_INPUT) from None


def _alike(sentence: str) -> str:
    """On one line and without a full stop, which some of the library's sentences have."""
    line = " ".join(sentence.split())
    return line if line.endswith("..") else line.removesuffix(".")


app = typer.Typer(
    cls=SpeakingGroup,
    help="Intraoperative 2D/3D registration of a CT and an X-ray. Research software, not a medical device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """Intraoperative 2D/3D registration of a CT and an X-ray. Research software, not a medical device."""
