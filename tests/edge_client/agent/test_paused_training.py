"""Training that gives way: it stops, waits, goes on to the same bits, or is refused with the reason."""

import hashlib
import json
import logging
import threading
from dataclasses import replace
from datetime import UTC, datetime

import pytest
import torch
from flwr.app import Message
from small_fleet import DATA

from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import flatten, schema_of
from convoy_driving.training_state import TrainingState, write_state
from convoy_edge_client.agent.agent_config import AgentConfig, GuardConfig
from convoy_edge_client.agent.guards import Readings, Signals
from convoy_edge_client.agent.paused_training import PausedTraining, TrainingShelf
from convoy_edge_client.agent.watch import Guard
from convoy_edge_client.app import make_client_app
from convoy_edge_client.errors import AgentStoppedError, NotNowError
from convoy_edge_client.training_breaks import work_digest
from convoy_edge_client.vehicle_config import (
    VehicleConfig,
    load_vehicle_config,
    save_vehicle_config,
)
from convoy_edge_client.warm_cache import WarmCache
from convoy_protos.flower_internals import make_context, server_identity
from convoy_protos.flower_messages import instructions_content, model_array, read_update
from convoy_protos.settings import to_table
from convoy_protos.v1.federation_pb2 import RoundInstructions

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
MODEL = ModelConfig(width=0.2)
CONFIG = AgentConfig(
    state="state",
    vehicle=VehicleConfig(vehicle_id="a", recordings=("r",), cache_dir="c"),
    guards=GuardConfig(minimum_free_memory_mb=0, minimum_free_disk_mb=0),
)
CALM = Readings(signals=Signals(driving=False))
DRIVES = Readings(signals=Signals(driving=True))


class Machine:
    """Counts the looks at it, and says what the test wants."""

    def __init__(self, readings=CALM):
        self.readings = readings
        self.looked = threading.Semaphore(0)

    def read(self):
        self.looked.release()
        return self.readings

    def breaks(self, folder, **settings):
        guard = Guard(CONFIG, self.read, used_megabytes=lambda: 0.0, local_time=lambda: NOW)
        return PausedTraining(guard, TrainingShelf(folder), 0.005, **settings)


def state(step=1):
    return TrainingState(
        parameters=(torch.full((2,), float(step)),),
        moments=({},),
        dropout=torch.zeros(4, dtype=torch.uint8),
        epoch_rng={"state": 2**100},
        rng={"state": 2**90},
        epoch=0,
        losses=(0.5,) * step,
        steps=0,
    )


def steps_of(kept):
    return None if kept is None else len(kept.losses)


def test_while_nothing_is_wrong_training_is_left_alone(tmp_path):
    with Machine().breaks(tmp_path).during(b"work", 2e9) as pause:
        for _ in range(100):
            pause.between_batches(lambda: pytest.fail("nobody asked where it stands"))
        assert pause.resume is None
    assert not list(tmp_path.iterdir())


def test_what_was_learned_is_safe_before_training_waits(tmp_path):
    machine = Machine(DRIVES)
    shelf = TrainingShelf(tmp_path)

    def snapshot():
        machine.readings = CALM  # only now is waiting ever over
        return state()

    with machine.breaks(tmp_path).during(b"work", 2e9) as pause:
        pause.between_batches(snapshot)
        assert steps_of(shelf.get(b"work")) == 1
    assert shelf.get(b"work") is None  # it has ended well


def test_at_the_deadline_the_work_is_refused_with_the_reason_and_kept(tmp_path):
    breaks = Machine(DRIVES).breaks(tmp_path, unix_s=lambda: 1000.0)

    with (
        pytest.raises(NotNowError, match="driving needs the machine") as caught,
        breaks.during(b"work", 1000.0) as pause,
    ):
        pause.between_batches(lambda: state(3))

    assert caught.value.retry_after_s > 0
    with Machine().breaks(tmp_path).during(b"work", 2e9) as pause:
        assert steps_of(pause.resume) == 3


def test_now_and_then_it_is_kept_without_being_asked(tmp_path):
    """What a power cut may cost."""
    clock = [0.0]
    breaks = Machine().breaks(tmp_path, unix_s=lambda: clock[0], save_every_s=30.0)
    shelf, kept = TrainingShelf(tmp_path), []

    with breaks.during(b"work", 2e9) as pause:
        for step, now_s in enumerate((10.0, 29.9, 30.0, 59.9, 60.0), start=1):
            clock[0] = now_s
            pause.between_batches(lambda step=step: state(step))
            kept.append(steps_of(shelf.get(b"work")))

    assert kept == [None, None, 3, 3, 5]


