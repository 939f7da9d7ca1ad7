"""Let named vehicles misbehave, to watch a run survive them; section [faults] of a scenario.

Every fault spoils one of the vehicle's real replies on its way out, in a Flower client mod: the
vehicle itself, the grid and the server are the ones of an undisturbed run. A fault depends on the
vehicle and the round alone, so a resumed run meets the same ones.

    [faults]
    car3 = "nan"
    car5 = { kind = "truncated", rounds = [2, 3] }

Which reply: that to `train`; or, for what is wrong with an update as bytes, the one that carries it,
which with masked updates is the upload of the secure sum. "lost_helper" is for mask helpers: a roadside
unit stands here under its name, as roadside0.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable, Mod

from convoy_edge_client.app import make_client_app
from convoy_edge_client.local_update import LocalUpdate, keep, kept
from convoy_edge_client.vehicle_config import vehicle_of
from convoy_protos import envelope
from convoy_protos.errors import SettingsError
from convoy_protos.flower_messages import (
    HELPED_UPLOAD,
    MASK_SUM,
    SHARE,
    TRAIN,
    UNMASK,
    UPLOAD,
    read_instructions,
    read_trained,
    read_update,
    trained_content,
    update_content,
)
from convoy_protos.protection import Protection, protection_of
from convoy_protos.settings import from_table
from convoy_protos.v1.federation_pb2 import Trained, UpdateHeader
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
    """A Flower client mod that spoils replies according to the rules."""

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        rule = faults.vehicles.get(vehicle_of(context).vehicle_id)
        if rule is None or (rule.rounds and _round_of(message) not in rule.rounds):
            return call_next(message, context)
        fault = FAULTS[rule.kind]
        if _stage(message, fault.stage) != message.metadata.message_type:
            return call_next(message, context)
        return fault.spoil(lambda: call_next(message, context), context.state)

    return mod


def _make_client_app(faults: FaultConfig) -> ClientApp:
    return make_client_app(mods=[fault_mod(faults)])


def _round_of(message: Message) -> int:
    """The server groups the messages of a round; only `train` says it in its content as well."""
    if message.metadata.message_type == TRAIN:
        return read_instructions(message.content).round
    group = message.metadata.group_id
    return int(group) if group.isdecimal() else 0


def _stage(message: Message, wanted: str) -> str:
    """The message type that a fault waits for."""
    if message.metadata.message_type == HELPED_UPLOAD:
        return HELPED_UPLOAD if wanted in (UPLOAD, _WHERE_THE_UPDATE_IS) else wanted
    if wanted != _WHERE_THE_UPDATE_IS:
        return wanted
    if message.metadata.message_type != TRAIN:
        return UPLOAD
    masked = protection_of(read_instructions(message.content).codec) is Protection.MASKED
    return UPLOAD if masked else TRAIN


Spoil = Callable[[Callable[[], Message], RecordDict], Message]
"""Makes a spoilt reply from a function that gives the honest one, and the node's state."""

