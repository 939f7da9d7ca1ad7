"""A tub as Donkeycar writes it: catalogs of a thousand records and a manifest of five lines."""

import json

import numpy as np

from convoy_simulation.roads.donkeycar_tub import TubRecord, TubWriter


def write_tub(folder, count):
    tub = TubWriter(folder, jpeg_quality=90, created_at_s=5.0)
    picture_HWC = np.zeros((4, 4, 3), np.uint8)
    for index in range(count):
        tub.append(TubRecord(picture_HWC, 0.5, -0.25, f"s_{index // 700}", 1000 + index))
    tub.close()


def test_the_manifest_has_five_lines_and_names_the_catalogs(tmp_path):
    write_tub(tmp_path / "tub", 1001)
    inputs, types, user, creation, catalogs = (
        json.loads(line) for line in (tmp_path / "tub/manifest.json").read_text().splitlines()
    )
    assert inputs == ["cam/image_array", "user/angle", "user/throttle", "user/mode"]
    assert types == ["image_array", "float", "float", "str"]
    assert user == {}
    assert creation["sessions"] == {
        "all_full_ids": ["s_0", "s_1"],
        "last_id": 1,
        "last_full_id": "s_1",
    }
    assert catalogs == {
        "paths": ["catalog_0.catalog", "catalog_1.catalog"],
        "current_index": 1001,
        "max_len": 1000,
        "deleted_indexes": [],
    }


def test_a_catalog_holds_a_thousand_records_and_its_manifest_their_lengths(tmp_path):
    write_tub(tmp_path / "tub", 1001)
    lines = (tmp_path / "tub/catalog_0.catalog").read_text().splitlines(keepends=True)
    manifest = json.loads((tmp_path / "tub/catalog_0.catalog_manifest").read_text())
    assert len(lines) == 1000
    assert manifest["line_lengths"] == [len(line) for line in lines]
    second = json.loads((tmp_path / "tub/catalog_1.catalog_manifest").read_text())
    assert (second["start_index"], len(second["line_lengths"])) == (1000, 1)


def test_an_empty_tub_is_a_tub(tmp_path):
    write_tub(tmp_path / "tub", 0)
    last_line = (tmp_path / "tub/manifest.json").read_text().splitlines()[-1]
    assert json.loads(last_line)["paths"] == []
