"""All checks of `convoy doctor`, in the order in which they are read."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import psutil

from convoy_edge_client.agent.agent_config import AgentConfig, GuardConfig, load_agent_config
from convoy_edge_client.agent.doctor import clock, machine, membership, recordings, server_reach
from convoy_edge_client.agent.guards import Verdict
from convoy_edge_client.agent.probes import Probes, free_disk_mb, hottest_c
from convoy_edge_client.agent.traffic import TrafficLedger
from convoy_edge_client.agent.watch import Guard
from convoy_protos.errors import SettingsError
from convoy_protos.findings import Finding, ok, problem, warning

_MB: Final = 1e6
_LOAD_S: Final = 0.3
"""How long the load of other programs is looked at."""


def examine(path: Path | None) -> list[Finding]:
    """Look at the machine and, with an agent.toml, at all that the agent needs.

    Args:
        path: agent.toml; None: there is none.
    """
    if path is None:
        return _machine(None)
    try:
        config = load_agent_config(path)
    except SettingsError as error:
        return [problem("configuration", str(error)), *_machine(None)]
    return [ok("configuration", str(path)), *_machine(config), *_agent(config)]


def verdict_finding(verdict: Verdict) -> Finding:
    """What the guards say."""
    if verdict.may_work:
        return ok("guards", "work may start now")
    return warning("guards", f"no work now: {verdict.reason}")


def _machine(config: AgentConfig | None) -> list[Finding]:
    guards: GuardConfig | None = config.guards if config else None
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    return [
        machine.look_at_python(),
        machine.look_at_torch(config.vehicle.device if config else "auto"),
        machine.flower_finding(machine.installed("flwr")),
        machine.look_at_onnxruntime(),
        *machine.look_at_power_mode(),
        machine.thermal_finding(hottest_c(), guards),
        machine.memory_finding(memory.available / _MB, memory.total / _MB, guards),
        machine.swap_finding(swap.total / _MB, swap.used / _MB, memory.total / _MB),
        clock.look_at_clock(),
    ]


def _agent(config: AgentConfig) -> list[Finding]:
    now = datetime.now(UTC)
    return [
        membership.look_at_state_folder(config.state_path),
        machine.disk_finding(free_disk_mb(config.state_path), config.state, config.guards),
        *membership.look_at_identity(config, now),
        membership.look_at_node_key(config.node_key_path),
        *server_reach.look_at_server(config),
        recordings.look_at_recordings(config.vehicle),
        verdict_finding(_verdict(config)),
    ]


def _verdict(config: AgentConfig) -> Verdict:
    probes = Probes(config)
    time.sleep(_LOAD_S)
    return Guard(config, probes.read, TrafficLedger(config.traffic_path).megabytes).verdict()
