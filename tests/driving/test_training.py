"""Training: one seed, one result; it learns; every setting does what it says."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_recordings import make_dataset

from convoy_driving.dataset import pool
from convoy_driving.evaluation import evaluate, torch_predictor
from convoy_driving.models.controls import Controls
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten, schema_of
from convoy_driving.training import (
    TrainingConfig,
    driving_loss,
    example_weights,
    fast_at_bfloat16,
    train,
    vehicle_seed,
)

SMALL = ModelConfig(width=0.25)
EVERYTHING = TrainingConfig(
    batch_size=16, brightness=0.3, shift=0.1, proximal_mu=0.1, gradient_clip_norm=1.0
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(config, *, dataset=None, seed=3, model=SMALL, **settings):
    network = build_model(model, 32, 40, seed=0)
    result = train(network, dataset or make_dataset(), config, seed=seed, **settings)
    return network, result


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_seed_gives_identical_bytes_whatever_the_process_wide_seeds(optimizer):
    config = replace(EVERYTHING, optimizer=optimizer, learning_rate=0.01)
    vectors = []
    for process_seed in (1, 2):
        torch.manual_seed(process_seed)
        vectors.append(flatten(trained(config)[0]).tobytes())

    assert vectors[0] == vectors[1]
    assert flatten(trained(config, seed=4)[0]).tobytes() != vectors[0]


def test_vehicles_trained_in_threads_do_not_disturb_each_other():
    alone = [flatten(trained(EVERYTHING, seed=seed)[0]).tobytes() for seed in range(4)]

    with ThreadPoolExecutor(4) as threads:
        together = list(
            threads.map(lambda seed: flatten(trained(EVERYTHING, seed=seed)[0]).tobytes(), range(4))
        )

    assert together == alone


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steering", "settings"),
    [
        ("classes", {}),
        ("classes", {"optimizer": "adamw", "learning_rate": 0.001}),
        ("classes", {"mixed_precision": "off", "channels_last": "off"}),
        ("bins", {}),
        ("regression", {}),
    ],
)
def test_a_network_learns_where_the_road_goes(steering, settings):
    config = TrainingConfig(**({"learning_rate": 0.02, "batch_size": 16} | settings))
    dataset = make_dataset(400)

    network, result = trained(
        config, dataset=dataset, model=replace(SMALL, steering=steering, width=0.5), epochs=12
    )

    counts = evaluate(torch_predictor(network), dataset, dataset.held_indices)
    assert counts.balanced_accuracy > 0.9
    assert result.example_count == len(dataset.train_indices) == 300
    assert result.steps == 12 * 19  # the last batch of an epoch is smaller


def test_held_back_frames_are_never_looked_at():
    dataset = make_dataset()
    frames_NHWC = dataset.frames_NHWC.copy()
    frames_NHWC[dataset.held_indices] = 255
    steering_N = dataset.steering_N.copy()
    steering_N[dataset.held_indices] = 0.9

    changed = replace(dataset, frames_NHWC=frames_NHWC, steering_N=steering_N)

    vectors = [flatten(trained(EVERYTHING, dataset=data)[0]) for data in (dataset, changed)]
    assert vectors[0].tobytes() == vectors[1].tobytes()


def test_a_pool_is_trained_on_like_a_vehicle():
    _, result = trained(EVERYTHING, dataset=pool([make_dataset(seed=0), make_dataset(seed=1)]))

    assert result.example_count == 144


def test_frozen_layers_stay_as_they_are():
    network, _ = trained(replace(EVERYTHING, freeze=("features.0.", "features.2.")))

    untouched = build_model(SMALL, 32, 40, seed=0)
    for (name, after), before in zip(
        network.named_parameters(), untouched.parameters(), strict=True
    ):
        assert torch.equal(after, before) is name.startswith(("features.0.", "features.2."))
        assert after.requires_grad


@pytest.mark.parametrize(
    ("freeze", "message"),
    [(("body.",), "no parameter starts with 'body.'"), (("",), "leaves no parameter to train")],
)
def test_a_freeze_that_makes_no_sense_is_refused(freeze, message):
    with pytest.raises(ValueError, match=message):
        trained(replace(EVERYTHING, freeze=freeze))


def test_the_proximal_term_keeps_the_model_near_the_global_one():
    free, _ = trained(replace(EVERYTHING, proximal_mu=0.0), epochs=3)
    held, _ = trained(replace(EVERYTHING, proximal_mu=5.0), epochs=3)

    start_N = flatten(build_model(SMALL, 32, 40, seed=0))
    assert np.linalg.norm(flatten(held) - start_N) < 0.7 * np.linalg.norm(flatten(free) - start_N)


def test_the_proximal_term_pulls_to_the_global_model_that_is_given():
    config = replace(EVERYTHING, proximal_mu=1.0, freeze=("features.0.",), learning_rate=0.05)
    start_N = flatten(build_model(SMALL, 32, 40, seed=0))
    target_N = start_N + np.float32(1.0)

    to_start, _ = trained(config, global_N=start_N)
    to_target, _ = trained(config, global_N=target_N)

    assert np.linalg.norm(flatten(to_target) - target_N) < np.linalg.norm(
        flatten(to_start) - target_N
    )


def test_a_vehicle_can_switch_augmentation_off():
    config = TrainingConfig(batch_size=16, brightness=0.3, shift=0.1)
    plain = TrainingConfig(batch_size=16, mirror=False)

    switched_off = flatten(trained(config, augment=False)[0])
    without = flatten(trained(plain)[0])
    never_mirrored = flatten(trained(replace(plain, mirror=True), mirror=False)[0])

    assert switched_off.tobytes() == without.tobytes() == never_mirrored.tobytes()
    assert flatten(trained(config)[0]).tobytes() != without.tobytes()


def test_every_epoch_is_reported():
    reports = []

    _, result = trained(
        EVERYTHING, epochs=3, on_epoch=lambda epoch, loss: reports.append((epoch, loss))
    )

    assert [epoch for epoch, _ in reports] == [1, 2, 3]
    assert reports[-1][1] == result.train_loss


def test_class_weights_make_rare_classes_count_and_are_limited():
    dataset = make_dataset(400)
    steering_N = np.full(400, 0.0, np.float32)
    steering_N[:30] = 0.9  # right: 10 % of the 300 training examples
    steering_N[30:33] = -0.9  # left: 1 %
    skewed = replace(dataset, steering_N=steering_N)
    config = TrainingConfig(class_weight_limit=5.0)

    weights_N = example_weights(skewed, config, mirrored=False)
    assert weights_N[[30, 0, 60]].tolist() == pytest.approx([5.0, 300 / 90, 300 / (3 * 267)])
    mirrored_N = example_weights(skewed, config, mirrored=True)
    assert mirrored_N[[30, 0, 60]].tolist() == pytest.approx([5.0, 5.0, 300 / (3 * 267)])
    unweighted = replace(config, class_weighted=False)
    assert set(example_weights(skewed, unweighted, mirrored=True)) == {1.0}


def test_the_loss_is_nine_parts_steering_and_one_part_throttle():
    logits_BS = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    controls = Controls(logits_BS, torch.tensor([0.5, 0.0]))

    loss = driving_loss(
        controls,
        torch.tensor([0, 1]),
        torch.tensor([0.0, 0.0]),
        torch.tensor([3.0, 1.0]),
        form="classes",
    )

    cross_entropy_B = -logits_BS.log_softmax(1)[[0, 1], [0, 1]]
    expected = 0.9 * (3 * cross_entropy_B[0] + cross_entropy_B[1]) / 4 + 0.1 * 0.125
    assert loss.item() == pytest.approx(expected.item())


def test_a_vehicles_seed_is_its_own_and_the_same_everywhere():
    assert vehicle_seed(1, 2, "car0") == 3_079_681_815_659_620_188
    seeds = {
        vehicle_seed(run, number, vehicle)
        for run in (1, 12)
        for number in (1, 2, 21)
        for vehicle in ("car0", "car1", "2")
    }
    assert len(seeds) == 18
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_nothing_to_train_on_is_refused():
    dataset = replace(make_dataset(), train_indices=np.empty(0, np.int64))

    with pytest.raises(ValueError, match="no training examples"):
        trained(EVERYTHING, dataset=dataset)


def test_mixed_precision_is_not_used_where_the_device_is_slow_at_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})

    assert not fast_at_bfloat16("cpu")
    assert not fast_at_bfloat16("mps")


def test_training_leaves_the_schema_as_it_was():
    network, _ = trained(EVERYTHING)

    assert schema_of(network) == schema_of(build_model(SMALL, 32, 40, seed=0))


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": 0.0},
        {"momentum": 1.0},
        {"weight_decay": -1.0},
        {"proximal_mu": float("nan")},
        {"batch_size": 0},
        {"local_epochs": 0},
        {"class_weight_limit": 0.5},
        {"brightness": 1.0},
        {"shift": -0.1},
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name} must"):
        TrainingConfig(**settings)
