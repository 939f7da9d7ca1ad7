"""Golden vectors of every message, version 1, and broken ones named for what is broken.

They stand in tests/vectors/secure_sum_v1.txt. A changed vector is a new version of the protocol: then
write a new file with `PYTHONPATH=tests python tests/privacy/secure_sum/test_vectors.py > FILE`.
"""

import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from small_sum import NOW, POLICY, authority, fixed_random, identity, make_terms

from convoy_privacy import errors
from convoy_privacy.certificates import Identity, Role, Trust, read_revocations
from convoy_privacy.key_stream import StreamAdder
from convoy_privacy.sealing import X25519_SUITE, sealing_key, sign_sealing_key
from convoy_privacy.secure_sum import vehicle
from convoy_privacy.secure_sum.aggregator import Aggregator
from convoy_privacy.secure_sum.helped_vehicle import seal_seeds
from convoy_privacy.secure_sum.helper import MaskHelper
from convoy_privacy.secure_sum.masks import PairMasks, self_mask_key
from convoy_privacy.secure_sum.messages import check_in_signed, shares_signed, unmask_signed
from convoy_privacy.secure_sum.terms import terms_digest
from convoy_protos.errors import MalformedMessageError
from convoy_protos.v1.secure_sum_pb2 import (
    CheckIn,
    HelperRequest,
    HelperSeeds,
    Roster,
    SealedShares,
    ShareDelivery,
    UnmaskReply,
    UnmaskRequest,
    VehicleSession,
)

PATH = Path(__file__).parents[2] / "vectors" / "secure_sum_v1.txt"
LANE_COUNT, COUNTER_COUNT = 24, 1
VEHICLES = (1, 2, 3, 4)
UPLOADED = (1, 2, 3)  # vehicle 4 is lost after sharing


def read_vectors() -> dict[str, bytes]:
    """By name; lines that begin with # are comments."""
    text = re.sub(r"^#.*\n?", "", PATH.read_text(), flags=re.MULTILINE)
    return {
        name: bytes.fromhex(value)
        for name, value in re.findall(r"^(\w+) =((?:[0-9a-f \n]*))$", text, re.MULTILINE)
    }


class Scripted:
    """Random bytes that were drawn before."""

    def __init__(self, drawn: bytes) -> None:
        self.drawn = drawn

    def __call__(self, count: int) -> bytes:
        """The next ones."""
        part, self.drawn = self.drawn[:count], self.drawn[count:]
        assert len(part) == count
        return part


def compute(given: dict[str, bytes]) -> dict[str, bytes]:
    """Every message that follows from keys, terms and random bytes."""
    identities = {
        number: Identity(
            certificate=given[f"certificate_{number}"],
            signing_key=Ed25519PrivateKey.from_private_bytes(given[f"signing_key_{number}"]),
            name=f"vehicle {number:03}",
        )
        for number in VEHICLES
    }
    trust = trust_of(given)
    random = {number: Scripted(given[f"random_{number}"]) for number in VEHICLES}
    terms = given["terms"]
    aggregator = Aggregator(terms, trust, NOW)
    sessions = {}
    out = {"terms_digest": terms_digest(terms)}
    for number, who in identities.items():
        sessions[number], reply = vehicle.check_in(terms, who, POLICY, random[number])
        aggregator.check_in(who.name, reply)
        out.setdefault("check_in_1", reply)
    out["roster"] = roster = aggregator.close_check_in(given["revocations"])
    out["context_digest"] = context = aggregator.context
    for number, who in identities.items():
        sessions[number], reply = vehicle.share(
            sessions[number], roster, who, trust, NOW, random[number]
        )
        aggregator.shares(who.name, reply)
        out.setdefault("sealed_shares_1", reply)
    deliveries = aggregator.close_shares()
    out["share_delivery_1"] = deliveries["vehicle 001"]
    keys = VehicleSession.FromString(sessions[1])
    second = Roster.FromString(roster).members[1]
    out["self_mask_of_1"] = first_bytes_of(self_mask_key(keys.self_seed, context, 1))
    pair = PairMasks(X25519PrivateKey.from_private_bytes(keys.mask_private_key), 1, context)
    out["pair_mask_of_1_and_2"] = first_bytes_of(pair._key(2, second.mask_key))
    for number in UPLOADED:
        accepted = vehicle.accept_shares(sessions[number], deliveries[identities[number].name])
        sessions[number], lanes_P, counters_C = vehicle.masked(
            accepted, np.zeros(LANE_COUNT, np.uint8), np.zeros(COUNTER_COUNT, np.uint64)
        )
        body = lanes_P.tobytes() + counters_C.tobytes()
        signature = vehicle.sign_upload(sessions[number], identities[number], body)
        aggregator.verify_upload(identities[number].name, body, signature)
        out[f"upload_body_{number}"] = body
        out.setdefault("upload_signature_1", signature)
    out["unmask_request"] = aggregator.close_uploads()
    for number in UPLOADED:
        sessions[number], reply = vehicle.unmask(
            sessions[number], out["unmask_request"], identities[number]
        )
        aggregator.unmask_reply(identities[number].name, reply)
        out.setdefault("unmask_reply_1", reply)
    masks_P, masks_C = aggregator.mask_sum(np.uint8, LANE_COUNT, COUNTER_COUNT)
    out["mask_sum"] = masks_P.tobytes() + masks_C.tobytes()
    helper = helper_of(given)
    out["helper_reply"] = helper.answer(given["helper_request"], trust, NOW)
    return out


