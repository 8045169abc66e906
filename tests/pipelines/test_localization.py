"""hloc's files of a list of pairs, taken up again where it was stopped, and a camera found from them."""

import h5py
import numpy as np
import pytest
import textured_room as room

from flowkit.errors import InputError, UsageError
from flowkit.io.cameras import pixel_centre_to_colmap
from flowkit.io.colmap import export_database
from flowkit.io.hloc import pairs_in, read_hloc
from flowkit.io.images import write_image
from flowkit.pipelines import image_set
from flowkit.pipelines.image_set import unique_pairs
from flowkit.pipelines.localization import (
    FeatureFiles,
    LocalizationExport,
    export_matches,
    localize,
    write_database,
)
from flowkit.types import Features, Status

POSES = room.poses(5)
NAMES = ["db/1.jpg", "db/2.jpg", "query/night/nexus5x/IMG_1.jpg", "db/3.jpg", "db/4.jpg"]
QUERY = NAMES[2]
DATABASE = [name for name in NAMES if name != QUERY]
PAIRS = [*((a, b) for i, a in enumerate(DATABASE) for b in DATABASE[i + 1 :]), *((QUERY, name) for name in DATABASE)]
OPTIONS = {"features": "sift", "max_keypoints": 900}


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder laid out as Aachen's, with names that have slashes."""
    root = tmp_path_factory.mktemp("images")
    for name, pose in zip(NAMES, POSES, strict=True):
        write_image(root / name, room.view(pose))
    return root


@pytest.fixture(scope="module")
def exported(images, tmp_path_factory):
    return run(images, tmp_path_factory.mktemp("exported"), PAIRS)


def run(images, directory, pairs, **changes):
    export = LocalizationExport(directory, images, OPTIONS, **changes)
    faults = [fault for _, fault in export_matches(pairs, export, export.matcher(**OPTIONS)) if fault is not None]
    assert not faults
    return export


def test_hloc_finds_keypoints_and_matches_as_it_looks_for_them(exported):
    assert sorted(path.name for path in exported.directory.iterdir()) == [
        "features.h5", "matches.h5", "options.json", "pairs.txt"
    ]  # fmt: skip
    with h5py.File(exported.features_h5) as features, h5py.File(exported.matches_h5) as matches:
        for name0, name1 in PAIRS:
            group = matches["/".join(name.replace("/", "-") for name in (name0, name1))]  # hloc's names_to_pair
            matches0 = group["matches0"][()]
            assert matches0.shape == (len(features[name0]["keypoints"]),)
            assert matches0.max() < len(features[name1]["keypoints"]) and (matches0 >= 0).sum() > 20
        assert features[QUERY]["image_size"][()].tolist() == [240, 180]
    assert (exported.directory / "pairs.txt").read_text().splitlines() == [" ".join(pair) for pair in PAIRS]


def test_a_stopped_run_is_taken_up_again_and_gives_the_same(images, exported, tmp_path, monkeypatch):
    matched = []
    real = image_set.SetMatcher.match

    def match(self, image0, image1):
        if len(matched) == 3:
            raise KeyboardInterrupt
        matched.append((image0.name, image1.name))
        return real(self, image0, image1)

    monkeypatch.setattr(image_set.SetMatcher, "match", match)
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path, PAIRS[:5])
    assert not (tmp_path / "features.h5").exists() and not (tmp_path / "matches.h5").exists()
    monkeypatch.undo()
    extracted = []
    monkeypatch.setattr(FeatureFiles, "__setitem__", lambda self, name, value: extracted.append(name))
    run(images, tmp_path, PAIRS[:5])
    monkeypatch.undo()
    assert {name.rpartition("/")[2] for name in extracted} <= {"4.jpg", "3.jpg"}  # the others were kept
    assert pairs_in(tmp_path / "matches.h5") == {*PAIRS[:5]}
    run(images, tmp_path, [pair[::-1] for pair in PAIRS[:5]] + PAIRS[5:7])
    assert pairs_in(tmp_path / "matches.h5") == {*PAIRS[:7]}  # added to, nothing twice
    assert (tmp_path / "pairs.txt").read_text().splitlines() == [" ".join(pair) for pair in PAIRS[:7]]
    for pair in PAIRS[:7]:
        ours, theirs = (read_hloc(d / "features.h5", d / "matches.h5", *pair) for d in (tmp_path, exported.directory))
        np.testing.assert_array_equal(ours.keypoints0, theirs.keypoints0)
        np.testing.assert_array_equal(ours.pairs, theirs.pairs)


