"""A small network learns from large ones."""

import pytest
import torch
from small_driver import SmallNetwork, road_frames

from convoy_compression.model.distillation import DistillationConfig, distil, distillation_loss
from convoy_compression.model.errors import UnusableTeacherError
from convoy_compression.model.teacher import ask

CONFIG = DistillationConfig(epochs=12, batch_size=32, learning_rate=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("columns", [3, 15, 1])  # classes, bins, regression
def test_the_student_comes_to_say_what_its_teachers_say(columns):
    teachers = [SmallNetwork(columns, seed=1), SmallNetwork(columns, seed=1)]
    student = SmallNetwork(columns, channels=(4, 6), seed=7)
    frames = road_frames(200)

    def error():
        taught, said = ask(teachers, frames), ask([student], frames)
        return float(
            distillation_loss(
                (said.steering_NS, said.throttle_N), (taught.steering_NS, taught.throttle_N), 2.0
            )
        )

    before = error()
    result = distil(student, teachers, frames, CONFIG, seed=0)

    assert error() < 0.25 * before
    assert result.steps == 12 * 7


@pytest.mark.slow
def test_the_seed_decides_every_parameter():
    def taught(seed):
        student = SmallNetwork(seed=3)
        distil(student, [SmallNetwork(seed=1)], road_frames(64), CONFIG, seed=seed)
        return torch.cat([parameter.detach().reshape(-1) for parameter in student.parameters()])

    assert torch.equal(taught(5), taught(5))
    assert not torch.equal(taught(5), taught(6))


def test_progress_is_told_after_every_pass():
    told = []

    distil(
        SmallNetwork(seed=3),
        [SmallNetwork()],
        road_frames(8),
        DistillationConfig(epochs=3, photometric=False, mirror=False),
        seed=0,
        on_epoch=lambda done, total: told.append((done, total)),
    )

    assert told == [(1, 3), (2, 3), (3, 3)]


def test_frames_are_left_as_they_are():
    frames = road_frames(40)
    frames.setflags(write=False)

    distil(SmallNetwork(seed=3), [SmallNetwork()], frames, CONFIG, seed=0)


def test_a_broken_teacher_stops_the_lesson():
    teacher = SmallNetwork()
    with torch.no_grad():
        teacher.steering.bias.fill_(float("inf"))

    with pytest.raises(UnusableTeacherError):
        distil(SmallNetwork(), [teacher], road_frames(4), CONFIG, seed=0)


def test_no_difference_is_no_loss():
    answer = torch.tensor([[2.0, -1.0, 0.5]]), torch.tensor([0.3])

    assert float(distillation_loss(answer, answer, 2.0)) == pytest.approx(0.0, abs=1e-6)


def test_the_throttle_counts_a_tenth():
    steering = torch.zeros(1, 3)

    loss = distillation_loss((steering, torch.tensor([0.0])), (steering, torch.tensor([2.0])), 2.0)

    assert float(loss) == pytest.approx(0.1 * 4.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("learning_rate", float("nan")), ("temperature", -1.0)],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ValueError, match=field):
        DistillationConfig(**{field: value})
