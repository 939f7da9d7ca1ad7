"""Errors of convoy_simulation.

ConvoyError
  SimulationError               base of what goes wrong in simulating
    ClientVanishedError         a simulated client goes silent: nothing comes back, ever
    InjectedFaultError          a simulated client fails because the scenario says so
  JobFailedError                (convoy_protos.errors: exit code 1)
    WorkerStartError            a worker process cannot even build the client app
"""

from convoy_protos.errors import ConvoyError, JobFailedError


class SimulationError(ConvoyError):
    """Base of what goes wrong in simulating."""


class ClientVanishedError(SimulationError):
    """A simulated client goes silent: nothing comes back, ever."""


class InjectedFaultError(SimulationError):
    """A simulated client fails because the scenario says so."""


class WorkerStartError(JobFailedError):
    """A worker process cannot even build the client app; nothing could be simulated."""
