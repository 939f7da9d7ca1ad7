"""The vehicle's ClientApp: what it answers, that it is repeatable, and what it refuses."""

import hashlib
import json
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from flwr.app import Message, RecordDict
from small_fleet import DATA

from convoy_driving.evaluation import evaluate, torch_predictor
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten, schema_of, unflatten
from convoy_edge_client.app import make_client_app
from convoy_edge_client.errors import NoUpdateKeptError, RefusedInstructionsError
from convoy_edge_client.instructions import check_digest, check_schema, read_settings
from convoy_edge_client.local_update import kept
from convoy_edge_client.opened_sums import note_opened
from convoy_edge_client.vehicle_config import load_vehicle_config
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.envelope import COUNTER_SCALE, SCORE_COUNTERS, UPDATE_METRICS, unpack
from convoy_protos.errors import MalformedMessageError, SettingsError
from convoy_protos.flower_internals import make_context, server_identity
from convoy_protos.flower_messages import (
    instructions_content,
    model_array,
    read_evaluation,
    read_profile,
    read_trained,
    read_update,
)
from convoy_protos.settings import to_table
from convoy_protos.v1.federation_pb2 import (
    Evaluation,
    RoundInstructions,
    Trained,
    VehicleProfile,
)

MODEL = ModelConfig(width=0.2)
HYPER = {"learning_rate": 0.02, "batch_size": 16, "local_epochs": 1}


@pytest.fixture(autouse=True)
def one_torch_thread():
    """The app sets torch's threads; give them back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network():
    return build_model(MODEL, DATA.frame_height, DATA.frame_width, seed=1)


@pytest.fixture(scope="module", name="global_N")
def parameters_at_the_start(network):
    return flatten(network)


@pytest.fixture(scope="module")
def ask(network, global_N, small_fleet):
    """Sends a message of some type to a vehicle of the small fleet, or to a given context."""
    app = make_client_app()

    def send(kind, vehicle="car0", *, training=(), privacy=(), context=None, app=app, **changes):
        instructions = RoundInstructions(
            run_id="run-1",
            round=2,
            seed=7,
            schema_digest=schema_of(network).digest,
            model_digest=hashlib.sha256(global_N.tobytes()).digest(),
            codec="float32/1",
            settings_json=json.dumps(
                {
                    "data": to_table(DATA),
                    "model": to_table(MODEL),
                    "training": {**HYPER, **dict(training)},
                    "privacy": dict(privacy),
                }
            ),
        )
        for name, value in changes.items():
            setattr(instructions, name, value)
        if context is None:
            context = make_context(5, {"vehicle-config": str(small_fleet.vehicles[vehicle])})
        content = instructions_content(instructions, model_array(global_N))
        with server_identity():
            return app(Message(content, 5, kind), context).content

    return send


def trained(ask, *args, **kwargs):
    """Header and update of a training reply."""
    header, payload = unpack(read_update(ask("train", *args, **kwargs)))
    return header, np.frombuffer(payload, "<f4")


def test_training_answers_with_a_complete_header(ask, global_N, network):
    header, update_N = trained(ask, "car3")

    assert (header.run_id, header.round, header.vehicle_id) == ("run-1", 2, "car3")
    assert header.schema_digest == schema_of(network).digest
    assert (header.codec, header.parameter_count) == ("float32/1", global_N.size)
    assert 0 < header.example_count < 60
    assert set(header.metrics) == UPDATE_METRICS
    assert np.isfinite(header.metrics["train_loss"])
    assert np.linalg.norm(update_N) > 0


def test_the_update_is_where_training_leads_from_the_global_model(ask, small_fleet, global_N):
    """Added to the global model, several rounds of one vehicle's updates learn its own laps."""
    _, update_N = trained(ask, training={"local_epochs": 30})
    model = build_model(MODEL, DATA.frame_height, DATA.frame_width, seed=99)
    vehicle = load_vehicle_config(small_fleet.vehicles["car0"])
    dataset = WarmCache().dataset(vehicle, DATA)

    unflatten(global_N + update_N, model)
    after = evaluate(torch_predictor(model), dataset, dataset.train_indices)

    assert after.balanced_accuracy > 0.9


def test_the_same_instructions_give_the_same_bytes_whatever_ran_before(ask):
    first = read_update(ask("train"))
    torch.manual_seed(12345)
    ask("train", "car1")
    ask("evaluate", "car2")

    assert read_update(ask("train")) == first
    assert read_update(ask("train", app=make_client_app())) == first


