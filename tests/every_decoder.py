"""Every decoder that takes bytes from a peer or a disk, with what it may raise and a valid example.

Both the quick property tests (fuzz/test_decoders.py) and the long runs (fuzz/long_run.py) walk this list.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import small_release
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from small_sum import NOW, SmallSum, authority, fixed_random, identity, make_terms

from convoy_compression.errors import CorruptPayloadError, InvalidUpdateError, PayloadLengthError
from convoy_compression.update.bit_packing import unpack as unpack_bits
from convoy_compression.update.float16 import Float16Codec
from convoy_compression.update.float32 import Float32Codec
from convoy_compression.update.masked import MaskedFormat
from convoy_compression.update.model_delta import apply_delta, encode_delta
from convoy_compression.update.sealed import decode_sparse, encode_sparse
from convoy_driving.errors import ModelFileError
from convoy_driving.golden import golden_bytes, read_golden
from convoy_edge_client.instructions import read_settings
from convoy_edge_client.preflight.model_file import driver_contract, examine
from convoy_edge_client.preflight.preflight_config import FileLimits
from convoy_edge_client.vehicle_config import VehicleConfig, load_vehicle_config
from convoy_privacy import key_files
from convoy_privacy.certificates import Role, read_revocations
from convoy_privacy.errors import (
    FleetFolderError,
    RevocationListError,
    SealedMessageError,
    UntrustedPeerError,
)
from convoy_privacy.sealed_update import open_update, seal_update
from convoy_privacy.sealing import (
    X25519_SUITE,
    open_sealed,
    seal,
    sealing_key,
    sign_sealing_key,
    verify_sealing_key,
)
from convoy_privacy.secret_sharing import check_share
from convoy_privacy.secure_sum import vehicle
from convoy_privacy.secure_sum.helped_aggregator import HelpedAggregator
from convoy_privacy.secure_sum.helped_vehicle import masked_for_helpers, seal_seeds
from convoy_privacy.secure_sum.helper import MaskHelper
from convoy_privacy.secure_sum.messages import parse
from convoy_privacy.secure_sum.terms import parse_terms
from convoy_protos import envelope, flower_messages
from convoy_protos.errors import MalformedMessageError, ProtocolError, SettingsError, UsageError
from convoy_protos.release_manifest import read_manifest
from convoy_protos.settings import to_table
from convoy_protos.v1.federation_pb2 import (
    CalibrationRanges,
    CalibrationRequest,
    Evaluation,
    RoundInstructions,
    Trained,
    UpdateHeader,
    VehicleProfile,
)
from convoy_protos.v1.secure_sum_pb2 import HelperKey
from convoy_server.report.contract import Baselines, Fleet, Privacy, Report, from_json, to_json
from convoy_server.round_log import RoundRecord, from_line, to_line
from convoy_server.run_config import RunConfig, run_config_from_json, run_config_to_json

PARAMETERS = 33
SEED = bytes(range(32))
KEY = sealing_key(X25519_SUITE, SEED)
AGGREGATOR = identity(90, Role.AGGREGATOR)
SENDER = identity(1)
CA = authority().trust().ca_public_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoder:
    """One decoder.

    Attributes:
        decode: Takes any bytes.
        raises: What it says about bytes that it refuses; anything else is a bug.
        example: Bytes that it takes.
    """

    decode: Callable[[bytes], object]
    raises: tuple[type[Exception], ...]
    example: Callable[[], bytes] = field(default=lambda: b"")


# Envelopes and payloads.


def an_update() -> np.ndarray:
    return ((np.arange(PARAMETERS) % 7 - 3) / 8).astype(np.float32)


def header(codec: str = "sealed/1") -> UpdateHeader:
    return UpdateHeader(
        run_id="run",
        round=4,
        vehicle_id=SENDER.name,
        schema_digest=bytes(32),
        codec=codec,
        parameter_count=PARAMETERS,
        example_count=50,
        metrics={"train_loss": 0.5},
        context_digest=SEED,
        certificate=SENDER.certificate,
    )


LANES = MaskedFormat(parameter_count=PARAMETERS, modulus_bits=5, step=0.25, seed=SEED)


def masked_body(data: bytes) -> object:
    return LANES.decode(LANES.unpack(data), 1)


def packed_bits(data: bytes) -> None:
    for bits in range(1, 17):
        with contextlib.suppress(PayloadLengthError):
            unpack_bits(data, 8 * (len(data) // bits), bits)
    unpack_bits(data, 64, 11)


def float32(data: bytes) -> None:
    Float32Codec().accumulator(PARAMETERS).add(memoryview(data), 1.0)


def float16(data: bytes) -> None:
    Float16Codec().accumulator(PARAMETERS).add(memoryview(data), 1.0)


def sealed_envelope() -> bytes:
    head = header()
    payload = encode_sparse(an_update(), 0.05)
    sealed, head.signature = seal_update(payload, head, sign_sealing_key(KEY, AGGREGATOR), SENDER)
    return envelope.pack(head, sealed)


def sealed_update(data: bytes) -> object:
    head, payload = envelope.unpack(data)
    return open_update(
        payload, head, context_digest=SEED, key=KEY, trust=authority().trust(), now=NOW
    )


def signed_sealing_key(data: bytes) -> object:
    signed = parse(HelperKey, data)
    return verify_sealing_key(signed, authority().trust(), Role.AGGREGATOR, NOW)


# Flower's records.


def protobuf_record(name: str, read: Callable[[RecordDict], object]) -> Callable[[bytes], object]:
    return lambda data: read(RecordDict({name: ConfigRecord({"protobuf": data})}))


def array_record(stype: str, read: Callable[[RecordDict], object]) -> Callable[[bytes], object]:
    def decode(data: bytes) -> object:
        array = Array("uint8", (len(data),), stype, data)
        return read(RecordDict({"model": ArrayRecord({"packed": array})}))

    return decode


# Secure sums: each message at the point where it is waited for.


@cache
def shard(stage: str) -> SmallSum:
    """Three vehicles, up to and with the steps before that stage."""
    one = SmallSum(3)
    for step in ("check_in", "share", "upload", "unmask"):
        if step == stage:
            break
        getattr(one, step)()
    return one


def as_vehicle(
    stage: str, decode: Callable[[SmallSum, bytes], object]
) -> Callable[[bytes], object]:
    """Sessions are bytes: nothing changes between two calls."""
    return lambda data: decode(shard(stage), data)


def roster(one: SmallSum, data: bytes) -> object:
    return vehicle.share(
        one.sessions[1], data, identity(1), one.trust, NOW, fixed_random("fuzz share")
    )


def delivery(one: SmallSum, data: bytes) -> object:
    return vehicle.accept_shares(one.sessions[1], data)


def unmask_request(one: SmallSum, data: bytes) -> object:
    return vehicle.unmask(one.sessions[1], data, identity(1))


def check_in_of_a_peer(data: bytes) -> object:
    """A new aggregator each time: what is taken stays taken."""
    return SmallSum(3).aggregator.check_in(identity(1).name, data)


def sealed_shares(data: bytes) -> object:
    # The same message twice is no error, so one aggregator serves all calls.
    return shard("share").aggregator.shares(identity(1).name, data)


def unmask_reply(data: bytes) -> object:
    return shard("unmask").aggregator.unmask_reply(identity(1).name, data)


@cache
def answered(stage: str) -> bytes:
    """What vehicle 1 answers at that stage."""
    one = SmallSum(3)
    if stage == "share":
        one.check_in().give_shares(1)
    else:
        one.check_in().share().upload().answer(1)
    return one.replies[1]


HELPER_KEY = sealing_key(X25519_SUITE, bytes(range(1, 33)))
COHORT = 3


@cache
def helped_terms() -> bytes:
    return make_terms(
        cohort=[identity(number).name for number in range(1, COHORT + 1)],
        helpers=[sign_sealing_key(HELPER_KEY, identity(1, Role.HELPER))],
    )


@cache
def helped_upload(number: int) -> tuple[bytes, bytes, bytes]:
    """Seeds, body and signature of one vehicle in a sum with a helper."""
    trust = authority().trust()
    session, seeds = seal_seeds(
        helped_terms(),
        identity(number),
        vehicle.VehiclePolicy(minimum_cohort=2),
        trust,
        NOW,
        fixed_random(f"fuzz {number}"),
    )
    lanes_P, counters_C = np.zeros(40, np.uint8), np.zeros(3, np.uint64)
    session, lanes_P, counters_C = masked_for_helpers(session, lanes_P, counters_C)
    body = lanes_P.tobytes() + counters_C.tobytes()
    return seeds, body, vehicle.sign_upload(session, identity(number), body)


def helped_aggregator() -> HelpedAggregator:
    return HelpedAggregator(helped_terms(), authority().trust(), NOW, b"")


def helper_seeds(data: bytes) -> object:
    _, body, signature = helped_upload(1)
    return helped_aggregator().upload(identity(1).name, data, body, signature)


@cache
def closed() -> tuple[HelpedAggregator, bytes]:
    one = helped_aggregator()
    for number in range(1, COHORT + 1):
        one.upload(identity(number).name, *helped_upload(number))
    return one, one.close()


def mask_helper() -> MaskHelper:
    return MaskHelper(identity(1, Role.HELPER), HELPER_KEY, lambda _: 40, 3, minimum_cohort=2)


def helper_request(data: bytes) -> object:
    return mask_helper().answer(data, authority().trust(), NOW)


def helper_reply(data: bytes) -> object:
    return closed()[0].helper_reply(identity(1, Role.HELPER).name, data)


# Files.


@cache
def folder() -> Path:
    """In memory where the machine has such a place."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))


