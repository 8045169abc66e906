"""GOCor's modules: adjoints, initial filters, descent, gradients, and that parts and layouts change nothing."""

import math
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from flowkit.models.gocor import (
    LINEAR,
    PAPER,
    PUBLISHED,
    REFERENCE_ONLY,
    GlobalGOCor,
    GOCor,
    GOCorConfig,
    LocalGOCor,
    answer_at,
)
from flowkit.models.gocor_objective import QueryObjective, ReferenceObjective
from flowkit.models.gocor_volumes import GlobalVolume, LocalVolume

FORMS = {"paper": PAPER, "published": PUBLISHED, "reference": REFERENCE_ONLY, "linear": LINEAR}


def features(batch: int = 2, channels: int = 6, height: int = 5, width: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors in float64."""
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(2, batch, channels, height, width, dtype=torch.float64, generator=generator)
    return F.normalize(maps[0], dim=1), F.normalize(maps[1], dim=1)


def learned(module: GOCor) -> GOCor:
    """Parameters as if training had moved them, the query's kernel large enough to matter."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            scale = 0.3 if name.startswith("query") else 0.1
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module.double()


@pytest.mark.parametrize("make", [GlobalVolume, lambda maps: LocalVolume(maps, 2)])
def test_combining_is_the_adjoint_of_answering(make) -> None:  # type: ignore[no-untyped-def]
    reference, query = features(width=35)
    volume = make(query)
    filters = volume.laid(reference)
    answers = volume.answers(filters)
    weights = torch.randn_like(answers)
    torch.testing.assert_close((answers * weights).sum(), (filters * volume.combined(weights)).sum())


def test_the_kernel_on_the_query_has_its_adjoint_and_acts_where_it_says() -> None:
    torch.manual_seed(0)
    objective = QueryObjective().double()
    with torch.no_grad():
        objective.over_query.normal_()
        objective.over_reference.normal_()
    answers = torch.randn(2, 12, 12, dtype=torch.float64)
    smooth = objective(answers, (3, 4))
    other = torch.randn_like(smooth)
    torch.testing.assert_close((smooth * other).sum(), (answers * objective.adjoint(other, (3, 4))).sum())
    # dense: sum over both planes' neighbours, the 1 -> 16 kernel over the query's
    around = F.pad(answers.view(2, 3, 4, 3, 4), (1, 1, 1, 1, 1, 1, 1, 1))
    dense = torch.zeros(2, 16, 3, 4, 3, 4, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            for k in range(3):
                for m in range(3):
                    kernel = objective.over_reference[:, :, i, j] @ objective.over_query[:, 0, k, m]
                    dense += (
                        kernel[:, None, None, None, None] * around[:, None, i : i + 3, j : j + 4, k : k + 3, m : m + 4]
                    )
    found = smooth.view(2, 12, 16, 3, 4)  # (B, cells of the query, channels, cells of the reference)
    torch.testing.assert_close(found, dense.permute(0, 4, 5, 1, 2, 3).flatten(1, 2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("local", [False, True])
def test_every_step_lowers_the_objective(form: str, local: bool) -> None:
    config = FORMS[form]
    module = learned(LocalGOCor(config) if local else GlobalGOCor(6, config))
    with torch.no_grad():
        module.log_step.zero_()
        reference, query = features()
        own, other = module.volume(reference), module.volume(query)
        values = [
            float(module.objective(own, other, filters))
            for filters, _ in module.descend(own, other, own.laid(module.initial(reference)), 7)
        ]
    assert all(after < before for before, after in pairwise(values)), values


@pytest.mark.parametrize("form", ["paper", "linear"])
def test_the_gradient_that_is_followed_is_that_of_the_objective(form: str) -> None:
    for module in (learned(GlobalGOCor(6, FORMS[form])), learned(LocalGOCor(FORMS[form]))):
        reference, query = features(batch=1, height=4, width=5)
        own, other = module.volume(reference), module.volume(query)
        filters = own.laid(module.initial(reference)).detach().requires_grad_()
        (wanted,) = torch.autograd.grad(module.objective(own, other, filters), filters)
        decay = module.decay.square() / own.scale**2
        found = decay * filters + sum(term.gradient() for term in module.terms(own, other, filters))
        torch.testing.assert_close(own.maps(found), own.maps(wanted))


def test_the_first_global_filters_answer_with_one_at_their_place_and_with_nothing_to_the_mean() -> None:
    reference, _ = features()
    filters = GlobalGOCor(6).double().initial(reference)
    torch.testing.assert_close((filters * reference).sum(1), torch.ones(2, 5, 4, dtype=torch.float64))
    mean = reference.mean((2, 3), keepdim=True)
    assert (filters * mean).sum(1).abs().max() < 1e-12


def test_the_first_local_filters_answer_with_one_at_their_place() -> None:
    reference, _ = features()
    module = LocalGOCor().double()
    volume = module.volume(reference)
    answers = volume.maps(volume.answers(volume.laid(module.initial(reference))))
    torch.testing.assert_close(answers[:, 40], torch.ones(2, 5, 4, dtype=torch.float64), atol=1e-5, rtol=0)


def test_the_functions_of_the_distance_begin_as_the_paper_has_them() -> None:
    y, positive, m = ReferenceObjective(0.1, False, True).functions(torch.tensor([0.0, 0.25, 2.0, 4.5, 9.0]))
    least = math.exp(-(4.5**2) / 2)
    torch.testing.assert_close(y[0], torch.tensor(1 - least))
    torch.testing.assert_close(y[1], (y[0] + torch.tensor(math.exp(-1 / 8) - least)) / 2)  # linear between knots
    assert y[3] == y[4] == 0 and (positive == 1).all()
    m = m.detach()
    assert float(m[0]) == pytest.approx(1 / (1 + math.exp(-4 * math.tanh(2))))
    assert float(m[2]) == pytest.approx(0.5)
    assert m[3] == m[4]


def test_the_bend_is_smooth_and_turns_into_the_sharp_one() -> None:
    """Equation 4: v+ c above, v- c below; eta rounds the corner."""
    scores = torch.linspace(-2, 2, 41, dtype=torch.float64)
    volume = LocalVolume(torch.ones(1, 1, 1, 1, dtype=torch.float64), 0)
    m = torch.sigmoid(torch.tensor(4 * math.tanh(2), dtype=torch.float64))
    sharp = torch.where(scores >= 0, scores, m * scores)

    def bent(values: torch.Tensor, eta: float) -> tuple[torch.Tensor, torch.Tensor]:
        objective = ReferenceObjective(eta, False, True).double()
        residual, slope = objective(values[:, None], objective.maps(volume))
        return residual[:, 0] + objective.functions(volume.distances)[0], slope[:, 0].detach()

    assert torch.allclose(bent(scores, 0.0)[0], sharp)
    assert torch.allclose(bent(scores, 1e-3)[0], sharp, atol=1e-3)
    rounded, slope = bent(scores.requires_grad_(), 0.5)
    assert rounded[20].abs() < 1e-12 and (rounded - sharp).abs().max() > 1e-3
    (wanted,) = torch.autograd.grad(rounded.sum(), scores)
    torch.testing.assert_close(slope, wanted)


@pytest.mark.parametrize("form", ["paper", "published"])
@pytest.mark.parametrize("local", [False, True])
def test_gradients(form: str, local: bool) -> None:
    """Unrolled, with respect to both features and every parameter."""
    module = learned(LocalGOCor(FORMS[form]) if local else GlobalGOCor(3, FORMS[form]))
    inputs = [maps.requires_grad_() for maps in features(batch=1, channels=3, height=3, width=2)]
    parameters = list(module.parameters())

    def volume(*values: torch.Tensor) -> torch.Tensor:
        named = dict(zip((name for name, _ in module.named_parameters()), values[2:], strict=True))
        return torch.func.functional_call(module, named, (values[0], values[1]), {"steps": 2})

    assert torch.autograd.gradcheck(volume, (*inputs, *parameters), atol=1e-6, fast_mode=True)


def test_repeated_cells_are_told_apart_by_the_global_filters() -> None:
    """Two cells that look almost alike: the optimised answer to the wrong one is much weaker than the correlation's."""
    torch.manual_seed(0)
    reference = F.normalize(torch.randn(1, 32, 4, 4), dim=1)
    reference[..., 3, 3] = F.normalize(reference[..., 0, 0] + 0.08 * torch.randn(1, 32), dim=1)
    module = GlobalGOCor(32, REFERENCE_ONLY).eval()
    with torch.no_grad():
        plain = (reference[..., 0, 0] * reference[..., 3, 3]).sum()
        answers = module(reference, reference, steps=30)[0, :, 0, 0]
    assert plain > 0.85
    assert answers.argmax() == 0 and answers[15] / answers[0] < 0.6 * plain


def test_more_steps_than_in_training_are_taken_in_evaluation_and_any_number_can_be_asked_for() -> None:
    reference, query = features()
    module = LocalGOCor().double()
    with torch.no_grad():
        by_steps = [module(reference, query, steps) for steps in (0, 3, 7)]
        assert torch.equal(module.train()(reference, query), by_steps[1])
        assert torch.equal(module.eval()(reference, query), by_steps[2])
        assert torch.equal([*module.states(reference, query, 7)][3], by_steps[1])
    assert not torch.allclose(by_steps[0], by_steps[1])


def test_neither_parts_nor_pairs_beside_it_change_a_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, width in ((GlobalGOCor(6).double(), 3), (LocalGOCor().double(), 33)):
        reference, query = features(batch=2, height=9, width=width)
        with torch.no_grad():
            whole = module(reference, query)
            alone = torch.cat([module(reference[k : k + 1], query[k : k + 1]) for k in range(2)])
            monkeypatch.setattr("flowkit.models.gocor_volumes.PART", 70)  # two rows at a time
            parts = module(reference, query)
        torch.testing.assert_close(whole, alone)
        torch.testing.assert_close(whole, parts)


def test_half_precision_around_it_leaves_the_local_descent_exact() -> None:
    reference, query = (maps.float() for maps in features())
    module = LocalGOCor()
    with torch.no_grad():
        exact = module(reference, query)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(module(reference, query), exact)


def test_the_answer_at_a_displacement() -> None:
    volume = torch.zeros(1, 81, 2, 2)
    volume[0, 4 * 9 + 6, 0, 1] = 0.8  # (dx, dy) = (2, 0)
    change = torch.zeros(1, 2, 2, 2)
    change[0, :, 0, 1] = torch.tensor([1.5, 0.0])
    found = answer_at(volume, change)
    assert float(found[0, 0, 0, 1]) == pytest.approx(0.4)
    change[0, :, 0, 1] = torch.tensor([0.0, 1.5])
    assert answer_at(volume, change).sum() == 0


def test_how_many_parameters() -> None:
    """spec.md, section 12."""
    counts = [sum(p.numel() for p in module.parameters()) for module in (GlobalGOCor(512), LocalGOCor())]
    assert counts == [3504, 33]


def test_memory_does_not_grow_with_a_four_dimensional_kernel() -> None:
    """Nothing larger than 16 channels of the volume itself is made by the global module."""
    sizes: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            found = function(*args, **(kwargs or {}))
            if isinstance(found, torch.Tensor):
                sizes.append(found.numel())
            return found

    reference, query = features(batch=1, height=8, width=8)
    with torch.no_grad(), Watch():
        GlobalGOCor(6, GOCorConfig()).double()(reference, query)
    assert max(sizes) <= 16 * 64 * 64