@pytest.mark.parametrize("readings", [CALM, DRIVES])
def test_asked_to_stop_training_ends_at_the_next_batch_and_what_it_learned_is_kept(
    tmp_path, readings
):
    stop = threading.Event()
    stop.set()
    with (
        pytest.raises(AgentStoppedError, match="next start"),
        Machine(readings).breaks(tmp_path, stop=stop).during(b"work", 2e9) as pause,
    ):
        pause.between_batches(lambda: state(2))

    with Machine().breaks(tmp_path).during(b"work", 2e9) as pause:
        assert steps_of(pause.resume) == 2


def test_training_that_waits_for_the_machine_hears_the_request_too(tmp_path):
    stop = threading.Event()

    def snapshot():
        stop.set()  # comes after it was decided to wait
        return state()

    with (
        pytest.raises(AgentStoppedError),
        Machine(DRIVES).breaks(tmp_path, stop=stop).during(b"work", 2e9) as pause,
    ):
        pause.between_batches(snapshot)


def test_the_shelf_holds_one_training_and_knows_it_by_its_work(tmp_path):
    shelf = TrainingShelf(tmp_path / "training")
    assert shelf.get(b"one") is None

    shelf.put(b"one", state(1))
    shelf.put(b"two", state(2))

    assert shelf.get(b"one") is None
    assert steps_of(shelf.get(b"two")) == 2
    assert len(list((tmp_path / "training").iterdir())) == 1
    (file,) = (tmp_path / "training").iterdir()
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [lambda data: data[:-7], lambda _: b"", lambda _: b"x" * 500])
def test_a_damaged_file_means_a_new_start(tmp_path, damage, caplog):
    shelf = TrainingShelf(tmp_path)
    shelf.put(b"work", state())
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(write_state(state())))

    with caplog.at_level(logging.WARNING):
        assert shelf.get(b"work") is None
    assert "training starts anew" in caplog.text


def test_a_disk_that_takes_nothing_does_not_end_training(tmp_path, caplog):
    (tmp_path / "training").write_text("in the way")

    with caplog.at_level(logging.WARNING):
        TrainingShelf(tmp_path / "training").put(b"work", state())
    assert "cannot be kept for later" in caplog.text


def test_what_is_in_the_cache_costs_no_look_at_the_machine(tmp_path):
    machine = Machine(DRIVES)
    with machine.breaks(tmp_path).giving_way(2e9):
        pass
    assert not machine.looked.acquire(blocking=False)


def test_work_gives_way_between_two_pieces_and_goes_on_when_the_machine_is_free(tmp_path):
    machine = Machine(DRIVES)
    done = []
    with machine.breaks(tmp_path).giving_way(2e9) as give_way:
        waiting = threading.Thread(target=lambda: done.append(give_way()))
        waiting.start()
        for _ in range(3):
            machine.looked.acquire()
        assert not done
        machine.readings = CALM
        waiting.join()
        give_way()
    assert done


def test_work_that_waited_until_its_deadline_is_refused_with_the_reason(tmp_path):
    breaks = Machine(DRIVES).breaks(tmp_path, unix_s=lambda: 1000.0)
    with (
        pytest.raises(NotNowError, match="driving needs the machine"),
        breaks.giving_way(1000.0) as give_way,
    ):
        give_way()


def test_work_ends_when_the_agent_is_asked_to_stop(tmp_path):
    stop = threading.Event()
    with Machine().breaks(tmp_path, stop=stop).giving_way(2e9) as give_way:
        give_way()
        stop.set()
        with pytest.raises(AgentStoppedError, match="next start"):
            give_way()


@pytest.mark.parametrize("kind", ["query.profile", "train", "evaluate"])
def test_every_message_that_needs_recordings_decodes_them_with_breaks(
    small_fleet, train_message, tmp_path, kind
):
    vehicle = load_vehicle_config(small_fleet.vehicles["car0"])
    new = replace(vehicle, cache_dir=str(tmp_path / "cache"))
    save_vehicle_config(new, tmp_path / "vehicle.json")
    breaks = Machine(DRIVES).breaks(tmp_path)
    app = make_client_app(breaks=breaks)

    with pytest.raises(NotNowError, match="driving needs the machine"):
        train_message(app, ttl_s=0.01, kind=kind, vehicle_file=tmp_path / "vehicle.json")

    assert not list((tmp_path / "cache").glob("*.frames"))


def test_evaluation_gives_way_between_two_batches(train_message, tmp_path):
    train_message(make_client_app(), kind="evaluate")  # now the frames are in the cache
    machine = Machine(DRIVES)
    with pytest.raises(NotNowError, match="driving needs the machine"):
        train_message(make_client_app(breaks=machine.breaks(tmp_path)), ttl_s=0.01, kind="evaluate")


