"""The models that a vehicle has: whole ones that come, differences applied, nothing damaged believed."""

import hashlib
import os

import numpy as np
import pytest
from flwr.app import RecordDict

from convoy_compression.errors import CorruptPayloadError
from convoy_compression.update.model_delta import apply_delta, encode_delta
from convoy_edge_client.errors import BaseModelMissingError, RefusedInstructionsError
from convoy_edge_client.model_store import ModelStore, received_model
from convoy_protos.errors import MalformedMessageError
from convoy_protos.flower_messages import (
    instructions_content,
    model_array,
    model_delta_array,
    read_model,
)
from convoy_protos.v1.federation_pb2 import RoundInstructions

PARAMETERS = 500


def a_model(seed):
    return np.random.default_rng(seed).standard_normal(PARAMETERS, dtype=np.float32)


def digest_of(model_N):
    return hashlib.sha256(model_N.tobytes()).digest()


def store_with(folder, *models_N):
    """A store of a process that has just started."""
    store = ModelStore(folder)
    for model_N in models_N:
        store.put(digest_of(model_N), model_N)
    return ModelStore(folder)


BASE_N = a_model(1)
DELTA = encode_delta(BASE_N + np.float32(0.01) * a_model(2), BASE_N, 0.25)
NEXT_N = apply_delta(BASE_N, memoryview(DELTA))


def whole(model_N, **changes):
    instructions = RoundInstructions(model_digest=digest_of(model_N))
    return instructions_content(instructions, model_array(model_N)), changed(instructions, changes)


def difference(delta=DELTA, model_N=NEXT_N, base_N=BASE_N, **changes):
    instructions = RoundInstructions(model_digest=digest_of(model_N), base_digest=digest_of(base_N))
    content = instructions_content(instructions, model_delta_array(delta))
    return content, changed(instructions, changes)


def changed(instructions, changes):
    for name, value in changes.items():
        setattr(instructions, name, value)
    return instructions


def test_a_model_comes_back_also_in_another_process(tmp_path):
    store = ModelStore(tmp_path / "models")
    assert store.get(digest_of(BASE_N)) is None

    store.put(digest_of(BASE_N), BASE_N)

    assert store.get(digest_of(BASE_N)) is BASE_N
    later_N = ModelStore(tmp_path / "models").get(digest_of(BASE_N))
    assert later_N.tobytes() == BASE_N.tobytes()
    assert not later_N.flags.writeable


def test_a_whole_model_is_taken_and_kept(tmp_path):
    content, instructions = whole(BASE_N)

    model_N = received_model(content, instructions, ModelStore(tmp_path))

    assert model_N.tobytes() == BASE_N.tobytes()
    assert ModelStore(tmp_path).get(digest_of(BASE_N)).tobytes() == BASE_N.tobytes()


def test_a_difference_leads_from_the_model_held_to_the_server_s_to_the_last_bit(tmp_path):
    content, instructions = difference()

    model_N = received_model(content, instructions, store_with(tmp_path, BASE_N))

    assert model_N.tobytes() == NEXT_N.tobytes()
    assert ModelStore(tmp_path).get(digest_of(NEXT_N)).tobytes() == NEXT_N.tobytes()


def test_of_a_model_that_is_here_already_nothing_has_to_come(tmp_path):
    content, instructions = difference(b"", NEXT_N, NEXT_N)
    model_N = received_model(content, instructions, store_with(tmp_path, NEXT_N))
    assert model_N.tobytes() == NEXT_N.tobytes()


