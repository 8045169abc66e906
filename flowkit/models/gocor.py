"""GOCor: correspondence volumes from filters that are optimised for the pair at hand, in place of the features themselves.

Truong, Danelljan, Van Gool, Timofte: GOCor: Bringing Globally Optimized Correspondence Volumes into Your Neural Network,
NeurIPS 2020. A correlation layer compares the features of a cell of the reference with those of the query. Here every cell of
the reference first gets a filter w that answers with 1 at its own cell of the reference and with 0 at all that look alike
(eq. 5), and whose answers in the query are smooth (eq. 6): a few steps of steepest descent (eq. 8), unrolled, so that what the
objective weighs is learned with the rest of the network. The filters are then correlated with the query.

The **reference** is image0, on whose grid the flow lives; the **query** is image1, or its features warped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flowkit.models.gocor_objective import QueryObjective, ReferenceObjective
from flowkit.models.gocor_volumes import GlobalVolume, LocalVolume, Volume
from flowkit.ops.precision import wide

RADIUS = 4
"""Cells that a local volume reaches in every direction."""
SMALL = 1e-8
"""The least curvature that a step is divided by."""


@dataclass(frozen=True)
class GOCorConfig:
    """What distinguishes the paper's form from the published code's, and the rows of the paper's ablation."""

    eta: float = 0.1
    """Half the width of the smooth bend at zero confidence (eq. 4b); 0: a sharp bend, as published."""
    weighted_target: bool = False
    """The answer wanted is v+ y, as published, instead of the paper's y."""
    learned: bool = True
    """The weights v+ and v- and the target y are learned; else 1, 1 and 1 at distance 0: linear regression (Table 6, III)."""
    query: bool = True
    """The global module's second term, on the query (eq. 6)."""
    train_steps: int = 3
    """Steps of descent in training."""
    global_steps: int = 3
    local_steps: int = 7
    """Steps in evaluation."""


PAPER = GOCorConfig()
PUBLISHED = GOCorConfig(eta=0.0, weighted_target=True)
"""What the official weights were trained with."""
REFERENCE_ONLY = replace(PAPER, query=False)
"""Table 6, IV."""
LINEAR = replace(PAPER, query=False, learned=False)
"""Table 6, III."""


class State(NamedTuple):
    """Filters (B, C, ...) after some steps, and what they answer in the query, if that was asked for on the way."""

    filters: Tensor
    answers: Tensor | None


