"""Each image's features once, however many pairs it is in: what reconstruction and localisation need."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

import numpy as np

from flowkit.errors import UsageError
from flowkit.features.base import Extractor, PairMatcher
from flowkit.features.matching import Union
from flowkit.types import Features, Image


class Remembered:
    """An extractor that looks into `store`, by its own and the image's name, before it extracts.

    Images must have different names; a `mask` asks for something else than what is stored, so it is extracted anew.
    """

    def __init__(self, extractor: Extractor, store: MutableMapping[str, Features]) -> None:
        self.extractor, self.name, self.store = extractor, extractor.name, store
        self.weights: Mapping[str, str] = extractor.weights

    def extract(self, image: Image, mask: np.ndarray | None = None) -> Features:
        """Keypoints in the image's original pixels, best first."""
        if mask is not None:
            return self.extractor.extract(image, mask)
        key = f"{self.name}:{image.name}"
        found = self.store.get(key)
        if found is None:
            found = self.store[key] = self.extractor.extract(image)
        return found


def remember(matcher: PairMatcher, store: MutableMapping[str, Features]) -> PairMatcher:
    """The same matcher (of one's own, it is changed), its extractors put behind `store`.

    UsageError where keypoints are made for each pair and not for each image, like XFeat*'s.
    """
    if isinstance(matcher, Union):
        for member in matcher.members:
            remember(member, store)
    elif hasattr(matcher, "extractor"):
        matcher.extractor = Remembered(matcher.extractor, store)
    else:
        raise UsageError(
            f"--features {matcher.name}: makes other keypoints of an image in every pair; use one that extracts each image "
            "by itself, for example xfeat or sift"
        )
    return matcher
