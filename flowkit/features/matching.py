"""Matching descriptors, and putting matches of several kinds together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from flowkit.features.base import nothing
from flowkit.types import Features, Image, Matches, Size

if TYPE_CHECKING:
    import torch

    from flowkit.features.base import Extractor, PairMatcher

CHUNK = 2048
"""Rows of the similarity matrix held at a time ..."""
ELEMENTS = 16_000_000
"""... and its elements, 64 MB, where there are so many columns that this makes fewer rows."""
SEPARATION = 10.0
"""Pixels from a match beyond which another keypoint is a rival of it."""
SAME_PLACE = 1.5
"""Pixels within which two matches join the same places."""


def match_descriptors(
    features0: Features,
    features1: Features,
    *,
    ratio: float | None = None,
    mutual: bool = True,
    min_score: float | None = None,
    separation: float = SEPARATION,
    free: tuple[np.ndarray, np.ndarray] | None = None,
    device: str = "cpu",
) -> Matches:
    """Nearest neighbours by cosine similarity of unit descriptors, which is each match's score (clipped to [0, 1]).

    `mutual` keeps pairs that are each other's nearest. `ratio` keeps a match when its distance is below `ratio` times the
    distance to the best neighbour that lies more than `separation` pixels elsewhere: a second orientation or a second
    view of the same point says nothing against it (the FGINN rule of Mishkin et al., MODS, CVIU 2015). `free`, bool (N0,) and
    (N1,), keeps matches between free keypoints only; the others are still neighbours that the free ones compare with.
    """
    import torch

    count0, count1 = len(features0.keypoints), len(features1.keypoints)
    if count0 == 0 or count1 == 0:  # the keypoints stay: an image has the same in every pair
        return label(features0, features1, np.zeros((0, 2), np.int64), np.zeros(0, np.float32), features0.name)
    descriptors0 = torch.from_numpy(features0.descriptors).to(device)
    descriptors1 = torch.from_numpy(features1.descriptors).to(device)
    index1, score, keep = nearest_neighbours(descriptors0, descriptors1, mutual=mutual)
    index0 = torch.arange(count0, device=device)
    if min_score is not None:
        keep &= score >= min_score
    if free is not None:
        free0, free1 = (torch.from_numpy(np.asarray(mask, bool)).to(device) for mask in free)
        keep &= free0 & free1[index1]
    if ratio is not None:
        for rows in keep.nonzero()[:, 0].split(CHUNK):
            second = _second(descriptors0[rows] @ descriptors1.T, index1[rows], features1.keypoints, separation)
            keep[rows] = _distance(score[rows]) < ratio * _distance(second)
    pairs = torch.stack([index0[keep], index1[keep]], dim=1).cpu().numpy()
    kept = score[keep].clamp(0, 1).cpu().numpy()
    return label(features0, features1, pairs, kept, features0.name)


def nearest_neighbours(
    descriptors0: torch.Tensor, descriptors1: torch.Tensor, *, mutual: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each of the unit descriptors (N0, D) the nearest of (N1, D), its cosine, and whether to keep it: all (N0,).

    `mutual` keeps those that are each other's nearest, of equals the first.
    """
    import torch

    count0, count1 = len(descriptors0), len(descriptors1)
    best = torch.full((count1,), -2.0, device=descriptors0.device)
    nearest, scores = [], []
    for rows in descriptors0.split(max(1, min(CHUNK, ELEMENTS // count1))):
        similarity = rows @ descriptors1.T
        score, index = similarity.max(dim=1)
        nearest.append(index)
        scores.append(score)
        if mutual:
            best = torch.maximum(best, similarity.amax(dim=0))  # an argmax over columns costs ten times as much
    index1, score = torch.cat(nearest), torch.cat(scores)
    if not mutual:
        return index1, score, torch.ones_like(index1, dtype=torch.bool)
    index0 = torch.arange(count0, device=index1.device)
    keep = score == best[index1]
    first = torch.full_like(best, count0, dtype=torch.long)
    first.scatter_reduce_(0, index1[keep], index0[keep], "amin")
    return index1, score, keep & (first[index1] == index0)


def merge(matches: Sequence[Matches]) -> Matches:
    """All matches of one image pair in one value: keypoints concatenated, indices moved, `origin` saying whose each is.

    Where some of them were guided, those that were not have stage 0.
    """
    if len(matches) == 1:
        return matches[0]
    offset0 = np.cumsum([0] + [len(m.keypoints0) for m in matches])
    offset1 = np.cumsum([0] + [len(m.keypoints1) for m in matches])
    origins = tuple(dict.fromkeys(name for m in matches for name in m.origins))
    parts = zip(matches, offset0, offset1, strict=False)
    judged = all(m.inliers is not None for m in matches)
    stages = [np.zeros(len(m), np.int64) if m.stage is None else m.stage for m in matches]
    return Matches(
        keypoints0=np.concatenate([m.keypoints0 for m in matches]),
        keypoints1=np.concatenate([m.keypoints1 for m in matches]),
        pairs=np.concatenate([m.pairs + np.array([at0, at1]) for m, at0, at1 in parts]),
        scores=np.concatenate([m.scores for m in matches]),
        size0=matches[0].size0,
        size1=matches[0].size1,
        origins=origins,
        origin=np.concatenate([_origin(m, origins) for m in matches]),
        inliers=np.concatenate([m.inliers for m in matches]) if judged else None,
        stage=np.concatenate(stages) if any(m.stage is not None for m in matches) else None,
    )


def label(features0: Features, features1: Features, pairs: np.ndarray, scores: np.ndarray, name: str) -> Matches:
    """Matches between two sets of features, all of one origin."""
    return Matches(
        keypoints0=features0.keypoints,
        keypoints1=features1.keypoints,
        pairs=pairs,
        scores=scores,
        size0=features0.size,
        size1=features1.size,
        origins=(name,),
        origin=np.zeros(len(pairs), np.int64),
    )


def no_matches(size0: Size, size1: Size, name: str) -> Matches:
    """No matches at all."""
    empty0, empty1 = nothing(size0, name, 0), nothing(size1, name, 0)
    return label(empty0, empty1, np.zeros((0, 2), np.int64), np.zeros(0, np.float32), name)


def deduplicate(matches: Matches, radius: float = SAME_PLACE) -> Matches:
    """Of the matches that join the same two places (within `radius` pixels in both images) keep the best one."""
    from scipy.spatial import cKDTree

    places = np.concatenate([matches.points0, matches.points1], axis=1)
    order = np.argsort(-matches.scores, kind="stable")
    near = cKDTree(places).query_ball_point(places, radius, p=np.inf) if len(places) else []
    keep = np.ones(len(places), bool)
    for i in order:
        if keep[i]:
            keep[near[i]] = False
            keep[i] = True
    return select(matches, keep)


def select(matches: Matches, keep: np.ndarray) -> Matches:
    """Some of the matches, all of the keypoints; `keep` is a mask or indices."""
    return replace(
        matches,
        pairs=matches.pairs[keep],
        scores=matches.scores[keep],
        origin=None if matches.origin is None else matches.origin[keep],
        inliers=None if matches.inliers is None else matches.inliers[keep],
        stage=None if matches.stage is None else matches.stage[keep],
    )


class DescriptorMatcher:
    """A pair matcher from an extractor: mutual nearest neighbours, ratio and score tests."""

    def __init__(
        self,
        extractor: Extractor,
        *,
        ratio: float | None = None,
        min_score: float | None = None,
        unique: bool = False,
        device: str = "cpu",
    ) -> None:
        self.extractor, self.name, self.weights = extractor, extractor.name, extractor.weights
        self.ratio, self.min_score, self.unique, self.device = ratio, min_score, unique, device
        self.notes = notes_of(extractor)

    def match(self, image0: Image, image1: Image) -> Matches:
        """Matches in the original pixels of both images."""
        features0, features1 = self.extractor.extract(image0), self.extractor.extract(image1)
        matches = match_descriptors(
            features0, features1, ratio=self.ratio, min_score=self.min_score, device=self.device
        )
        return deduplicate(matches) if self.unique else matches


class Union:
    """Several pair matchers at once: "sift+xfeat"."""

    def __init__(self, members: Sequence[PairMatcher]) -> None:
        self.members = tuple(members)
        self.name = "+".join(member.name for member in self.members)
        self.weights: Mapping[str, str] = {name: hash for m in self.members for name, hash in m.weights.items()}
        self.notes = tuple(dict.fromkeys(note for member in self.members for note in notes_of(member)))

    def match(self, image0: Image, image1: Image) -> Matches:
        """The matches of every member, `origin` saying whose each is."""
        return merge([member.match(image0, image1) for member in self.members])


def notes_of(feature: Extractor | PairMatcher) -> tuple[str, ...]:
    """What the provenance has to say of it, the licence of its weights for one; most have nothing to say."""
    notes: tuple[str, ...] = getattr(feature, "notes", ())
    return notes


def _origin(matches: Matches, origins: tuple[str, ...]) -> np.ndarray:
    """(M,) index of each match's origin in the list of all origins."""
    if matches.origin is None:
        return np.full(len(matches), -1, np.int64)
    return np.array([origins.index(name) for name in matches.origins], np.int64)[matches.origin]


def _second(similarity: torch.Tensor, nearest: torch.Tensor, keypoints1: np.ndarray, separation: float) -> torch.Tensor:
    """(N,) similarity of the best neighbour over `separation` pixels from the nearest one; `similarity` is overwritten."""
    import torch
    from scipy.spatial import cKDTree

    near = cKDTree(keypoints1).query_ball_point(keypoints1[nearest.cpu().numpy()], separation)
    rows = np.repeat(np.arange(len(near)), [len(each) for each in near])
    columns = np.fromiter(chain.from_iterable(near), np.int64, len(rows))
    similarity[torch.from_numpy(rows).to(similarity.device), torch.from_numpy(columns).to(similarity.device)] = -1.0
    return similarity.amax(dim=1)


def _distance(similarity: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of unit vectors with that dot product."""
    return (2 - 2 * similarity).clamp(min=0).sqrt()
