"""What networks say of the volumes that they compare with."""

import pytest
import torch

from flowkit.models.correspondences import compared
from flowkit.models.glunet_parts import unit
from flowkit.models.gocor import GlobalGOCor, LocalGOCor
from flowkit.models.pwcnet import PWCNet, PWCNetConfig
from flowkit.ops.correlation import correlation_reference


def test_the_global_level_is_what_gocor_goes_through() -> None:
    torch.manual_seed(0)
    layer, reference, query = GlobalGOCor(8).eval(), torch.randn(2, 8, 5, 6), torch.randn(2, 8, 5, 6)
    with torch.no_grad():
        found = compared(layer, reference, query)
        states, wanted = list(found.states), list(layer.states(unit(reference), unit(query)))
        own = next(iter(layer.states(unit(reference), unit(reference))))
    assert len(states) == 4
    for (answers, _), each in zip(states, wanted, strict=True):
        torch.testing.assert_close(answers, each, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(states[0][1], own, atol=1e-5, rtol=1e-4)
    cosine = torch.nn.functional.cosine_similarity(reference[:, :, 1, 2], query[:, :, 4, 3])
    torch.testing.assert_close(found.correlation[0][:, 4 * 6 + 3, 1, 2], cosine, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.correlation[1][:, 1 * 6 + 2, 1, 2], torch.ones(2), atol=1e-5, rtol=1e-4)


def test_the_local_level_too() -> None:
    torch.manual_seed(0)
    layer, reference, query = LocalGOCor().eval(), torch.randn(1, 8, 6, 7), torch.randn(1, 8, 6, 7)
    with torch.no_grad():
        found = compared(layer, reference, query, 2, torch.zeros(1, 2, 6, 7))
        states = list(found.states)
        torch.testing.assert_close(states[-1][0], layer(reference, query, 2), atol=1e-5, rtol=1e-4)
    assert len(states) == 3
    cosines = correlation_reference(unit(reference), unit(query), 4) * 8
    torch.testing.assert_close(found.correlation[0], cosines, atol=1e-5, rtol=1e-4)


def test_pwcnet_shows_the_level_that_gives_its_flow() -> None:
    torch.manual_seed(0)
    network = PWCNet(PWCNetConfig((4, 4, 6, 6, 8, 8), convolutions=2)).eval()
    images = torch.rand(2, 1, 3, 64, 128)
    with torch.no_grad():
        found = network.correspondences(*images)
    assert found.flow is not None and found.flow.shape == (1, 2, 16, 32) and not list(found.states)
    assert found.correlation[0].shape == (1, 81, 16, 32)
    with pytest.raises(ValueError, match="64"):
        network.correspondences(*images[..., :60])
