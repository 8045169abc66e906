"""The explicit table of dense methods: a new model is one file, one row here and one card in `weights/models.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flowkit.errors import UsageError


@dataclass(frozen=True)
class ModelSpec:
    """One dense method. Nothing is imported, built or loaded until it is asked for."""

    name: str
    kind: str
    """"classical" (no weights) or "network"."""
    target: str
    """Import path "package.module:attribute" of what computes the flow."""
    divisor: int
    """The network wants heights and widths divisible by it; 1 takes any size."""
    iterations: int | None
    """Default number of update iterations, None where the method has no such thing."""
    weights: str | None
    """Name of the weights card, None where it needs none."""
    paper: str
    licence: str


MODELS: Mapping[str, ModelSpec] = MappingProxyType(
    {
        spec.name: spec
        for spec in (
            ModelSpec(
                name="dis",
                kind="classical",
                target="cv2:DISOpticalFlow_create",
                divisor=1,
                iterations=None,
                weights=None,
                paper="Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016",
                licence="Apache-2.0",
            ),
        )
    }
)


def model_spec(name: str) -> ModelSpec:
    """The row of that name; UsageError listing the known names if there is none."""
    try:
        return MODELS[name]
    except KeyError:
        raise UsageError(f"no model is called {name!r}; known: {', '.join(MODELS)}") from None
