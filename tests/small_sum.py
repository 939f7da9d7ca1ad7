"""A secure sum of a few vehicles in one process, with fixed keys, for tests of every party."""

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import cache

import numpy as np

from convoy_privacy.certificates import Identity, Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.secure_sum import vehicle
from convoy_privacy.secure_sum.aggregator import Aggregator
from convoy_privacy.secure_sum.terms import VehiclePolicy
from convoy_protos.v1.secure_sum_pb2 import SumTerms

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
POLICY = VehiclePolicy(minimum_cohort=2)
LANE_COUNT = 40
COUNTER_COUNT = 3


def fixed_random(label: str) -> Callable[[int], bytes]:
    """Bytes that look random and are the same on every run."""
    drawn = 0

    def random(count: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(f"{label} {drawn}".encode()).digest(count)

    return random


def new_authority(label: str = "authority") -> FleetAuthority:
    return FleetAuthority.create(NOW, fixed_random(label))


@cache
def authority() -> FleetAuthority:
    """Tests must not change it."""
    return new_authority()


@cache
def identity(number: int, role: Role = Role.VEHICLE) -> Identity:
    return authority().issue(f"{role.value} {number:03}", role, NOW)


def make_terms(**changes) -> bytes:
    fields = {
        "run_id": "small run",
        "round": 7,
        "shard": 0,
        "attempt": 1,
        "model_digest": bytes(32),
        "schema_digest": bytes(range(32)),
        "settings_digest": bytes(range(32, 64)),
        "parameter_count": 33,
        "modulus_bits": 8,
        "step": 0.125,
        "clip_norm": 1.0,
        "weight_cap": 1000,
        "codec_seed": bytes(range(32, 64)),
        "minimum_cohort": 2,
        "deadline_s": 20,
    }
    return SumTerms(**(fields | changes)).SerializeToString(deterministic=True)


class SmallSum:
    """All parties; every step takes the numbers of the vehicles that take part in it.

    Attributes:
        aggregator: As it is now.
        sessions: By number of the vehicle.
        replies: By number of the vehicle, its last reply.
        lanes: Uploaded lanes, by number.
    """

    def __init__(self, count: int, terms: bytes = b"", label: str = "sum") -> None:
        self.terms = terms or make_terms()
        self.numbers = range(1, count + 1)
        self.identities = {number: identity(number) for number in self.numbers}
        self.trust = authority().trust()
        self.aggregator = Aggregator(self.terms, self.trust, NOW)
        self.random = {number: fixed_random(f"{label} {number}") for number in self.numbers}
        self.sessions: dict[int, bytes] = {}
        self.replies: dict[int, bytes] = {}
        self.roster = b""
        self.deliveries: dict[str, bytes] = {}
        self.request = b""
        self.signatures: dict[int, bytes] = {}
        self.bodies: dict[int, bytes] = {}
        self.sum_P = np.zeros(LANE_COUNT, np.uint8)
        self.sum_C = np.zeros(COUNTER_COUNT, np.uint64)
        self.plain_P = np.zeros(LANE_COUNT, np.uint8)
        self.plain_C = np.zeros(COUNTER_COUNT, np.uint64)

    def name(self, number: int) -> str:
        """As the vehicle's certificate has it."""
        return self.identities[number].name

    def check_in(self, numbers: Iterable[int] | None = None) -> "SmallSum":
        """These vehicles check in; the roster is closed."""
        for number in self.numbers if numbers is None else numbers:
            self.sessions[number], self.replies[number] = vehicle.check_in(
                self.terms, self.identities[number], POLICY, self.random[number]
            )
            self.aggregator.check_in(self.name(number), self.replies[number])
        self.roster = self.aggregator.close_check_in(authority().revocation_list)
        return self

    def share(self, numbers: Iterable[int] | None = None) -> "SmallSum":
        """These share; deliveries are made."""
        for number in self.sessions if numbers is None else numbers:
            self.give_shares(number)
            self.aggregator.shares(self.name(number), self.replies[number])
        self.deliveries = self.aggregator.close_shares()
        return self

    def give_shares(self, number: int) -> None:
        """The vehicle's half alone."""
        self.sessions[number], self.replies[number] = vehicle.share(
            self.sessions[number],
            self.roster,
            self.identities[number],
            self.trust,
            NOW,
            self.random[number],
        )

    def upload(self, numbers: Iterable[int] | None = None) -> "SmallSum":
        """These upload; the request is made."""
        sharers = [n for n in self.sessions if self.name(n) in self.deliveries]
        for number in sharers if numbers is None else numbers:
            self.mask(number)
            self.aggregator.verify_upload(
                self.name(number), self.bodies[number], self.signatures[number]
            )
            lanes_P, counters_C = vector(number)
            self.plain_P += lanes_P
            self.plain_C += counters_C
            self.sum_P += np.frombuffer(self.bodies[number][:LANE_COUNT], np.uint8)
            self.sum_C += np.frombuffer(self.bodies[number][LANE_COUNT:], np.uint64)
        self.request = self.aggregator.close_uploads()
        return self

    def mask(self, number: int) -> None:
        """The vehicle's half alone."""
        accepted = vehicle.accept_shares(self.sessions[number], self.deliveries[self.name(number)])
        self.sessions[number], lanes_P, counters_C = vehicle.masked(accepted, *vector(number))
        self.bodies[number] = lanes_P.tobytes() + counters_C.tobytes()
        self.signatures[number] = vehicle.sign_upload(
            self.sessions[number], self.identities[number], self.bodies[number]
        )

    def unmask(self, numbers: Iterable[int] | None = None) -> "SmallSum":
        """These answer."""
        for number in self.bodies if numbers is None else numbers:
            self.answer(number)
            self.aggregator.unmask_reply(self.name(number), self.replies[number])
        return self

    def answer(self, number: int) -> None:
        """The vehicle's half alone."""
        self.sessions[number], self.replies[number] = vehicle.unmask(
            self.sessions[number], self.request, self.identities[number]
        )

    def total(self) -> tuple[np.ndarray, np.ndarray]:
        """Sum of the uploads without their masks."""
        masks_P, masks_C = self.aggregator.mask_sum(np.uint8, LANE_COUNT, COUNTER_COUNT)
        return self.sum_P - masks_P, self.sum_C - masks_C


def vector(number: int) -> tuple[np.ndarray, np.ndarray]:
    """What vehicle `number` has to hide."""
    rng = np.random.default_rng(number)
    lanes_P = rng.integers(0, 256, LANE_COUNT, dtype=np.uint8)
    return lanes_P, rng.integers(0, 2**63, COUNTER_COUNT, dtype=np.uint64) * np.uint64(2)


def flips(message: bytes) -> list[bytes]:
    """The message with one bit changed, at every offset."""
    changed = [bytearray(message) for _ in message]
    for offset, one in enumerate(changed):
        one[offset] ^= 1 << (offset % 8)
    return [bytes(one) for one in changed]


def cuts(message: bytes) -> list[bytes]:
    """The message without its end, at every offset, and with a byte too many."""
    return [*(message[:length] for length in range(len(message))), message + b"\x00"]
