"""Removing whole channels."""

import pytest
import torch
from small_driver import HEIGHT, WIDTH, SmallNetwork
from torch import nn

from convoy_compression.model.errors import PruningError
from convoy_compression.model.pruning import prune_channels, strongest_channels

FRAMES = torch.rand(3, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def silenced(model, channels):
    """The same network with some channels of the first convolution set to zero."""
    with torch.no_grad():
        model.features[0].weight[channels] = 0.0
        model.features[0].bias[channels] = 0.0
    return model


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_channels_that_say_nothing_go_and_the_answers_stay(norm):
    model = silenced(SmallNetwork(channels=(8, 12)), [1, 4]).eval()
    with torch.no_grad():  # in the second convolution too, a quarter of the channels
        model.features[2].weight[[0, 5, 11]] = 0.0
        model.features[2].bias[[0, 5, 11]] = 0.0

    pruned = prune_channels(model, 0.25, norm)

    assert pruned.features[0].weight.shape == (6, 3, 5, 5)
    assert pruned.features[2].weight.shape == (9, 6, 3, 3)
    assert pruned.features[5].weight.shape == (16, 9 * 8 * 10)
    with torch.no_grad():
        for kept, before in zip(pruned(FRAMES), model(FRAMES), strict=True):
            torch.testing.assert_close(kept, before, atol=1e-5, rtol=1e-4)


def test_the_network_handed_in_stays_whole():
    model = SmallNetwork()
    before = [parameter.clone() for parameter in model.parameters()]

    prune_channels(model, 0.5, "l1")

    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_nothing_to_remove_is_a_copy():
    model = SmallNetwork().eval()

    pruned = prune_channels(model, 0.0, "l1")

    assert pruned is not model
    torch.testing.assert_close(pruned(FRAMES), model(FRAMES))


@pytest.mark.parametrize(
    ("ratio", "norm", "kept"),
    [
        (0.0, "l1", [0, 1, 2, 3]),
        (0.5, "l1", [0, 2]),
        (0.5, "l2", [1, 2]),  # one strong weight counts more than two middling ones
        (0.99, "l1", [2]),  # one always stays
    ],
)
def test_the_weakest_channels_go(ratio, norm, kept):
    weight = torch.tensor([[2.0, 2.0], [3.0, 0.0], [4.0, 4.0], [1.0, 1.0]])[:, :, None, None]

    assert strongest_channels(weight, ratio, norm).tolist() == kept


class Shortcut(nn.Module):
    """Two convolutions whose results are added."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, frames):
        """Features and what is made of them."""
        features = self.first(frames)
        return features + self.second(features)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (Shortcut(), "add"),
        (nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 4, 3)), "GroupNorm"),
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3)), "grouped"),
    ],
)
def test_layers_that_tie_channels_together_are_refused_by_name(model, found):
    with pytest.raises(PruningError, match=found):
        prune_channels(model, 0.5, "l1")


def test_a_network_that_cannot_be_followed_is_refused():
    class Undecided(nn.Module):
        def forward(self, frames):
            return frames if frames.sum() > 0 else -frames

    with pytest.raises(PruningError, match="cannot follow"):
        prune_channels(Undecided(), 0.5, "l1")


@pytest.mark.parametrize("ratio", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio must be in"):
        prune_channels(SmallNetwork(), ratio, "l1")
