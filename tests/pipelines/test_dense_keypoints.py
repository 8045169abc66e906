"""Keypoints matched by a dense flow: what is whose partner, and hloc's files of a set made so, in which a camera is found."""

import h5py
import numpy as np
import pytest
import textured_room as room

from flowkit.errors import UsageError
from flowkit.io.cameras import pixel_centre_to_colmap
from flowkit.io.colmap import export_database
from flowkit.io.images import write_image
from flowkit.pipelines.dense_keypoints import DenseSetMatcher, match_keypoints
from flowkit.pipelines.localization import LocalizationExport, export_matches, localize
from flowkit.types import Features, Flow, Image, Status


def features(points, size=(60, 80)):
    points = np.array(points, np.float32).reshape(-1, 2)
    return Features(points, np.zeros((len(points), 1), np.float32), np.ones(len(points), np.float32), size, "made up")


def flow(vector=(10.0, -4.0), size=(60, 80), size1=(60, 80), confidence=0.9):
    uv = np.broadcast_to(np.array(vector, np.float32)[:, None, None], (2, *size)).copy()
    return Flow(uv, size1, np.full(size, confidence, np.float32))


def test_a_keypoint_gets_the_nearest_one_to_where_it_went():
    ours = features([[20, 20], [23, 20], [40, 30], [60, 50], [75, 30], [10, 2]])
    # Where they go: (30, 16), (33, 16), (50, 26), (70, 46), and out of the picture.
    theirs = features([[31, 16], [32.5, 16], [55.1, 26], [66, 43], [79, 26], [20, 0]])
    found = match_keypoints(ours, theirs, flow())
    np.testing.assert_array_equal(found.pairs, [[0, 0], [1, 1], [3, 3]])  # 5.1 px are too far
    np.testing.assert_allclose(found.scores, 0.9)
    assert len(found.keypoints0) == len(found.keypoints1) == 6 and found.origins == ("made up",)
    np.testing.assert_array_equal(
        match_keypoints(ours, theirs, flow(), radius=6).pairs, [[0, 0], [1, 1], [2, 2], [3, 3]]
    )
    one = features([[30.5, 16]])
    np.testing.assert_array_equal(match_keypoints(ours, one, flow()).pairs, [[0, 0]])  # not [1, 0], which is farther
    for a, b in ((features([]), theirs), (ours, features([])), (ours, features([[5, 55]]))):
        assert len(match_keypoints(a, b, flow())) == 0


def test_only_a_flow_that_is_known_and_sure_counts():
    ours, theirs = features([[20.4, 20.3], [40, 30], [60, 50]]), features([[30.4, 16.3], [50, 26], [70, 46]])
    given = flow()
    given.confidence[30, 40] = 0.49
    given.uv[:, 50, 60] = np.nan
    np.testing.assert_array_equal(match_keypoints(ours, theirs, given).pairs, [[0, 0]])
    with pytest.raises(ValueError, match="for keypoints in"):
        match_keypoints(ours, theirs, flow(size1=(60, 81)))


def test_refusals():
    with pytest.raises(UsageError, match="no extractor is called 'xfeat"):
        DenseSetMatcher(model="dis", features="xfeat*")
    with pytest.raises(UsageError, match="radius 0"):
        DenseSetMatcher(model="dis", radius=0)
    with pytest.raises(UsageError):
        DenseSetMatcher(model="no such")


def test_the_flow_is_asked_as_told(monkeypatch):
    asked = {}

    def made_up(image0, image1, **options):
        asked.update(options)
        return flow((0, 0), image0.size, image1.size)

    monkeypatch.setattr("flowkit.pipelines.dense_keypoints.flow", made_up)
    picture = np.random.default_rng(0).integers(0, 255, (1000, 1700, 3), np.uint8)
    images = Image(picture, "a"), Image(picture, "b")
    matcher = DenseSetMatcher(model="raft-xfeat", features="sift", max_keypoints=50, iterations=3, seed=2, device="cpu")
    found = matcher.match(*images)
    expected = {"model": "raft-xfeat", "iterations": 3, "seed": 2, "device": "cpu", "init": "matches"}
    assert asked == {**expected, "bidirectional": True, "resize": 1600}
    assert len(found.keypoints0) == len(found.keypoints1) == 50 and (found.points0 == found.points1).all()
    assert len(found) == len(np.unique(found.keypoints0, axis=0)) > 25  # SIFT has some twice, with two orientations
    asked.clear()
    DenseSetMatcher(model="dis", features="sift", resize=400, max_keypoints=50).match(*images)
    assert asked["resize"] == 400 and asked["model"] == "dis"


POSES = room.poses(5)
NAMES = ["db/1.jpg", "db/2.jpg", "query/night/1.jpg", "db/3.jpg"]
QUERY = NAMES[2]
DATABASE = [name for name in NAMES if name != QUERY]
PAIRS = [*((a, b) for i, a in enumerate(DATABASE) for b in DATABASE[i + 1 :]), *((QUERY, name) for name in DATABASE)]


def test_a_query_is_localised_by_dense_matches(tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    from flowkit.pipelines.reconstruction import map_images, verify

    for name, pose in zip(NAMES, POSES, strict=False):
        write_image(tmp_path / "images" / name, room.view(pose))
    options = {"model": "dis", "init": "none", "features": "sift", "max_keypoints": 900}
    export = LocalizationExport(tmp_path / "out", tmp_path / "images", options)
    assert not [fault for _, fault in export_matches(PAIRS, export, export.matcher(**options)) if fault]
    with h5py.File(export.features_h5) as store:
        assert len(store[QUERY]["keypoints"]) > 300
    pairs = [pair for pair in PAIRS if QUERY not in pair]
    cameras = {name: (room.SIZE, room.K) for name in DATABASE}
    export_database(tmp_path / "x.db", cameras, ((*pair, export.matches(pair)) for pair in pairs), shared_camera=True)
    assert verify(tmp_path / "x.db", pairs) == 3
    model = map_images(tmp_path / "x.db", export.root, tmp_path / "models", refine_camera=False)
    assert model.num_reg_images() == 3
    (fx, _, cx), (_, fy, cy) = pixel_centre_to_colmap(room.K)[:2]
    camera = pycolmap.Camera(model="PINHOLE", width=240, height=180, params=[fx, fy, cx, cy])
    found = localize(QUERY, model, camera, export.features_h5, export.matches_h5)
    assert found.status is Status.OK and found.inliers > 50
    # Against the first database image, in units of the distance between the first two.
    true = {name: np.vstack([pose, [0, 0, 0, 1]]) for name, pose in zip(NAMES, POSES, strict=False)}
    poses = {image.name: np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]) for image in model.images.values()}
    poses[QUERY] = found.T
    seen, expected = (
        [each[name] @ np.linalg.inv(each[DATABASE[0]]) for name in (QUERY, DATABASE[1])] for each in (poses, true)
    )
    np.testing.assert_allclose(seen[0][:3, :3], expected[0][:3, :3], atol=0.005)
    steps = [T[0][:3, 3] / np.linalg.norm(T[1][:3, 3]) for T in (seen, expected)]
    np.testing.assert_allclose(*steps, atol=0.03)
