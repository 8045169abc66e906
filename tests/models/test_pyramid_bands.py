"""The first levels of a pyramid in bands of rows: the same as at once, whatever the network and the bands."""

import pytest
import torch
from torch import nn

from flowkit.models import liteflownet, pwcnet
from flowkit.models.pyramid import SiamesePyramid, in_bands

PYRAMIDS = {
    "liteflownet": lambda: liteflownet.feature_pyramid((6, 8, 8, 8, 8, 8)),
    "pwcnet": lambda: pwcnet.feature_pyramid(pwcnet.PWCNetConfig((6, 8, 8, 8, 8, 8))),
    "pwcnet-paper": lambda: pwcnet.feature_pyramid(pwcnet.PWCNetConfig((6, 8, 8, 8, 8, 8), convolutions=2)),
}


@pytest.mark.parametrize("name", PYRAMIDS)
@pytest.mark.parametrize("rows", [8, 24, 40, 1000])
def test_bands_join_without_a_seam(name: str, rows: int) -> None:
    torch.manual_seed(0)
    pyramid = PYRAMIDS[name]().double()
    images = torch.rand(2, 3, 96, 32, dtype=torch.float64)
    first, second = pyramid.levels[:2]
    begin = nn.Sequential(*first, second[0])
    seen = []
    begin[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-2]))
    with torch.no_grad():
        whole = begin(images)
        banded = in_bands(begin, images, numbers=rows * 2 * 6 * 32)
    assert max(seen[1:]) == min(96, rows + 16) and len(seen) == 1 + -(-96 // rows)
    torch.testing.assert_close(banded, whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_learning_or_not_the_features_are_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    pyramid: SiamesePyramid = PYRAMIDS[name]().double()
    images = torch.rand(2, 1, 3, 128, 64, dtype=torch.float64)
    learning = pyramid(*images)
    monkeypatch.setattr("flowkit.models.pyramid.in_bands.__defaults__", (16 * 6 * 64,))
    with torch.no_grad():
        found = pyramid(*images)
    for one, other in zip(learning, found, strict=True):
        assert list(one) == list(other) == [2, 3, 4, 5, 6]
        for level in one:
            torch.testing.assert_close(other[level], one[level], rtol=0, atol=1e-12)
