"""GLU-Net's loss, and the matching losses: units, grids, masks, directions."""

import pytest
import torch

from flowkit.batch import PairBatch
from flowkit.losses.levels import levels_loss
from flowkit.losses.matching import global_matching_loss, window_matching_loss

SIZE = (40, 80)


def pairs(flow: tuple[float, float], valid: torch.Tensor | None = None) -> PairBatch:
    truth = torch.tensor(flow)[None, :, None, None].expand(2, 2, *SIZE).contiguous()
    image = torch.zeros(2, 3, *SIZE)
    return PairBatch(image, image, truth, torch.ones(2, *SIZE, dtype=torch.bool) if valid is None else valid)


def flat(x: float, y: float, size: tuple[int, int] = (4, 4)) -> torch.Tensor:
    return torch.tensor([x, y])[None, :, None, None].expand(2, 2, *size)


def test_errors_count_in_pixels_of_the_branch_and_are_summed_over_cells() -> None:
    found = [flat(8.0, 4.0), flat(5.0, 4.0, (5, 10))]
    loss = levels_loss(found, pairs((5.0, 0.0)), weights=(0.5, 0.1), sides=(20, None))
    # coarse: (3, 4) px of the image are (3 / 4, 4 / 2) of its 20 x 20 version
    coarse = 16 * (0.75**2 + 2**2) ** 0.5
    assert float(loss) == pytest.approx(0.5 * coarse + 0.1 * 50 * 4, rel=1e-4)


def test_what_is_not_known_is_made_up_for() -> None:
    valid = torch.ones(2, *SIZE, dtype=torch.bool)
    valid[:, :, 40:] = False
    half = pairs((0.0, 0.0), valid)
    half.flow[:, :, :, 40:] = 1e9
    wrong = flat(3.0, 4.0).clone()
    whole = levels_loss([wrong], pairs((0.0, 0.0)), weights=(1.0,), sides=(None,))
    assert float(levels_loss([wrong], half, weights=(1.0,), sides=(None,))) == pytest.approx(float(whole))
    wrong[..., 2:] = 1e6  # where nothing is known nothing counts
    assert float(levels_loss([wrong], half, weights=(1.0,), sides=(None,))) == pytest.approx(float(whole))


def test_grids_need_not_divide_the_picture() -> None:
    batch = pairs((0.0, 0.0))
    batch.flow[:, 0] = torch.linspace(-3, 3, 80)
    truth = torch.nn.functional.adaptive_avg_pool2d(batch.flow, (7, 13))
    assert levels_loss([truth], batch, weights=(1.0,), sides=(None,)) < 0.2


def test_more_flows_than_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="weights for 1 levels"):
        levels_loss([flat(0, 0)] * 2, pairs((0.0, 0.0)), weights=(1.0,), sides=(None,))


def test_the_global_matching_loss_knows_the_direction() -> None:
    """Cells of 10 px; image1 shows everything two cells further right and one further down."""
    torch.manual_seed(0)
    features0 = torch.randn(2, 32, 4, 8)
    features1 = features0.roll((1, 2), (2, 3))
    right = global_matching_loss(features0, features1, pairs((20.0, 10.0)))
    assert right < 0.01
    for wrong in ((-20.0, -10.0), (10.0, 20.0), (20.0, -10.0), (0.0, 0.0)):
        assert global_matching_loss(features0, features1, pairs(wrong)) > 5
    between = global_matching_loss(features0, features1, pairs((25.0, 10.0)))
    assert between > 5  # half of it belongs to the next cell


def test_cells_that_leave_the_picture_or_are_hidden_do_not_count() -> None:
    features = torch.randn(2, 8, 4, 8)
    assert global_matching_loss(features, features, pairs((200.0, 0.0))) == 0
    batch = pairs((0.0, 0.0))
    hidden = PairBatch(batch.image0, batch.image1, batch.flow, batch.valid, occlusion=torch.ones_like(batch.valid))
    assert global_matching_loss(features, features, hidden) == 0


def test_the_slope_of_both() -> None:
    torch.manual_seed(0)
    flow = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    batch = pairs((1.0, 2.0))
    assert torch.autograd.gradcheck(lambda f: levels_loss([f], batch, weights=(0.3,), sides=(256,)), flow, atol=1e-5)
    maps = [torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(lambda a, b: global_matching_loss(a, b, pairs((12.0, 3.0))), maps, atol=1e-5)


def certain(x: int, y: int) -> torch.Tensor:
    """Scores (2, 25, 4, 8) of cells of 10 px that are sure of a displacement, in cells."""
    scores = torch.zeros(2, 5, 5, 4, 8)
    scores[:, 2 + y, 2 + x] = 20
    return scores.flatten(1, 2)


def test_the_window_loss_knows_the_direction_and_wants_one_displacement() -> None:
    assert window_matching_loss(certain(2, 1), pairs((20.0, 10.0))) < 0.01
    for x, y in ((-2, -1), (1, 2), (2, -1), (0, 0)):
        assert window_matching_loss(certain(x, y), pairs((20.0, 10.0))) > 5
    two_wrong_ones = torch.maximum(certain(2, 0), certain(-2, 0))  # whose mean is right
    assert window_matching_loss(two_wrong_ones, pairs((0.0, 0.0))) > 5
    between = torch.maximum(certain(1, 0), certain(0, 0))
    assert window_matching_loss(between, pairs((5.0, 0.0))) == pytest.approx(0.693, abs=0.01)


def test_displacements_beyond_the_window_and_hidden_cells_do_not_count() -> None:
    assert window_matching_loss(certain(0, 0), pairs((30.0, 0.0))) == 0
    batch = pairs((20.0, 0.0))
    hidden = PairBatch(batch.image0, batch.image1, batch.flow, batch.valid, occlusion=torch.ones_like(batch.valid))
    assert window_matching_loss(certain(0, 0), hidden) == 0


def test_the_slope_of_the_window_loss() -> None:
    torch.manual_seed(0)
    scores = torch.randn(2, 9, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: window_matching_loss(s, pairs((12.0, 3.0))), scores, atol=1e-5)
