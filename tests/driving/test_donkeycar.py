"""Donkeycar tubs, with every fault that was met in real ones."""

import json
from collections import Counter

import pytest
from small_recordings import record, write_tub

from convoy_driving.data_config import DataConfig
from convoy_driving.errors import BrokenRecordingError
from convoy_driving.recordings.donkeycar import DonkeycarReader
from convoy_driving.recordings.reader import Sample, Skipped


def read(tub):
    items = list(DonkeycarReader(tub, DataConfig()).items())
    skipped = Counter()
    for item in items:
        if isinstance(item, Skipped):
            skipped[item.reason] += item.count
    return [item for item in items if isinstance(item, Sample)], dict(skipped)


def test_a_record_becomes_a_sample_with_its_labels(tmp_path):
    tub = write_tub(tmp_path / "car", [record(7, **{"user/angle": -0.3, "user/mode": "local"})])

    (sample,), skipped = read(tub)

    assert (sample.steering, sample.throttle, sample.mode) == (-0.3, 0.25, "local")
    assert sample.time_s == pytest.approx(1_700_000_000.35)
    assert sample.picture.startswith(b"\xff\xd8")
    assert skipped == {}


def test_deleted_indexes_name_the_index_of_a_record_not_its_position(tmp_path):
    # The first catalog is lost: positions and indexes are ten apart.
    tub = write_tub(
        tmp_path / "car", [record(index) for index in range(20)], deleted=[12], catalogs_lost=[0]
    )

    samples, skipped = read(tub)

    times_s = [sample.time_s for sample in samples]
    assert times_s == [1_700_000_000 + 0.05 * index for index in (10, 11, *range(13, 20))]
    assert skipped == {"marked_deleted": 1, "catalog_missing": 10}


def test_a_missing_last_catalog_counts_the_records_it_held(tmp_path):
    tub = write_tub(tmp_path / "car", [record(index) for index in range(13)], catalogs_lost=[1])

    _, skipped = read(tub)

    assert skipped == {"catalog_missing": 3}


def test_a_record_without_its_picture_is_counted(tmp_path):
    tub = write_tub(tmp_path / "car", [record(0), record(1)], pictures={1: None})

    samples, skipped = read(tub)

    assert len(samples) == 1
    assert skipped == {"image_missing": 1}


@pytest.mark.parametrize(
    "line",
    [
        "{torn",  # power went off while it was written
        "[]",
        '{"_index": 3}',
        '{"_index": 3, "cam/image_array": "a.jpg", "user/angle": null, "user/throttle": 0}',
    ],
)
def test_a_malformed_record_costs_only_itself(tmp_path, line):
    tub = write_tub(tmp_path / "car", [record(0)])
    with (tub / "catalog_0.catalog").open("a") as file:
        file.write(line + "\n\n")

    samples, skipped = read(tub)

    assert len(samples) == 1
    assert skipped == {"malformed_record": 1}


def test_a_record_cannot_reach_outside_its_tub(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    tub = write_tub(tmp_path / "car", [record(0)])
    path = tub / "catalog_0.catalog"
    path.write_text(json.dumps(record(0, **{"cam/image_array": "../../secret.jpg"})))

    samples, skipped = read(tub)

    assert samples == []
    assert skipped == {"image_missing": 1}


@pytest.mark.parametrize("text", ["", "{}", "1\n2\n3\n4\n5\n", '[]\n[]\n{}\n{}\n{"paths": 5}\n'])
def test_a_manifest_that_cannot_be_read_says_the_way_out(tmp_path, text):
    tub = write_tub(tmp_path / "car", [record(0)])
    (tub / "manifest.json").write_text(text)

    with pytest.raises(BrokenRecordingError, match=r"manifest\.json.*tubclean"):
        read(tub)