class GOCor(nn.Module):
    """What both modules share: the objective and its descent. Maps are float32 inside, whatever autocast says."""

    def __init__(self, config: GOCorConfig, steps: int) -> None:
        super().__init__()
        self.config, self.steps = config, steps
        self.reference = ReferenceObjective(config.eta, config.weighted_target, config.learned)
        self.query: QueryObjective | None = None
        self.log_step = nn.Parameter(torch.zeros(1))
        self.decay = nn.Parameter(torch.full((1,), 1e-2))
        """lambda of eq. 7."""

    def initial(self, reference: Tensor) -> Tensor:
        """The filters to start from, of the shape of the reference's features."""
        raise NotImplementedError

    def descend(self, reference: Volume, query: Volume | None, filters: Tensor, steps: int) -> Iterator[State]:
        """The filters before the first step and after each (eq. 8).

        The answers to a step's direction are what the step changes in the answers, so every step correlates once.
        """
        decay = self._decay(reference)
        maps = self.reference.maps(reference)
        scores = reference.answers(filters)
        answers = smooth = None
        if self.query is not None:
            assert query is not None
            answers = query.answers(filters)
            smooth = self.query(answers, query.grids)
        yield State(filters, answers)
        for _ in range(steps):
            residual, slope = self.reference(scores, maps)
            gradient = decay * filters + reference.combined(slope * residual)
            if self.query is not None:
                assert query is not None and smooth is not None
                gradient = gradient + query.combined(self.query.adjoint(smooth, query.grids))
            change = reference.answers(gradient)
            length = gradient.square().sum(1, keepdim=True)
            curvature = (slope * change).square().sum(1, keepdim=True) + decay * length
            change_query = change_smooth = None
            if self.query is not None:
                assert query is not None
                change_query = query.answers(gradient)
                change_smooth = self.query(change_query, query.grids)
                # the query ties all filters of a pair together, so that they take one step in common
                length = length.flatten(1).sum(1)
                curvature = curvature.flatten(1).sum(1) + change_smooth.square().flatten(1).sum(1)
                length, curvature = (each.view(-1, 1, 1, 1) for each in (length, curvature))
            step = self.log_step.exp() * length / curvature.clamp_min(SMALL)
            filters = filters - step * gradient
            scores = scores - step * change
            if change_query is not None and answers is not None and smooth is not None:
                assert change_smooth is not None
                answers = answers - step * change_query
                smooth = smooth - step * change_smooth
            yield State(filters, answers)

    def objective(self, reference: Volume, query: Volume | None, filters: Tensor) -> Tensor:
        """(B,): half of eq. 7 for the filters; what every step lowers."""
        residual, _ = self.reference(reference.answers(filters), self.reference.maps(reference))
        total = residual.square().flatten(1).sum(1) + (self._decay(reference) * filters.square()).flatten(1).sum(1)
        if self.query is not None:
            assert query is not None
            total = total + self.query(query.answers(filters), query.grids).square().flatten(1).sum(1)
        return total / 2

    def _decay(self, volume: Volume) -> Tensor:
        return self.decay.square().clamp_min(1e-10) / volume.scale**2

    def _volume(self, features: Tensor) -> Volume:
        raise NotImplementedError

    def states(self, reference: Tensor, query: Tensor, steps: int | None = None) -> Iterator[Tensor]:
        """The correspondence volume before the first step and after each, for a look inside (Figures 1 and 5)."""
        found, own = self._volumes(reference, query)
        for state in self.descend(found, own, self.initial(wide(reference)), self._steps(steps)):
            yield own.answers(state.filters) if state.answers is None else state.answers

    def forward(self, reference: Tensor, query: Tensor, steps: int | None = None) -> Tensor:
        """The correspondence volume of features (B, C, H, W): (B, cells or displacements, H, W), float32.

        `steps` of descent: None is the configuration's number, in training or in evaluation.
        """
        with torch.autocast(reference.device.type, enabled=False):
            found, own = self._volumes(reference, query)
            last = None
            for state in self.descend(found, own, self.initial(wide(reference)), self._steps(steps)):
                last = state
            assert last is not None
            return own.answers(last.filters) if last.answers is None else last.answers

    def _volumes(self, reference: Tensor, query: Tensor) -> tuple[Volume, Volume]:
        return self._volume(wide(reference)), self._volume(wide(query))

    def _steps(self, steps: int | None) -> int:
        if steps is not None:
            return steps
        return self.config.train_steps if self.training else self.steps


class GlobalGOCor(GOCor):
    """In place of a global correlation; features (B, C, H, W) with vectors of length 1, answers (B, H W, H, W)."""

    def __init__(self, channels: int, config: GOCorConfig = PAPER) -> None:
        super().__init__(config, config.global_steps)
        self.query = QueryObjective() if config.query else None
        self.at_place = nn.Parameter(torch.ones(channels))
        """What a filter is to answer at its own place at first, 1 ..."""
        self.at_mean = nn.Parameter(torch.zeros(channels))
        """... and to the mean of all features, 0."""

    def initial(self, reference: Tensor) -> Tensor:
        """w = a f + b mean(f) with w f = 1 and w mean(f) = 0 (section 3.6), as channel by channel has been learned."""
        mean = reference.mean((2, 3), keepdim=True)
        own = reference.square().sum(1, keepdim=True)
        both = (reference * mean).sum(1, keepdim=True)
        average = mean.square().sum(1, keepdim=True)
        determinant = (own * average - both.square()).clamp_min(1e-6)
        at_place, at_mean = (each.to(reference.dtype).view(-1, 1, 1) for each in (self.at_place, self.at_mean))
        a = at_place * average - at_mean * both
        b = at_place * both - at_mean * own
        return (a * reference - b * mean) / determinant

    def _volume(self, features: Tensor) -> Volume:
        return GlobalVolume(features)


class LocalGOCor(GOCor):
    """In place of a local correlation of radius 4; features (B, C, H, W) as they are, answers (B, 81, H, W)."""

    def __init__(self, config: GOCorConfig = PAPER) -> None:
        super().__init__(config, config.local_steps)
        self.at_place = nn.Parameter(torch.ones(1))

    def initial(self, reference: Tensor) -> Tensor:
        """w = f / mean(f f), which answers with 1 at its own place."""
        return self.at_place.to(reference.dtype) * reference / (reference.square().mean(1, keepdim=True) + 1e-6)

    def _volume(self, features: Tensor) -> Volume:
        return LocalVolume(features, RADIUS)