_WHERE_THE_UPDATE_IS: Final = "update"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave.

    Attributes:
        spoil: What becomes of the reply.
        stage: Message type that is answered wrongly, or "update": the one whose reply carries it.
    """

    spoil: Spoil
    stage: str = TRAIN


def _with_blob(change: Callable[[bytes], bytes]) -> Fault:
    """A fault that alters the bytes of the envelope."""

    def spoil(reply_of: Callable[[], Message], _state: RecordDict) -> Message:
        reply = reply_of()
        spoilt = update_content(change(read_update(reply.content)))
        # With mask helpers the sealed seeds stand beside it.
        reply.content = RecordDict({**reply.content, **spoilt})
        return reply

    return Fault(spoil, _WHERE_THE_UPDATE_IS)


def _with_header(change: Callable[[UpdateHeader], object]) -> Fault:
    """A fault that alters the header and leaves the payload."""

    def reseal(blob: bytes) -> bytes:
        header, payload = envelope.unpack(blob)
        change(header)
        return envelope.pack(header, payload)

    return _with_blob(reseal)


def _with_claims(change: Callable[[UpdateHeader | Trained], object]) -> Fault:
    """A fault in what the reply to `train` says about examples and metrics."""

    def spoil(reply_of: Callable[[], Message], _state: RecordDict) -> Message:
        reply = reply_of()
        if "trained" in reply.content:
            trained = read_trained(reply.content)
            change(trained)
            reply.content = trained_content(trained)
            return reply
        header, payload = envelope.unpack(read_update(reply.content))
        change(header)
        reply.content = update_content(envelope.pack(header, payload))
        return reply

    return Fault(spoil)


def _with_entry(value: float) -> Fault:
    """A fault that sends an update with one bad entry; under masks no number can say that."""

    def spoil(reply_of: Callable[[], Message], _state: RecordDict) -> Message:
        reply = reply_of()
        if "trained" in reply.content:
            raise InjectedFaultError(f"training ended in {value}")
        header, payload = envelope.unpack(read_update(reply.content))
        update_N = np.zeros(header.parameter_count, np.float32)
        update_N[update_N.size // 2] = value
        spoilt = update_N.astype("<f2" if len(payload) == 2 * update_N.size else "<f4").tobytes()
        reply.content = update_content(envelope.pack(header, spoilt))
        return reply

    return Fault(spoil)


def _poison(reply_of: Callable[[], Message], state: RecordDict) -> Message:
    """Trains, then sends five times the opposite."""
    reply = reply_of()
    if "trained" in reply.content:
        update = kept(state)
        assert isinstance(update, LocalUpdate)  # noqa: S101 - it has just been trained
        keep(dataclasses.replace(update, update_N=update.update_N * np.float32(-5.0)), state)
        return reply
    header, payload = envelope.unpack(read_update(reply.content))
    if protection_of(header.codec) is Protection.SEALED:
        raise InjectedFaultError("poison of sealed updates cannot be injected from outside")
    kind = "<f2" if header.codec.startswith("float16") else "<f4"
    poisoned = (np.frombuffer(payload, kind) * np.float32(-5.0)).astype(kind).tobytes()
    reply.content = update_content(envelope.pack(header, poisoned))
    return reply


def _one_entry_more(blob: bytes) -> bytes:
    header, payload = envelope.unpack(blob)
    header.parameter_count += 1
    return envelope.pack(header, bytes(payload) + bytes(4))


def _replay(header: UpdateHeader) -> None:
    """What was sent a round ago; in the first round there is nothing to replay yet."""
    if header.round > 1:
        header.round -= 1


def _misname_metric(claims: UpdateHeader | Trained) -> None:
    """No metrics at all would be a vehicle that withholds them."""
    claims.metrics.clear()
    claims.metrics["trane_loss"] = 1.0


def _forge(header: UpdateHeader) -> None:
    """A signature of somebody else's; updates in the clear have none to forge."""
    if header.signature:
        header.signature = bytes(len(header.signature))


def _raise(_reply_of: Callable[[], Message], _state: RecordDict) -> Message:
    raise InjectedFaultError("this vehicle was told to fail")


def _vanish(_reply_of: Callable[[], Message], _state: RecordDict) -> Message:
    raise ClientVanishedError


def _reply_with_nothing(reply_of: Callable[[], Message], _state: RecordDict) -> Message:
    reply = reply_of()
    reply.content = RecordDict()
    return reply


FAULTS: Final[Mapping[str, Fault]] = {
    "nan": _with_entry(np.nan),
    "infinite": _with_entry(np.inf),
    "poison": Fault(_poison),
    "wrong_length": _with_blob(_one_entry_more),
    "wrong_schema": _with_header(lambda header: setattr(header, "schema_digest", bytes(32))),
    "wrong_round": _with_header(lambda header: setattr(header, "round", header.round + 1000)),
    "wrong_run": _with_header(lambda header: setattr(header, "run_id", "another-run")),
    "wrong_vehicle": _with_header(lambda header: setattr(header, "vehicle_id", "somebody-else")),
    "wrong_codec": _with_header(lambda header: setattr(header, "codec", "morse/1")),
    "wrong_context": _with_header(lambda header: setattr(header, "context_digest", bytes(32))),
    "forged_signature": _with_header(_forge),
    "replayed": _with_header(_replay),
    "truncated": _with_blob(lambda blob: blob[: len(blob) // 2]),
    "oversized": _with_blob(lambda blob: blob + bytes(len(blob) + 1_000_000)),
    "malformed": Fault(_reply_with_nothing),
    "zero_examples": _with_claims(lambda claims: setattr(claims, "example_count", 0)),
    "absurd_examples": _with_claims(lambda claims: setattr(claims, "example_count", 10**12)),
    "extra_metric": _with_claims(lambda claims: claims.metrics.update({"luck": 7.0})),
    "missing_metric": _with_claims(_misname_metric),
    "exception": Fault(_raise),
    "never_answers": Fault(_vanish),
    "lost_after_check_in": Fault(_vanish, SHARE),
    "lost_before_upload": Fault(_vanish, UPLOAD),
    "lost_before_unmask": Fault(_vanish, UNMASK),
    "lost_helper": Fault(_vanish, MASK_SUM),
}
"""Every kind there is."""
