"""Vehicles and helpers of a masked sum in memory; `ask` can spoil, drop, double and reorder replies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flwr.app import Message, RecordDict
from small_sum import NOW, POLICY, authority, fixed_random, identity

from convoy_compression.update.masked import MaskedFormat
from convoy_compression.update.rotation import layout_of
from convoy_privacy.certificates import Role
from convoy_privacy.sealing import sealing_key, sign_sealing_key
from convoy_privacy.secure_sum import vehicle as protocol
from convoy_privacy.secure_sum.helped_vehicle import masked_for_helpers, seal_seeds
from convoy_privacy.secure_sum.helper import MaskHelper
from convoy_protos import envelope
from convoy_protos.envelope import COUNTER_SCALE, SCORE_COUNTERS, SUM_COUNTERS
from convoy_protos.errors import ConvoyError
from convoy_protos.flower_internals import CLIENT_APP_RAISED, error_reply, server_identity
from convoy_protos.flower_messages import (
    CHECK_IN,
    HELPED_UPLOAD,
    MASK_SUM,
    SHARE,
    UPLOAD,
    answer_content,
    helped_upload_content,
    read_request,
    update_content,
)
from convoy_protos.v1.federation_pb2 import UpdateHeader
from convoy_protos.v1.secure_sum_pb2 import HelperKey

RUN_ID = "small run"
ROUND = 7
SCHEMA = bytes(range(32))
MODEL = bytes(32)
SETTINGS = b"t" * 32

Spoil = Callable[[bytes], RecordDict | bytes | Exception | None]
"""Instead of a vehicle's reply: other content, other bytes, an error, or no reply at all (None)."""


@dataclass
class Car:
    """One honest vehicle with a trained update.

    Attributes:
        number: Of its identity.
        update_N: float32, shape (N,).
        examples: Behind the update.
        train_loss: Mean loss.
        lies: Counters that it claims instead of the true ones.
        scores: By SCORE_COUNTERS, for a sum without a vector.
        requests: The last one of each kind that it got.
        seeds: Sealed to the helpers of the last helped sum.
    """

    number: int
    update_N: np.ndarray
    examples: int = 10
    train_loss: float = 0.5
    lies: Mapping[str, int] = field(default_factory=dict)
    scores: Mapping[str, int] = field(default_factory=dict)
    session: bytes = b""
    seeds: bytes = b""
    requests: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.identity = identity(self.number)
        self.random = fixed_random(f"car {self.number}")

    @property
    def name(self) -> str:
        """As its certificate has it."""
        return self.identity.name

    def answer(self, kind: str, request: bytes) -> bytes:
        """The bytes of its reply; the session stays here."""
        self.requests[kind] = request
        if kind == CHECK_IN:
            self.session, reply = protocol.check_in(
                request, self.identity, POLICY, self.random, self.session
            )
        elif kind == SHARE:
            self.session, reply = protocol.share(
                self.session, request, self.identity, authority().trust(), NOW, self.random
            )
        elif kind == UPLOAD:
            session = protocol.accept_shares(self.session, request)
            reply = self._upload(session, protocol.masked)
        elif kind == HELPED_UPLOAD:
            session, self.seeds = seal_seeds(
                request,
                self.identity,
                POLICY,
                authority().trust(),
                NOW,
                self.random,
                self.session,
            )
            reply = self._upload(session, masked_for_helpers)
        else:
            self.session, reply = protocol.unmask(self.session, request, self.identity)
        return reply

    def _upload(self, session: bytes, hide: Callable[..., tuple[bytes, Any, Any]]) -> bytes:
        terms, slot, context = protocol.describe(session)
        fields = terms.fields
        lanes = MaskedFormat(
            parameter_count=fields.parameter_count,
            modulus_bits=fields.modulus_bits,
            step=fields.step,
            seed=fields.codec_seed,
        )
        weight = 1 if fields.equal_weights else min(self.examples, fields.weight_cap)
        weighted_N = self.update_N * np.float32(weight / fields.weight_cap)
        names = SUM_COUNTERS if fields.parameter_count else SCORE_COUNTERS
        squared = float(np.square(self.update_N, dtype=float).sum())
        counters = {
            "count": 1,
            "weight": weight,
            "clipped": 0,
            "loss_sum": round(weight * self.train_loss * COUNTER_SCALE),
            "squared_norm": round(squared * COUNTER_SCALE),
            "loss_weight": weight,
            **self.scores,
        } | dict(self.lies)
        counters_C = np.array([counters[name] for name in names], np.uint64)
        lanes_P = lanes.quantize(weighted_N[: fields.parameter_count], slot)
        self.session, lanes_P, counters_C = hide(session, lanes_P, counters_C)
        body = lanes.pack(lanes_P) + counters_C.astype("<u8").tobytes()
        header = UpdateHeader(
            run_id=RUN_ID,
            round=ROUND,
            vehicle_id=self.name,
            schema_digest=SCHEMA,
            codec="masked/1",
            parameter_count=fields.parameter_count,
            context_digest=context,
            signature=protocol.sign_upload(self.session, self.identity, body),
        )
        return envelope.pack(header, body)


