"""One secure sum against Flower's own SecAgg+: 100 clients, 1 M parameters, 20 lost after sharing.

    python benchmarks/compare_flower_secagg.py [--clients 100] [--lost 20] [--repetitions 3]

Our side is a whole sum with the objects that a federation runs: certificates of a CA, every message as
its bytes, every signature checked, and the result compared with the plain sum. CPU time is
taken around each call by role, divided by the clients that make the call, in the repetition with the
smallest total. Certificates have been seen before, as after a fleet's first round; "cold" is a client
that sees all of them for the first time.

Flower's side would take minutes, so each function that its client (secaggplus_mod) and its server
(secaggplus_workflow) call is timed on its own, on the same numbers of shares and parameters, best of
the repetitions, and multiplied by how often they call it; the parts are printed. Its Shamir runs in
threads, so its time is that of the process. Bytes are those of the messages, without what a transport
adds, on either side. Flower has no signatures and no certificates.
"""

import argparse
import functools
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, RecordDict
from flwr.common import bytes_to_ndarray, ndarray_to_bytes
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    decrypt,
    encrypt,
    generate_shared_key,
)
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_multiply,
)
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
)
from flwr.common.serde import recorddict_to_proto
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from convoy_compression.update.masked import LaneSum, MaskedFormat
from convoy_privacy.certificates import Identity, Role
from convoy_privacy.clipping import clip
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.secure_sum import vehicle
from convoy_privacy.secure_sum.aggregator import Aggregator
from convoy_privacy.secure_sum.terms import VehiclePolicy, threshold
from convoy_protos.v1.secure_sum_pb2 import SumTerms

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MODULUS_BITS = 8
COUNTERS = 5
CLIP_NORM = 1.0

Times = dict[str, float]


def main() -> None:
    """Both sides, then their ratios."""
    options = parse()
    lost = options.lost
    fleet = FleetAuthority.create(NOW)
    identities = [
        fleet.issue(f"vehicle {number:03}", Role.VEHICLE, NOW) for number in range(options.clients)
    ]
    runs = [
        OurSum(fleet, identities, options.parameters, lost).run()
        for _ in range(options.repetitions + 1)
    ]
    cold, warm = runs[0], runs[1:]
    ours = min(warm, key=lambda one: sum(one.server.values()))
    client = min(warm, key=lambda one: one.client_total())
    flower = measure_flower(options.clients, lost, options.parameters, options.repetitions)
    ours_bytes = sum(ours.uplink.values())
    figures = {
        "clients": options.clients,
        "lost": lost,
        "threshold": threshold(options.clients),
        "parameters": options.parameters,
        "client_ms": 1e3 * client.client_total(),
        "client_first_sum_ms": 1e3 * cold.first_client_total(),
        "server_ms": 1e3 * sum(ours.server.values()),
        "server_first_sum_ms": 1e3 * sum(cold.server.values()),
        "uplink_bytes": ours_bytes,
        "bits_per_parameter": 8 * ours_bytes / options.parameters,
        "bytes_beyond_the_vector": ours_bytes - ours.uplink["vector"],
        "downlink_bytes": sum(ours.downlink.values()),
        "flower_client_ms": 1e3 * sum(flower["client"].values()),
        "flower_server_ms": 1e3 * sum(flower["server"].values()),
        "flower_uplink_bytes": sum(flower["bytes"].values()),
        "fewer_bytes": sum(flower["bytes"].values()) / ours_bytes,
        "less_client_cpu": sum(flower["client"].values()) / client.client_total(),
        "less_server_cpu": sum(flower["server"].values()) / sum(ours.server.values()),
    }
    show("our client, ms", client.client_steps())
    show("our server, ms", ours.server)
    show("our uplink, bytes", ours.uplink, 1)
    show("our downlink, bytes", ours.downlink, 1)
    show("Flower's client, ms", flower["client"])
    show("Flower's server, ms", flower["server"])
    show("Flower's uplink, bytes", flower["bytes"], 1)
    figures = {name: round(value, 2) for name, value in figures.items()}
    for name, value in figures.items():
        print(f"{name:26} {value}")
    print(json.dumps({"benchmark": "compare_flower_secagg", "figures": figures}))