def trust_of(given):
    ca_public_key = given["ca_public_key"]
    return Trust(ca_public_key, read_revocations(ca_public_key, given["revocations"]))


def helper_of(given):
    who = Identity(
        certificate=given["helper_certificate"],
        signing_key=Ed25519PrivateKey.from_private_bytes(given["helper_signing_key"]),
        name="helper 001",
    )
    key = sealing_key(X25519_SUITE, given["helper_sealing_key"])
    return MaskHelper(who, key, lambda _: LANE_COUNT, COUNTER_COUNT, minimum_cohort=2)


def first_bytes_of(key):
    vectors = StreamAdder(np.zeros(LANE_COUNT, np.uint8), np.zeros(0, np.uint64))
    vectors.add(key)
    return vectors.lanes_P.tobytes()


def test_every_message_is_as_it_was():
    vectors = read_vectors()
    for name, value in compute(vectors).items():
        assert value.hex() == vectors[name].hex(), name


def test_the_mask_sum_is_the_sum_of_uploads_of_zeros():
    vectors = read_vectors()
    bodies = [vectors[f"upload_body_{number}"] for number in UPLOADED]
    lanes = np.sum([np.frombuffer(body[:LANE_COUNT], np.uint8) for body in bodies], 0, np.uint8)
    counters = np.sum([np.frombuffer(body[LANE_COUNT:], "<u8") for body in bodies], 0, np.uint64)
    assert lanes.tobytes() + counters.tobytes() == vectors["mask_sum"]


# Broken vectors: who receives them, and how they are refused.


def sessions_of_1(given):
    """Vehicle 1 before each of its messages."""
    who = Identity(
        certificate=given["certificate_1"],
        signing_key=Ed25519PrivateKey.from_private_bytes(given["signing_key_1"]),
        name="vehicle 001",
    )
    random = Scripted(given["random_1"])
    checked_in, _ = vehicle.check_in(given["terms"], who, POLICY, random)
    shared, _ = vehicle.share(checked_in, given["roster"], who, trust_of(given), NOW, random)
    accepted = vehicle.accept_shares(shared, given["share_delivery_1"])
    uploaded, *_ = vehicle.masked(
        accepted, np.zeros(LANE_COUNT, np.uint8), np.zeros(COUNTER_COUNT, np.uint64)
    )
    return {"who": who, "checked_in": checked_in, "shared": shared, "uploaded": uploaded}


def give_terms(given, message):
    vehicle.check_in(message, sessions_of_1(given)["who"], POLICY, Scripted(given["random_1"]))


def give_check_in(given, message):
    Aggregator(given["terms"], trust_of(given), NOW).check_in("vehicle 001", message)


def give_roster(given, message):
    one = sessions_of_1(given)
    random = Scripted(given["random_1"])
    vehicle.share(one["checked_in"], message, one["who"], trust_of(given), NOW, random)


def give_delivery(given, message):
    vehicle.accept_shares(sessions_of_1(given)["shared"], message)


def give_unmask_request(given, message):
    one = sessions_of_1(given)
    vehicle.unmask(one["uploaded"], message, one["who"])


