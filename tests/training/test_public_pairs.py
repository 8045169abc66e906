"""Mixtures of public data sets: RAFT's constants, every pair as often as it counts, the same batch whenever it is asked for."""

import pickle
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from flowkit.datasets.samples import FlowSample
from flowkit.datasets.training_sets import SETS, PairArrays, TrainingSet
from flowkit.errors import InputError, UsageError
from flowkit.io.flow_files import write_flow
from flowkit.training.augment import DENSE, augment
from flowkit.training.flownet2_augmentation import CHAIRS
from flowkit.training.material import Material
from flowkit.training.public_pairs import LITEFLOWNET_STAGES, STAGES, PublicPairs, collate, mixture, public_batches
from flowkit.training.recipe import Recipe
from flowkit.training.recipes import recipe


def test_stages_are_rafts():
    assert {name: (stage.crop, stage.batch_size) for name, stage in STAGES.items()} == {
        "chairs": ((368, 496), 10),
        "things": ((400, 720), 6),
        "sintel": ((368, 768), 6),
        "kitti": ((288, 960), 6),
    }
    sintel = {part.name: part for part in STAGES["sintel"].parts}
    repeats = {name: part.repeat for name, part in sintel.items()}
    assert repeats == {"sintel-clean": 100, "sintel-final": 100, "kitti2015": 200, "hd1k": 5, "flyingthings-clean": 1}
    assert all(part.augmentation.sparse == SETS[name].sparse for name, part in sintel.items())
    scales = {name: (part.augmentation.min_scale, part.augmentation.max_scale) for name, part in sintel.items()}
    assert (
        scales["kitti2015"] == (-0.3, 0.5) and scales["hd1k"] == (-0.5, 0.2) and scales["sintel-clean"] == (-0.2, 0.6)
    )
    assert STAGES["kitti"].parts[0].augmentation.flip_x == 0 and sintel["kitti2015"].augmentation.flip_x == 0.5
    assert mixture("kitti2012").parts[0].augmentation == STAGES["kitti"].parts[0].augmentation
    assert mixture("flyingthings-final").parts[0].augmentation.min_scale == -0.4
    assert mixture("hd1k").parts[0].repeat == 1
    with pytest.raises(UsageError, match="chairs"):
        mixture("sofas")


class Truth:
    """A flow that says which pair it is."""

    def __init__(self, number):
        self.number = number

    def __call__(self):
        return np.full((2, 24, 32), self.number, np.float32)


def toy_set(folder: Path, name: str, count: int, sparse: bool = False, first: int = 0) -> TrainingSet:
    image = folder / "grey.png"
    if not image.is_file():
        assert cv2.imwrite(str(image), np.full((24, 32, 3), 90, np.uint8))
    samples = [FlowSample(name, str(n), image, image, Truth(first + n)) for n in range(count)]
    return TrainingSet(name, samples, sparse)


def toy_pairs(folder):
    plain = replace(
        DENSE, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, eraser=0.0, spatial=0.0, flip_x=0.0, flip_y=0.0
    )
    parts = [(toy_set(folder, "a", 3), plain, 2), (toy_set(folder, "b", 4, first=10), replace(plain, sparse=True), 1)]
    return PublicPairs(parts)


def test_an_epoch_has_every_pair_as_often_as_it_counts(tmp_path):
    pairs = toy_pairs(tmp_path)
    assert len(pairs) == 10
    batches = [pairs.numbered(number, 5, (16, 16), seed=4) for number in range(4)]
    seen = [int(value) for batch in batches for value in batch.flow[:, 0, 0, 0]]
    assert sorted(seen[:10]) == sorted(seen[10:]) == [0, 0, 1, 1, 2, 2, 10, 11, 12, 13]
    assert seen[:10] != seen[10:]  # shuffled anew
    names = [name for batch in batches[:2] for name in batch.made["names"]]
    assert names == [f"a/{value}" if value < 10 else f"b/{value - 10}" for value in seen[:10]]


def equal(one, other):
    return all(torch.equal(one.tensors()[name], other.tensors()[name]) for name in one.tensors())


