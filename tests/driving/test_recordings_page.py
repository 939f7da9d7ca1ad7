"""The reader that docs/recordings.md shows works as it stands there."""

import re
from pathlib import Path

from small_recordings import jpeg

from convoy_driving.data_config import DataConfig
from convoy_driving.recordings.screening import Tally, usable_frames

PAGE = Path(__file__).parents[2] / "docs" / "recordings.md"


def test_the_reader_on_the_page_reads_its_recording(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    namespace = {}
    exec(compile(code, str(PAGE), "exec"), namespace)  # our own page
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "drive.tsv").write_text("0.0\t12.5\t/old/a.jpg\n0.1\t0\tgone.jpg\n")
    tally = Tally()

    reader = namespace["MyReader"](tmp_path, DataConfig())
    (frame,) = usable_frames(reader, DataConfig(), tally)

    assert reader.recognises(tmp_path)
    assert (frame.steering, frame.lap) == (-0.5, 0)
    assert tally.skipped == {"image_missing": 1}


def test_every_setting_and_reason_on_the_page_exists():
    text = PAGE.read_text()
    named = set(re.findall(r"`((?:log|ros)_\w+)`", text))

    assert named == {name for name in DataConfig.__slots__ if name.startswith(("log_", "ros_"))}
