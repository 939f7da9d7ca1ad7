"""Terms are taken when every field makes sense, and named by their bytes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_sum import make_terms

from convoy_privacy.errors import RefusedTermsError
from convoy_privacy.secure_sum.terms import (
    VehiclePolicy,
    context_digest,
    parse_terms,
    smallest_sum,
    threshold,
)
from convoy_protos.v1.secure_sum_pb2 import HelperKey, SumTerms

HELPER = HelperKey(certificate=b"DER", suite="x25519", sealing_key=b"key", signature=bytes(64))
NAMES = ["vehicle 001", "vehicle 002"]


@pytest.mark.parametrize(
    "change",
    [
        {"run_id": ""},
        {"run_id": "two\nlines"},
        {"run_id": " space"},
        {"run_id": "x" * 201},
        {"round": 0},
        {"attempt": 0},
        {"model_digest": bytes(31)},
        {"schema_digest": bytes(33)},
        {"settings_digest": b""},
        {"codec_seed": b""},
        {"parameter_count": 0, "helpers": [HELPER], "cohort": NAMES},  # counters alone need none
        {"parameter_count": 2**31 + 1},
        {"modulus_bits": 0},
        {"modulus_bits": 1},
        {"modulus_bits": 17},
        {"step": 0.0},
        {"step": -1.0},
        {"step": math.nan},
        {"step": math.inf},
        {"step": 5e-324},  # denormal
        {"step": 1e31},
        {"clip_norm": -1.0},
        {"clip_norm": math.inf},
        {"clip_norm": math.nan},
        {"weight_cap": 0},
        {"weight_cap": 2**32 + 1},
        {"minimum_cohort": 0},
        {"minimum_cohort": 1},
        {"minimum_cohort": 129},
        {"deadline_s": 0},
        {"deadline_s": 86_401},
        {"noise_variance": -1.0},
        {"noise_variance": math.nan},
        {"noise_variance": 1.0, "parameter_count": 0},  # scores are exact or not told
        {"count_noise_variance": -1.0, "noise_variance": 1.0},
        {"count_noise_variance": math.nan, "noise_variance": 1.0},
        {"count_noise_variance": 1.0},  # only beside a noised sum
        {"cohort": NAMES},  # names in advance are for helpers only
        {"cohort": [], "helpers": [HELPER]},  # helpers need them
        {"helpers": [HELPER], "cohort": NAMES[:1]},  # fewer than the minimum
        {"helpers": [HELPER], "cohort": NAMES[::-1]},
        {"helpers": [HELPER], "cohort": [NAMES[0], NAMES[0], NAMES[1]]},
        {"helpers": [HELPER], "cohort": ["", *NAMES]},
        {"helpers": [HELPER, HELPER], "cohort": NAMES},
        {"helpers": [HelperKey()], "cohort": NAMES},
        {"helpers": [HELPER] * 9, "cohort": NAMES},
    ],
    ids=str,
)
def test_impossible_terms_are_refused_by_the_name_of_the_field(change):
    with pytest.raises(RefusedTermsError, match="|".join(change)):
        parse_terms(make_terms(**change))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"modulus_bits": 2},
        {"modulus_bits": 16},
        {"clip_norm": 0.0},  # none
        {"noise_variance": 12.5},
        {"equal_weights": True},
        {"minimum_cohort": 128},
        {"run_id": "x"},
        {"helpers": [HELPER], "cohort": NAMES},
    ],
    ids=str,
)
def test_possible_terms_are_taken(change):
    encoded = make_terms(**change)
    terms = parse_terms(encoded)
    assert terms.encoded == encoded
    assert terms.fields == SumTerms.FromString(encoded)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"\xff",
        make_terms() + b"\x00",
        make_terms() + b"\xa0\x06\x01",  # a field that nobody knows
        make_terms() + b"\x10\x07",  # the round a second time
    ],
    ids=["nothing", "garbage", "left over", "unknown field", "field twice"],
)
def test_bytes_that_are_not_our_encoding_are_refused(encoded):
    with pytest.raises(RefusedTermsError):
        parse_terms(encoded)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_terms(encoded):
    try:
        terms = parse_terms(encoded)
    except RefusedTermsError:
        return
    assert terms.encoded == encoded


def test_the_context_is_named_by_terms_and_roster():
    first, second = parse_terms(make_terms()).digest, parse_terms(make_terms(round=8)).digest
    names = {context_digest(terms, roster) for terms in (first, second) for roster in (b"", b"r")}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("members", "shares"), [(2, 2), (3, 3), (4, 3), (6, 5), (50, 34), (100, 67), (128, 86)]
)
def test_more_than_two_thirds_are_needed(members, shares):
    assert threshold(members) == shares
    # Two groups of this size have more than a third of the roster in common.
    assert 3 * (2 * shares - members) > members


@pytest.mark.parametrize(("minimum", "needed"), [(2, 67), (67, 67), (80, 80)])
def test_the_smallest_sum_is_the_larger_of_threshold_and_minimum(minimum, needed):
    assert smallest_sum(parse_terms(make_terms(minimum_cohort=minimum)), 100) == needed


@pytest.mark.parametrize(
    "bad",
    [
        {"minimum_cohort": 1},
        {"minimum_cohort": 129},
        {"max_modulus_bits": 1},
        {"max_modulus_bits": 17},
        {"max_parameter_count": 0},
        {"max_attempts": 0},
    ],
    ids=str,
)
def test_an_impossible_policy_is_a_value_error(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        VehiclePolicy(**bad)
