"""Training with int8 rounding leaves a network that rounding hardly changes."""

import copy

import pytest
import torch
from torch import nn

from convoy_compression.model.quantization_aware import round_input, round_weight, rounded_as_int8


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def train(model, steps=3):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = (model(torch.rand(8, 3, 8, 8)) - 1.0).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_the_network_learns_and_keeps_its_form():
    model = network()
    before = copy.deepcopy(model.state_dict())

    with rounded_as_int8(model):
        train(model)

    assert model.state_dict().keys() == before.keys()
    assert not torch.equal(model[0].weight, before["0.weight"])
    assert type(model[0]) is nn.Conv2d
    assert not model[0]._forward_pre_hooks


def test_afterwards_rounding_the_weights_changes_nothing():
    model = network()

    with rounded_as_int8(model):
        train(model)

    for layer in (model[0], model[3]):
        torch.testing.assert_close(round_weight(layer.weight), layer.weight, atol=1e-6, rtol=0)
        assert len(layer.weight[0].unique()) <= 255


@pytest.mark.parametrize("values", [torch.zeros(2, 3), torch.full((2, 3), 4.0), -torch.ones(2, 3)])
def test_values_that_are_all_the_same_stay(values):
    torch.testing.assert_close(round_input(values), values, atol=1e-6, rtol=0)
    torch.testing.assert_close(round_weight(values), values, atol=1e-6, rtol=0)


def test_an_input_is_off_by_half_a_step_at_most():
    values = torch.linspace(-1.0, 3.0, 1000)

    assert (round_input(values) - values).abs().max() <= 4.0 / 255 / 2 + 1e-6


def test_a_failure_inside_leaves_the_network_whole():
    model = network()

    with pytest.raises(RuntimeError), rounded_as_int8(model):
        model(torch.rand(1))

    assert set(model.state_dict()) == {"0.weight", "0.bias", "3.weight", "3.bias"}
