"""What GOCor's filters are to minimise, as functions that a network learns (Truong et al., NeurIPS 2020, sections 3.4, 3.5)."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from flowkit.models.gocor_volumes import Volume
from flowkit.types import Size

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
            (basis * values.to(basis.dtype)).sum(-1) for values in (self.target, self.positive, self.asymmetry)
        )
        return y, positive, asymmetry.sigmoid()

    def maps(self, volume: Volume) -> tuple[Tensor, Tensor, Tensor]:
        """What to compare the scores of a volume with: the target, (v+ + v-) / 2 and (v+ - v-) / 2."""
        y, positive, m = self.functions(volume.distances)
        even, odd = positive * (1 + m) / 2, positive * (1 - m) / 2
        target = positive * y if self.weighted_target else y
        return volume.placed(target + odd * self.eta), volume.placed(even), volume.placed(odd)

    def forward(self, scores: Tensor, maps: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The residual for scores (..., K), and its slope in them.

        sigma_eta(c) = (v+ - v-) / 2 (sqrt(c^2 + eta^2) - eta) + (v+ + v-) / 2 c; that eta is in the first of `maps`.
        """
        target, even, odd = maps
        if not self.learned:
            return scores - target, torch.ones_like(scores)
        if self.eta == 0:
            slope = torch.addcmul(even, odd, scores.detach().sign())
            return torch.addcmul(-target, slope, scores), slope
        root = (scores.square() + self.eta**2).sqrt()
        residual = torch.addcmul(torch.addcmul(-target, odd, root), even, scores)
        return residual, torch.addcmul(even, odd, scores / root)


class Term(Protocol):
    """A least-squares term of the objective at certain filters (..., C), half of its square.

    It keeps what the filters answer, and moves along with them: a direction's answers are how the answers change.
    """

    ties: bool
    """Whether it ties the filters of a pair together."""

    def value(self) -> Tensor:
        """A scalar, the sum over all pairs."""
        ...

    def gradient(self) -> Tensor:
        """In the filters, of their shape."""
        ...

    def curvature(self, direction: Tensor) -> Tensor:
        """(..., 1): the second derivative along a direction (Gauss and Newton), of each filter or its share of the pair's."""
        ...

    def go(self, step: Tensor) -> None:
        """Move on to filters less `step` times the direction that was asked about last."""
        ...


class ReferenceTerm:
    """Eq. 5 at certain filters."""

    ties = False

    def __init__(self, objective: ReferenceObjective, volume: Volume, filters: Tensor) -> None:
        self._objective, self._volume, self._maps = objective, volume, objective.maps(volume)
        self._scores = volume.answers(filters)

    def value(self) -> Tensor:
        """See `Term.value`."""
        residual, _ = self._objective(self._scores, self._maps)
        return self._volume.maps(residual).square().sum() / 2

    def gradient(self) -> Tensor:
        """See `Term.gradient`."""
        residual, self._slope = self._objective(self._scores, self._maps)
        return self._volume.combined(self._slope * residual)

    def curvature(self, direction: Tensor) -> Tensor:
        """See `Term.curvature`."""
        self._change = self._volume.answers(direction)
        return (self._slope * self._change).square().sum(-1, keepdim=True)

    def go(self, step: Tensor) -> None:
        """See `Term.go`."""
        self._scores = self._scores - step * self._change


class QueryTerm:
    """Eq. 6 at certain filters."""

    ties = True

    def __init__(self, objective: QueryObjective, volume: Volume, filters: Tensor) -> None:
        self._objective, self._volume = objective, volume
        self.answers = volume.answers(filters)
        """Of the filters in the query."""
        self._rough = objective.gradient(self.answers, volume.size)
        self._step: Tensor | None = None

    def value(self) -> Tensor:
        """See `Term.value`."""
        return self._objective(self.answers, self._volume.size).square().sum() / 2

    def gradient(self) -> Tensor:
        """See `Term.gradient`."""
        if self._step is not None:  # what the last step has changed; after the very last one nobody asks
            change = self._objective.adjoint(self._smooth, self._volume.size).to(self._step.dtype)
            self._rough = self._rough - self._step * change
        return self._volume.combined(self._rough)

    def curvature(self, direction: Tensor) -> Tensor:
        """See `Term.curvature`; all of it is in the first filter's."""
        self._change = self._volume.answers(direction)
        self._smooth = self._objective(self._change, self._volume.size)
        squares = self._smooth.float().square() if self._smooth.dtype == torch.bfloat16 else self._smooth.square()
        total = squares.reshape(len(direction), -1).sum(1)
        return F.pad(total[:, None, None], (0, 0, 0, direction.shape[1] - 1))

    def go(self, step: Tensor) -> None:
        """See `Term.go`."""
        self.answers = self.answers - step * self._change
        self._step = step


class QueryObjective(nn.Module):
    """|R * C(w, f_q)|^2 (eq. 6), with R a kernel of 3^4 cells: 3x3 over the query, then 3x3 over the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.over_query = nn.Parameter(1e-3 * torch.randn(CHANNELS, 1, 3, 3))
        self.over_reference = nn.Parameter(1e-3 * torch.randn(CHANNELS, CHANNELS, 3, 3))

    def forward(self, answers: Tensor, size: Size) -> Tensor:
        """(B Q, 16, H, W): the kernel applied to answers (B, N, Q) of N filters in all Q cells, both of grids of `size`."""
        cells = size[0] * size[1]
        patches = F.unfold(answers.reshape(-1, 1, *size), 3, padding=1).mT  # as products faster than as a convolution
        over_query = patches @ self.over_query.view(CHANNELS, 9).mT.to(patches.dtype)
        turned = over_query.unflatten(0, (-1, cells)).transpose(1, 2)  # (B, Q, N, 16)
        planes = turned.reshape(-1, *size, CHANNELS).permute(0, 3, 1, 2)
        return F.conv2d(planes, _channels_last(self.over_reference.to(planes.dtype)), padding=1)

    def adjoint(self, smooth: Tensor, size: Size) -> Tensor:
        """(B, N, Q): the transpose of `forward`."""
        cells = size[0] * size[1]
        transposed = self.over_reference.transpose(0, 1).flip(2, 3)
        planes = F.conv2d(smooth, _channels_last(transposed.to(smooth.dtype)), padding=1)
        turned = planes.permute(0, 2, 3, 1).reshape(-1, cells, cells, CHANNELS).transpose(1, 2)
        patches = turned.flatten(0, 1) @ self.over_query.view(CHANNELS, 9).to(planes.dtype)
        return F.fold(patches.mT, size, 3, padding=1).view(-1, cells, cells)

    def gradient(self, answers: Tensor, size: Size) -> Tensor:
        """(B, N, Q): that of half the objective in the answers; under autocast by half-precision products."""
        return self.adjoint(self(answers, size), size).to(answers.dtype)


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def hats(distances: Tensor) -> Tensor:
    """(..., KNOTS): the shares of the knots in a distance; hat functions, the last one constant beyond its knot."""
    knots = torch.arange(KNOTS, device=distances.device, dtype=distances.dtype)
    apart = distances[..., None] / WIDTH - knots
    shares = (1 - apart.abs()).clamp_min(0)
    last = (1 + apart[..., -1:]).clamp(0, 1)
    return torch.cat([shares[..., :-1], last], -1)
