"""Changes of the light."""

import torch

from convoy_compression.model.photometric import NOISE, UNCHANGED_SHARE, change_light

GREY = torch.full((64, 3, 8, 10), 0.5)


def generator():
    return torch.Generator().manual_seed(3)


def test_frames_stay_frames_and_the_input_stays_as_it_is():
    frames = torch.rand(32, 3, 8, 10, generator=generator())
    before = frames.clone()

    changed = change_light(frames, generator())

    assert changed.shape == frames.shape
    assert 0.0 <= float(changed.min()) <= float(changed.max()) <= 1.0
    assert torch.equal(frames, before)


def test_the_seed_decides():
    assert torch.equal(change_light(GREY, generator()), change_light(GREY, generator()))


def test_most_frames_get_another_light_and_some_keep_theirs():
    change = (change_light(GREY, generator()) - GREY).mean(dim=(1, 2, 3)).abs()
    kept = float((change < NOISE / 4).float().mean())

    assert 0.3 * UNCHANGED_SHARE < kept < 2.5 * UNCHANGED_SHARE
    assert float(change.max()) > 0.1


def test_within_a_frame_the_light_changes_alike():
    changed = change_light(GREY, generator())

    assert float(changed.std(dim=(2, 3)).max()) < 3 * NOISE
