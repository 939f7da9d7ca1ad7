"""What several teachers say together."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_driver import SmallNetwork, road_frames
from torch import nn

from convoy_compression.model.errors import UnusableTeacherError
from convoy_compression.model.teacher import ask, mixture, normalised_entropy


class Says(nn.Module):
    """A teacher that answers the same to every frame."""

    def __init__(self, steering, throttle):
        super().__init__()
        self.steering, self.throttle = torch.tensor(steering), throttle

    def forward(self, frames_BCHW):
        """The same for each."""
        count = len(frames_BCHW)
        return self.steering.expand(count, -1), torch.full((count,), self.throttle)


def test_a_single_teacher_is_repeated_as_it_is():
    network = SmallNetwork()
    frames = road_frames(5)

    lesson = ask([network], frames)

    with torch.no_grad():
        steering, throttle = network(torch.from_numpy(frames).permute(0, 3, 1, 2) / 255.0)
    assert torch.allclose(lesson.steering_NS, steering)
    assert torch.allclose(lesson.throttle_N, throttle)
    assert lesson.disagreement == 0.0


def test_the_sure_teacher_outweighs_two_who_guess():
    sure, guessing = Says([8.0, 0.0, 0.0], 1.0), Says([0.0, 0.0, 0.2], 0.0)

    lesson = ask([guessing, sure, guessing], road_frames(4))

    assert lesson.steering_NS.argmax(dim=1).tolist() == [0, 0, 0, 0]
    assert float(lesson.throttle_N[0]) > 0.9
    assert lesson.disagreement == pytest.approx(2 / 3)


def test_regressing_teachers_are_averaged():
    lesson = ask([Says([-0.4], 0.0), Says([0.8], 1.0)], road_frames(2))

    assert lesson.steering_NS[:, 0].tolist() == pytest.approx([0.2, 0.2])
    assert lesson.throttle_N.tolist() == pytest.approx([0.5, 0.5])
    assert lesson.entropy == 0.0


def test_entropy_tells_a_teacher_who_knows_from_one_who_guesses():
    assert ask([Says([0.0, 0.0, 0.0], 0.0)], road_frames(2)).entropy == pytest.approx(1.0)
    assert ask([Says([9.0, 0.0, 0.0], 0.0)], road_frames(2)).entropy < 0.01


@settings(max_examples=30, deadline=None)
@given(teachers=st.integers(1, 4), columns=st.sampled_from([3, 15]), seed=st.integers(0, 1000))
def test_a_mixture_lies_between_its_teachers(teachers, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    steering_TBS = 3 * torch.randn(teachers, 5, columns, generator=generator)
    throttle_TB = torch.randn(teachers, 5, generator=generator)

    steering_BS, throttle_B = mixture(steering_TBS, throttle_TB)

    each_TBS, mixed_BS = steering_TBS.softmax(dim=-1), steering_BS.softmax(dim=-1)
    assert bool((mixed_BS <= each_TBS.amax(dim=0) + 1e-5).all())
    assert bool((mixed_BS >= each_TBS.amin(dim=0) - 1e-5).all())
    assert bool((throttle_B <= throttle_TB.amax(dim=0) + 1e-5).all())
    assert bool((throttle_B >= throttle_TB.amin(dim=0) - 1e-5).all())
    assert bool((normalised_entropy(steering_BS) <= 1.0 + 1e-5).all())


def test_a_teacher_with_nan_is_refused_by_the_name_of_its_layer():
    network = SmallNetwork()
    with torch.no_grad():
        network.throttle.bias.fill_(float("nan"))

    with pytest.raises(UnusableTeacherError, match=r"teacher 2 of 2: throttle\.bias"):
        ask([SmallNetwork(), network], road_frames(2))


def test_a_teacher_that_overflows_is_refused():
    network = SmallNetwork()
    with torch.no_grad():
        network.steering.weight.fill_(3e38)

    with pytest.raises(UnusableTeacherError, match="answers NaN or infinite"):
        ask([network], road_frames(2))


@pytest.mark.parametrize(("teachers", "frames"), [([], 2), ([SmallNetwork()], 0)])
def test_nobody_to_ask_or_nothing_to_show_is_a_mistake(teachers, frames):
    with pytest.raises(ValueError, match="expected a teacher and a frame"):
        ask(teachers, road_frames(2)[:frames])


def test_read_only_frames_can_be_shown():
    frames = road_frames(3)
    frames.setflags(write=False)

    assert np.isfinite(ask([SmallNetwork()], frames).entropy)
