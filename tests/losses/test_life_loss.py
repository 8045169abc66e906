"""LIFE's objective: its rows, its directions, its weights."""

from dataclasses import replace

import pytest
import torch
from two_cameras import fundamental

from flowkit.batch import PairBatch
from flowkit.losses.cycle import cycle_loss
from flowkit.losses.epipolar import symmetric_epipolar_loss
from flowkit.losses.life import ROWS, LifeWeights, life_loss
from flowkit.losses.transformation import transformation_loss

STRIDES = (4, 1)


def batch(size=(8, 12), seed=0):
    make = torch.Generator().manual_seed(seed)

    def flow():
        return 2 * torch.randn(2, 2, *size, generator=make, dtype=torch.float64)

    def mask():
        return torch.rand(2, *size, generator=make) < 0.8

    image = torch.rand(2, 3, *size, generator=make)
    pairs = PairBatch(image, image, flow(), torch.zeros(2, *size, dtype=torch.bool))
    F = torch.stack([fundamental(0)[0], fundamental(3)[0]])
    return replace(pairs, F=F, warped=image, warp=flow(), warp_valid=mask(), unwarp=flow(), unwarp_valid=mask())


def predictions(seed=1, size=(8, 12)):
    make = torch.Generator().manual_seed(seed)
    return {
        direction: [torch.randn(2, 2, size[0] // s, size[1] // s, generator=make, dtype=torch.float64) for s in STRIDES]
        for direction in ("AB", "BA", "BW", "WB")
    }


def weighted(values, gamma):
    return sum(gamma ** (len(values) - 1 - i) * value for i, value in enumerate(values))


def test_every_iterate_counts_the_later_the_more_and_f_is_transposed_on_the_way_back():
    pairs, flows = batch(), predictions()
    found = life_loss(flows, STRIDES, pairs, ROWS["SED+BiT+AC"], gamma=0.7)
    sed = [
        (symmetric_epipolar_loss(ab, pairs.F, stride=s) + symmetric_epipolar_loss(ba, pairs.F.mT, stride=s)) / 2
        for ab, ba, s in zip(flows["AB"], flows["BA"], STRIDES, strict=True)
    ]
    cycle = [
        (cycle_loss(ab, ba, stride=s) + cycle_loss(ba, ab, stride=s)) / 2
        for ab, ba, s in zip(flows["AB"], flows["BA"], STRIDES, strict=True)
    ]
    bit = [
        (
            transformation_loss(bw, pairs.warp, pairs.warp_valid, stride=s)
            + transformation_loss(wb, pairs.unwarp, pairs.unwarp_valid, stride=s)
        )
        / 2
        for bw, wb, s in zip(flows["BW"], flows["WB"], STRIDES, strict=True)
    ]
    parts = {"sed": weighted(sed, 0.7), "cycle": weighted(cycle, 0.7), "bit": weighted(bit, 0.7)}
    for name, value in parts.items():
        assert found[name].item() == pytest.approx(value.item())
    assert found["loss"].item() == pytest.approx(sum(parts.values()).item())
    weights = LifeWeights(epipolar=2.0, cycle=0.5, transformation=0.0)
    other = life_loss(flows, STRIDES, pairs, ROWS["SED+BiT+AC"], weights, gamma=0.7)
    assert other["loss"].item() == pytest.approx((2 * parts["sed"] + 0.5 * parts["cycle"]).item())


@pytest.mark.parametrize(
    ("row", "directions", "terms"),
    [
        ("T", ("BW",), {"bit"}),
        ("BiT", ("BW", "WB"), {"bit"}),
        ("SED", ("AB", "BA"), {"sed"}),
        ("SED+FC", ("AB", "BA"), {"sed", "cycle"}),
        ("SED+AC", ("AB", "BA"), {"sed", "cycle"}),
        ("SED+BiT+AC", ("AB", "BA", "BW", "WB"), {"sed", "cycle", "bit"}),
    ],
)
def test_rows_of_table_6(row, directions, terms):
    assert ROWS[row].directions == directions
    flows = {d: iterates for d, iterates in predictions().items() if d in directions}
    found = life_loss(flows, STRIDES, batch(), ROWS[row])
    assert set(found) == terms | {"loss"}


def test_the_adaptive_cycle_leaves_out_what_the_full_one_takes():
    flows, pairs = predictions(), batch()
    flows["AB"] = [f * 8 for f in flows["AB"]]
    full, adaptive = (life_loss(flows, STRIDES, pairs, ROWS[row])["cycle"] for row in ("SED+FC", "SED+AC"))
    assert full > adaptive + 0.5


def test_moving_pixels_are_left_out_of_the_epipolar_term():
    flows, pairs = predictions(), batch()
    moving = torch.zeros(2, 8, 12, dtype=torch.bool)
    moving[:, :, :4] = True
    spoilt = {d: [f.clone() for f in iterates] for d, iterates in flows.items()}
    for f, s in zip(spoilt["AB"], STRIDES, strict=True):
        f[..., : 4 // s] += 30
    clean, wrong = (
        life_loss(given, STRIDES, replace(pairs, moving=moving), ROWS["SED"])["sed"] for given in (flows, spoilt)
    )
    assert wrong.item() == pytest.approx(clean.item())


def test_the_flow_of_the_batch_is_not_looked_at():
    flows, pairs = predictions(), batch()
    other = replace(pairs, flow=pairs.flow + 5, valid=~pairs.valid)
    first, second = (life_loss(flows, STRIDES, given, ROWS["SED+BiT+AC"])["loss"] for given in (pairs, other))
    assert first == second


@pytest.mark.parametrize("without", ["F", "warp", "unwarp_valid"])
def test_what_is_missing_is_said(without):
    with pytest.raises(ValueError, match="needs"):
        life_loss(predictions(), STRIDES, replace(batch(), **{without: None}), ROWS["SED+BiT+AC"])
    with pytest.raises(ValueError, match="no flows of WB"):
        life_loss({d: predictions()[d] for d in ("AB", "BA", "BW")}, STRIDES, batch(), ROWS["SED+BiT+AC"])


def test_gradient_reaches_every_direction():
    flows = {d: [f.requires_grad_() for f in iterates] for d, iterates in predictions().items()}
    life_loss(flows, STRIDES, batch(), ROWS["SED+BiT+AC"])["loss"].backward()
    assert all(f.grad.abs().sum() > 0 for iterates in flows.values() for f in iterates)
