"""The cache: right the first time, the second time, after damage, after a crash, in a crowd."""

import errno
import multiprocessing
import tracemalloc

import numpy as np
import pytest
from small_recordings import build_frames, record, write_tub

import convoy_driving.frame_cache as frame_cache_module
from convoy_driving.data_config import DataConfig
from convoy_driving.errors import FrameCacheError
from convoy_driving.frame_cache import cache_key, cached_frames
from convoy_driving.recordings.donkeycar import DonkeycarReader
from convoy_driving.recordings.reader import Sample

CONFIG = DataConfig(frame_height=16, frame_width=24)


class CountingReader:
    """Gives decoded pictures and counts how often it was asked for them."""

    format = "counting"

    def __init__(self, frames=20, name="a", picture_size=(16, 24)):
        self.frames, self.name, self.picture_size = frames, name, picture_size
        self.readings = 0

    def items(self):
        """As the protocol has it."""
        self.readings += 1
        for index in range(self.frames):
            yield Sample(
                picture=np.full((*self.picture_size, 3), index % 251, np.uint8),
                steering=index / self.frames,
                throttle=0.5,
                time_s=index / 20,
            )

    def identify(self, digest):
        """As the protocol has it."""
        digest.update(self.name.encode())


def test_frames_and_labels_come_back_and_are_decoded_once(tmp_path):
    reader = CountingReader(300)

    first = cached_frames([reader], CONFIG, tmp_path)
    second = cached_frames([reader], CONFIG, tmp_path)

    assert reader.readings == 1
    for cached in (first, second):
        assert cached.frames_NHWC.shape == (300, 16, 24, 3)
        assert cached.frames_NHWC[:, 0, 0, 0].tolist() == [index % 251 for index in range(300)]
        assert cached.steering_N.tolist() == pytest.approx([index / 300 for index in range(300)])
        assert cached.time_N[-1] == pytest.approx(299 / 20)
        assert not cached.frames_NHWC.flags.writeable


def test_a_cache_folder_holds_one_file_a_vehicle_and_its_lock(tmp_path):
    cached_frames([CountingReader()], CONFIG, tmp_path)

    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".frames", ".lock"]


def test_a_recording_without_frames_is_cached_as_well(tmp_path):
    reader = CountingReader(0)

    for _ in range(2):
        assert cached_frames([reader], CONFIG, tmp_path).frames_NHWC.shape == (0, 16, 24, 3)

    assert reader.readings == 1


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"frame_width": 32}, False),
        ({"crop_top": 0.1}, False),
        ({"modes": ("user",)}, False),
        ({"lap_gap_s": 3.0}, False),
        ({"held_share": 0.5}, True),  # decided after the cache
        ({"steering_threshold": 0.3}, True),
    ],
)
def test_a_setting_that_shapes_frames_makes_another_file(settings, same):
    base = {"frame_height": 16, "frame_width": 24}
    reader = CountingReader()

    key = cache_key([reader], DataConfig(**base))
    other = cache_key([reader], DataConfig(**(base | settings)))

    assert (key == other) is same


def test_a_changed_tub_makes_another_file(tmp_path):
    tub = write_tub(tmp_path / "car", [record(0), record(1)])
    before = cache_key([DonkeycarReader(tub, CONFIG)], CONFIG)
    assert before == cache_key([DonkeycarReader(tub, CONFIG)], CONFIG)

    catalog = tub / "catalog_0.catalog"
    catalog.write_text(catalog.read_text().replace("-0.5", "-0.6"))
    relabelled = cache_key([DonkeycarReader(tub, CONFIG)], CONFIG)
    next((tub / "images").iterdir()).unlink()
    fewer = cache_key([DonkeycarReader(tub, CONFIG)], CONFIG)

    assert len({before, relabelled, fewer}) == 3


