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

import torch
from torch import Tensor, nn

from flowkit.models.gocor_objective import QueryObjective, QueryTerm, ReferenceObjective, ReferenceTerm, Term
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


class GOCor(nn.Module):
    """What both modules share: the objective and its descent, which is float32 whatever autocast says."""

    def __init__(self, config: GOCorConfig, steps: int) -> None:
        super().__init__()
        self.config, self.steps = config, steps
        self.reference = ReferenceObjective(config.eta, config.weighted_target, config.learned)
        self.log_step = nn.Parameter(torch.zeros(1))
        self.decay = nn.Parameter(torch.full((1,), 1e-2))
        """lambda of eq. 7."""

    def initial(self, reference: Tensor) -> Tensor:
        """The filters to start from, (B, C, H, W) as the reference's features."""
        raise NotImplementedError

    def volume(self, features: Tensor) -> Volume:
        """The features, float32 or 64, as what filters are compared with."""
        raise NotImplementedError

    def terms(self, own: Volume, other: Volume, filters: Tensor) -> list[Term]:
        """The terms of eq. 7 but for its prior, for the reference's and the query's volumes."""
        return [ReferenceTerm(self.reference, own, filters)]

    def descend(self, own: Volume, other: Volume, filters: Tensor, steps: int) -> Iterator[tuple[Tensor, list[Term]]]:
        """The filters (..., C) for the reference's volume before the first step and after each (eq. 8), and the terms there.

        Where terms tie the filters of a pair together these take one step in common, else each its own.
        """
        decay, terms = self._decay(own), self.terms(own, other, filters)
        tied = any(term.ties for term in terms)
        yield filters, terms
        for _ in range(steps):
            gradient = decay * filters + sum(term.gradient() for term in terms)
            length = gradient.square().sum(-1, keepdim=True)
            curvature = decay * length + sum(term.curvature(gradient) for term in terms)
            if tied:
                length, curvature = (each.sum(1, keepdim=True) for each in (length, curvature))
            step = self.log_step.exp() * length / curvature.clamp_min(SMALL)
            filters = filters - step * gradient
            for term in terms:
                term.go(step)
            yield filters, terms

    def objective(self, own: Volume, other: Volume, filters: Tensor) -> Tensor:
        """Half of eq. 7 for the filters (..., C), which every step lowers; a scalar, the sum over all pairs."""
        prior = (self._decay(own) * filters.square()).sum() / 2
        return prior + sum(term.value() for term in self.terms(own, other, filters))

    def states(self, reference: Tensor, query: Tensor, steps: int | None = None) -> Iterator[Tensor]:
        """The correspondence volume (B, K, H, W) before the first step and after each (the paper's Figures 1 and 5)."""
        reference, query = wide(reference), wide(query)
        own, other = self.volume(reference), self.volume(query)
        for filters, terms in self.descend(own, other, own.laid(self.initial(reference)), self._steps(steps)):
            yield other.maps(_answers(other, filters, terms))

    def forward(self, reference: Tensor, query: Tensor, steps: int | None = None) -> Tensor:
        """The correspondence volume of features (B, C, H, W): (B, cells or displacements, H, W), float32.

        `steps` of descent: None is the configuration's number, in training or in evaluation.
        """
        reference, query, steps = wide(reference), wide(query), self._steps(steps)
        if reference.is_cuda:
            return self._optimised(reference, query, steps)
        # pairs know nothing of one another, and one alone is what a CPU's caches can hold
        pairs = zip(reference.split(1), query.split(1), strict=True)
        volume = torch.cat([self._optimised(*pair, steps) for pair in pairs])
        lasting = reference.is_contiguous(memory_format=torch.channels_last)  # convolutions take it as it comes
        return volume.contiguous(memory_format=torch.channels_last if lasting else torch.contiguous_format)

    def _optimised(self, reference: Tensor, query: Tensor, steps: int) -> Tensor:
        own, other = self.volume(reference), self.volume(query)
        *_, (filters, terms) = self.descend(own, other, own.laid(self.initial(reference)), steps)
        return other.maps(_answers(other, filters, terms))  # of the last step alone

    def _decay(self, volume: Volume) -> Tensor:
        return self.decay.square().clamp_min(1e-10) / volume.scale**2

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

    def volume(self, features: Tensor) -> GlobalVolume:
        """See `GOCor.volume`."""
        return GlobalVolume(features)

    def terms(self, own: Volume, other: Volume, filters: Tensor) -> list[Term]:
        """See `GOCor.terms`."""
        terms = super().terms(own, other, filters)
        return terms if self.query is None else [*terms, QueryTerm(self.query, other, filters)]


class LocalGOCor(GOCor):
    """In place of a local correlation of radius 4; features (B, C, H, W) as they are, answers (B, 81, H, W)."""

    def __init__(self, config: GOCorConfig = PAPER) -> None:
        super().__init__(config, config.local_steps)
        self.at_place = nn.Parameter(torch.ones(1))

    def initial(self, reference: Tensor) -> Tensor:
        """w = f / mean(f f), which answers with 1 at its own place."""
        return self.at_place.to(reference.dtype) * reference / (reference.square().mean(1, keepdim=True) + 1e-6)

    def volume(self, features: Tensor) -> LocalVolume:
        """See `GOCor.volume`."""
        return LocalVolume(features, RADIUS)

    def _optimised(self, reference: Tensor, query: Tensor, steps: int) -> Tensor:
        """On the CPU in parts that its caches hold: here filters know nothing of one another."""
        if reference.is_cuda:
            return super()._optimised(reference, query, steps)
        own, other = self.volume(reference), self.volume(query)
        filters = own.laid(self.initial(reference))
        answers = []
        for part in own.parts():
            *_, (found, _) = self.descend(own.part(part), other, filters[part], steps)
            answers.append(other.part(part).answers(found))
        return other.maps(torch.cat(answers))


def _answers(volume: Volume, filters: Tensor, terms: list[Term]) -> Tensor:
    """What the filters answer in the query, which the term on it knows already."""
    for term in terms:
        if isinstance(term, QueryTerm):
            return term.answers
    return volume.answers(filters)


def answer_at(volume: Tensor, change: Tensor) -> Tensor:
    """(B, 1, H, W) in [0, 1]: a local volume (B, 81, H, W) at the displacements `change` (B, 2, H, W), in cells, 0 beyond it.

    The filters were optimised to answer with 1 at a match and 0 elsewhere, so that this is how sure the match is.
    """
    line = torch.arange(-RADIUS, RADIUS + 1, device=change.device, dtype=change.dtype).view(-1, 1, 1)
    near_x, near_y = ((1 - (change[:, axis, None] - line).abs()).clamp_min(0) for axis in (0, 1))
    shares = (near_y[:, :, None] * near_x[:, None]).flatten(1, 2)
    return (volume * shares).sum(1, keepdim=True).clamp(0, 1)