@pytest.mark.parametrize(
    ("content", "instructions"),
    [
        difference(),
        difference(b"", NEXT_N, NEXT_N),  # the server thinks that we have it
    ],
)
def test_a_difference_to_a_model_that_is_not_here_is_refused_by_its_name(
    tmp_path, content, instructions
):
    store = store_with(tmp_path, a_model(9))
    with pytest.raises(BaseModelMissingError, match=instructions.base_digest.hex()[:16]):
        received_model(content, instructions, store)


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (whole(BASE_N, model_digest=b""), RefusedInstructionsError),
        (whole(BASE_N, model_digest=digest_of(BASE_N)[:31]), RefusedInstructionsError),
        (whole(BASE_N, model_digest=digest_of(BASE_N) + b"\x00"), RefusedInstructionsError),
        # A path into another folder, were the digest used as a name as it is.
        (whole(BASE_N, model_digest=b"../../../etc/passwd"), RefusedInstructionsError),
        (whole(BASE_N, model_digest=bytes(32)), RefusedInstructionsError),  # damaged on the way
        (whole(BASE_N, base_digest=digest_of(BASE_N)[:5]), BaseModelMissingError),
        (difference(model_digest=bytes(32)), RefusedInstructionsError),
        (difference(base_digest=b""), MalformedMessageError),  # a difference called a whole model
        (whole(NEXT_N, base_digest=digest_of(BASE_N)), MalformedMessageError),
        (difference(DELTA[:-1]), CorruptPayloadError),
        (difference(b"\xff" * 20), CorruptPayloadError),
        (difference(b""), RefusedInstructionsError),  # nothing changes, but the digest says it does
    ],
)
def test_a_message_that_does_not_lead_to_the_announced_model_changes_nothing(
    tmp_path, message, error
):
    content, instructions = message
    store = store_with(tmp_path, BASE_N)
    if instructions.model_digest == digest_of(BASE_N):
        store = store_with(tmp_path / "empty")
    before = sorted(tmp_path.rglob("*.f32"))

    with pytest.raises(error):
        received_model(content, instructions, store)

    assert sorted(tmp_path.rglob("*.f32")) == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-4],
        lambda data: data[:-1],  # not even whole numbers
        lambda _data: b"",
        lambda data: bytes(4) + data[4:],
    ],
)
def test_a_file_with_other_content_than_its_name_says_counts_as_missing_and_is_mended(
    tmp_path, spoil
):
    (file,) = file_of(store_with(tmp_path, BASE_N), tmp_path)
    file.write_bytes(spoil(file.read_bytes()))

    assert ModelStore(tmp_path).get(digest_of(BASE_N)) is None
    with pytest.raises(BaseModelMissingError):
        received_model(*difference(), ModelStore(tmp_path))

    received_model(*whole(BASE_N), ModelStore(tmp_path))
    assert ModelStore(tmp_path).get(digest_of(BASE_N)).tobytes() == BASE_N.tobytes()


def file_of(_store, folder):
    """The files of a store."""
    return sorted(folder.glob("*.f32"))


def test_the_oldest_models_are_discarded(tmp_path):
    models_N = [a_model(seed) for seed in range(19)]
    store = ModelStore(tmp_path)
    for age_s, model_N in enumerate(models_N):
        store.put(digest_of(model_N), model_N)
        os.utime(tmp_path / f"{digest_of(model_N).hex()}.f32", (age_s, age_s))

    later = ModelStore(tmp_path)
    kept = [later.get(digest_of(model_N)) is not None for model_N in models_N]
    assert kept == [False] * 3 + [True] * 16
    assert len(list(tmp_path.iterdir())) == 16


def test_a_model_in_use_is_not_the_oldest(tmp_path):
    """Another run that shares the folder must not push it out."""
    first_N = a_model(0)
    store = ModelStore(tmp_path)
    store.put(digest_of(first_N), first_N)
    os.utime(tmp_path / f"{digest_of(first_N).hex()}.f32", (1, 1))
    instructions = RoundInstructions(model_digest=digest_of(first_N))
    received_model(RecordDict(), instructions, store)
    for seed in range(1, 16):
        store.put(digest_of(a_model(seed)), a_model(seed))
    assert ModelStore(tmp_path).get(digest_of(first_N)) is not None


def test_memory_holds_two_models(tmp_path):
    models_N = [a_model(seed) for seed in range(3)]
    store = ModelStore(tmp_path)
    for model_N in models_N:
        store.put(digest_of(model_N), model_N)
    for file in tmp_path.iterdir():
        file.unlink()
    held = [store.get(digest_of(model_N)) is model_N for model_N in models_N]
    assert held == [False, True, True]


def test_a_model_that_came_whole_is_a_view_of_the_message(tmp_path):
    """A large model is not copied before it is trained on."""
    content, instructions = whole(BASE_N)
    model_N = received_model(content, instructions, ModelStore(tmp_path))
    assert np.shares_memory(model_N, read_model(content))