def test_an_unreadable_image_costs_its_pairs_only(images, tmp_path):
    pairs = [(DATABASE[0], "db/ghost.jpg"), (DATABASE[0], DATABASE[1])]
    export = LocalizationExport(tmp_path, images, OPTIONS)
    faults = dict(export_matches(pairs, export, export.matcher(**OPTIONS)))
    assert (
        isinstance(faults[pairs[0]], InputError) and "ghost.jpg" in str(faults[pairs[0]]) and faults[pairs[1]] is None
    )
    assert pairs_in(tmp_path / "matches.h5") == {pairs[1]}


def test_other_options_are_refused(images, tmp_path):
    LocalizationExport(tmp_path, images, OPTIONS)
    with pytest.raises(UsageError, match="max_keypoints: 900, now 5"):
        LocalizationExport(tmp_path, images, {**OPTIONS, "max_keypoints": 5})
    LocalizationExport(tmp_path, images, {**OPTIONS, "max_keypoints": 5}, overwrite=True)


def test_unique_pairs():
    assert unique_pairs([("a", "b"), ("b", "a"), ("c", "c"), ("a", "c"), ("a", "b")]) == [("a", "b"), ("a", "c")]


def test_features_in_files(tmp_path):
    rng = np.random.default_rng(0)
    store = FeatureFiles(tmp_path)
    given = Features(
        rng.random((3, 2), np.float32), rng.random((3, 4), np.float32), np.ones(3, np.float32), (5, 7), "sift"
    )
    store["sift:a/b.jpg"] = given
    read = FeatureFiles(tmp_path)["sift:a/b.jpg"]
    assert read.size == (5, 7) and read.name == "sift" and read.scales is None
    np.testing.assert_array_equal(read.keypoints, given.keypoints)
    np.testing.assert_array_equal(read.descriptors, given.descriptors)
    assert store.get("sift:other") is None


def test_the_query_is_localised_in_the_model_of_the_others(exported, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    from flowkit.pipelines.reconstruction import map_images, verify

    pairs = [pair for pair in PAIRS if QUERY not in pair]
    cameras = {name: (room.SIZE, room.K) for name in DATABASE}
    export_database(tmp_path / "x.db", cameras, ((*pair, exported.matches(pair)) for pair in pairs), shared_camera=True)
    assert verify(tmp_path / "x.db", pairs) == 6
    model = map_images(tmp_path / "x.db", exported.root, tmp_path / "models", refine_camera=False)
    assert model.num_reg_images() == 4
    (fx, _, cx), (_, fy, cy) = pixel_centre_to_colmap(room.K)[:2]
    camera = pycolmap.Camera(model="PINHOLE", width=240, height=180, params=[fx, fy, cx, cy])
    files = exported.features_h5, exported.matches_h5
    found = localize(QUERY, model, camera, *files)
    assert found.status is Status.OK and found.inliers > 50
    true = {name: -pose[:, :3].T @ pose[:, 3] for name, pose in zip(NAMES, POSES, strict=True)}
    centres = {image.name: image.projection_center() for image in model.images.values()}
    centres[QUERY] = -found.T[:3, :3].T @ found.T[:3, 3]
    align = pycolmap.estimate_sim3d(*(np.array([each[name] for name in DATABASE]) for each in (centres, true)))
    assert np.linalg.norm(align * centres[QUERY] - true[QUERY]) < 0.02  # of a path 1.8 long
    nowhere = localize("query/unknown.jpg", model, camera, *files)
    assert nowhere.T is None and nowhere.status is Status.TOO_FEW_MATCHES


def test_a_database_of_all_pairs(exported, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    write_database(tmp_path / "all.db", exported)
    database = pycolmap.Database.open(tmp_path / "all.db")
    try:
        assert {image.name for image in database.read_all_images()} == {*NAMES}
        assert database.num_matched_image_pairs() == len(PAIRS)
    finally:
        database.close()
