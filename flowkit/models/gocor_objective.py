"""What GOCor's filters are to minimise, as functions that a network learns (Truong et al., NeurIPS 2020, sections 3.4, 3.5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.models.gocor_volumes import Grids, Volume

KNOTS = 10
WIDTH = 0.5
"""Cells between two knots of the piecewise-linear functions of the distance; beyond the last one they are constant."""
CHANNELS = 16
"""Channels of the query's 4-D kernel."""


class ReferenceObjective(nn.Module):
    """|sigma(C(w, f_r); v+, v-) - y|^2 (eq. 4 and 5), y, v+ and v- learned functions of the distance."""

    def __init__(self, eta: float, weighted_target: bool, learned: bool) -> None:
        super().__init__()
        self.eta, self.weighted_target, self.learned = eta, weighted_target, learned
        if learned:
            knots = WIDTH * torch.arange(KNOTS)
            gaussian = (-(knots**2) / 2).exp()
            self.target = nn.Parameter(gaussian - gaussian.min())
            self.positive = nn.Parameter(torch.ones(KNOTS))
            self.asymmetry = nn.Parameter(4 * (2 - knots).tanh())

    def functions(self, distances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y, v+ and m = v- / v+ at distances in cells, of any shape."""
        if not self.learned:
            return (distances == 0).to(distances.dtype), torch.ones_like(distances), torch.ones_like(distances)
        basis = hats(distances)
        y, positive, asymmetry = (
            basis @ values.to(basis.dtype) for values in (self.target, self.positive, self.asymmetry)
        )
        return y, positive, asymmetry.sigmoid()

    def maps(self, volume: Volume) -> tuple[Tensor, Tensor, Tensor]:
        """What to compare the scores of a volume with: the target, (v+ + v-) / 2 and (v+ - v-) / 2."""
        y, positive, m = self.functions(volume.distances)
        target = positive * y if self.weighted_target else y
        return (
            volume.placed(target),
            volume.placed(positive * (1 + m) / 2),
            volume.placed(positive * (1 - m) / 2),
        )

    def forward(self, scores: Tensor, maps: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The residual for scores (B, K, H, W), and its slope in them."""
        target, even, odd = maps
        if not self.learned:
            return scores - target, torch.ones_like(scores)
        if self.eta == 0:
            slope = torch.addcmul(even, odd, scores.detach().sign())
            return torch.addcmul(-target, slope, scores), slope
        root = (scores.square() + self.eta**2).sqrt()
        return odd * (root - self.eta) + even * scores - target, torch.addcmul(even, odd, scores / root)


class QueryObjective(nn.Module):
    """|R * C(w, f_q)|^2 (eq. 6), with R a kernel of 3^4 cells: 3x3 over the query, then 3x3 over the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.over_query = nn.Parameter(1e-3 * torch.randn(CHANNELS, 1, 3, 3))
        self.over_reference = nn.Parameter(1e-3 * torch.randn(CHANNELS, CHANNELS, 3, 3))

    def forward(self, answers: Tensor, grids: Grids) -> Tensor:
        """(B, 16 Q, H, W): the kernel applied to answers (B, Q, H, W) of all Q cells of the query."""
        batch, _, height, width = answers.shape
        planes = answers.permute(0, 2, 3, 1).reshape(-1, 1, *grids[0])
        first = F.conv2d(planes, self.over_query.to(answers.dtype), padding=1)
        turned = (
            first.view(batch, height * width, CHANNELS, -1).permute(0, 3, 2, 1).reshape(-1, CHANNELS, height, width)
        )
        smooth = F.conv2d(turned, self.over_reference.to(answers.dtype), padding=1)
        return smooth.view(batch, -1, height, width)

    def adjoint(self, smooth: Tensor, grids: Grids) -> Tensor:
        """(B, Q, H, W): the transpose of `forward`."""
        (rows, columns), (height, width) = grids
        turned = smooth.reshape(-1, CHANNELS, height, width)
        turned = F.conv_transpose2d(turned, self.over_reference.to(smooth.dtype), padding=1)
        first = turned.view(-1, rows * columns, CHANNELS, height * width).permute(0, 3, 2, 1)
        first = first.reshape(-1, CHANNELS, rows, columns)
        planes = F.conv_transpose2d(first, self.over_query.to(smooth.dtype), padding=1)
        return planes.view(-1, height * width, rows * columns).mT.unflatten(2, (height, width))


def hats(distances: Tensor) -> Tensor:
    """(..., KNOTS): the shares of the knots in a distance; hat functions, the last one constant beyond its knot."""
    knots = torch.arange(KNOTS, device=distances.device, dtype=distances.dtype)
    apart = distances[..., None] / WIDTH - knots
    shares = (1 - apart.abs()).clamp_min(0)
    last = (1 + apart[..., -1:]).clamp(0, 1)
    return torch.cat([shares[..., :-1], last], -1)
