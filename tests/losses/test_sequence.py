"""The sequence loss against a scalar reference, and its derivative against differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from flowkit.batch import PairBatch
from flowkit.losses.sequence import coarse_truth, flow_metrics, sequence_loss


def batch(height=8, width=12, seed=0, dtype=torch.float32, largest=6.0):
    make = torch.Generator().manual_seed(seed)
    flow = (torch.rand(2, 2, height, width, generator=make, dtype=dtype) - 0.5) * 2 * largest
    valid = torch.rand(2, height, width, generator=make) < 0.7
    image = torch.rand(2, 3, height, width, generator=make)
    occlusion = torch.rand(2, height, width, generator=make) < 0.3
    return PairBatch(image, image, torch.where(valid[:, None], flow, 0), valid, occlusion)


def prediction(pairs, strides=(4, 2, 1), seed=1, dtype=torch.float32):
    make = torch.Generator().manual_seed(seed)
    height, width = pairs.size
    iterates = [torch.randn(2, 2, height // s, width // s, generator=make, dtype=dtype) * 3 for s in strides]
    return iterates, strides


def reference(predicted, pairs, gamma, max_flow, occluded):
    """Pixel by pixel, straight from the definition."""
    flow, valid, hidden = (t.numpy() for t in (pairs.flow, pairs.valid, pairs.occlusion))
    total, count = 0.0, len(predicted[0])
    for index, (iterate, s) in enumerate(zip(*predicted, strict=True)):
        values = iterate.numpy()
        errors = []
        for b in range(values.shape[0]):
            for i in range(values.shape[2]):
                for j in range(values.shape[3]):
                    weights, vectors = [], []
                    for y in range(i * s, (i + 1) * s):
                        for x in range(j * s, (j + 1) * s):
                            length = np.hypot(*flow[b, :, y, x])
                            w = float(valid[b, y, x] and length < max_flow)
                            weights.append(w * (occluded if hidden[b, y, x] else 1))
                            vectors.append(flow[b, :, y, x])
                    if sum(weights) == 0:
                        errors += [0.0, 0.0]
                        continue
                    truth = np.average(vectors, axis=0, weights=weights)
                    errors += list(np.abs(values[b, :, i, j] - truth) * np.mean(weights))
        total += gamma ** (count - 1 - index) * np.mean(errors)
    return total


@pytest.mark.parametrize("occluded", [1.0, 0.25, 0.0])
@pytest.mark.parametrize("max_flow", [400.0, 4.0])
def test_equals_the_definition(occluded, max_flow):
    pairs = batch()
    predicted = prediction(pairs)
    loss = sequence_loss(*predicted, pairs, gamma=0.7, max_flow=max_flow, occluded=occluded)
    assert loss.item() == pytest.approx(reference(predicted, pairs, 0.7, max_flow, occluded), rel=1e-5)


def test_full_resolution_is_the_official_formula():
    pairs = batch()
    predicted = prediction(pairs, strides=(1, 1))
    mask = pairs.valid & (pairs.flow.norm(dim=1) < 4)
    wanted = sum(
        weight * (mask[:, None] * (flow - pairs.flow).abs()).mean()
        for weight, flow in zip((0.8, 1), predicted[0], strict=True)
    )
    torch.testing.assert_close(sequence_loss(*predicted, pairs, max_flow=4), wanted)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_derivative(norm):
    pairs = batch(4, 8, dtype=torch.float64)
    iterates, strides = prediction(pairs, dtype=torch.float64)

    def loss(*flows):
        return sequence_loss(flows, strides, pairs, norm=norm, occluded=0.5)

    assert torch.autograd.gradcheck(loss, [flow.requires_grad_() for flow in iterates])


def test_pixels_without_truth_do_not_matter():
    pairs = batch()
    rubbish = torch.where(pairs.valid[:, None], pairs.flow, torch.nan)
    predicted = prediction(pairs)
    torch.testing.assert_close(
        sequence_loss(*predicted, replace(pairs, flow=rubbish)), sequence_loss(*predicted, pairs), rtol=0, atol=0
    )
    nothing = replace(pairs, valid=torch.zeros_like(pairs.valid))
    assert sequence_loss(*predicted, nothing).item() == 0
    assert flow_metrics(predicted[0][-1], nothing)["epe"].item() == 0


def test_coarse_truth_keeps_pixels_as_unit():
    flow = torch.full((1, 2, 8, 8), 5.0)
    coarse, share = coarse_truth(flow, torch.ones(1, 8, 8), 8)
    assert coarse.flatten().tolist() == [5, 5] and share.item() == 1


def test_metrics():
    pairs = batch()
    error = torch.zeros_like(pairs.flow)
    error[0, 0], error[1, 1] = 2.0, 0.5
    known = pairs.valid.sum(dim=(1, 2)).float()
    metrics = flow_metrics(pairs.flow + error, pairs)
    assert metrics["epe"].item() == pytest.approx(((2 * known[0] + 0.5 * known[1]) / known.sum()).item())
    assert metrics["1px"].item() == pytest.approx((known[1] / known.sum()).item())
    assert metrics["3px"].item() == 1


def test_grids_that_do_not_fit_are_refused():
    pairs = batch()
    iterates, _ = prediction(pairs)
    with pytest.raises(ValueError, match="stride"):
        sequence_loss(iterates, (4, 4, 1), pairs)
    with pytest.raises(ValueError, match="nothing"):
        sequence_loss([], [], pairs)
