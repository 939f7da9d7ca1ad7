"""Run a small federation in Flower's own simulation: `python ray_federation.py FLEET.json RUN.json OUT`.

A program of its own, because Ray leaves its marks on the process that starts it.
"""

import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import ray
from flwr.app import Context
from flwr.simulation import run_simulation

from convoy_edge_client.app import app as client_app
from convoy_server.app import app as server_app
from convoy_simulation.vehicles import AGGREGATOR

VEHICLES = 3


def main(fleet_file: str, run_file: str, out: str) -> None:
    """Run the two apps, exactly as they are installed; the server's keys lie beside the fleet."""
    run_config = {
        "convoy-run": Path(run_file).read_text(),
        "convoy-out": out,
        "convoy-fleet": fleet_file,
        "convoy-keys": str(Path(fleet_file).parent / AGGREGATOR),
    }

    # run_simulation has no argument for a run configuration; `flwr run` has, but leaves a daemon.
    def with_run_config(context: Context) -> Iterator[None]:
        before = context.run_config
        context.run_config = {**before, **run_config}
        yield
        context.run_config = before  # Flower refuses a client that changes it

    server_app.lifespan()(with_run_config)
    client_app.lifespan()(with_run_config)
    temporary = tempfile.mkdtemp(prefix="ray")  # under /tmp: Ray's socket paths must be short
    try:
        run_simulation(
            server_app=server_app,
            client_app=client_app,
            num_supernodes=VEHICLES,
            backend_config={
                "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
                "init_args": {
                    "num_cpus": 2,
                    "log_to_driver": False,
                    "logging_level": 40,
                    "object_store_memory": 100_000_000,
                    "_temp_dir": temporary,
                },
            },
        )
    finally:
        ray.shutdown()
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Ray's and Flower's own
    main(*sys.argv[1:])