def parse() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description="A secure sum against Flower's SecAgg+.")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--lost", type=int, default=20)
    parser.add_argument("--parameters", type=int, default=1_000_000)
    parser.add_argument("--repetitions", type=int, default=3)
    return parser.parse_args()


def show(title: str, parts: Times, scale: float = 1e3) -> None:
    """One line a part."""
    print(title)
    for name, value in parts.items():
        print(f"  {name:28} {value * scale:12.2f}")


class OurSum:
    """One whole sum in this process, timed by role and step.

    Attributes:
        client: CPU seconds by step, one entry for each client that took it.
        server: CPU seconds by step.
        uplink: Bytes of one client.
        downlink: Bytes of one client.
    """

    def __init__(
        self, fleet: FleetAuthority, identities: list[Identity], parameters: int, lost: int
    ) -> None:
        self.client: dict[str, list[float]] = defaultdict(list)
        self.server: Times = defaultdict(float)
        self.uplink: Times = {}
        self.downlink: Times = {}
        self._fleet = fleet
        self._identities = identities
        self._survivors = identities[lost:]
        n = len(identities)
        self._rng = np.random.default_rng(0)
        self._common_N = self._rng.standard_normal(parameters, np.float32)
        norm = float(np.linalg.norm(self._common_N)) * 2.5**0.5
        self._common_N *= np.float32(0.9 * CLIP_NORM / norm)
        self._noise = 0.9 * CLIP_NORM / norm * 1.5**0.5
        probe = MaskedFormat(
            parameter_count=parameters, modulus_bits=MODULUS_BITS, step=1.0, seed=bytes(32)
        )
        # Room for 4.5 standard deviations of a sum of updates that are as long as the bound and alike.
        sigma = n * CLIP_NORM / probe.padded_count**0.5
        self._lanes = replace(probe, step=2 * 4.5 * sigma / 2**MODULUS_BITS)
        self._terms = SumTerms(
            run_id="benchmark",
            round=1,
            attempt=1,
            model_digest=bytes(32),
            schema_digest=bytes(32),
            settings_digest=bytes(32),
            parameter_count=parameters,
            modulus_bits=MODULUS_BITS,
            step=self._lanes.step,
            clip_norm=CLIP_NORM,
            weight_cap=1000,
            codec_seed=self._lanes.seed,
            minimum_cohort=50 if n >= 75 else 2,
            deadline_s=20,
        ).SerializeToString(deterministic=True)

    def run(self) -> "OurSum":
        """All of it; the result is compared with the plain sum."""
        trust = self._fleet.trust()
        aggregator = self._on_server("check in", Aggregator, self._terms, trust, NOW)
        sessions: dict[str, bytes] = {}
        policy = VehiclePolicy(minimum_cohort=2)
        for who in self._identities:
            sessions[who.name], reply = self._on_client(
                "check in", vehicle.check_in, self._terms, who, policy, os.urandom
            )
            self._on_server("check in", aggregator.check_in, who.name, reply)
            self.uplink["check in"] = len(reply)
        revocations = self._fleet.revocation_list
        roster = self._on_server("check in", aggregator.close_check_in, revocations)
        for who in self._identities:
            sessions[who.name], reply = self._on_client(
                "verify and share",
                vehicle.share,
                sessions[who.name],
                roster,
                who,
                trust,
                NOW,
                os.urandom,
            )
            self._on_server("shares", aggregator.shares, who.name, reply)
            self.uplink["shares"] = len(reply)
        deliveries = self._on_server("shares", aggregator.close_shares)
        total = LaneSum(self._lanes)
        counters_C = np.zeros(COUNTERS, np.uint64)
        plain_N = np.zeros(self._lanes.parameter_count)
        for slot, who in enumerate(self._survivors, start=1):
            update_N = self._update()
            plain_N += update_N
            sessions[who.name], payload, signature = self._client_upload(
                slot, who, update_N, sessions[who.name], deliveries[who.name]
            )
            self._on_server(
                "verify uploads", aggregator.verify_upload, who.name, payload, signature
            )
            self._on_server("add uploads", self._add, total, counters_C, payload)
        request = self._on_server("unmask replies", aggregator.close_uploads)
        for who in self._survivors:
            sessions[who.name], reply = self._on_client(
                "unmask", vehicle.unmask, sessions[who.name], request, who
            )
            self._on_server("unmask replies", aggregator.unmask_reply, who.name, reply)
            self.uplink["unmask"] = len(reply)
        masks_P, masks_C = self._on_server(
            "rebuild and add up masks",
            aggregator.mask_sum,
            self._lanes.lane_type,
            self._lanes.padded_count,
            COUNTERS,
        )
        self._on_server("decode", total.subtract, masks_P)
        counters_C -= masks_C
        decoded = self._on_server("decode", self._lanes.decode, total.lanes_P)
        error = float(np.sum((decoded.sum_N - plain_N) ** 2) / np.sum(plain_N**2))
        assert error < 0.1, f"the sum is off by {error:.3f}"
        assert counters_C.tolist() == [len(self._survivors)] * COUNTERS
        self.downlink = {
            "terms": len(self._terms),
            "roster": len(roster),
            "delivery": len(deliveries[self._survivors[0].name]),
            "unmask request": len(request),
        }
        return self

    def client_steps(self) -> Times:
        """Mean CPU seconds by step."""
        return {step: sum(times) / len(times) for step, times in self.client.items()}

    def client_total(self) -> float:
        """CPU seconds of one client."""
        return sum(self.client_steps().values())

    def first_client_total(self) -> float:
        """CPU seconds of the client that came first to every step."""
        return sum(times[0] for times in self.client.values())

    def _update(self) -> Any:
        noise_N = self._rng.standard_normal(self._lanes.parameter_count, np.float32)
        noise_N *= np.float32(self._noise)
        noise_N += self._common_N
        return noise_N

    def _client_upload(
        self, slot: int, who: Identity, update_N: Any, session: bytes, delivery: bytes
    ) -> tuple[bytes, bytes, bytes]:
        ones_C = np.ones(COUNTERS, np.uint64)
        clipped_N = self._on_client("clip", clip, update_N, CLIP_NORM)
        # Every vehicle has to expand the public seed once, while clients of one process would share
        # what is expanded: so the time is that of another seed.
        own = replace(self._lanes, seed=slot.to_bytes(32, "big"))
        self._on_client("rotate and quantize", own.quantize, clipped_N, slot)
        lanes_P = self._lanes.quantize(clipped_N, slot)
        session = self._on_client("mask", vehicle.accept_shares, session, delivery)
        session, masked_P, masked_C = self._on_client(
            "mask", vehicle.masked, session, lanes_P, ones_C
        )
        payload = self._on_client("pack and sign", self._pack, masked_P, masked_C)
        signature = self._on_client("pack and sign", vehicle.sign_upload, session, who, payload)
        self.uplink["vector"] = self._lanes.payload_bytes
        self.uplink["counters and signature"] = 8 * COUNTERS + len(signature)
        return session, payload, signature

    def _pack(self, lanes_P: Any, counters_C: Any) -> bytes:
        return b"".join((self._lanes.pack(lanes_P), counters_C.tobytes()))

    def _add(self, total: LaneSum, counters_C: Any, payload: bytes) -> None:
        view = memoryview(payload)
        total.add(self._lanes.unpack(view[: self._lanes.payload_bytes]))
        counters_C += np.frombuffer(view[self._lanes.payload_bytes :], np.uint64)

    def _on_server(self, step: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began_s = time.thread_time()
        result = work(*arguments)
        self.server[step] += time.thread_time() - began_s
        return result

    def _on_client(self, step: str, work: Callable[..., Any], *arguments: Any) -> Any:
        began_s = time.thread_time()
        result = work(*arguments)
        self.client[step].append(time.thread_time() - began_s)
        return result


def measure_flower(n: int, lost: int, parameters: int, repetitions: int) -> dict[str, Times]:
    """CPU seconds and bytes of Flower's client and server, part by part.

    Its defaults: clipping range 8, quantization range 2^22, modulus 2^32.
    """
    t, alive, peers = threshold(n), n - lost, n - 1
    best = functools.partial(best_cpu_time, repetitions)
    (sk1, pk1), (sk2, pk2) = generate_key_pairs(), generate_key_pairs()
    sk_bytes, pk_bytes = private_key_to_bytes(sk1), public_key_to_bytes(pk2)
    seed = os.urandom(32)
    make_keys_s, _ = best(lambda: (generate_key_pairs(), generate_key_pairs()))
    share_seed_s, seed_shares = best(lambda: create_shares(seed, t, n))
    share_key_s, key_shares = best(lambda: create_shares(sk_bytes, t, n), once=True)
    agree_s, shared = best(
        lambda: generate_shared_key(bytes_to_private_key(sk_bytes), bytes_to_public_key(pk_bytes))
    )
    plain = share_keys_plaintext_concat(1, 2, seed_shares[0], key_shares[0])
    seal_s, sealed = best(lambda: encrypt(shared, plain))
    open_s, _ = best(lambda: decrypt(shared, sealed))
    update = [np.random.default_rng(0).standard_normal(parameters).astype(np.float32) * 0.01]
    scale_s, scaled = best(lambda: parameters_multiply(update, 0.5))
    quantize_s, quantized = best(lambda: quantize(scaled, 8.0, 1 << 22))
    expand_s, mask = best(lambda: pseudo_rand_gen(shared, 1 << 32, [(parameters,)]))
    add_s, added = best(lambda: parameters_addition(quantized, mask))
    modulo_s, reduced = best(lambda: parameters_mod(added, 1 << 32))
    write_s, body = best(lambda: ndarray_to_bytes(reduced[0]))
    read_s, _ = best(lambda: bytes_to_ndarray(body))
    # Its server combines all the shares that came, not only as many as it needs.
    combine_seed_s, rebuilt = best(lambda: combine_shares(seed_shares[:alive]))
    combine_key_s, rebuilt_key = best(lambda: combine_shares(key_shares[:alive]), once=True)
    dequantize_s, _ = best(lambda: dequantize(reduced, 8.0, 1 << 22))
    assert rebuilt == seed
    assert rebuilt_key == sk_bytes
    assert generate_shared_key(sk1, pk2) == generate_shared_key(sk2, pk1)
    return {
        "client": {
            "keys": make_keys_s,
            "share the seed": share_seed_s,
            "share the key": share_key_s,
            "agree, seal and open": peers * (2 * agree_s + seal_s + open_s),
            "scale and quantize": scale_s + quantize_s,
            "masks": n * (expand_s + add_s) + modulo_s,
            "write": write_s,
        },
        "server": {
            "read and add uploads": alive * (read_s + add_s) + modulo_s,
            "rebuild seeds": alive * combine_seed_s,
            "rebuild keys": lost * combine_key_s,
            "agree for lost clients": lost * alive * agree_s,
            "masks": (alive + lost * alive) * (expand_s + add_s) + modulo_s,
            "decode": dequantize_s,
        },
        "bytes": flower_uplink(
            n, pk_bytes, sealed, body, [*seed_shares[:alive], *key_shares[alive:]]
        ),
    }


def flower_uplink(
    n: int, public_key: bytes, sealed: bytes, body: bytes, shares: list[bytes]
) -> Times:
    """Bytes of the records that its client fills, as Flower writes them."""
    ids = [1 << 62 | place for place in range(n)]  # its node ids are random, of 64 bits
    weight = ndarray_to_bytes(np.array([1], np.int64))
    records = {
        "keys": {Key.PUBLIC_KEY_1: public_key, Key.PUBLIC_KEY_2: public_key},
        "shares": {Key.DESTINATION_LIST: ids[1:], Key.CIPHERTEXT_LIST: [sealed] * (n - 1)},
        "vector": {Key.MASKED_PARAMETERS: [weight, body]},
        "unmask": {Key.NODE_ID_LIST: ids, Key.SHARE_LIST: shares},
    }
    return {
        name: recorddict_to_proto(RecordDict({"": ConfigRecord(record)})).ByteSize()
        for name, record in records.items()
    }


def best_cpu_time(
    repetitions: int, work: Callable[[], Any], *, once: bool = False
) -> tuple[float, Any]:
    """Smallest CPU time of the whole process, and the result; `once` is for seconds of work."""
    times = []
    result = None
    for _ in range(1 if once else repetitions):
        began_s = time.process_time()
        result = work()
        times.append(time.process_time() - began_s)
    return min(times), result


if __name__ == "__main__":
    main()
