"""One seed gives one track and one drive; the expert stays on the road."""

import numpy as np
import pytest

from convoy_simulation.roads.camera import CameraMount, CameraSize, picture
from convoy_simulation.roads.car_racing import Command, Road
from convoy_simulation.roads.expert import ExpertConfig, PurePursuit, speed_limits


def drive(road: Road, steps: int) -> list[tuple[float, float, float]]:
    expert = PurePursuit(road.track, ExpertConfig())
    line = []
    for _ in range(steps):
        reward, _ = road.step(expert.act(road.pose, road.speed_mps))
        line.append((road.pose.x_m, road.pose.y_m, reward))
    return line


def test_the_same_seed_and_commands_give_the_same_drive():
    assert drive(Road(7), 120) == drive(Road(7), 120)


def test_another_seed_is_another_track():
    assert not np.array_equal(Road(7).track.centre_T2[:50], Road(8).track.centre_T2[:50])


def test_the_expert_drives_along_the_road_without_leaving_it():
    road = Road(3)
    drive(road, 250)
    assert road.on_road
    assert road.track_covered > 0.2
    assert road.speed_mps > 25


def test_full_gas_straight_on_leaves_the_road():
    road = Road(3)
    for _ in range(400):
        road.step(Command(steering=0.0, gas=0.5, brake=0.0))
    assert not road.on_road


@pytest.mark.parametrize(("steering", "side"), [(-1.0, 1), (1.0, -1)])
def test_negative_steering_turns_to_the_left(steering, side):
    road = Road(3)
    before = road.pose.heading_rad
    for _ in range(50):
        road.step(Command(steering, gas=0.3, brake=0.0))
    assert np.sign(road.pose.heading_rad - before) == side


def test_the_car_at_the_start_sees_road_ahead_and_grass_beside_it():
    road = Road(3)
    seen_HWC = picture(road.ground_map(), road.pose, CameraMount(), CameraSize())
    grey = np.ptp(seen_HWC.astype(int), axis=2) < 8
    assert grey[-1, 35:45].all()
    assert not grey[-1, :10].any()
    assert not grey[-1, -10:].any()


def test_speed_falls_before_a_bend_and_not_after_it():
    straight, bend = np.zeros(60), np.linspace(0, np.pi / 2, 6)
    heading_T = np.concatenate([straight, bend, np.full(60, np.pi / 2)])
    config = ExpertConfig(braking_points=18)
    speed_T = speed_limits(heading_T, config)
    assert speed_T[20] == config.max_speed_mps
    assert speed_T[55] < 60
    assert speed_T[90] == config.max_speed_mps
