"""Both GOCor modules against the same written out plainly, in the paper's form and in the published code's."""

from dataclasses import replace

import pytest
import torch
from dense_gocor import global_gocor, local_gocor
from torch import Tensor

from flowkit.models import gocor_volumes
from flowkit.models.gocor import PAPER, PUBLISHED, GlobalGOCor, GOCor, GOCorConfig, LocalGOCor

NAMES = {
    "filter_optimizer.log_step_length": "log_step",
    "filter_optimizer.filter_reg": "decay",
    "filter_optimizer.label_map_predictor.weight": "reference.target",
    "filter_optimizer.spatial_weight_predictor.weight": "reference.positive",
    "filter_optimizer.target_mask_predictor.0.weight": "reference.asymmetry",
    "filter_optimizer.reg_layer.weight1": "query.over_query",
    "filter_optimizer.reg_layer.weight2": "query.over_reference",
    "filter_initializer.target_fg": "at_place",
    "filter_initializer.target_bg": "at_mean",
    "filter_initializer.scaling": "at_place",
}
"""Published, and ours."""
FORMS = {"paper": PAPER, "published": PUBLISHED}
PLAIN = {"paper": {"eta": 0.1, "weighted": False}, "published": {"eta": 0.0, "weighted": True}}


def taught(module: GOCor) -> GOCor:
    """All that is learned at random about its start, and large enough to matter."""
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            spread = 0.04 if "over_" in name else 0.3
            parameter += spread * torch.rand_like(parameter)
    return module.double().eval()


def learned(module: GOCor) -> dict[str, Tensor]:
    state = module.state_dict()
    return {theirs: state[ours] for theirs, ours in NAMES.items() if ours in state}


def maps(channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Two pairs of features, rather alike."""
    torch.manual_seed(height)
    reference = torch.randn(2, channels, height, width, dtype=torch.float64)
    return reference, reference.roll(1, -1) + 0.3 * torch.randn_like(reference)


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("form", FORMS)
def test_the_global_module(form: str, query: bool) -> None:
    module = taught(GlobalGOCor(6, replace(FORMS[form], query=query)))
    reference, other = (each / each.norm(dim=1, keepdim=True) for each in maps(6, 3, 7))
    for steps in (0, 1, 4):
        with torch.no_grad():
            found = module(reference, other, steps)
        for pair, expected in enumerate(found):
            plain = global_gocor(learned(module), reference[pair], other[pair], steps, **PLAIN[form])
            torch.testing.assert_close(expected, plain, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_the_local_module(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gocor_volumes, "PART", 2 * 37)  # two rows at a time, of blocks of which the second is cut off
    module = taught(LocalGOCor(FORMS[form]))
    reference, other = maps(5, 6, 37)
    for steps in (0, 1, 7):
        with torch.no_grad():
            found = module(reference, other, steps)
        for pair, expected in enumerate(found):
            plain = local_gocor(learned(module), reference[pair], other[pair], steps, **PLAIN[form])
            torch.testing.assert_close(expected, plain, rtol=1e-9, atol=1e-10)


def test_the_forms_differ_and_so_do_the_terms() -> None:
    """Without which agreement would say little."""
    reference, other = (each / each.norm(dim=1, keepdim=True) for each in maps(6, 3, 7))
    answers = []
    for config in (PAPER, replace(PAPER, query=False), PUBLISHED, replace(PAPER, eta=0.0)):
        with torch.no_grad():
            answers.append(taught(GlobalGOCor(6, config))(reference, other, 3))
    for number, first in enumerate(answers):
        for second in answers[:number]:
            assert (first - second).abs().max() > 2e-3


@pytest.mark.parametrize("config", [PUBLISHED, PAPER])
def test_the_numbers_of_steps(config: GOCorConfig) -> None:
    """3 of either in training; in evaluation 3 of the global and 7 of the local one."""
    reference, other = (each / each.norm(dim=1, keepdim=True) for each in maps(6, 3, 7))
    for module, own in ((GlobalGOCor(6, config), 3), (LocalGOCor(config), 7)):
        taught(module)
        with torch.no_grad():
            torch.testing.assert_close(module(reference, other), module(reference, other, own))
            torch.testing.assert_close(module.train()(reference, other), module(reference, other, 3))
            assert not torch.allclose(module(reference, other, own), module(reference, other, own - 1))
