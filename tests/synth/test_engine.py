"""The engine as a whole: mixtures, determinism, both directions, light."""

import pytest
import torch
from scene_photos import store

from flowkit.errors import UsageError
from flowkit.geometry.sampling import warp
from flowkit.synth.engine import FAMILIES, Engine, EngineSettings
from flowkit.synth.photos import PhotoStore

SIZE = (48, 64)


def only(family: str, **changes: object) -> EngineSettings:
    return EngineSettings(**{name: float(name == family) for name in FAMILIES}, max_displacement=10, **changes)


@pytest.fixture(scope="module")
def photos() -> PhotoStore:
    return store()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gives_pairs_that_their_flow_explains(photos: PhotoStore, family: str) -> None:
    pairs = Engine(photos, only(family, lighting=0.0)).batch(6, SIZE, seed=1)
    assert len(pairs) == 6 and pairs.size == SIZE
    back, inside = warp(pairs.image1, pairs.flow)
    seen = inside & pairs.valid & ~pairs.occlusion
    assert seen.float().mean() > 0.4
    error = (back - pairs.image0).abs().mean(1)[seen]
    assert error.median() < 0.02
    assert pairs.made["seed"] == 1 and pairs.made["families"] == [family] * 6


@pytest.mark.parametrize("family", FAMILIES)
def test_no_family_moves_much_further_than_the_largest_displacement(photos: PhotoStore, family: str) -> None:
    pairs = Engine(photos, only(family)).batch(12, SIZE, seed=4)
    lengths = pairs.flow.norm(dim=1)[pairs.valid]
    assert 3 < lengths.max() < 20 and (lengths > 12).float().mean() < 0.01


def test_a_mixture_has_all_families_and_keeps_what_they_share(photos: PhotoStore) -> None:
    pairs = Engine(photos, EngineSettings(max_displacement=10)).batch(16, SIZE, seed=0)
    assert set(pairs.made["families"]) == set(FAMILIES) and len(pairs.made["families"]) == 16
    assert pairs.F is None and pairs.backward is not None and pairs.backward_occlusion is not None
    assert len(pairs) == 16


def test_batches_depend_on_nothing_but_their_arguments(photos: PhotoStore) -> None:
    settings = EngineSettings(max_displacement=10, both_ways=True)
    first, again = (Engine(photos, settings).batch(5, SIZE, seed=7) for _ in range(2))
    other = Engine(photos, settings).batch(5, SIZE, seed=8)
    assert all(torch.equal(tensor, getattr(again, name)) for name, tensor in first.tensors().items())
    assert not torch.equal(first.image0, other.image0)


def test_both_ways_gives_each_scene_in_both_directions(photos: PhotoStore) -> None:
    pairs = Engine(photos, only("layered", both_ways=True)).batch(6, SIZE, seed=2)
    assert torch.equal(pairs.image0[3:], pairs.image1[:3]) and torch.equal(pairs.flow[3:], pairs.backward[:3])
    assert torch.equal(pairs.occlusion[:3], pairs.backward_occlusion[3:])


def test_light_changes_the_pictures_and_nothing_else(photos: PhotoStore) -> None:
    plain = Engine(photos, only("layered", lighting=0.0)).batch(4, SIZE, seed=3)
    lit = Engine(photos, only("layered", lighting=1.0)).batch(4, SIZE, seed=3)
    assert (plain.image0 - lit.image0).abs().mean() > 0.02
    assert torch.equal(plain.flow, lit.flow) and torch.equal(plain.occlusion, lit.occlusion)


def test_reversed_cameras_explain_the_backward_flow(photos: PhotoStore) -> None:
    pairs = Engine(photos, only("scenes3d", lighting=0.0)).batch(4, SIZE, seed=4).reversed()
    y, x = torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij")
    ones = torch.ones_like(x)
    here = torch.stack([x, y, ones]).double().flatten(1).expand(4, -1, -1)
    there = here.clone()
    there[:, :2] += pairs.flow.double().flatten(2)
    lines = pairs.F.double() @ here
    distance = (there * lines).sum(1).abs() / lines[:, :2].norm(dim=1)
    assert distance.median() < 1e-3


@pytest.mark.parametrize("wrong", [{"layered": -1.0}, {"layered": 0, "scenes3d": 0, "geometric": 0}, {"lighting": 2.0}])
def test_settings_that_make_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        EngineSettings(**wrong)
