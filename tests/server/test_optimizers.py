"""Server optimizers against the papers' formulas, written out in float64 one number at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convoy_server.optimizers.fed_adam import FedAdam
from convoy_server.optimizers.fed_avg import FedAvg
from convoy_server.optimizers.fed_avg_m import FedAvgM
from convoy_server.optimizers.fed_yogi import FedYogi
from convoy_server.optimizers.registry import optimizer_for
from convoy_server.rounds import RoundConfig

ADAPTIVE = {"learning_rate": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 0.01}

OPTIMIZERS = {
    "fed_avg": FedAvg(learning_rate=0.5),
    "fed_avg_m": FedAvgM(learning_rate=0.5, momentum=0.9),
    "fed_adam": FedAdam(**ADAPTIVE),
    "fed_yogi": FedYogi(**ADAPTIVE),
}
every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def slow_run(name, x, deltas):
    """One parameter through all rounds, as the papers have it."""
    momentum = m = 0.0
    v = 0.01**2
    for delta in deltas:
        if name == "fed_avg":
            x += 0.5 * delta
        elif name == "fed_avg_m":
            momentum = 0.9 * momentum + delta
            x += 0.5 * momentum
        else:
            m = 0.9 * m + 0.1 * delta
            if name == "fed_adam":
                v = 0.99 * v + 0.01 * delta**2
            else:
                v -= 0.01 * delta**2 * math.copysign(1.0, v - delta**2) * (v != delta**2)
            x += 0.1 * m / (math.sqrt(v) + 0.01)
    return x


@every_optimizer
@given(
    start=st.floats(-10, 10),
    deltas=st.lists(st.floats(-3, 3), min_size=1, max_size=8),
)
def test_every_step_is_the_papers(name, start, deltas):
    model_N, state = np.array([start, -start], np.float32), {}
    for delta in deltas:
        update_N = np.array([delta, -delta], np.float32)
        model_N, state = OPTIMIZERS[name].step(model_N, update_N, state)
    deltas32 = [float(np.float32(delta)) for delta in deltas]
    expected = slow_run(name, float(np.float32(start)), deltas32)
    np.testing.assert_allclose(model_N, [expected, -expected], rtol=1e-4, atol=1e-4)


@every_optimizer
def test_a_step_changes_neither_its_model_nor_its_state(name):
    rng = np.random.default_rng(0)
    model_N, update_N = rng.standard_normal((2, 50), dtype=np.float32)
    _, state = OPTIMIZERS[name].step(model_N, update_N, {})
    before = {key: value.copy() for key, value in state.items()}
    frozen_N = model_N.copy()
    for array in (model_N, update_N, *state.values()):
        array.flags.writeable = False
    next_N, next_state = OPTIMIZERS[name].step(model_N, update_N, state)
    np.testing.assert_array_equal(model_N, frozen_N)
    for key, value in before.items():
        np.testing.assert_array_equal(state[key], value)
    for array in (next_N, *next_state.values()):
        assert array.dtype == np.float32
        assert array.shape == (50,)


@every_optimizer
def test_no_update_leaves_the_first_model_where_it_is(name):
    model_N = np.ones(3, np.float32)
    next_N, _ = OPTIMIZERS[name].step(model_N, np.zeros(3, np.float32), {})
    np.testing.assert_array_equal(next_N, model_N)


@given(st.lists(st.floats(-(2.0**50), 2.0**50, width=32), min_size=1, max_size=20))
def test_yogis_second_moment_is_never_negative(deltas):
    state = {}
    for delta in deltas:
        _, state = OPTIMIZERS["fed_yogi"].step(
            np.zeros(1, np.float32), np.array([delta], np.float32), state
        )
        assert state["second_moment"][0] >= 0.0


def test_fed_avg_at_rate_one_takes_the_mean_model():
    model_N, update_N = np.array([1.0], np.float32), np.array([-3.0], np.float32)
    assert FedAvg(learning_rate=1.0).step(model_N, update_N, {}).model_N == [-2.0]


@every_optimizer
def test_the_settings_reach_the_optimizer(name):
    config = RoundConfig(
        optimizer=name,
        server_learning_rate=OPTIMIZERS[name].learning_rate,
        server_momentum=0.9,
        beta_1=0.9,
        beta_2=0.99,
        tau=0.01,
    )
    assert optimizer_for(config) == OPTIMIZERS[name]
