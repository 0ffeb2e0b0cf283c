"""The application: which words there are, and how each of them ends."""

from __future__ import annotations

import errno
import sys
from textwrap import shorten
from typing import Annotated, Any

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


class SpeakingGroup(TyperGroup):
    """Turns what a user can cause into one sentence and an exit code; a traceback stays what it should be: a report of a bug."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except InputError as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
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