@dataclass
class Unit:
    """One honest mask helper.

    Attributes:
        number: Of its identity.
        minimum_cohort: Of its own configuration.
    """

    number: int
    minimum_cohort: int = 2

    def __post_init__(self) -> None:
        self.identity = identity(self.number, Role.HELPER)
        self.sealing_key = sealing_key("x25519", bytes([self.number]) * 32)
        self.helper = MaskHelper(
            self.identity,
            self.sealing_key,
            lambda terms: layout_of(terms.parameter_count).padded_count,
            len(SUM_COUNTERS),
            minimum_cohort=self.minimum_cohort,
        )

    @property
    def name(self) -> str:
        """Under which its node is asked."""
        return f"unit {self.number}"

    @property
    def key(self) -> HelperKey:
        """What it offers."""
        return sign_sealing_key(self.sealing_key, self.identity)

    def answer(self, _kind: str, request: bytes) -> bytes:
        """Its sum of masks."""
        return self.helper.answer(request, authority().trust(), NOW)


class MaskedCars:
    """A fleet behind an `ask` as convoy_server.secure_sums wants it.

    Attributes:
        asked: Every exchange: its kind and whom it went to.
    """

    def __init__(
        self,
        cars: Sequence[Car],
        spoil: Mapping[tuple[str, str, int], Spoil] | None = None,
        order: Callable[[str, list[str]], list[str]] = lambda _kind, names: names,
        helpers: Sequence["Unit"] = (),
    ) -> None:
        """Everybody is ready.

        Args:
            cars: The vehicles.
            spoil: What becomes of a reply, by kind, vehicle and attempt.
            order: In which replies come; a name may come twice.
            helpers: Mask helpers.
        """
        self.cars = {car.name: car for car in cars}
        self.helpers = {helper.name: helper for helper in helpers}
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self._spoil = spoil or {}
        self._order = order
        self._attempts: dict[tuple[str, str], int] = {}

    def ask(self, kind: str, contents: Mapping[str, RecordDict]) -> Iterator[tuple[str, Message]]:
        """Every vehicle's reply."""
        self.asked.append((kind, tuple(sorted(contents))))
        replies: dict[str, Message] = {}
        for name, content in contents.items():
            reply = self._reply(kind, name, content)
            if reply is not None:
                replies[name] = reply
        for name in self._order(kind, list(replies)):
            yield name, replies[name]

    def _reply(self, kind: str, name: str, content: RecordDict) -> Message | None:
        attempt = self._attempts[kind, name] = self._attempts.get((kind, name), 0) + 1
        answer: object
        try:
            peer = self.helpers[name] if kind == MASK_SUM else self.cars[name]
            answer = peer.answer(kind, read_request(content))
            if (kind, name, attempt) in self._spoil:
                answer = self._spoil[kind, name, attempt](answer)
            if kind == HELPED_UPLOAD and isinstance(answer, bytes):
                answer = helped_upload_content(answer, self.cars[name].seeds)
        except ConvoyError as error:
            answer = error
        return None if answer is None else reply_with(kind, answer)


def reply_with(kind: str, answer: object) -> Message:
    """A reply as the grid yields it: from content, from a message's bytes, or from an error."""
    with server_identity():
        message = Message(RecordDict(), 5, kind)
    if isinstance(answer, Exception):
        return error_reply(message, CLIENT_APP_RAISED, f"{type(answer).__name__}: {answer}")
    if isinstance(answer, bytes):
        answer = update_content(answer) if kind == UPLOAD else answer_content(answer)
    return Message(answer, reply_to=message)


def make_cars(count: int, parameters: int = 200, first: int = 1, length: float = 1.0) -> list[Car]:
    """Vehicles with updates of about that 2-norm and different example counts."""
    rng = np.random.default_rng(first)
    scale = length / np.sqrt(parameters)
    return [
        Car(
            number,
            (scale * rng.standard_normal(parameters)).astype(np.float32),
            examples=10 + 5 * number,
        )
        for number in range(first, first + count)
    ]


def plain_mean(cars: Sequence[Car]) -> np.ndarray:
    """The weighted mean that nobody had to hide, float64."""
    weights = np.array([car.examples for car in cars], float)
    updates_KN = np.stack([car.update_N for car in cars]).astype(float)
    return weights @ updates_KN / weights.sum()