@pytest.mark.parametrize("change", [{"round": 3}, {"seed": 8}])
def test_another_round_or_seed_trains_in_another_order(ask, change):
    assert not np.array_equal(trained(ask)[1], trained(ask, **change)[1])


def test_frozen_layers_are_not_sent(ask, network):
    schema = schema_of(network)
    first, size = schema.names[0], schema.sizes[0]

    _, update_N = trained(ask, training={"freeze": [first]})

    assert update_N.size == schema.parameter_count - size
    assert update_N.any()


def test_the_proximal_term_keeps_the_update_short(ask):
    far = {"local_epochs": 10}

    free_N = trained(ask, training=far)[1]
    held_N = trained(ask, training={**far, "proximal_mu": 10.0})[1]

    assert np.linalg.norm(held_N) < 0.7 * np.linalg.norm(free_N)


def test_updates_are_clipped_when_asked(ask):
    _, update_N = trained(ask, privacy={"clip_norm": 0.01})

    assert np.linalg.norm(update_N) == pytest.approx(0.01, rel=1e-5)


@pytest.mark.parametrize(
    ("own", "asked"),
    [
        ({"augment": False}, {"mirror": True, "brightness": 0.5, "shift": 0.1}),
        ({"mirror": False}, {"mirror": True}),
    ],
)
def test_the_server_cannot_switch_on_what_the_vehicle_switched_off(
    ask, small_fleet, tmp_path, own, asked
):
    table = json.loads(small_fleet.vehicles["car0"].read_text())
    (tmp_path / "strict.json").write_text(json.dumps({**table, **own}))
    strict = make_context(5, {"vehicle-config": str(tmp_path / "strict.json")})
    off = {"mirror": False, "brightness": 0.0, "shift": 0.0}

    with_wishes = read_update(ask("train", context=strict, training={**off, **asked}))

    assert with_wishes == read_update(ask("train", training=off))
    assert with_wishes != read_update(ask("train", training={**off, **asked}))


def test_evaluation_counts_the_held_back_examples(ask, small_fleet, network):
    evaluation = read_evaluation(ask("evaluate", "car4"))

    vehicle = load_vehicle_config(small_fleet.vehicles["car4"])
    dataset = WarmCache().dataset(vehicle, DATA)
    counts = evaluate(torch_predictor(network), dataset, dataset.held_indices)
    assert (evaluation.run_id, evaluation.round, evaluation.vehicle_id) == ("run-1", 2, "car4")
    assert tuple(evaluation.class_examples) == counts.class_examples
    assert tuple(evaluation.class_correct) == counts.class_correct
    assert evaluation.loss_sum == pytest.approx(counts.loss_sum)
    assert evaluation.throttle_absolute_error_sum == pytest.approx(
        counts.throttle_absolute_error_sum
    )
    assert evaluation.train_examples == len(dataset.train_indices)


def test_a_profile_tells_who_is_there_and_how_much_it_could_train_on(small_fleet):
    run = json.dumps({"data": to_table(DATA)})
    context = make_context(
        5, {"vehicle-config": str(small_fleet.vehicles["car1"])}, {"convoy-run": run}
    )

    with server_identity():
        reply = make_client_app()(Message(RecordDict(), 5, "query.profile"), context)

    profile = read_profile(reply.content)
    assert profile.vehicle_id == "car1"
    assert profile.train_examples == sum(profile.class_examples) > 0
    assert all(profile.class_examples)


@pytest.fixture
def own_context(small_fleet, tmp_path):
    """A node of car1 with a few lines of its own in its configuration."""

    def context(**own):
        table = json.loads(small_fleet.vehicles["car1"].read_text())
        (tmp_path / "own.json").write_text(json.dumps({**table, **own}))
        run = json.dumps({"data": to_table(DATA)})
        return make_context(5, {"vehicle-config": str(tmp_path / "own.json")}, {"convoy-run": run})

    return context


def test_an_update_for_a_masked_sum_stays_and_only_its_notice_goes(ask, own_context, network):
    context = own_context(least_protection="masked")

    content = ask("train", context=context, codec="masked/1")

    notice, update = read_trained(content), kept(context.state)
    assert set(content) == {"trained"}
    assert (notice.run_id, notice.round, notice.vehicle_id) == ("run-1", 2, "car1")
    assert notice.schema_digest == schema_of(network).digest
    assert notice.example_count == update.example_count > 0
    assert dict(notice.metrics) == {"train_loss": update.train_loss}
    assert update.update_N.tobytes() == trained(ask, context=own_context())[1].tobytes()


