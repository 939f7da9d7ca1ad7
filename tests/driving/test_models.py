"""The networks: sizes, shapes, initialisation, and what their outputs mean."""

import numpy as np
import pytest
import torch
from torch import nn

from convoy_driving.models.controls import (
    Controls,
    steering_angle_B,
    steering_class_B,
    steering_probabilities,
)
from convoy_driving.models.driver import Driver
from convoy_driving.models.layers import AlignedConv2d, SeededDropout, seed_dropout
from convoy_driving.models.registry import MODELS, ModelConfig, build_model
from convoy_driving.parameters import flatten, schema_of


@pytest.mark.parametrize(
    ("name", "parameters"), [("textbook", 325_880), ("slim", 116_033), ("teacher", 804_612)]
)
def test_the_size_of_a_network_is_known(name, parameters):
    model = build_model(ModelConfig(name=name), 60, 80, seed=0)

    assert schema_of(model).parameter_count == parameters


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize(("steering", "columns"), [("classes", 3), ("bins", 15), ("regression", 1)])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (47, 63)])
def test_every_network_takes_small_and_odd_frames_and_every_steering(
    name, steering, columns, height, width
):
    config = ModelConfig(name=name, steering=steering, width=0.3)
    model = build_model(config, height, width, seed=0).eval()

    controls = model(torch.rand(2, 3, height, width))

    assert controls.steering_BS.shape == (2, columns)
    assert controls.throttle_B.shape == (2,)
    assert not list(model.buffers())


def test_the_seed_alone_decides_the_parameters():
    torch.manual_seed(1)
    first = flatten(build_model(ModelConfig(), 60, 80, seed=5))
    torch.manual_seed(2)
    again = flatten(build_model(ModelConfig(), 60, 80, seed=5))
    other = flatten(build_model(ModelConfig(), 60, 80, seed=6))

    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_new_network_is_undecided_but_not_dead(name):
    model = build_model(ModelConfig(name=name), 60, 80, seed=0).eval()

    with torch.no_grad():
        controls = model(torch.rand(16, 3, 60, 80, generator=torch.Generator().manual_seed(0)))

    assert controls.steering_BS.abs().max() < 1.0
    assert controls.steering_BS.std() > 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "resnet"}, "name must be one of textbook, slim, teacher, got 'resnet'"),
        ({"dropout": 1.0}, "dropout"),
        ({"width": 0.0}, "width"),
    ],
)
def test_a_network_that_does_not_exist_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**settings)


def test_frames_too_small_for_the_convolutions_are_refused():
    with pytest.raises(ValueError, match="32 x 32 or more, got 20 x 80"):
        build_model(ModelConfig(), 20, 80, seed=0)


def controls(rows):
    return Controls(torch.tensor(rows, dtype=torch.float32), torch.zeros(len(rows)))


def bins(column):
    return [10.0 if place == column else 0.0 for place in range(15)]


@pytest.mark.parametrize(
    ("row", "steering_class", "angle"),
    [
        ([9.0, 0.0, 0.0], 0, -1.0),
        ([0.0, 9.0, 0.0], 1, 0.0),
        ([0.0, 0.0, 9.0], 2, 1.0),
        (bins(0), 0, -1.0),
        (bins(7), 1, 0.0),
        (bins(8), 1, 1 / 7),  # one bin from the middle is below the threshold of 0.2
        (bins(9), 2, 2 / 7),
        ([-0.7], 0, -0.7),
        ([0.1], 1, 0.1),
        ([0.21], 2, 0.21),
        ([3.0], 2, 1.0),
    ],
)
def test_every_form_of_steering_has_a_class_and_an_angle(row, steering_class, angle):
    assert steering_class_B(controls([row])).item() == steering_class
    assert steering_angle_B(controls([row])).item() == pytest.approx(angle, abs=0.02)


@pytest.mark.parametrize("columns", [1, 3, 15])
def test_probabilities_add_up_to_one(columns):
    logits_BS = torch.randn(20, columns, generator=torch.Generator().manual_seed(0))

    probabilities_B3 = steering_probabilities(Controls(logits_BS, torch.zeros(20)))

    assert probabilities_B3.shape == (20, 3)
    assert torch.allclose(probabilities_B3.sum(dim=1), torch.ones(20))


def test_a_driver_takes_camera_bytes_and_gives_bounded_controls():
    model = build_model(ModelConfig(), 60, 80, seed=0).eval()
    with torch.no_grad():
        model.throttle.bias.fill_(7.0)

    steering_B3, throttle_B = Driver(model)(torch.full((2, 60, 80, 3), 255, dtype=torch.uint8))

    assert steering_B3.shape == (2, 3)
    assert throttle_B.tolist() == [1.0, 1.0]


def test_dropout_draws_from_its_own_generator_only():
    layer = SeededDropout(0.5)
    ones = torch.ones(1000)
    masks = []
    for process_seed in (1, 2):
        torch.manual_seed(process_seed)
        seed_dropout(layer, torch.Generator().manual_seed(0))
        masks.append(layer(ones))

    assert torch.equal(*masks)
    assert set(masks[0].tolist()) == {0.0, 2.0}
    assert 400 < int((masks[0] == 0).sum()) < 600
    assert torch.equal(layer.eval()(ones), ones)


def test_dropout_without_a_generator_refuses_to_train():
    with pytest.raises(RuntimeError, match="needs a generator"):
        SeededDropout(0.5)(torch.ones(3))


def test_padded_channels_change_no_result():
    plain = nn.Conv2d(24, 8, 5, stride=2, padding=1)
    aligned = AlignedConv2d(24, 8, 5, stride=2, padding=1)
    aligned.load_state_dict(plain.state_dict())
    frames_BCHW = torch.randn(3, 24, 12, 13, generator=torch.Generator().manual_seed(0))

    with torch.autocast("cpu", torch.bfloat16):
        expected, actual = plain(frames_BCHW), aligned(frames_BCHW)
        expected.float().square().sum().backward()
        actual.float().square().sum().backward()

    assert np.allclose(actual.detach().float(), expected.detach().float(), rtol=0.02, atol=0.02)
    assert torch.allclose(aligned.weight.grad, plain.weight.grad, rtol=0.05, atol=1.0)
    assert aligned.weight.shape == plain.weight.shape
