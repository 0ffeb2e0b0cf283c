"""The application: which words there are, and how each of them ends."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from SphericalRegLib import __version__
from SphericalRegLib.errors import InputError
from SphericalRegLib.progress import Cancelled

BAD_INPUT = 2
INTERRUPTED = 130  # what shells expect after Ctrl-C: 128 + SIGINT


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
        except MemoryError as error:
            print(f"error: not enough memory ({error or 'allocation failed'}): try a smaller image, a coarser CT or fewer poses", file=sys.stderr)
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