def in_a_file(read: Callable[[Path], object], name: str = "file") -> Callable[[bytes], object]:
    def decode(data: bytes) -> object:
        path = folder() / name
        path.write_bytes(data)
        path.chmod(0o600)
        return read(path)

    return decode


def written(write: Callable[[Path], object]) -> Callable[[], bytes]:
    def example() -> bytes:
        path = folder() / "example"
        write(path)
        return path.read_bytes()

    return example


def request_pem() -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(SENDER.signing_key, None).public_bytes(Encoding.PEM)


PROTOCOL = (ProtocolError,)
CORRUPT = (CorruptPayloadError, InvalidUpdateError, PayloadLengthError)
FILE = (FleetFolderError,)


def every_decoder() -> Mapping[str, Decoder]:
    """By name."""
    instructions = RoundInstructions(run_id="run", round=1, codec="masked/1", settings_json="{}")
    records: dict[str, tuple[str, Callable[[RecordDict], object], bytes]] = {
        "instructions": (
            "instructions",
            flower_messages.read_instructions,
            instructions.SerializeToString(),
        ),
        "trained": (
            "trained",
            flower_messages.read_trained,
            Trained(run_id="run", metrics={"train_loss": 1.0}).SerializeToString(),
        ),
        "evaluation": (
            "evaluation",
            flower_messages.read_evaluation,
            Evaluation(class_examples=[1, 2, 3], class_correct=[1, 1, 1]).SerializeToString(),
        ),
        "profile": (
            "profile",
            flower_messages.read_profile,
            VehicleProfile(vehicle_id="car1").SerializeToString(),
        ),
        "calibration": (
            "calibration",
            flower_messages.read_calibration,
            CalibrationRequest(observer=b"network", frames=64).SerializeToString(),
        ),
        "ranges": (
            "ranges",
            flower_messages.read_ranges,
            CalibrationRanges(low=[0.0, -1.0], high=[1.0, 2.0]).SerializeToString(),
        ),
    }
    return {
        "envelope": Decoder(
            decode=envelope.unpack, raises=(MalformedMessageError,), example=sealed_envelope
        ),
        "packed_bits": Decoder(
            decode=packed_bits, raises=CORRUPT, example=lambda: bytes(range(88))
        ),
        "masked_body": Decoder(
            decode=masked_body,
            raises=CORRUPT,
            example=lambda: LANES.pack(LANES.quantize(an_update(), 1)),
        ),
        "float32": Decoder(
            decode=float32, raises=CORRUPT, example=lambda: Float32Codec().encode(an_update())
        ),
        "float16": Decoder(
            decode=float16, raises=CORRUPT, example=lambda: Float16Codec().encode(an_update())
        ),
        "sealed_body": Decoder(
            decode=lambda data: decode_sparse(memoryview(data), PARAMETERS),
            raises=CORRUPT,
            example=lambda: encode_sparse(an_update(), 0.05),
        ),
        "model_delta": Decoder(
            decode=lambda data: apply_delta(an_update(), memoryview(data)),
            raises=CORRUPT,
            example=lambda: encode_delta(an_update() * np.float32(1.5), an_update(), 0.25) or b"",
        ),
        "sealed_update": Decoder(decode=sealed_update, raises=PROTOCOL, example=sealed_envelope),
        "sealed_message": Decoder(
            decode=lambda data: open_sealed(KEY, data, info=b"fuzz"),
            raises=(SealedMessageError,),
            example=lambda: seal(X25519_SUITE, KEY.public_key, b"message", info=b"fuzz"),
        ),
        "signed_sealing_key": Decoder(
            decode=signed_sealing_key,
            raises=PROTOCOL,
            example=lambda: sign_sealing_key(KEY, AGGREGATOR).SerializeToString(deterministic=True),
        ),
        "certificate": Decoder(
            decode=lambda data: authority().trust().verify(data, Role.VEHICLE, NOW),
            raises=(UntrustedPeerError,),
            example=lambda: SENDER.certificate,
        ),
        "revocations": Decoder(
            decode=lambda data: read_revocations(CA, data),
            raises=(RevocationListError,),
            example=lambda: authority().revocation_list,
        ),
        **{
            name: Decoder(
                decode=protobuf_record(record, read),
                raises=(MalformedMessageError,),
                example=lambda example=example: example,
            )
            for name, (record, read, example) in records.items()
        },
        "model": Decoder(
            decode=array_record(flower_messages.MODEL_STYPE, flower_messages.read_model),
            raises=(MalformedMessageError,),
            example=lambda: an_update().tobytes(),
        ),
        "terms": Decoder(decode=parse_terms, raises=PROTOCOL, example=make_terms),
        "helped_terms": Decoder(decode=parse_terms, raises=PROTOCOL, example=helped_terms),
        "check_in": Decoder(decode=check_in_of_a_peer, raises=PROTOCOL, example=_first_check_in),
        "roster": Decoder(
            decode=as_vehicle("share", roster),
            raises=PROTOCOL,
            example=lambda: shard("share").roster,
        ),
        "sealed_shares": Decoder(
            decode=sealed_shares, raises=PROTOCOL, example=lambda: answered("share")
        ),
        "delivery": Decoder(
            decode=as_vehicle("upload", delivery),
            raises=PROTOCOL,
            example=lambda: shard("upload").deliveries[identity(1).name],
        ),
        "unmask_request": Decoder(
            decode=as_vehicle("unmask", unmask_request),
            raises=PROTOCOL,
            example=lambda: shard("unmask").request,
        ),
        "unmask_reply": Decoder(
            decode=unmask_reply, raises=PROTOCOL, example=lambda: answered("unmask")
        ),
        "share_of_a_secret": Decoder(
            decode=check_share, raises=PROTOCOL, example=lambda: bytes(33)
        ),
        "helper_seeds": Decoder(
            decode=helper_seeds, raises=PROTOCOL, example=lambda: helped_upload(1)[0]
        ),
        "helper_request": Decoder(
            decode=helper_request, raises=PROTOCOL, example=lambda: closed()[1]
        ),
        "helper_reply": Decoder(
            decode=helper_reply,
            raises=PROTOCOL,
            example=lambda: mask_helper().answer(closed()[1], authority().trust(), NOW),
        ),
        "signing_key_file": Decoder(
            decode=in_a_file(key_files.read_signing_key),
            raises=FILE,
            example=written(lambda path: key_files.write_signing_key(path, SENDER.signing_key)),
        ),
        "sealing_key_file": Decoder(
            decode=in_a_file(key_files.read_sealing_key),
            raises=FILE,
            example=written(lambda path: key_files.write_sealing_key(path, KEY)),
        ),
        "passphrase_file": Decoder(
            decode=in_a_file(key_files.read_passphrase),
            raises=FILE,
            example=lambda: b"correct horse battery\n",
        ),
        "certificate_file": Decoder(
            decode=in_a_file(key_files.read_certificate),
            raises=FILE,
            example=written(lambda path: key_files.write_certificate(path, SENDER.certificate)),
        ),
        "pinned_key_file": Decoder(
            decode=in_a_file(key_files.read_pinned_key),
            raises=FILE,
            example=written(
                lambda path: key_files.write_certificate(path, authority().certificate)
            ),
        ),
        "revocation_file": Decoder(
            decode=in_a_file(lambda path: key_files.read_revocation_file(path, CA)),
            raises=FILE,
            example=lambda: authority().revocation_list,
        ),
        "request_file": Decoder(
            decode=in_a_file(key_files.read_request), raises=FILE, example=request_pem
        ),
        "round_settings": Decoder(
            decode=lambda data: read_settings(data.decode("utf-8", "replace")),
            raises=(SettingsError,),
            example=lambda: b'{"training": {"learning_rate": 0.01}, "privacy": {"clip_norm": 1.0}}',
        ),
        "run_config": Decoder(
            decode=lambda data: run_config_from_json(data.decode("utf-8", "replace")),
            raises=(SettingsError,),
            example=lambda: run_config_to_json(RunConfig()).encode(),
        ),
        "round_line": Decoder(
            decode=lambda data: from_line(data.decode("utf-8", "replace")),
            raises=(SettingsError,),
            example=_round_line,
        ),
        "report": Decoder(
            decode=lambda data: from_json(data.decode("utf-8", "replace"), "report.json"),
            raises=(UsageError,),
            example=_report,
        ),
        "release_manifest": Decoder(
            decode=read_manifest,
            raises=(MalformedMessageError,),
            example=lambda: small_release.manifest_bytes({"model.int8.onnx": b"model"}),
        ),
        "golden_vectors": Decoder(
            decode=read_golden,
            raises=(ModelFileError,),
            example=lambda: golden_bytes(small_release.golden(small_release.model())),
        ),
        "onnx_file": Decoder(
            decode=lambda data: examine(data, "fp32", driver_contract(16, 20), FileLimits()),
            raises=(),  # what is wrong with a file is a finding
            example=lambda: small_release.model().SerializeToString(),
        ),
        "vehicle_file": Decoder(
            decode=in_a_file(load_vehicle_config),
            raises=(UsageError,),
            example=_vehicle_json,
        ),
    }


def _first_check_in() -> bytes:
    return SmallSum(3).check_in().replies[1]


def _round_line() -> bytes:
    counts = ("completed", "lost", "surplus", "uplink_bytes", "downlink_bytes", "wall_s")
    fields = {"round": 1, "outcome": "done", "invited": 1, "rejected": {}}
    return to_line(RoundRecord(**fields, **dict.fromkeys(counts, 1))).encode()


def _report() -> bytes:
    nothing = dict.fromkeys(
        ("cpu_s", "peak_rss_bytes", "final", "update", "release", "closed_loop")
    )
    return to_json(
        Report(
            scenario="demo",
            seed=1,
            wall_s=1.0,
            fleet=Fleet(vehicles=1, examples=1, parameters=1),
            rounds=(from_line(_round_line().decode()),),
            baselines=Baselines(),
            privacy=Privacy(secure_aggregation=True),
            **nothing,
        )
    ).encode()


def _vehicle_json() -> bytes:
    config = VehicleConfig(vehicle_id="car1", recordings=("tub",), cache_dir="cache")
    return json.dumps(to_table(config)).encode()
