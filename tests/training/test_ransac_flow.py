"""RANSAC-Flow's training: its stages and their losses, pairs from photographs that overlap, fine-tuning."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from flowkit.batch import PairBatch
from flowkit.errors import InputError, UsageError
from flowkit.models.finealign import FineAlign, FineAlignment
from flowkit.training.aligned_pairs import COLLECTION, AlignedPairs, Together, open_aligned, together
from flowkit.training.ransac_flow import FINETUNE, RANSAC_FLOW, RANSAC_FLOW_CPU, STAGES, Lit, imitated
from flowkit.types import Image

SMALL = replace(RANSAC_FLOW_CPU, size=(48, 56), margin=8, stages=(), photographs=0.0, lighting=0.0)


def world(seed=0, size=(240, 320)):
    """A picture of many small boxes."""
    rng = np.random.default_rng(seed)
    picture = np.full((*size, 3), 120, np.uint8)
    for _ in range(500):
        x, y, side = (int(v) for v in rng.integers((0, 0, 4), (size[1], size[0], 26)))
        cv2.rectangle(picture, (x, y), (x + side, y + side), [int(c) for c in rng.integers(0, 256, 3)], -1)
    return cv2.GaussianBlur(picture, (0, 0), 0.8)


def batch(dx=2):
    picture = torch.from_numpy(world()).movedim(-1, 0).float()[None] / 255
    image0, image1 = picture[..., 20:68, 20:76], picture[..., 20:68, 20 - dx : 76 - dx]  # image0(p) = image1(p + dx)
    return PairBatch(image0, image1, torch.zeros(1, 2, 48, 56), torch.zeros(1, 48, 56, dtype=torch.bool))


def answer(dx, sure=None):
    flow = torch.zeros(1, 2, 48, 56)
    flow[:, 0] = dx
    found = FineAlignment(flow, [flow], [1], backward=-flow)
    if sure is not None:
        found.matchability = found.backward_matchability = torch.full((1, 1, 48, 56), sure)
    return found


def test_stages_are_the_paper_s():
    assert [stage.until for stage in RANSAC_FLOW.stages] == ["reconstruction", "cycle", "matchability"]
    assert [stage.share for stage in RANSAC_FLOW.stages] == pytest.approx([0.6, 0.2, 0.2])  # 150, 50, 50 epochs
    assert (RANSAC_FLOW.learning_rate, RANSAC_FLOW.betas, RANSAC_FLOW.batch) == (2e-4, (0.5, 0.999), 16)
    assert RANSAC_FLOW.size[0] - 2 * RANSAC_FLOW.margin == 48
    assert FINETUNE.photographs == 1 and FINETUNE.until == "matchability" and not FINETUNE.renders


@pytest.mark.parametrize(
    ("until", "terms"),
    [
        ("reconstruction", {"reconstruction"}),
        ("cycle", {"reconstruction", "cycle"}),
        ("matchability", {"reconstruction", "cycle", "matchability"}),
        ("smoothness", {"reconstruction", "cycle", "matchability", "smoothness"}),
    ],
)
def test_each_stage_has_the_losses_of_those_before(until, terms):
    recipe = replace(SMALL, until=until)
    right, wrong = (recipe.loss(answer(dx, 0.9), batch()) for dx in (2, -2))
    assert set(right) == terms | {"loss"}
    assert right["loss"].item() == pytest.approx(sum(right[term].item() for term in terms))
    assert right["reconstruction"] < 0.02 < wrong["reconstruction"]
    assert recipe.judges == (until in STAGES[2:])


def test_matchability_is_drawn_to_where_the_pictures_fit():
    """Half of the flow is wrong: the gradient lowers the matchability there relative to the other half."""
    found = answer(2)
    found.flow[..., 28:] = torch.tensor([-5.0, 4.0])[:, None, None]
    found.backward = torch.zeros_like(found.flow)
    found.backward[:, 0] = -2
    sure = torch.full((1, 1, 48, 56), 0.5, requires_grad=True)
    found.matchability, found.backward_matchability = sure, torch.full((1, 1, 48, 56), 0.9)
    recipe = replace(SMALL, until="matchability", hard=False)
    recipe.loss(found, batch())["loss"].backward()
    gradient = sure.grad[0, 0, 10:38]
    assert gradient[:, 34:46].mean() > 0 > gradient[:, 10:22].mean()


def test_the_light_changes_what_is_seen_not_what_is_compared():
    pairs = [Together(world(1), world(1), np.ones((240, 320), bool), "a")]
    lit = Lit(None, AlignedPairs(pairs), replace(SMALL, lighting=1.0)).batch(2, (48, 56), 3)
    torch.testing.assert_close(lit.unlit0, AlignedPairs(pairs).batch(2, (48, 56), 3).image0)
    assert (lit.image0 - lit.unlit0).abs().mean() > 0.02
    loss = replace(SMALL, until="cycle").loss(replace_flow(answer(0), 2), lit)["reconstruction"]
    assert loss < 1e-5  # by the pictures before the change of light both are the same


def test_what_is_imitated_is_what_dis_finds_not_the_truth():
    picture = torch.from_numpy(world(4)).movedim(-1, 0).float()[None] / 255
    image0, image1 = picture[..., 40:136, 40:160], picture[..., 38:134, 36:156]  # image0(p) = image1(p + (4, 2))
    lies = PairBatch(image0, image1, torch.full((1, 2, 96, 120), 9.0), torch.ones(1, 96, 120, dtype=torch.bool))
    made = imitated(lies)
    assert made.valid[0, 20:-20, 20:-20].float().mean() > 0.95
    inner = made.flow[0, :, 20:-20, 20:-20][:, made.valid[0, 20:-20, 20:-20]]
    torch.testing.assert_close(inner.median(1).values, torch.tensor([4.0, 2.0]), atol=0.05, rtol=0)
    assert (made.flow[~made.valid[:, None].expand(-1, 2, -1, -1)] == 0).all()
    inner = made.backward[0, :, 20:-20, 20:-20][:, made.backward_valid[0, 20:-20, 20:-20]]
    torch.testing.assert_close(inner.median(1).values, torch.tensor([-4.0, -2.0]), atol=0.05, rtol=0)


def test_the_first_stage_learns_features_by_themselves():
    recipe = replace(SMALL, until="imitation")
    network = FineAlign()
    pairs = imitated(batch())
    found = recipe.predict(network, pairs.image0, pairs.image1)
    terms = recipe.loss(found, pairs)
    terms["imitation"].backward(retain_graph=True)
    assert network.features.conv1.weight.grad is None and network.flow.conv1.weight.grad.abs().max() > 0
    terms["features"].backward()
    assert network.features.conv1.weight.grad.abs().max() > 0


def replace_flow(found, count):
    found.flow, found.backward = (flow.expand(count, -1, -1, -1) for flow in (found.flow, found.backward))
    return found


def test_a_pair_is_kept_where_a_homography_aligns_it():
    picture = world(2)
    H = np.array([[1.02, 0.03, 6], [-0.02, 0.99, 4], [1e-5, 2e-5, 1]])
    moved = cv2.warpPerspective(picture, H, (320, 240))
    pair = together(Image(picture), Image(moved), "x")
    assert pair is not None and pair.target.shape == pair.source.shape
    inner = slice(40, -40), slice(40, -40)
    assert np.abs(pair.target[inner].astype(int) - pair.source[inner]).mean() < 12  # 40 without the homography
    assert pair.seen.mean() < 1 and pair.seen[inner].all()
    assert together(Image(picture), Image(world(9))) is None


def test_crops_are_of_both_pictures_alike_and_the_same_every_time():
    grid = np.dstack([*np.mgrid[0:200, 0:255], np.zeros((200, 255))]).astype(np.uint8)
    source = AlignedPairs([Together(grid, grid, np.ones(grid.shape[:2], bool), "grid")])
    made = source.batch(4, (64, 72), 7)
    torch.testing.assert_close(made.image0, made.image1)
    torch.testing.assert_close(made.image0, source.batch(4, (64, 72), 7).image0)
    assert not made.valid.any() and made.image0.shape == (4, 3, 64, 72)


def test_folders_and_lists_of_pictures(tmp_path):
    picture = world(3)
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.roll(picture, 3 * number, 1)[:, 20:-20])
    assert len(open_aligned({COLLECTION: tmp_path})) == 3
    (tmp_path / "pairs.txt").write_text("0.png 1.png\n")
    assert len(open_aligned({COLLECTION: tmp_path / "pairs.txt"})) == 1
    with pytest.raises(UsageError, match="aligned=PATH"):
        open_aligned({"sintel": tmp_path})
    with pytest.raises(InputError, match="neither a folder"):
        open_aligned({COLLECTION: tmp_path / "nowhere"})


def test_wrong_settings_are_refused():
    with pytest.raises(UsageError, match="until=flow"):
        replace(SMALL, until="flow")
    with pytest.raises(UsageError, match="leaves nothing"):
        replace(SMALL, margin=24)
