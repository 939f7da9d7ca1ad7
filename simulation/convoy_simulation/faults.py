"""Let named vehicles misbehave, to watch a run survive them; section [faults] of a scenario.

Every fault spoils the vehicle's real reply to `train` on its way out, in a Flower client mod: the
vehicle itself, the grid and the server are the ones of an undisturbed run. A fault depends on the
vehicle and the round alone, so a resumed run meets the same ones.

    [faults]
    car3 = "nan"
    car5 = { kind = "truncated", rounds = [2, 3] }
"""

import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from convoy_compression.update.codec import codec_on_wire
from convoy_edge_client.app import make_client_app
from convoy_edge_client.vehicle_config import vehicle_of
from convoy_protos import envelope
from convoy_protos.errors import SettingsError
from convoy_protos.flower_messages import TRAIN, read_instructions, read_update, update_content
from convoy_protos.settings import from_table
from convoy_protos.v1.federation_pb2 import UpdateHeader
from convoy_simulation.errors import ClientVanishedError, InjectedFaultError


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """What one vehicle does wrong.

    Attributes:
        kind: One of `FAULTS`.
        rounds: In which rounds; empty means in every one.
    """

    kind: str
    rounds: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise ValueError(f"kind must be one of {', '.join(FAULTS)}, got {self.kind!r}")
        if any(number < 1 for number in self.rounds):
            raise ValueError(f"rounds must be 1 or more, got {list(self.rounds)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultConfig:
    """Who misbehaves how; section [faults].

    Attributes:
        vehicles: Rules by vehicle id; a vehicle that is not named behaves.
    """

    vehicles: Mapping[str, FaultRule] = field(default_factory=dict)


def read_faults(table: Mapping[str, Any]) -> FaultConfig:
    """Parse section [faults]: vehicle id = "kind", or a table with kind and rounds.

    Raises:
        SettingsError: Names the vehicle and the kinds there are.
    """
    rules = {}
    for vehicle_id, value in table.items():
        rule = {"kind": value} if isinstance(value, str) else value
        if not isinstance(rule, Mapping):
            raise SettingsError(f"[faults] {vehicle_id}: expected a kind or a table, got {value!r}")
        rules[vehicle_id] = from_table(FaultRule, rule, f"[faults] {vehicle_id}")
    return FaultConfig(vehicles=rules)


def check_vehicles(faults: FaultConfig, fleet: Collection[str]) -> None:
    """Refuse faults of vehicles that the fleet does not have.

    Raises:
        SettingsError: Names the vehicle and those there are.
    """
    for vehicle_id in faults.vehicles:
        if vehicle_id not in fleet:
            known = ", ".join(sorted(fleet))
            raise SettingsError(f"[faults] {vehicle_id}: no such vehicle; the fleet has {known}")


def client_app_factory(faults: FaultConfig) -> Callable[[], ClientApp]:
    """Builds the vehicles' client app with these faults around it; can be pickled."""
    return functools.partial(_make_client_app, faults)


def fault_mod(faults: FaultConfig) -> Mod:
    """A Flower client mod that spoils replies to `train` according to the rules."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type != TRAIN:
            return call_next(message, context)
        rule = faults.vehicles.get(vehicle_of(context).vehicle_id)
        round_number = read_instructions(message.content)[0].round
        if rule is None or (rule.rounds and round_number not in rule.rounds):
            return call_next(message, context)
        return FAULTS[rule.kind](lambda: call_next(message, context))

    return mod


def _make_client_app(faults: FaultConfig) -> ClientApp:
    return make_client_app(mods=[fault_mod(faults)])


def _with_blob(change: Callable[[bytes], bytes]) -> "Fault":
    """A fault that alters the bytes of the envelope."""

    def spoil(reply_of: Callable[[], Message]) -> Message:
        reply = reply_of()
        reply.content = update_content(change(read_update(reply.content)))
        return reply

    return spoil


def _with_header(change: Callable[[UpdateHeader], object]) -> "Fault":
    """A fault that alters the header and leaves the payload."""

    def reseal(blob: bytes) -> bytes:
        header, payload = envelope.unpack(blob)
        change(header)
        return envelope.pack(header, payload)

    return _with_blob(reseal)


def _with_entry(value: float) -> "Fault":
    """A fault that sends an update with one bad entry."""

    def spoil(blob: bytes) -> bytes:
        header, _ = envelope.unpack(blob)
        update_N = np.zeros(header.parameter_count, np.float32)
        update_N[update_N.size // 2] = value
        return envelope.pack(header, codec_on_wire(header.codec).encode(update_N))

    return _with_blob(spoil)


def _one_entry_more(blob: bytes) -> bytes:
    header, payload = envelope.unpack(blob)
    header.parameter_count += 1
    return envelope.pack(header, bytes(payload) + bytes(4))


def _replay(header: UpdateHeader) -> None:
    """What was sent a round ago; in the first round there is nothing to replay yet."""
    if header.round > 1:
        header.round -= 1


def _raise(_reply_of: Callable[[], Message]) -> Message:
    raise InjectedFaultError("this vehicle was told to fail")


def _vanish(_reply_of: Callable[[], Message]) -> Message:
    raise ClientVanishedError


def _reply_with_nothing(reply_of: Callable[[], Message]) -> Message:
    reply = reply_of()
    reply.content = RecordDict()
    return reply


Fault = Callable[[Callable[[], Message]], Message]
"""Makes a spoilt reply from a function that trains and gives the honest one."""

FAULTS: Final[Mapping[str, Fault]] = {
    "nan": _with_entry(np.nan),
    "infinite": _with_entry(np.inf),
    "wrong_length": _with_blob(_one_entry_more),
    "wrong_schema": _with_header(lambda header: setattr(header, "schema_digest", bytes(32))),
    "wrong_round": _with_header(lambda header: setattr(header, "round", header.round + 1000)),
    "wrong_run": _with_header(lambda header: setattr(header, "run_id", "another-run")),
    "wrong_vehicle": _with_header(lambda header: setattr(header, "vehicle_id", "somebody-else")),
    "wrong_codec": _with_header(lambda header: setattr(header, "codec", "morse/1")),
    "replayed": _with_header(_replay),
    "truncated": _with_blob(lambda blob: blob[: len(blob) // 2]),
    "oversized": _with_blob(lambda blob: blob + bytes(len(blob) + 1_000_000)),
    "malformed": _reply_with_nothing,
    "zero_examples": _with_header(lambda header: setattr(header, "example_count", 0)),
    "absurd_examples": _with_header(lambda header: setattr(header, "example_count", 10**12)),
    "extra_metric": _with_header(lambda header: header.metrics.update({"luck": 7.0})),
    "missing_metric": _with_header(lambda header: header.metrics.clear()),
    "exception": _raise,
    "never_answers": _vanish,
}
"""Every kind there is."""
