"""Which helpers a round has: those of the fleet, each once, first those that answered."""

import logging

import pytest
from masked_cars import Unit
from small_sum import NOW, authority, identity

from convoy_privacy.certificates import Role
from convoy_privacy.fleet_authority import FleetAuthority
from convoy_privacy.sealing import sealing_key, sign_sealing_key
from convoy_server.mask_helpers import choose_helpers

KEY = sealing_key("x25519", bytes(32))


def offers(*numbers):
    return {Unit(number).name: Unit(number).key for number in numbers}


def chosen(offered, count=2, failures=None):
    return list(choose_helpers(offered, count, authority().trust(), NOW, failures or {}))


@pytest.mark.parametrize(
    ("failures", "names"),
    [
        ({}, ["unit 1", "unit 2"]),
        ({"unit 1": 1}, ["unit 2", "unit 3"]),
        ({"unit 1": 1, "unit 2": 2}, ["unit 3", "unit 1"]),
        ({"unit 1": 1, "unit 2": 1, "unit 3": 1}, ["unit 1", "unit 2"]),  # nobody is better
    ],
)
def test_those_that_failed_least_come_first(failures, names):
    assert chosen(offers(3, 1, 2), failures=failures) == names


def test_there_are_no_more_than_there_are():
    assert chosen(offers(1), count=2) == ["unit 1"]
    assert chosen(offers(1), count=0) == []


def test_who_repeats_the_key_of_another_is_one_helper_with_it_until_it_fails():
    """The signed key is public; only its owner can answer with it."""
    offered = {"liar": Unit(1).key} | offers(1, 2)
    assert chosen(offered) == ["liar", "unit 2"]
    assert chosen(offered, failures={"liar": 1}) == ["unit 1", "unit 2"]


def foreign():
    return FleetAuthority.create(NOW).issue("helper 001", Role.HELPER, NOW)


@pytest.mark.parametrize(
    "offer",
    [
        sign_sealing_key(KEY, identity(1)),  # a vehicle
        sign_sealing_key(KEY, identity(1, Role.AGGREGATOR)),
        sign_sealing_key(KEY, foreign()),
    ],
    ids=["vehicle", "aggregator", "another fleet"],
)
def test_who_is_no_helper_of_the_fleet_is_left_out_with_a_word(offer, caplog):
    with caplog.at_level(logging.WARNING):
        assert chosen({"a": offer} | offers(1)) == ["unit 1"]
    assert "a is no mask helper" in caplog.text
