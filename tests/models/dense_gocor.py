"""GOCor written out plainly from spec.md 5 and the paper's equations: all scores as one array, float64, one pair at a time.

Learned values go by the published modules' names. `eta` and `weighted` (target v+ y instead of y) distinguish the forms.
"""

import math
from itertools import chain

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

RADIUS = 4
OPTIMISER = "filter_optimizer."
SMALL = 1e-8


def function(knots: Tensor, distance: float) -> float:
    """Piecewise linear through the knots, half a cell apart, and constant after the last."""
    place = min(distance / 0.5, 9.0)
    before = min(int(place), 8)
    share = place - before
    return float((1 - share) * knots[before] + share * knots[before + 1])


def functions(learned: dict[str, Tensor], distance: float) -> tuple[float, float, float]:
    """y, v+ and v- at a distance."""
    names = ("label_map_predictor", "spatial_weight_predictor", "target_mask_predictor.0")
    y, positive, m = (function(learned[f"{OPTIMISER}{name}.weight"].double().flatten(), distance) for name in names)
    return y, positive, positive / (1 + math.exp(-m))


def weighed(scores: Tensor, plus: Tensor, minus: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Eq. 4 and its derivative."""
    if eta:
        root = (scores**2 + eta**2).sqrt()
        value = (plus - minus) / 2 * (root - eta) + (plus + minus) / 2 * scores
        return value, (plus - minus) / 2 * scores / root + (plus + minus) / 2
    side = scores.sign()
    m = minus / plus
    value = plus * ((1 - m) / 2 * scores.abs() + (1 + m) / 2 * scores)
    return value, plus * ((1 - m) / 2 * side + (1 + m) / 2)


def decay(learned: dict[str, Tensor]) -> Tensor:
    return learned[f"{OPTIMISER}filter_reg"].double().square().clamp_min(1e-5**2)


def stride(learned: dict[str, Tensor]) -> Tensor:
    return learned[f"{OPTIMISER}log_step_length"].double().exp()


def windows(features: Tensor) -> Tensor:
    """(C, 81, H, W) of (C, H, W): at d = (dy, dx), row by row, the features there, 0 outside."""
    height, width = features.shape[1:]
    padded = F.pad(features, (RADIUS,) * 4)
    shifts = range(2 * RADIUS + 1)
    return torch.stack([padded[:, y : y + height, x : x + width] for y in shifts for x in shifts], 1)


def local_gocor(
    learned: dict[str, Tensor], reference: Tensor, query: Tensor, steps: int, *, eta: float, weighted: bool
) -> Tensor:
    """(81, H, W) of features (C, H, W)."""
    reference, query = reference.double(), query.double()
    channels = len(reference)
    line = range(-RADIUS, RADIUS + 1)
    at = torch.tensor([functions(learned, math.hypot(dy, dx)) for dy in line for dx in line], dtype=torch.float64)
    y, plus, minus = at.T[:, :, None, None]
    target = plus * y if weighted else y
    around = windows(reference)
    penalty = decay(learned) / channels**2
    w = learned["filter_initializer.scaling"].double() * reference / ((reference**2).mean(0) + 1e-6)
    for _ in range(steps):
        value, slope = weighed(torch.einsum("chw,cdhw->dhw", w, around) / channels, plus, minus, eta)
        g = penalty * w + torch.einsum("dhw,cdhw->chw", slope * (value - target), around) / channels
        change = slope * torch.einsum("chw,cdhw->dhw", g, around) / channels
        squared = (g**2).sum(0)
        w = w - stride(learned) * squared / ((change**2).sum(0) + penalty * squared).clamp_min(SMALL) * g
    return torch.einsum("chw,cdhw->dhw", w, windows(query)) / channels


def smoothed(learned: dict[str, Tensor], scores: Tensor) -> Tensor:
    """R of spec.md 5.3: scores (reference y, x, query y, x) to (16, the same), one tap of the kernels after the other."""
    over_query, over_reference = (learned[f"{OPTIMISER}reg_layer.weight{n}"].double() for n in (1, 2))
    rows, columns, query_rows, query_columns = scores.shape
    around_query = F.pad(scores, (1, 1, 1, 1))
    taps = [(v, u) for v in range(3) for u in range(3)]
    planes = sum(
        over_query[:, 0, v, u].view(-1, 1, 1, 1, 1) * around_query[..., v : v + query_rows, u : u + query_columns]
        for v, u in taps
    )
    around = F.pad(planes, (0, 0, 0, 0, 1, 1, 1, 1))
    return sum(
        torch.einsum("oc,cijkl->oijkl", over_reference[:, :, v, u], around[:, v : v + rows, u : u + columns])
        for v, u in taps
    )


def global_gocor(
    learned: dict[str, Tensor], reference: Tensor, query: Tensor, steps: int, *, eta: float, weighted: bool
) -> Tensor:
    """(cells of the query, H, W) of features (C, H, W); the term on the query is there if its kernels are."""
    reference, query = reference.double(), query.double()
    _, height, width = reference.shape
    cells = [(i, j) for i in range(height) for j in range(width)]
    distances = [[math.dist(own, other) for other in cells] for own in cells]
    known = {each: functions(learned, each) for each in set(chain(*distances))}
    at = torch.tensor([[known[each] for each in row] for row in distances], dtype=torch.float64)
    y, plus, minus = at.unflatten(0, (height, width)).unflatten(2, (height, width)).unbind(-1)
    target = plus * y if weighted else y
    with_query = f"{OPTIMISER}reg_layer.weight1" in learned
    penalty = decay(learned)
    w = starting_filters(learned, reference)

    def scores(filters: Tensor, features: Tensor) -> Tensor:
        return torch.einsum("cij,ckl->ijkl", filters, features)

    def rough(filters: Tensor) -> Tensor:
        return smoothed(learned, scores(filters, query)).square()

    for _ in range(steps):
        value, slope = weighed(scores(w, reference), plus, minus, eta)
        g = penalty * w + torch.einsum("ijkl,ckl->cij", slope * (value - target), reference)
        if with_query:
            with torch.enable_grad():
                variable = w.detach().requires_grad_()
                g = g + torch.autograd.grad(rough(variable).sum() / 2, variable)[0]
        squared = (g**2).sum(0)
        curvature = (slope * scores(g, reference)).square().sum((2, 3)) + penalty * squared
        if with_query:
            squared, curvature = squared.sum(), curvature.sum() + rough(g).sum()
        w = w - stride(learned) * squared / curvature.clamp_min(SMALL) * g
    return scores(w, query).permute(2, 3, 0, 1).flatten(0, 1)


def starting_filters(learned: dict[str, Tensor], f: Tensor) -> Tensor:
    """Spec.md 5.4."""
    fore, back = (learned[f"filter_initializer.target_{name}"].double()[:, None, None] for name in ("fg", "bg"))
    mean = f.mean((1, 2), keepdim=True)
    ff, bb, fb = (f * f).sum(0), (mean * mean).sum(0), (f * mean).sum(0)
    return ((fore * bb - back * fb) * f - (fore * fb - back * ff) * mean) / (ff * bb - fb**2).clamp_min(1e-6)
