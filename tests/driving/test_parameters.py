"""Parameters as a vector and as a file."""

import hashlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import nn

from convoy_driving.errors import ModelFileError
from convoy_driving.models.registry import ModelConfig, build_model
from convoy_driving.parameters import (
    ParameterSchema,
    flatten,
    load_metadata,
    load_parameters,
    save_parameters,
    schema_of,
    unflatten,
)

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), max_size=5)


@given(shapes, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4))
def test_what_was_saved_is_loaded(tmp_path_factory, dimensions, metadata):
    path = tmp_path_factory.mktemp("parameters") / "model.safetensors"
    schema = ParameterSchema(tuple(f"p{i}" for i in range(len(dimensions))), tuple(dimensions))
    vector_N = np.random.default_rng(0).normal(size=schema.parameter_count).astype(np.float32)

    save_parameters(vector_N, schema, path, metadata)
    loaded_N, loaded_schema = load_parameters(path)

    assert loaded_N.tobytes() == vector_N.tobytes()
    assert sorted(zip(loaded_schema.names, loaded_schema.shapes, strict=True)) == sorted(
        zip(schema.names, schema.shapes, strict=True)
    )
    assert load_metadata(path) == metadata


def test_the_order_of_the_schema_survives_the_file(tmp_path):
    model = build_model(ModelConfig(name="teacher"), 40, 48, seed=0)
    path = tmp_path / "model.safetensors"

    save_parameters(flatten(model), schema_of(model), path, {"round": "3"})

    loaded_N, schema = load_parameters(path)
    assert schema == schema_of(model)
    assert loaded_N.tobytes() == flatten(model).tobytes()


def test_the_official_reader_reads_the_file(tmp_path):
    model = build_model(ModelConfig(), 32, 32, seed=0)
    path = tmp_path / "model.safetensors"

    save_parameters(flatten(model), schema_of(model), path, {})

    tensors = load_file(path)
    for name, parameter in model.named_parameters():
        assert np.array_equal(tensors[name], parameter.detach().numpy())


def test_the_same_model_gives_the_same_bytes_whatever_the_order_of_its_metadata(tmp_path):
    schema = ParameterSchema(("w",), ((2,),))
    vector_N = np.array([1, 2], np.float32)

    save_parameters(vector_N, schema, tmp_path / "a", {"round": "1", "run": "x"})
    save_parameters(vector_N, schema, tmp_path / "b", {"run": "x", "round": "1"})

    data = (tmp_path / "a").read_bytes()
    assert data == (tmp_path / "b").read_bytes()
    header = b'{"__metadata__":{"round":"1","run":"x"},'
    header += b'"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    header += b" " * (-len(header) % 8)
    assert data == (
        len(header).to_bytes(8, "little")  # header length
        + header
        + bytes.fromhex("0000803f 00000040")  # 1.0, 2.0
    )


def test_the_digest_is_the_one_every_release_of_convoy_computes():
    schema = ParameterSchema(("conv.weight", "conv.bias"), ((24, 3, 5, 5), (24,)))

    assert schema.digest == hashlib.sha256(b"conv.weight:24,3,5,5\nconv.bias:24\n").digest()
    assert schema.digest.hex() == (
        "eab0d9b463066704f2c9542d72d61360ddcbf1ac4daf7810d33c6b873b527b8c"
    )


@pytest.mark.parametrize(
    "other",
    [
        ParameterSchema(("b", "a"), ((2, 3), (4,))),
        ParameterSchema(("a", "b"), ((4,), (2, 3))),
        ParameterSchema(("a", "b"), ((3, 2), (4,))),
        ParameterSchema(("a", "b", "c"), ((2, 3), (4,), ())),
    ],
)
def test_names_shapes_and_order_all_count_in_the_digest(other):
    assert ParameterSchema(("a", "b"), ((2, 3), (4,))).digest != other.digest


@given(st.integers(0, 2**32 - 1))
def test_flatten_undoes_unflatten(seed):
    model = nn.Sequential(nn.Linear(3, 4), nn.Conv2d(2, 3, 2))
    count = schema_of(model).parameter_count
    vector_N = np.random.default_rng(seed).normal(size=count).astype(np.float32)
    vector_N.flags.writeable = False  # as it comes from the wire

    unflatten(vector_N, model)

    assert flatten(model).tobytes() == vector_N.tobytes()


def test_flatten_copies():
    model = nn.Linear(1, 1)
    before_N = flatten(model)
    kept = before_N.copy()

    with torch.no_grad():
        model.weight.add_(1.0)

    assert np.array_equal(before_N, kept)


@pytest.mark.parametrize("length", [0, 1, 3])
def test_a_vector_of_the_wrong_length_is_refused_and_changes_nothing(length):
    model = nn.Linear(1, 1)
    before_N = flatten(model)

    with pytest.raises(ValueError, match="expected a vector of 2 parameters"):
        unflatten(np.zeros(length, np.float32), model)
    assert np.array_equal(flatten(model), before_N)


def test_a_network_with_running_statistics_cannot_be_federated():
    with pytest.raises(ValueError, match=r"must not have buffers, got 1\.running_mean"):
        schema_of(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)))


def test_a_file_that_is_not_a_model_is_one_named_error(tmp_path):
    (tmp_path / "text").write_text("hello")
    save_file({"w": np.zeros(2, np.float64)}, tmp_path / "double")
    (tmp_path / "short").write_bytes((10**9).to_bytes(8, "little") + json.dumps({}).encode())

    for name in ("text", "double", "short", "absent"):
        with pytest.raises(ModelFileError, match=name):
            load_parameters(tmp_path / name)
    with pytest.raises(ModelFileError, match="absent"):
        load_metadata(tmp_path / "absent")