def give_to_aggregator(given, message, step):
    """An aggregator at the step, as vehicle 1's genuine messages and the others' led it there."""
    aggregator = Aggregator(given["terms"], trust_of(given), NOW)
    members = Roster.FromString(given["roster"]).members
    for number, member in enumerate(members, start=1):
        aggregator.check_in(f"vehicle {number:03}", member.SerializeToString())
    assert aggregator.close_check_in(given["revocations"]) == given["roster"]
    if step == "shares":
        aggregator.shares("vehicle 001", message)
        return
    for number in VEHICLES:
        aggregator._vehicles[f"vehicle {number:03}"].shares = SealedShares()
    aggregator.stage = type(aggregator.stage).UPLOADS
    for number in UPLOADED:
        aggregator._vehicles[f"vehicle {number:03}"].uploaded = True
    assert aggregator.close_uploads() == given["unmask_request"]
    aggregator.unmask_reply("vehicle 001", message)


def give_shares(given, message):
    give_to_aggregator(given, message, "shares")


def give_unmask_reply(given, message):
    give_to_aggregator(given, message, "unmask")


def give_helper_request(given, message):
    helper_of(given).answer(message, trust_of(given), NOW)


BROKEN = {
    "bad_terms_modulus_of_17_bits": (give_terms, errors.RefusedTermsError),
    "bad_terms_step_is_not_a_number": (give_terms, errors.RefusedTermsError),
    "bad_terms_one_byte_left_over": (give_terms, errors.RefusedTermsError),
    "bad_terms_round_twice": (give_terms, errors.RefusedTermsError),
    "bad_check_in_for_another_round": (give_check_in, errors.BadSignatureError),
    "bad_check_in_with_a_short_key": (give_check_in, MalformedMessageError),
    "bad_check_in_with_a_key_of_small_order": (give_check_in, errors.BadKeyError),
    "bad_check_in_of_another_vehicle": (give_check_in, errors.UnknownPeerError),
    "bad_roster_with_a_swapped_key": (give_roster, errors.BadSignatureError),
    "bad_roster_with_a_member_twice": (give_roster, errors.BadRosterError),
    "bad_roster_out_of_order": (give_roster, errors.BadRosterError),
    "bad_roster_without_vehicle_1": (give_roster, errors.BadRosterError),
    "bad_roster_with_one_member": (give_roster, errors.TooFewPeersError),
    "bad_sealed_shares_with_a_short_box": (give_shares, MalformedMessageError),
    "bad_sealed_shares_with_a_box_for_oneself": (give_shares, MalformedMessageError),
    "bad_sealed_shares_of_another_sum": (give_shares, errors.WrongContextError),
    "bad_sealed_shares_with_another_commitment": (give_shares, errors.BadSignatureError),
    "bad_share_delivery_below_the_threshold": (give_delivery, errors.TooFewPeersError),
    "bad_share_delivery_of_another_sum": (give_delivery, errors.WrongContextError),
    "bad_share_delivery_with_a_place_too_many": (give_delivery, errors.BadRosterError),
    "bad_unmask_request_for_both_secrets": (give_unmask_request, errors.BadRosterError),
    "bad_unmask_request_below_the_threshold": (give_unmask_request, errors.TooFewPeersError),
    "bad_unmask_request_for_an_invented_slot": (give_unmask_request, errors.UnknownPeerError),
    "bad_unmask_request_with_us_as_lost": (give_unmask_request, errors.BadRosterError),
    "bad_unmask_reply_with_a_share_above_the_prime": (give_unmask_reply, errors.BadSharesError),
    "bad_unmask_reply_to_another_request": (give_unmask_reply, errors.BadSignatureError),
    "bad_unmask_reply_with_a_slot_twice": (give_unmask_reply, errors.BadRosterError),
    "bad_helper_request_with_a_vehicle_twice": (give_helper_request, errors.BadRosterError),
    "bad_helper_request_below_the_minimum": (give_helper_request, errors.TooFewPeersError),
    "bad_helper_request_with_seeds_in_each_others_place": (
        give_helper_request,
        errors.BadSignatureError,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_vector_is_refused_for_what_is_broken(name):
    vectors = read_vectors()
    receive, error = BROKEN[name]
    with pytest.raises(error):
        receive(vectors, vectors[name])


def test_every_broken_vector_of_the_file_is_tested():
    assert {name for name in read_vectors() if name.startswith("bad_")} == set(BROKEN)


# How the file was made.


def changed(kind, encoded, change):
    message = kind.FromString(encoded)
    change(message)
    return message.SerializeToString(deterministic=True)


def signed_check_in(number, mask_key, share_key, terms):
    who = identity(number)
    return CheckIn(
        certificate=who.certificate,
        mask_key=mask_key,
        share_key=share_key,
        signature=who.sign(check_in_signed(terms_digest(terms), mask_key, share_key)),
    ).SerializeToString(deterministic=True)


def sign_shares(message):
    signed = shares_signed(message.context_digest, message.self_seed_commitment, message.sealed)
    message.signature = identity(1).sign(signed)


def make_inputs() -> dict[str, bytes]:
    out = {
        "ca_public_key": authority().public_key,
        "revocations": authority().revocation_list,
        "terms": make_terms(parameter_count=20),
    }
    for number in VEHICLES:
        who = identity(number)
        out[f"signing_key_{number}"] = who.signing_key.private_bytes_raw()
        out[f"certificate_{number}"] = who.certificate
        out[f"random_{number}"] = fixed_random(f"vectors {number}")(3 * 32 + 2 * 2 * 48)
    helper = identity(1, Role.HELPER)
    key = sealing_key(X25519_SUITE, bytes(range(100, 132)))
    terms = make_terms(
        parameter_count=20,
        helpers=[sign_sealing_key(key, helper)],
        cohort=[identity(number).name for number in (1, 2)],
    )
    seeds = [
        seal_seeds(
            terms, identity(number), POLICY, authority().trust(), NOW, fixed_random(f"h {number}")
        )[1]
        for number in (1, 2)
    ]
    out |= {
        "helper_signing_key": helper.signing_key.private_bytes_raw(),
        "helper_certificate": helper.certificate,
        "helper_sealing_key": key.seed,
        "helper_seeds_1": seeds[0],
        "helper_request": HelperRequest(
            terms=terms, accepted=[HelperSeeds.FromString(one) for one in seeds]
        ).SerializeToString(deterministic=True),
    }
    return out


def make_broken(given: dict[str, bytes]) -> dict[str, bytes]:
    terms, roster = given["terms"], given["roster"]
    first = CheckIn.FromString(given["check_in_1"])
    members = Roster.FromString(roster).members
    small_order = bytes(32)

    def of_roster(change):
        return changed(Roster, roster, change)

    def of_shares(change, sign=True):
        def both(message):
            change(message)
            if sign:
                sign_shares(message)

        return changed(SealedShares, given["sealed_shares_1"], both)

    def of_delivery(change):
        return changed(ShareDelivery, given["share_delivery_1"], change)

    def request(uploaded, lost):
        return UnmaskRequest(
            context_digest=given["context_digest"], uploaded=uploaded, lost=lost
        ).SerializeToString(deterministic=True)

    def reply(shares, to=given["unmask_request"]):
        digest = vehicle._request_digest(to)
        return UnmaskReply(
            context_digest=given["context_digest"],
            shares=[{"slot": slot, "share": share} for slot, share in shares],
            signature=identity(1).sign(unmask_signed(given["context_digest"], digest, shares)),
        ).SerializeToString(deterministic=True)

    genuine = [(s.slot, s.share) for s in UnmaskReply.FromString(given["unmask_reply_1"]).shares]

    def of_helper(change):
        return changed(HelperRequest, given["helper_request"], change)

    def exchange_seeds(message):
        one, two = message.accepted
        one.sealed[0], two.sealed[0] = two.sealed[0], one.sealed[0]

    def set_field(name, value):
        return lambda message: setattr(message, name, value)

    return {
        "bad_terms_modulus_of_17_bits": make_terms(parameter_count=20, modulus_bits=17),
        "bad_terms_step_is_not_a_number": make_terms(parameter_count=20, step=float("nan")),
        "bad_terms_one_byte_left_over": terms + b"\x00",
        "bad_terms_round_twice": terms + b"\x10\x07",
        "bad_check_in_for_another_round": signed_check_in(
            1, first.mask_key, first.share_key, make_terms(parameter_count=20, round=8)
        ),
        "bad_check_in_with_a_short_key": signed_check_in(
            1, first.mask_key[:31], first.share_key, terms
        ),
        "bad_check_in_with_a_key_of_small_order": signed_check_in(
            1, small_order, first.share_key, terms
        ),
        "bad_check_in_of_another_vehicle": members[1].SerializeToString(deterministic=True),
        "bad_roster_with_a_swapped_key": of_roster(
            lambda m: setattr(m.members[1], "mask_key", first.share_key)
        ),
        "bad_roster_with_a_member_twice": of_roster(lambda m: m.members.insert(1, m.members[1])),
        "bad_roster_out_of_order": of_roster(lambda m: m.members.reverse()),
        "bad_roster_without_vehicle_1": of_roster(lambda m: m.members.pop(0)),
        "bad_roster_with_one_member": of_roster(lambda m: m.members.__delitem__(slice(1, None))),
        "bad_sealed_shares_with_a_short_box": of_shares(
            lambda m: m.sealed.__setitem__(1, m.sealed[1][:-1])
        ),
        "bad_sealed_shares_with_a_box_for_oneself": of_shares(
            lambda m: m.sealed.__setitem__(0, m.sealed[1])
        ),
        "bad_sealed_shares_of_another_sum": of_shares(set_field("context_digest", bytes(32))),
        "bad_sealed_shares_with_another_commitment": of_shares(
            set_field("self_seed_commitment", bytes(32)), sign=False
        ),
        "bad_share_delivery_below_the_threshold": of_delivery(
            lambda m: m.sealed.__setitem__(slice(2, 4), [b"", b""])
        ),
        "bad_share_delivery_of_another_sum": of_delivery(set_field("context_digest", bytes(32))),
        "bad_share_delivery_with_a_place_too_many": of_delivery(lambda m: m.sealed.append(b"")),
        "bad_unmask_request_for_both_secrets": request((1, 2, 3), (3, 4)),
        "bad_unmask_request_below_the_threshold": request((1, 2), (3, 4)),
        "bad_unmask_request_for_an_invented_slot": request((1, 2, 3), (5,)),
        "bad_unmask_request_with_us_as_lost": request((2, 3, 4), (1,)),
        "bad_unmask_reply_with_a_share_above_the_prime": reply([(1, bytes([255]) * 33)]),
        "bad_unmask_reply_to_another_request": reply(genuine, to=request((1, 2, 3), ())),
        "bad_unmask_reply_with_a_slot_twice": reply([*genuine, genuine[-1]]),
        "bad_helper_request_with_a_vehicle_twice": of_helper(
            lambda m: m.accepted.insert(0, m.accepted[0])
        ),
        "bad_helper_request_below_the_minimum": of_helper(lambda m: m.accepted.pop()),
        "bad_helper_request_with_seeds_in_each_others_place": of_helper(exchange_seeds),
    }


COMMENTS = {
    "ca_public_key": "The fleet CA, raw Ed25519, and its list of revoked certificates (DER).",
    "terms": "SumTerms: 4 vehicles, 8 modulus bits, 24 lanes and 1 counter in what follows.",
    "signing_key_1": "Vehicles: raw Ed25519 private key, certificate (DER), and the random bytes "
    "that they draw: mask private key, share private key, self seed (32 each), then 48 bytes for "
    "each coefficient of the seed's polynomial (degree 2, highest first), then of the mask key's.",
    "helper_signing_key": "A sum with one mask helper, suite x25519; sealing is randomized.",
    "terms_digest": "What follows from the above, in the order in which it is sent. Vehicle 4 "
    "shares and is lost; every vector is zero, so an upload's body is its masks.",
    "self_mask_of_1": "The first 24 lanes of masks.",
    "helper_reply": "The helper's answer to helper_request.",
    "bad_terms_modulus_of_17_bits": "Broken ones, by what is broken. Signed anew by vehicle 1 "
    "where the signature is not what is broken.",
}


def main() -> None:
    """Print a new file."""
    given = make_inputs()
    given |= compute(given)
    given |= make_broken(given)
    lines = ["# Secure sum, version 1: bytes of every message, in hex. Made by test_vectors.py."]
    for name, value in given.items():
        if name in COMMENTS:
            lines += ["", *textwrap.wrap("# " + COMMENTS[name], 100, subsequent_indent="# ")]
        lines += [f"{name} ="]
        lines += textwrap.wrap(value.hex(), 96, initial_indent="  ", subsequent_indent="  ")
    print("\n".join(lines))  # noqa: T201 - its output is the file


if __name__ == "__main__":
    main()
