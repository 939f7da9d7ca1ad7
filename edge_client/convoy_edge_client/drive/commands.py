"""The verb of a vehicle: `convoy drive`."""

import logging
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from convoy_edge_client.drive.sinks import Sink


def drive(
    *,
    config: Annotated[Path, typer.Option(metavar="FILE", help="The vehicle's.")] = Path(
        "drive.toml"
    ),
    source: Annotated[
        str,
        typer.Option(metavar="KIND:WHAT", help="recording:PATH, camera:NUMBER or simulator:SEED."),
    ] = "camera:0",
    json_lines: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A line an answer; - is standard output.")
    ] = None,
    socket: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A UNIX socket for the controller.")
    ] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pictures with the steering drawn in.")
    ] = None,
    frames: Annotated[int, typer.Option(help="End after so many; 0: never.")] = 0,
    no_updates: Annotated[
        bool, typer.Option("--no-updates", help="Fetch no releases; `convoy agent` may do it.")
    ] = False,
    roll_back: Annotated[
        bool,
        typer.Option("--roll-back", help="Send back the model that drives, and end at once."),
    ] = False,
) -> None:
    """Drive with the newest model that has proved itself here, and exchange it under way.

    Example:
        convoy drive --config /etc/convoy/drive.toml --source camera:0 --socket /run/convoy/drive.sock
    """
    from convoy_edge_client.drive.drive_toml import load_drive_toml

    read = load_drive_toml(config)
    if roll_back:
        print(send_back(read.releases.folder_path))
        return
    from convoy_edge_client.drive.driving import drive as drive_on
    from convoy_edge_client.drive.frame_source import open_source
    from convoy_edge_client.drive.vehicle import Vehicle
    from convoy_edge_client.drive.watchdog import watch

    root = logging.getLogger()  # whose handler the command line has set up
    root.setLevel(min(root.level, logging.INFO))
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    vehicle = Vehicle(read, config, updates=not no_updates)
    signal.signal(signal.SIGUSR1, lambda *_: _send_back_later(read.releases.folder_path))
    sinks = _sinks(json_lines, socket, overlay)
    try:
        frames_of = open_source(source)
        vehicle.start()
        # The trial has a shorter one of its own, which loses no frame.
        watch(lambda: vehicle.wheel.hangs_s, 5 * read.drive.watchdog_s, stop)
        driven = drive_on(vehicle.wheel, frames_of, sinks, read.drive, stop, most_frames=frames)
    finally:
        stop.set()
        for sink in sinks:
            sink.close()
        vehicle.close()
    say = sys.stderr if json_lines == Path("-") else sys.stdout
    print(f"{read.vehicle}: {driven.frames} frames driven, {driven.late} late", file=say)


def send_back(folder: Path) -> str:
    """What the operator wants; whoever drives sees it within a tenth of a second."""
    from convoy_edge_client.updates import states
    from convoy_edge_client.updates.update_file import UpdateFile

    record = UpdateFile(folder).step(lambda held: states.sent_back(held, "operator"))
    slot = states.driven(record)
    return f"{folder}: {'the factory model' if slot is None else slot.release} drives from now on"


def _send_back_later(folder: Path) -> None:
    # A handler runs between two lines of the thread that drives, which must not wait for the disk.
    threading.Thread(target=send_back, args=(folder,), daemon=True).start()


def _sinks(json_lines: Path | None, socket: Path | None, overlay: Path | None) -> "list[Sink]":
    from convoy_edge_client.drive.sinks import JsonLines, Overlay

    sinks: list[Sink] = []
    if json_lines is not None:
        is_standard = json_lines == Path("-")
        file = sys.stdout if is_standard else json_lines.open("w", encoding="utf-8")
        sinks.append(JsonLines(file, closes=not is_standard))
    if overlay is not None:
        sinks.append(Overlay(overlay))
    if socket is not None:
        from convoy_edge_client.drive.control_socket import ControlSocket

        sinks.append(ControlSocket(socket))
    return sinks