def test_what_waits_for_a_sum_names_the_settings_that_it_was_made_with(ask, own_context):
    def digest(kind, **training):
        context = own_context(metrics="summed")
        ask(kind, context=context, training=training, codec="masked/1")
        return kept(context.state).settings_digest

    for kind in ("train", "evaluate"):
        still, learning = digest(kind, learning_rate=1e-9), digest(kind, learning_rate=0.1)
        assert digest(kind, learning_rate=0.1) == learning != still


def test_a_vehicle_that_withholds_its_figures_names_none_of_them(ask, own_context):
    context = own_context(metrics="withheld")

    notice = read_trained(ask("train", context=context, codec="masked/1"))
    evaluation = read_evaluation(ask("evaluate", context=context))
    with server_identity():
        reply = make_client_app()(Message(RecordDict(), 5, "query.profile"), context)

    assert notice == Trained(
        run_id="run-1", round=2, vehicle_id="car1", schema_digest=notice.schema_digest
    )
    assert evaluation == Evaluation(run_id="run-1", round=2, vehicle_id="car1", withheld=True)
    assert read_profile(reply.content) == VehicleProfile(vehicle_id="car1")
    assert kept(context.state).example_count > 0  # told in the masked sum


def test_scores_for_a_masked_sum_stay_and_the_reply_says_so(ask, own_context):
    told = read_evaluation(ask("evaluate", context=own_context()))
    context = own_context(metrics="summed")

    evaluation = read_evaluation(ask("evaluate", context=context, codec="masked/1"))

    assert evaluation == Evaluation(
        run_id="run-1", round=2, vehicle_id="car1", withheld=True, summed=True
    )
    scores = dict(zip(SCORE_COUNTERS, kept(context.state).counters, strict=True))
    assert [scores[name] for name in ("left", "straight", "right")] == list(told.class_examples)
    assert scores["left_correct"] == told.class_correct[0]
    assert scores["throttle_error"] == pytest.approx(
        told.throttle_absolute_error_sum * COUNTER_SCALE, abs=1
    )


@pytest.mark.parametrize(
    ("metrics", "asked"),
    [
        ("withheld", {"codec": "masked/1"}),
        ("summed", {"codec": "sealed/1"}),  # there are no masked sums in this run
        (
            "summed",  # exact sums beside a noised one
            {"codec": "masked/1", "privacy": {"clip_norm": 1.0, "noise_multiplier": 1.0}},
        ),
        ("clear", {"codec": "masked/1"}),  # who tells its scores is in no sum of others
    ],
)
def test_where_nothing_may_be_summed_nothing_waits(ask, own_context, metrics, asked):
    context = own_context(metrics=metrics)
    evaluation = read_evaluation(ask("evaluate", context=context, **asked))
    assert (evaluation.withheld, evaluation.summed) == (metrics != "clear", False)
    with pytest.raises(NoUpdateKeptError):
        kept(context.state)


def test_an_earlier_round_is_neither_trained_nor_scored_for_a_sum(ask, own_context):
    context = own_context(least_protection="masked", metrics="summed")
    ask("train", context=context, codec="masked/1")
    later = replace(kept(context.state), round_number=3)
    note_opened(later, b"m" * 32, context.state)

    for kind in ("train", "evaluate"):
        with pytest.raises(RefusedInstructionsError, match=r"round 2 of run run-1: .* round 3"):
            ask(kind, context=context, codec="masked/1")


@pytest.mark.parametrize(
    ("least", "codec"), [("masked", "sealed/1"), ("masked", "float32/1"), ("sealed", "float16/1")]
)
def test_a_vehicle_does_not_even_train_for_a_codec_that_protects_too_little(
    ask, own_context, least, codec
):
    context = own_context(least_protection=least)

    with pytest.raises(RefusedInstructionsError, match="least_protection"):
        ask("train", context=context, codec=codec)

    assert not context.state


def test_a_round_without_masks_leaves_nothing_of_the_masked_one_before(ask, own_context):
    """What is over: its update and its secrets are of no use but to a thief."""
    context = own_context()
    ask("train", context=context, codec="masked/1")
    ask("train", context=context, round=3)

    with pytest.raises(NoUpdateKeptError):
        kept(context.state)


@pytest.mark.parametrize("run", ["{", "[]", '{"model": {}}'])
def test_a_profile_of_a_run_that_does_not_say_how_to_read_recordings_is_refused(small_fleet, run):
    context = make_context(
        5, {"vehicle-config": str(small_fleet.vehicles["car1"])}, {"convoy-run": run}
    )

    with server_identity(), pytest.raises(SettingsError, match="convoy-run"):
        make_client_app()(Message(RecordDict(), 5, "query.profile"), context)