def test_batches_depend_on_seed_and_number_alone(tmp_path):
    folder = tmp_path
    parts = [(toy_set(folder, "a", 7), replace(DENSE, eraser_side=(4, 8), noise=5.0), 1)]
    pairs, later = PublicPairs(parts), pickle.loads(pickle.dumps(PublicPairs(parts)))
    first = [pairs.numbered(number, 3, (16, 24), seed=1) for number in range(6)]
    for number in (5, 2, 4):  # a run resumed elsewhere, in another order
        assert equal(later.numbered(number, 3, (16, 24), seed=1), first[number])
    assert equal(pairs.batch(3, (16, 24), seed=9), later.batch(3, (16, 24), seed=9))
    assert not equal(pairs.batch(3, (16, 24), seed=9), pairs.batch(3, (16, 24), seed=10))
    single = PublicPairs([(toy_set(folder, "a", 1), replace(DENSE, eraser_side=(4, 8), noise=5.0), 1)])
    ones = [single.numbered(number, 1, (16, 24), seed) for number, seed in ((0, 1), (0, 2), (1, 1))]
    assert not equal(ones[0], ones[1]) and not equal(ones[0], ones[2])


def test_so_do_flownet2s(tmp_path):
    pairs = PublicPairs([(toy_set(tmp_path, "a", 3), replace(CHAIRS, half_life=4), 1)])
    later = pickle.loads(pickle.dumps(pairs))
    first = [pairs.numbered(number, 2, (16, 20), seed=1) for number in range(4)]
    assert all(equal(later.numbered(number, 2, (16, 20), seed=1), first[number]) for number in (3, 1))


def test_what_a_batch_is(tmp_path):
    batch = toy_pairs(tmp_path).batch(4, (16, 20), seed=0)
    assert batch.image0.shape == (4, 3, 16, 20) and batch.image0.dtype == torch.float32
    assert batch.image0.unique().tolist() == pytest.approx([90 / 255])
    assert batch.flow.shape == (4, 2, 16, 20) and batch.valid.shape == (4, 16, 20) and batch.valid.dtype == torch.bool
    assert batch.occlusion is None and batch.made["family"] == "public"


def test_occlusion_is_kept_where_all_know_it():
    image = np.full((64, 96, 3), 90, np.uint8)
    pair = PairArrays(image, image, np.zeros((2, 64, 96), np.float32))
    rng = np.random.default_rng(0)
    knowing, unknowing = (
        {**augment(replace(pair, occluded=mask), (32, 48), DENSE, rng), "name": "x"}
        for mask in (np.zeros((64, 96), bool), None)
    )
    both = collate([knowing, knowing]).occlusion
    assert both is not None and both.shape == (2, 32, 48)
    assert collate([knowing, unknowing]).occlusion is None and collate([unknowing, knowing]).occlusion is None


def test_public_batches_reads_the_folders_of_a_mixture(tmp_path):
    chairs, kitti = tmp_path / "chairs", tmp_path / "kitti" / "training"
    for path in (chairs / "data", kitti / "image_2", kitti / "flow_occ"):
        path.mkdir(parents=True)
    truth = np.full((2, 24, 32), 2, np.float32)
    for path in ("data/00001_img1.ppm", "data/00001_img2.ppm"):
        cv2.imwrite(str(chairs / path), np.full((24, 32, 3), 90, np.uint8))
    write_flow(chairs / "data" / "00001_flow.flo", truth)
    for end in (10, 11):
        cv2.imwrite(str(kitti / "image_2" / f"000000_{end}.png"), np.full((24, 32, 3), 90, np.uint8))
    write_flow(kitti / "flow_occ" / "000000_10.png", truth)

    assert public_batches({"flyingchairs": chairs}, mixture("chairs")).batch(2, (16, 16), 0).valid.all()
    folders = {"kitti2015": kitti.parent}
    with pytest.raises(UsageError, match="hd1k"):
        public_batches(folders, mixture("sintel"))
    assert len(public_batches(folders, mixture("sintel").only(folders))) == 200
    with pytest.raises(UsageError, match="no pairs"):
        public_batches({}, mixture("sintel").only([]))


