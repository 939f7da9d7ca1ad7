"""The verb `convoy release build`."""

from pathlib import Path
from typing import Annotated

import typer

CACHE = Path.home() / ".cache" / "convoy"


def release_build(
    directory: Annotated[
        Path, typer.Argument(metavar="RUN", help="The run directory: what --out named.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For release/.", show_default="the run directory"),
    ] = None,
    proxy: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Recordings that the server may see; may be repeated.",
            show_default="those of the release before",
        ),
    ] = None,
    *,
    release_id: Annotated[
        str, typer.Option(help="Names the release.", show_default="the run and its last round")
    ] = "",
    counter: Annotated[int, typer.Option(min=0, help="Grows with every release; 0: none.")] = 0,
    cache: Annotated[
        Path, typer.Option(help="Decoded frames.", show_default="~/.cache/convoy")
    ] = CACHE,
) -> int:
    """Make the release of a finished run, or make it again.

    The same run, proxy recordings and program give the same models, byte for byte. What vehicles told when
    the release was first made counts again; where they told nothing, proxy frames calibrate.

    Example:
        convoy release build runs/demo
        convoy release build runs/fleet --proxy recordings/test-track
    """
    from rich.console import Console

    from convoy_server.progress import progress_display
    from convoy_server.release.rebuild import rebuild_release

    with progress_display(Console()) as display:
        outcome = rebuild_release(
            directory,
            out or directory,
            proxy or (),
            cache,
            release_id=release_id,
            counter=counter,
            on_progress=display.phase,
        )
    for line in (*outcome.report.reasons, *outcome.report.warnings):
        print(line)
    print(f"{outcome.folder}: {'accepted' if outcome.report.accepted else 'refused'}")
    return 0 if outcome.report.accepted else 1
