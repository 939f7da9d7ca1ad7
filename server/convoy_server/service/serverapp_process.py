"""One run's ServerApp, as a process: `python -m convoy_server.service.serverapp_process server.toml`.

Runs the installed app with the settings of the task in task.json. Ends with 0 when the run is done, with 3
and a line in task.failed when it failed for good, by a signal or with anything else when it did not
come to an end: then the executor starts it again and it goes on from the last finished round.
"""

import signal
import sys
from pathlib import Path
from typing import Any

from convoy_protos.errors import ConvoyError
from convoy_protos.flower_internals import act_as_server, make_context
from convoy_protos.run_bundle import read_run_bundle
from convoy_server.checkpoint import CHECKPOINT_FOLDER
from convoy_server.errors import RunInterruptedError
from convoy_server.observer_group import ObserverGroup
from convoy_server.run_config import KEYS_KEY, OUT_KEY, RESUME_KEY
from convoy_server.service.draining import Draining
from convoy_server.service.server_config import ServerConfig, load_server_config
from convoy_server.service.status_file import end_status
from convoy_server.service.structured_log import set_up_log
from convoy_server.service.task_file import (
    FAILED,
    INTERRUPTED,
    REASON_FILE,
    RunningTask,
    load_task,
    run_folder,
)


def settings_of(running: RunningTask, config: ServerConfig) -> dict[str, Any]:
    """What the ServerApp finds in Flower's run configuration; its places are the server's own.

    Raises:
        ConvoyError: The run was submitted with more than settings, or without a usable name.
    """
    settings, out = read_run_bundle(running.bundle), run_folder(running, config)
    return settings | {
        OUT_KEY: str(out),
        KEYS_KEY: config.identity.aggregator,
        RESUME_KEY: (out / CHECKPOINT_FOLDER).exists(),
    }


def main(config_path: Path) -> int:
    """Run it; returns the exit code."""
    config = load_server_config(config_path)
    set_up_log(config.log, "serverapp")
    running = load_task(config.state_folder)
    if running is None:
        return 0
    draining = Draining()
    signal.signal(signal.SIGTERM, lambda *_: draining.ask())
    try:
        settings = settings_of(running, config)
        from convoy_server.app import make_server_app  # noqa: PLC0415 - torch comes with it
        from convoy_server.service.service_observer import service_observer  # noqa: PLC0415

        out = Path(settings[OUT_KEY])
        out.parent.mkdir(parents=True, exist_ok=True)
        grid = act_as_server(config.private_door.address, running.task)
        context = make_context(running.task.node_id, {}, settings, run_id=running.task.run_id)
        make_server_app(observer=ObserverGroup([service_observer(out), draining]))(grid, context)
        end_status(out, "finished")
    except (RunInterruptedError, KeyboardInterrupt):
        return INTERRUPTED
    except ConvoyError as error:
        (config.state_folder / REASON_FILE).write_text(f"{error}\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
