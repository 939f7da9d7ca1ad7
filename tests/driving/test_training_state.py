"""Training that stopped between two batches goes on to the same bits."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_recordings import make_dataset

from convoy_driving.errors import ModelFileError
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten
from convoy_driving.training import TrainingConfig, train
from convoy_driving.training_state import read_state, restore_moments, write_state

SMALL = ModelConfig(width=0.25)
EVERYTHING = TrainingConfig(
    batch_size=16,
    local_epochs=2,
    brightness=0.3,
    shift=0.1,
    proximal_mu=0.1,
    gradient_clip_norm=1.0,
)
BATCHES = 5
"""An epoch: 72 training examples, the last batch smaller."""


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class StopError(Exception):
    """The machine is needed."""


def trained(config, *, steering="classes", **settings):
    network = build_model(replace(SMALL, steering=steering), 32, 40, seed=0)
    result = train(network, make_dataset(), config, seed=3, **settings)
    return flatten(network).tobytes(), result


def stopped_before(batch, config, **settings):
    """The bytes that training leaves when it is stopped before that batch, from 0."""
    kept = []

    def hook(snapshot):
        kept.append(None)
        if len(kept) == batch + 1:
            kept[:] = [write_state(snapshot())]
            raise StopError

    with pytest.raises(StopError):
        trained(config, between_batches=hook, **settings)
    return kept[0]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.0},  # nothing to keep of a parameter
        {"optimizer": "adamw", "learning_rate": 0.001},
        {"optimizer": "adamw", "channels_last": "off"},
        {"freeze": ("features.0.",)},
        {"mixed_precision": "off"},
    ],
)
def test_wherever_it_stops_it_ends_with_the_same_bits(settings):
    config = replace(EVERYTHING, **settings)
    whole = trained(config)

    for batch in range(2 * BATCHES):
        state = read_state(stopped_before(batch, config))
        assert (state.epoch, len(state.losses)) == divmod(batch, BATCHES)
        assert trained(config, resume=state) == whole


def test_training_may_stop_again_and_again():
    """Each time one batch further, as on a vehicle that is driven all day."""
    state, stops = None, 0
    for _ in range(2 * BATCHES - 1):
        state = read_state(stopped_before(1, EVERYTHING, resume=state))
        stops += 1

    assert (state.epoch, len(state.losses)) == (1, BATCHES - 1)
    assert stops == 2 * BATCHES - 1
    assert trained(EVERYTHING, resume=state) == trained(EVERYTHING)


def test_looking_at_where_it_stands_changes_nothing():
    states = []
    watched = trained(EVERYTHING, between_batches=lambda snapshot: states.append(snapshot()))

    assert watched == trained(EVERYTHING)
    assert [(one.epoch, len(one.losses), one.steps) for one in states] == [
        (epoch, batch, BATCHES * epoch) for epoch in range(2) for batch in range(BATCHES)
    ]
    # Copies: the first still holds what training began with.
    began = build_model(SMALL, 32, 40, seed=0)
    for kept, parameter in zip(states[0].parameters, began.parameters(), strict=True):
        assert torch.equal(kept, parameter)


def test_a_state_comes_back_as_it_was_written():
    data = stopped_before(7, replace(EVERYTHING, optimizer="adamw"))
    state = read_state(data)

    again = read_state(write_state(state))

    assert (again.epoch, again.losses, again.steps) == (state.epoch, state.losses, state.steps)
    assert (again.rng, again.epoch_rng) == (state.rng, state.epoch_rng)
    assert again.rng != again.epoch_rng
    for one, other in zip(again.moments, state.moments, strict=True):
        assert set(one) == set(other) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_bytes_that_are_no_state_are_refused():
    data = stopped_before(3, EVERYTHING)
    header_bytes = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_bytes])
    header["__metadata__"]["format"] = "convoy.training/0"
    other = json.dumps(header).encode()

    for broken in (
        b"",
        data[:-1],
        data[:100],
        b"\xff" * 100,
        data[:8] + b"{}" + data[10:],
        len(other).to_bytes(8, "little") + other + data[8 + header_bytes :],
    ):
        with pytest.raises(ModelFileError):
            read_state(broken)


@given(st.binary(max_size=200))
def test_whatever_is_read_ends_in_the_documented_error(data):
    with pytest.raises(ModelFileError):
        read_state(data)


def test_a_state_of_another_network_is_refused():
    state = read_state(stopped_before(3, EVERYTHING))
    other = build_model(replace(SMALL, width=0.5), 32, 40, seed=0)

    with pytest.raises((ValueError, RuntimeError)):
        train(other, make_dataset(), EVERYTHING, seed=3, resume=state)


def test_moments_take_the_memory_format_of_their_parameter():
    """Fused steps walk both in the order of memory."""
    parameter = torch.nn.Parameter(torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    kept = torch.from_numpy(np.arange(300, dtype=np.float32).reshape(4, 3, 5, 5))

    restore_moments(optimizer, [parameter], ({"exp_avg": kept, "step": torch.tensor(3.0)},))

    restored = optimizer.state[parameter]["exp_avg"]
    assert restored.stride() == parameter.stride()
    assert torch.equal(restored, kept)
    with pytest.raises(ValueError, match=r"exp_avg of shape \(3,\), expected \(4, 3, 5, 5\)"):
        restore_moments(optimizer, [parameter], ({"exp_avg": torch.zeros(3)},))
