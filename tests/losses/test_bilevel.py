"""The upper level: flows at five scales, the sum of the terms, and the student's lesson."""

from dataclasses import replace

import pytest
import torch

from flowkit.errors import UsageError
from flowkit.geometry.flow import forward_backward
from flowkit.geometry.grids import flow_targets
from flowkit.geometry.sampling import sample
from flowkit.losses.bilevel import Lesson, Scales, UpperLevel, flow_levels, lesson_at, upper_level_terms
from flowkit.losses.census import census_loss, grey_levels
from flowkit.losses.self_supervision import consistency_loss, smoothness_loss

SIZE = (64, 96)
SCALES = Scales()


def shifted_pictures(shift=4, count=2):
    """Smooth random pictures and the same moved to the left by whole pixels."""
    wide = torch.rand(count, 3, SIZE[0] // 4, SIZE[1] // 4 + 4, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(wide, scale_factor=4, mode="bicubic", align_corners=False).clamp(0, 1)
    return wide[..., : SIZE[1]], wide[..., shift : shift + SIZE[1]]


def constant(x, count=2):
    """Of both directions, at full size."""
    one = torch.zeros(count, 2, *SIZE)
    one[:, 0] = x
    return torch.cat([one, -one])


def levels(x):
    flow = constant(x)
    coarse = [torch.nn.functional.avg_pool2d(flow, s) for s in (8, 16, 32)]
    return flow_levels(flow, [*coarse, flow], [8, 16, 32, 1], 5)


def test_levels_are_enlarged_four_times_in_pixels_of_their_own_size():
    found = levels(8.0)
    assert sorted(found) == [0, 1, 2, 3]  # no flow at a stride of 64
    assert [tuple(flow.shape[-2:]) for _, flow in sorted(found.items())] == [(64, 96), (32, 48), (16, 24), (8, 12)]
    assert [float(found[k][0, 0, 0, 0]) for k in range(4)] == [8, 4, 2, 1]


def test_of_several_iterates_at_a_stride_the_last_one_counts():
    flow = constant(0.0)
    first, last = torch.zeros(4, 2, 8, 12), torch.ones(4, 2, 8, 12)
    assert float(flow_levels(flow, [first, last, flow], [8, 8, 1], 2)[1].min()) == 0.5


def test_the_sum_over_levels_of_weighted_terms():
    image0, image1 = shifted_pictures()
    flow = constant(-3.0) + 0.3 * torch.randn(4, 2, *SIZE, generator=torch.Generator().manual_seed(1))
    half = torch.nn.functional.avg_pool2d(flow, 8)
    upper = UpperLevel(photometric=2.0, consistency=3.0, smoothness=5.0)
    scales = replace(SCALES, weights=(1.0, 0.5), radii=(3, 1))
    both = flow_levels(flow, [half], [8], 2)
    terms = upper_level_terms(both, image0, image1, upper=upper, scales=scales)
    assert list(terms) == ["photometric", "consistency", "smoothness"]
    expected = dict.fromkeys(terms, 0.0)
    for level, (weight, radius) in enumerate(((1.0, 3), (0.5, 1))):
        own = both[level]
        pictures, others = (
            torch.nn.functional.avg_pool2d(torch.cat(pair), 2**level) for pair in ((image0, image1), (image1, image0))
        )
        backward = own.roll(2, 0)
        seen = (~forward_backward(own, backward)[1]).float()
        warped = sample(grey_levels(others), flow_targets(own), padding="border")
        expected["photometric"] += 2 * weight * census_loss(grey_levels(pictures), warped, seen, radius=radius)
        expected["consistency"] += 3 * weight * consistency_loss(own, backward, seen)
        expected["smoothness"] += 5 * weight * smoothness_loss(own, pictures, 10.0)
    for name, value in terms.items():
        assert float(value) == pytest.approx(float(expected[name]), rel=1e-5)


def test_the_true_flow_looks_best():
    image0, image1 = shifted_pictures(4)
    costs = {
        x: float(upper_level_terms(levels(x), image0, image1, upper=UpperLevel(), scales=SCALES)["photometric"])
        for x in (-8.0, -4.0, 0.0, 4.0)
    }
    assert min(costs, key=costs.get) == -4.0 and costs[-4.0] < 0.5 * costs[0.0]


def test_a_lesson_is_learned_where_it_is_hidden_and_pictures_do_not_count_there():
    image0, image1 = shifted_pictures(4)
    hidden = torch.zeros(4, *SIZE, dtype=torch.bool)
    hidden[:, :, 32:64] = True
    lesson = Lesson(constant(-4.0), hidden)
    upper = UpperLevel(consistency=0, smoothness=0, occlusion=1)
    flow = constant(-4.0)
    spoiled = image1.clone()
    spoiled[..., 33:59] = 0.5  # what only hidden pixels see, forwards (28 to 59) and backwards (32 to 63)
    terms = [
        upper_level_terms(
            flow_levels(flow, [], [], 1), image0, image, upper=upper, scales=Scales((1.0,), (1,)), lesson=lesson
        )
        for image in (image1, spoiled)
    ]
    assert sorted(terms[0]) == ["occlusion", "photometric"]
    assert float(terms[0]["occlusion"]) == pytest.approx(1e-6**0.45, rel=1e-4)
    forward = [float(t["photometric"]) for t in terms]
    assert forward[0] == pytest.approx(forward[1], abs=1e-6)
    wrong = upper_level_terms(
        flow_levels(constant(-2.0), [], [], 1), image0, image1, upper=upper, scales=Scales((1.0,), (1,)), lesson=lesson
    )
    assert float(wrong["occlusion"]) == pytest.approx(((4 + 1e-6) ** 0.45 + 1e-6**0.45) / 2, rel=1e-4)


def test_a_lesson_on_a_coarse_level_is_in_its_pixels():
    hidden = torch.zeros(1, 8, 8, dtype=torch.bool)
    hidden[:, :4, :4] = True
    hidden[:, 7, 7] = True
    coarse = lesson_at(Lesson(torch.full((1, 2, 8, 8), 6.0), hidden), 2)
    assert torch.equal(coarse.flow, torch.full((1, 2, 2, 2), 1.5))
    assert coarse.hidden.tolist() == [[[True, False], [False, False]]]


def test_scales_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="5 weights with 2 radii"):
        Scales(radii=(3, 3))