def test_liteflownets_stages_are_the_papers():
    assert {name: (stage.crop, stage.batch_size) for name, stage in LITEFLOWNET_STAGES.items()} == {
        "liteflownet-chairs": ((320, 448), 8),
        "liteflownet-things": ((384, 768), 4),
        "liteflownet-sintel": ((384, 768), 4),
        "liteflownet2-sintel": ((384, 768), 4),
        "liteflownet-kitti": ((320, 896), 4),
    }
    parts = {name: [part.name for part in mixture(name).parts] for name in LITEFLOWNET_STAGES}
    assert parts["liteflownet-sintel"] == ["sintel-clean", "sintel-final"]
    assert parts["liteflownet-kitti"] == ["kitti2012", "kitti2015"] and parts["liteflownet-things"] == [
        "flyingthings-clean"
    ]
    counts = {"sintel-clean": 1041, "sintel-final": 1041, "kitti2012": 194, "kitti2015": 200}
    drawn = {part.name: part.repeat * counts[part.name] for part in mixture("liteflownet2-sintel").parts}
    kitti_share = (drawn["kitti2012"] + drawn["kitti2015"]) / sum(drawn.values())
    assert list(drawn) == list(counts) and abs(kitti_share - 0.5) < 0.02
    assert recipe("liteflownet2-sintel").source == "liteflownet2-sintel"
    assert recipe("liteflownet-sintel").source == recipe("pwcnet-sintel").source == "liteflownet-sintel"
    for part in mixture("liteflownet-kitti").parts:
        kitti = part.augmentation
        assert kitti.sparse and kitti.noise.width == kitti.noise.mean == 0 and kitti.mirror == 0.5
        for field in fields(kitti.motion):
            assert getattr(kitti.motion, field.name).width < getattr(CHAIRS.motion, field.name).width
    with pytest.raises(UsageError, match="liteflownet-sintel"):
        mixture("liteflownet-sofas")


def test_draws_are_counted_and_extreme_pairs_replaced(tmp_path):
    seen, plain = [], toy_set(tmp_path, "toy", 4)
    long = [
        replace(sample, flow=Truth(value)) for sample, value in zip(plain.samples, (1, 1200, -1300, 2), strict=True)
    ]

    def apply(pair, crop, rng, draw=None):
        seen.append(draw)
        return CHAIRS.apply(pair, crop, rng, draw)

    counting = SimpleNamespace(apply=apply, excludes=CHAIRS.excludes)
    pairs = PublicPairs([(TrainingSet("toy", long), counting, 1)])
    names = pairs.numbered(0, 4, (16, 24), seed=0).made["names"]
    assert sorted(names) == ["toy/0", "toy/3", "toy/3", "toy/3"]
    pairs.numbered(3, 2, (16, 24), seed=0)
    assert seen == [0, 1, 2, 3, 6, 7]
    pairs.batch(1, (16, 24), seed=0)
    assert seen[-1] is None
    with pytest.raises(InputError, match="toy"):
        PublicPairs([(TrainingSet("toy", long[1:2]), counting, 1)]).batch(1, (16, 24), seed=0)


def test_a_recipe_reads_the_mixtures(tmp_path):
    chairs, kitti = tmp_path / "chairs", tmp_path / "kitti" / "training"
    for path in (chairs / "data", kitti / "image_2", kitti / "flow_occ"):
        path.mkdir(parents=True)
    picture, truth = (
        np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8),
        np.full((2, 48, 64), 2, np.float32),
    )
    truth[:, ::2] = np.nan
    for path in ("data/00001_img1.ppm", "data/00001_img2.ppm"):
        assert cv2.imwrite(str(chairs / path), picture)
    write_flow(chairs / "data" / "00001_flow.flo", np.full_like(truth, 2))
    for end in (10, 11):
        cv2.imwrite(str(kitti / "image_2" / f"000000_{end}.png"), picture)
    write_flow(kitti / "flow_occ" / "000000_10.png", truth)

    recipe = Recipe(model="pwcnet", source="liteflownet-chairs", size=(32, 48), batch=2)
    batch = recipe.batches(recipe.source_from(Material(data={"flyingchairs": chairs})), 0)
    assert batch.image0.shape == (2, 3, 32, 48) and batch.valid.all()
    only = mixture("liteflownet-kitti").only(["kitti2015"])
    batch = public_batches({"kitti2015": kitti.parent}, only).numbered(0, 2, (32, 48), 0)
    assert 0 < batch.valid.float().mean() < 0.9
