"""Flower's SuperLink behind two doors, as a process: `python -m convoy_server.service.two_doors server.toml`.

    fleet door     TLS, signed by the node's key: Flower's fleet paths, /health and the bell, nothing else
    private door   plain HTTP on loopback: everything, so also starting runs and listing nodes

In Flower's open-source SuperLink whoever reaches its one port may start runs; so vehicles must not.
"""

import logging
import os
import sys
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, Final

import uvicorn

from convoy_protos.door_bell import BELL_PATH
from convoy_protos.errors import ConvoyError, JobFailedError
from convoy_protos.flower_internals import PUSH_PATH, addressed_nodes, make_superlink
from convoy_server.service.door_bell import DoorBell, read_query
from convoy_server.service.server_config import STATE_MODE, ServerConfig, load_server_config
from convoy_server.service.structured_log import set_up_log

logger = logging.getLogger(__name__)

FLEET_PATHS: Final = "/v1/fleet/"
HEALTH_PATH: Final = "/health"
DATABASE: Final = "superlink.db"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def fleet_only(app: App, bell: DoorBell) -> App:
    """The bell, and the app with all but the fleet's paths and its health taken away, as if it were not there."""

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        path = scope.get("path", "")
        if path == BELL_PATH:
            await _wait_at(bell, scope, send)
        elif path.startswith(FLEET_PATHS) or path == HEALTH_PATH:
            scope.setdefault("state", {})
            await app(scope, receive, send)
        else:
            await _answer(send, 404)

    return door


def ringing(app: App, bell: DoorBell) -> App:
    """The app, and whoever gets a message through it is called."""

    async def door(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PUSH_PATH:
            await app(scope, receive, send)
            return
        parts: list[bytes] = []

        async def listen() -> MutableMapping[str, Any]:
            event = await receive()
            parts.append(event.get("body", b""))
            return event

        await app(scope, listen, send)
        bell.ring(addressed_nodes(b"".join(parts)))

    return door


async def _wait_at(bell: DoorBell, scope: Scope, send: Send) -> None:
    query = read_query(scope.get("query_string", b""))
    if scope["method"] != "GET" or query is None:
        await _answer(send, 400)
        return
    await _answer(send, 200, (await bell.heard(*query)).encode())


async def _answer(send: Send, status: int, body: bytes = b"") -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve(config: ServerConfig) -> None:
    """Keep both doors open until SIGTERM.

    Raises:
        JobFailedError: One of them cannot be opened, or has closed by itself.
    """
    door, private = config.fleet_door, config.private_door
    database = str(config.state_folder / DATABASE)
    app = make_superlink(
        host=private.host,
        port=private.port,
        database=database,
        certificate=door.certificate,
        key=door.key,
        ca=door.ca,
    )
    bell = DoorBell()
    quiet: dict[str, Any] = {"log_config": None, "access_log": False}
    public = uvicorn.Server(
        uvicorn.Config(
            fleet_only(app, bell),
            host=door.host,
            port=door.port,
            ssl_certfile=door.certificate,
            ssl_keyfile=door.key,
            timeout_keep_alive=75,
            lifespan="off",
            **quiet,
        )
    )
    inner = uvicorn.Server(
        uvicorn.Config(
            ringing(app, bell), host=private.host, port=private.port, lifespan="on", **quiet
        )
    )
    closed_early: list[str] = []

    def keep_fleet_door() -> None:
        # In a thread uvicorn leaves signals alone; they belong to the private door.
        try:
            public.run()
        except SystemExit:  # how uvicorn says that it cannot listen; a thread would swallow it
            pass
        finally:
            if not public.should_exit:
                closed_early.append(f"[fleet_door] {door.host}:{door.port}")
                inner.should_exit = True

    thread = threading.Thread(target=keep_fleet_door, name="fleet door")
    thread.start()
    try:
        inner.run()
    except SystemExit:
        closed_early.append(f"[private_door] {private.host}:{private.port}")
    finally:
        public.should_exit = True
        thread.join()
    if closed_early:
        raise JobFailedError(f"{closed_early[0]}: not open; is the port taken?")


def main(config_path: Path) -> None:
    """Serve until SIGTERM.

    Raises:
        ConvoyError: The configuration or a file that it names cannot be used.
    """
    config = load_server_config(config_path)
    config.state_folder.mkdir(mode=STATE_MODE, parents=True, exist_ok=True)
    os.environ["FLWR_HOME"] = str(config.state_folder / "flower")
    set_up_log(config.log, "superlink")
    serve(config)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except ConvoyError as fault:
        sys.exit(f"superlink: {fault}")
