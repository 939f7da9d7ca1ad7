"""How worker processes start: forked from a server process that has only imported things.

A fork of the caller would copy the locks of Flower's, gRPC's and torch's threads in whatever state
they are; fresh interpreters would each import torch and Flower again, seconds of work. The server
process ("forkserver") imports them once and has no threads. All pools of a program share it.
"""

import multiprocessing
from multiprocessing.context import ForkServerContext, SpawnContext

PRELOADED = (
    "convoy_simulation.client_processes",
    "convoy_edge_client.app",
    "convoy_simulation.baselines",
    "convoy_simulation.roads.closed_loop",
    "convoy_simulation.roads.torch_driver",
    "torch._dynamo",
)
"""What workers find imported; the last one, 800 modules, is what torch's optimizers import late."""


def start_context() -> ForkServerContext | SpawnContext:
    """Where to get processes from; without fork servers (Windows) every process starts fresh."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context