@pytest.mark.parametrize("kind", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model_digest": b"other"}, RefusedInstructionsError, "digest announced"),
        ({"schema_digest": b"other"}, RefusedInstructionsError, "same version of convoy"),
        ({"settings_json": "{"}, SettingsError, "not JSON"),
        ({"settings_json": "[]"}, SettingsError, "not a JSON object"),
        ({"settings_json": '{"paths": {}}'}, SettingsError, "unknown key 'paths'"),
        ({"settings_json": '{"model": {"width": 0.3}}'}, RefusedInstructionsError, "parameters"),
    ],
)
def test_bad_instructions_are_refused_by_name(ask, kind, change, error, words):
    with pytest.raises(error, match=words):
        ask(kind, **change)


def test_every_model_is_checked_against_its_own_digest(network):
    """A digest is kept for the bytes that it was computed from, and for no others."""
    good = flatten(network).tobytes()
    bad = bytes(4) + good[4:]
    instructions = RoundInstructions(model_digest=hashlib.sha256(good).digest())

    for _ in range(2):
        check_digest(np.frombuffer(good, "<f4"), instructions)
        check_digest(np.frombuffer(good, "<f4").copy(), instructions)
        for damaged_N in (np.frombuffer(bad, "<f4"), np.frombuffer(good, "<f4")[:-1]):
            with pytest.raises(RefusedInstructionsError, match="digest announced"):
                check_digest(damaged_N, instructions)


def test_a_model_that_does_not_fit_the_network_is_refused(network):
    schema = schema_of(network)
    instructions = RoundInstructions(schema_digest=schema.digest)
    check_schema(instructions, flatten(network), schema)
    with pytest.raises(RefusedInstructionsError, match="parameters"):
        check_schema(instructions, flatten(network)[:-1], schema)


def test_an_unknown_codec_is_refused(ask):
    with pytest.raises(ValueError, match="codec must be one of"):
        ask("train", codec="float16/9")


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_a_message_without_instructions_is_malformed(small_fleet, kind):
    context = make_context(5, {"vehicle-config": str(small_fleet.vehicles["car0"])})

    with server_identity(), pytest.raises(MalformedMessageError, match="no 'instructions'"):
        make_client_app()(Message(RecordDict(), 5, kind), context)


def test_settings_that_are_not_sent_have_their_defaults():
    assert read_settings("{}").model == ModelConfig()


def test_vehicles_stay_open_as_long_as_their_frames_fit_the_budget(small_fleet):
    frame_bytes_of_two = 2 * 60 * 32 * 32 * 3
    warm = WarmCache(frame_bytes=frame_bytes_of_two)
    vehicles = [load_vehicle_config(path) for path in small_fleet.vehicles.values()]

    first = [warm.dataset(vehicle, DATA) for vehicle in vehicles]

    assert warm.dataset(vehicles[5], DATA) is first[5]
    assert warm.dataset(vehicles[4], DATA) is first[4]
    assert warm.dataset(vehicles[0], DATA) is not first[0]


def test_the_vehicle_at_work_stays_open_however_large_it_is(small_fleet):
    warm = WarmCache(frame_bytes=1)
    vehicle = load_vehicle_config(small_fleet.vehicles["car0"])

    assert warm.dataset(vehicle, DATA) is warm.dataset(vehicle, DATA)


def test_an_app_can_travel_to_another_process_with_empty_caches(small_fleet):
    """Flower's own simulation pickles the app for every message."""
    warm = WarmCache(frame_bytes=10**6)
    dataset = warm.dataset(load_vehicle_config(small_fleet.vehicles["car0"]), DATA)

    copy = pickle.loads(pickle.dumps(warm))

    assert copy.dataset(load_vehicle_config(small_fleet.vehicles["car0"]), DATA) is not dataset


def test_a_network_in_use_is_given_to_nobody_else():
    warm = WarmCache(idle_models=1)
    key = (MODEL, 32, 32, "cpu")

    with warm.network(*key) as one, warm.network(*key) as other:
        assert one is not other
    with warm.network(*key) as again:
        assert again is one  # given back last; only one idle network is kept
        with warm.network(*key) as fresh:
            assert fresh is not other


def test_the_package_itself_is_light():
    """`flwr run` imports it on every call, only to see that it is there."""
    code = "import sys, convoy_edge_client; print('torch' in sys.modules, 'flwr' in sys.modules)"

    seen = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert seen.stdout.split() == ["False", "False"]