@pytest.fixture(scope="module")
def train_message(small_fleet):
    """Give an app the same round's work; what it answers, of training its update's bytes."""
    before = torch.get_num_threads()
    network = build_model(MODEL, DATA.frame_height, DATA.frame_width, seed=1)
    global_N = flatten(network)
    settings = {
        "data": to_table(DATA),
        "model": to_table(MODEL),
        "training": {"batch_size": 8, "local_epochs": 2, "optimizer": "adamw"},
    }
    instructions = RoundInstructions(
        run_id="run-1",
        round=2,
        seed=7,
        schema_digest=schema_of(network).digest,
        model_digest=hashlib.sha256(global_N.tobytes()).digest(),
        codec="float32/1",
        settings_json=json.dumps(settings),
    )

    def send(app, ttl_s=3600.0, kind="train", vehicle_file=small_fleet.vehicles["car0"]):
        context = make_context(5, {"vehicle-config": str(vehicle_file)})
        content = instructions_content(instructions, model_array(global_N))
        with server_identity():
            reply = app(Message(content, 5, kind, ttl=ttl_s), context)
        return read_update(reply.content) if kind == "train" else reply

    send.instructions = instructions
    yield send
    torch.set_num_threads(before)


class FlakyMachine(Machine):
    """Is needed for driving in every third look."""

    def read(self):
        self.looks = getattr(self, "looks", 0) + 1
        return DRIVES if self.looks % 3 == 1 else CALM


@pytest.mark.slow
def test_an_update_has_the_same_bytes_however_often_training_paused(train_message, tmp_path):
    undisturbed = train_message(make_client_app())

    paused = train_message(make_client_app(breaks=FlakyMachine().breaks(tmp_path)))

    assert paused == undisturbed
    assert not list(tmp_path.iterdir())


class StoppingBreaks(PausedTraining):
    """Lets some batches pass, then ends the process's work as a refusal does."""

    batches = 4

    def during(self, work, deadline_s):
        breaks = super().during(work, deadline_s)
        batches = self.batches

        class Counted:
            def __enter__(self):
                self.pause = breaks.__enter__()
                self.left = batches
                return type(self.pause)(
                    resume=self.pause.resume, between_batches=self.between_batches
                )

            def between_batches(self, snapshot):
                if not self.left:
                    machine.readings = DRIVES
                    while machine.readings is DRIVES:
                        self.pause.between_batches(snapshot)
                self.left -= 1

            def __exit__(self, *error):
                return breaks.__exit__(*error)

        machine = self.machine
        return Counted()


def test_a_new_process_goes_on_where_the_old_one_was_refused(train_message, tmp_path):
    undisturbed = train_message(make_client_app())
    machine = Machine()
    guard = Guard(CONFIG, machine.read, used_megabytes=lambda: 0.0, local_time=lambda: NOW)
    breaks = StoppingBreaks(guard, TrainingShelf(tmp_path), 0.005)
    breaks.machine = machine

    with pytest.raises(NotNowError, match="driving needs the machine"):
        train_message(make_client_app(breaks=breaks), ttl_s=0.01)

    (kept,) = tmp_path.iterdir()
    assert kept.stat().st_size > 0
    resumed = []

    class Seen(PausedTraining):
        def during(self, work, deadline_s):
            resumed.append(self._shelf.get(work))
            return super().during(work, deadline_s)

    calm = Guard(CONFIG, Machine().read, used_megabytes=lambda: 0.0, local_time=lambda: NOW)
    again = train_message(make_client_app(breaks=Seen(calm, TrainingShelf(tmp_path), 0.005)))

    assert again == undisturbed
    assert steps_of(resumed[0]) == 4


def test_a_pause_goes_on_in_the_same_round_only(train_message, small_fleet):
    vehicle = load_vehicle_config(small_fleet.vehicles["car0"])
    dataset = WarmCache().dataset(vehicle, DATA)
    instructions = train_message.instructions

    def digest(vehicle=vehicle, device="cpu", dataset=dataset, **changes):
        changed = RoundInstructions()
        changed.CopyFrom(instructions)
        for name, value in changes.items():
            setattr(changed, name, value)
        return work_digest(changed, vehicle, device, dataset)

    other_car = load_vehicle_config(small_fleet.vehicles["car1"])
    digests = {
        digest(),
        digest(round=3),
        digest(seed=8),
        digest(run_id="run-2"),
        digest(model_digest=b"other"),
        digest(settings_json="{}"),
        digest(device="cuda"),
        digest(vehicle=other_car),
        digest(dataset=WarmCache().dataset(other_car, DATA)),
    }
    assert len(digests) == 9
    assert digest(base_digest=b"a difference came instead of the whole model") == digest()