@pytest.mark.parametrize("place", ["first byte", "labels", "footer", "trailer"])
def test_a_flipped_bit_is_noticed_and_the_frames_are_decoded_again(tmp_path, place, caplog):
    reader = CountingReader()
    cached_frames([reader], CONFIG, tmp_path)
    (path,) = tmp_path.glob("*.frames")
    data = bytearray(path.read_bytes())
    frame_bytes = 20 * 16 * 24 * 3
    position = {"first byte": 0, "labels": frame_bytes + 1, "footer": -40, "trailer": -1}[place]
    data[position] ^= 1
    path.write_bytes(data)

    cached = cached_frames([reader], CONFIG, tmp_path)

    assert reader.readings == 2
    assert cached.frames_NHWC[7, 0, 0, 0] == 7
    assert "damaged" in caplog.text


@pytest.mark.parametrize("kept", [0, 10, 16, 1000, -1])
def test_a_truncated_file_is_noticed_and_rebuilt(tmp_path, kept):
    reader = CountingReader()
    cached_frames([reader], CONFIG, tmp_path)
    (path,) = tmp_path.glob("*.frames")
    path.write_bytes(path.read_bytes()[:kept])

    assert len(cached_frames([reader], CONFIG, tmp_path).lap_N) == 20
    assert reader.readings == 2


def test_a_crash_while_building_leaves_no_cache_file(tmp_path):
    class Crashing(CountingReader):
        def items(self):
            """Ends after five frames."""
            yield from list(super().items())[:5]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_frames([Crashing()], CONFIG, tmp_path)

    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert len(cached_frames([CountingReader()], CONFIG, tmp_path).lap_N) == 20


def test_decoding_gives_way_between_two_frames_and_may_be_left_for_later(tmp_path):
    pauses = []
    cached_frames([CountingReader(20)], CONFIG, tmp_path, between_frames=lambda: pauses.append(1))
    assert len(pauses) == 20

    class NeededElsewhereError(Exception):
        pass

    def leave():
        raise NeededElsewhereError

    with pytest.raises(NeededElsewhereError):
        cached_frames([CountingReader(20, "b")], CONFIG, tmp_path, between_frames=leave)
    assert not list(tmp_path.glob("*.building"))
    cached_frames([CountingReader(20, "b")], CONFIG, tmp_path)
    cached_frames([CountingReader(20, "b")], CONFIG, tmp_path, between_frames=leave)  # is there


def test_what_a_killed_builder_left_behind_is_overwritten(tmp_path):
    key = cache_key([CountingReader()], CONFIG)
    (tmp_path / f"{key}.building").write_bytes(b"half a file")

    assert len(cached_frames([CountingReader()], CONFIG, tmp_path).lap_N) == 20
    assert not list(tmp_path.glob("*.building"))


def test_a_full_disk_says_so_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(frame_cache_module.os, "fsync", full)

    with pytest.raises(FrameCacheError, match=r"No space left.*make room"):
        cached_frames([CountingReader()], CONFIG, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_one_named_error(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(FrameCacheError, match="choose a cache folder"):
        cached_frames([CountingReader()], CONFIG, tmp_path / "file" / "cache")


@pytest.mark.slow
def test_processes_that_build_the_same_file_at_once_get_the_same_frames(tmp_path):
    tub = write_tub(tmp_path / "car", [record(index) for index in range(100)])
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.Queue()
    arguments = (tub, CONFIG, tmp_path / "cache", barrier, queue)
    processes = [context.Process(target=build_frames, args=arguments) for _ in range(3)]

    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(30)

    assert len(set(results)) == 1
    assert results[0][1] == 100
    assert len(list((tmp_path / "cache").glob("*.frames"))) == 1


def peak_bytes(frames, cache_dir):
    reader = CountingReader(frames, name=str(frames))
    tracemalloc.start()
    try:
        cached_frames([reader], CONFIG, cache_dir)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_grows_by_labels_not_by_frames(tmp_path):
    """At 500,000 frames of 60 x 80 the difference is 7.2 GB of frames against 40 MB of labels."""
    peak_bytes(10, tmp_path)  # whatever is imported or cached on first use

    few, many = peak_bytes(4_000, tmp_path), peak_bytes(12_000, tmp_path)

    frame_bytes = 16 * 24 * 3
    assert (many - few) / 8_000 < 100 < frame_bytes / 10
