"""``sphericalreg inspect``: what was understood of a file or a case."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from SphericalRegLib.errors import InputError

from .app import app
from .common import AsJson, Frame, Mirrored, check_figure, print_json

ROOM_FOR_TABLES = 110  # columns


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE|CASE", help="A CT, an X-ray, geometry.json, a transform, a result or a case folder.")],
    picture: Annotated[Path | None, typer.Option("--picture", "-p", help="The drawing of the set-up; default: setup_NAME.png here.")] = None,
    no_picture: Annotated[bool, typer.Option("--no-picture", help="Print only.")] = False,
    mirrored: Mirrored = None,
    frame: Frame = None,
    as_json: AsJson = False,
) -> None:
    """Print all that was understood: sizes, spacings, frames, where each value came from, which side is which; draw a case's set-up in 3D."""
    from SphericalRegLib.imaging.geometry_values import told
    from SphericalRegLib.visualization.description import describe

    out = _place_of_picture(path, picture, no_picture)
    said = told(mirrored, frame, "command line")
    described = describe(path, said)
    drawn, problem = None, None
    if out is not None:
        from SphericalRegLib.imaging.case import load_case, pose_to_start_from
        from SphericalRegLib.visualization.setup import draw_case

        try:
            check_figure(out, "the drawing")  # before the CT is read again
            case = load_case(path, said)
            drawn = draw_case(case, out)
            pose_to_start_from(None, case)  # last: the drawing shows what is wrong with it
        except (InputError, OSError) as error:  # what is wrong with a case is what one inspects it for: the description comes first
            problem = error
    if as_json:
        print_json({**described.to_dict(), "picture": drawn})
        if problem is not None:
            raise problem
        return
    from rich.console import Console

    console = Console()
    if console.width >= ROOM_FOR_TABLES:
        console.print(described)
    else:  # where a table would break its cells, plain lines are easier to read
        print(described.to_text(console.width), end="")
    if drawn is not None:
        print(f"\nset-up drawn to {drawn}")
    if problem is not None:
        raise problem


def _place_of_picture(path: Path, picture: Path | None, no_picture: bool) -> Path | None:
    """Where the set-up of what is inspected is drawn to; None for what is no case (a folder with a CT and an X-ray), or where no drawing is wanted.

    Raises:
        InputError: a drawing is asked for, and cannot be made.
    """
    from SphericalRegLib.imaging.case import find_case_files

    if no_picture:
        if picture is not None:
            raise InputError(f"--picture {picture} and --no-picture were both given; expected one of them")
        return None
    try:
        find_case_files(path)
    except InputError as error:
        if picture is not None:
            raise InputError(f"--picture draws the set-up of a case: {error}") from None
        return None
    return Path(f"setup_{path.resolve().name}.png") if picture is None else check_figure(picture, "the drawing")
