"""A database that pycolmap reads: half a pixel further, each geometry under its right name and way round."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from flowkit.errors import OutputError, UsageError
from flowkit.io.colmap import export_database
from flowkit.types import Homography, Matches, RelativePose, Status

K0 = np.array([[90.0, 0, 49.5], [0, 91, 24.5], [0, 0, 1]])
K1 = np.array([[80.0, 0, 39.5], [0, 81, 29.5], [0, 0, 1]])
SIZES = {"a.jpg": (50, 100), "b.jpg": (60, 80)}
MATCHES = Matches(
    keypoints0=np.array([[0, 0], [10, 20], [5, 6.25]], np.float32),
    keypoints1=np.array([[1, 2], [30, 40]], np.float32),
    pairs=np.array([[2, 0], [1, 1], [2, 0]]),
    scores=np.ones(3, np.float32),
    size0=(50, 100),
    size1=(60, 80),
    inliers=np.array([False, True, False]),
)
POINTS = np.array([[0.3, -0.2, 2], [-0.4, 0.1, 3], [0.2, 0.5, 4]])


@pytest.fixture
def pycolmap():
    module = pytest.importorskip("pycolmap")
    module.logging.minloglevel = module.logging.Level.ERROR.value
    return module


@pytest.fixture
def export(pycolmap, tmp_path):
    """Export a.jpg and b.jpg, whose ids are 2 and 1 with `reverse`, and open what was written."""
    opened = []

    def export(*pairs, K=(K0, K1), reverse=False):
        images = {name: (size, camera) for (name, size), camera in zip(SIZES.items(), K, strict=True)}
        export_database(tmp_path / "x.db", dict(reversed(images.items())) if reverse else images, pairs)
        assert [path.name for path in tmp_path.iterdir()] == ["x.db"]
        opened.append(pycolmap.Database.open(tmp_path / "x.db"))
        return opened[-1]

    yield export
    for database in opened:
        database.close()


def relative_pose(**changes):
    R = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    t = np.array([0.6, 0, 0.8])
    skew = np.array([[0, -0.8, 0], [0.8, 0, -0.6], [0, 0.6, 0]])
    pose = RelativePose(R, t, skew @ R, K0, K1, Status.OK, "none", MATCHES, 1.0, "poselib")
    return dataclasses.replace(pose, **changes)


def homography(**changes):
    matrix = np.array([[1.1, 0.2, 3], [-0.1, 0.9, 4], [1e-3, 2e-3, 1]])
    return dataclasses.replace(Homography(matrix, Status.OK, MATCHES, 1.0, "magsac"), **changes)


def ids(database):
    return [database.read_image_with_name(name).image_id for name in SIZES]


def project(K, X):
    x = X @ K.T
    return x[:, :2] / x[:, 2:]


def test_keypoints_and_cameras_move_by_half_a_pixel(export):
    database = export(("a.jpg", "b.jpg", MATCHES))
    a, b = ids(database)
    np.testing.assert_array_equal(database.read_keypoints(a)[:, :2], MATCHES.keypoints0 + 0.5)
    np.testing.assert_array_equal(database.read_keypoints(b)[:, :2], MATCHES.keypoints1 + 0.5)
    camera = database.read_camera(database.read_image_with_name("a.jpg").camera_id)
    assert (camera.model_name, camera.width, camera.height) == ("PINHOLE", 100, 50)
    assert camera.params.tolist() == [90, 91, 50, 25] and camera.has_prior_focal_length


def test_unknown_intrinsics_are_colmaps_guess(export):
    database = export(("a.jpg", "b.jpg", MATCHES), K=(None, K1))
    camera = database.read_camera(database.read_image_with_name("a.jpg").camera_id)
    assert camera.model_name == "SIMPLE_RADIAL" and camera.params.tolist() == [120, 50, 25, 0]
    assert not camera.has_prior_focal_length


@pytest.mark.parametrize("reverse", [False, True])
def test_matches_without_repetition_either_way_round(export, reverse):
    database = export(("a.jpg", "b.jpg", MATCHES), reverse=reverse)
    a, b = ids(database)
    assert (a > b) == reverse
    assert database.read_matches(a, b).tolist() == [[2, 0], [1, 1]]
    assert database.read_matches(b, a).tolist() == [[0, 2], [1, 1]]
    assert database.num_verified_image_pairs() == 0


@pytest.mark.parametrize("reverse", [False, True])
def test_homography_maps_colmaps_points(export, pycolmap, reverse):
    database = export(("a.jpg", "b.jpg", MATCHES, homography()), reverse=reverse)
    view = database.read_two_view_geometry(*ids(database))
    assert view.config == pycolmap.TwoViewGeometryConfiguration.PLANAR_OR_PANORAMIC == 6
    assert view.inlier_matches.tolist() == [[1, 1]]
    ours = np.array([10, 20, 1]) @ homography().matrix.T
    theirs = np.array([10.5, 20.5, 1]) @ view.H.T
    np.testing.assert_allclose(theirs[:2] / theirs[2], ours[:2] / ours[2] + 0.5, atol=1e-9)


@pytest.mark.parametrize("reverse", [False, True])
def test_pose_takes_points_from_the_first_camera_to_the_second(export, pycolmap, reverse):
    database = export(("a.jpg", "b.jpg", MATCHES, relative_pose()), reverse=reverse)
    view = database.read_two_view_geometry(*ids(database))
    assert view.config == pycolmap.TwoViewGeometryConfiguration.CALIBRATED
    X1 = POINTS @ relative_pose().R.T + relative_pose().t
    np.testing.assert_allclose([view.cam2_from_cam1 * X for X in POINTS], X1, atol=1e-9)
    x0, x1 = (np.column_stack([project(K, X) + 0.5, np.ones(3)]) for K, X in ((K0, POINTS), (K1, X1)))
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", x1, view.F, x0), 0, atol=1e-9)
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", X1, view.E, POINTS), 0, atol=1e-9)


@pytest.mark.parametrize(
    ("geometry", "config", "inliers"),
    [
        (relative_pose(degeneracy="planar"), "PLANAR", 1),
        (relative_pose(degeneracy="pure_rotation", status=Status.DEGENERATE, t=None, E=None), "PANORAMIC", 1),
        (relative_pose(status=Status.TOO_FEW_MATCHES, R=None, t=None, E=None), "DEGENERATE", 0),
        (homography(status=Status.NO_OVERLAP, matrix=None), "DEGENERATE", 0),
    ],
)
def test_configurations(export, pycolmap, geometry, config, inliers):
    database = export(("a.jpg", "b.jpg", MATCHES, geometry))
    view = database.read_two_view_geometry(*ids(database))
    assert view.config == getattr(pycolmap.TwoViewGeometryConfiguration, config)
    assert len(view.inlier_matches) == inliers


def test_the_mapper_loads_it(export, pycolmap):
    keypoints = np.random.default_rng(0).uniform(0, 50, (30, 2)).astype(np.float32)
    both = np.arange(30)
    matches = Matches(
        keypoints, keypoints + 1, np.column_stack([both, both]), np.ones(30, np.float32), (50, 100), (60, 80)
    )
    database = export(("a.jpg", "b.jpg", matches, relative_pose(matches=matches)))
    cache = pycolmap.DatabaseCache.create(database, pycolmap.DatabaseCacheOptions())
    assert cache.num_images() == 2 and cache.num_frames() == 2


def test_repeated_pairs_and_shared_keypoints(export, tmp_path):
    turned = dataclasses.replace(
        MATCHES, keypoints0=MATCHES.keypoints1, keypoints1=MATCHES.keypoints0, pairs=np.array([[0, 0]])
    )
    database = export(("a.jpg", "b.jpg", MATCHES), ("a.jpg", "b.jpg", MATCHES), ("b.jpg", "a.jpg", turned))
    assert database.num_matched_image_pairs() == 1 and len(database.read_matches(*ids(database))) == 2
    database.close()
    before = (tmp_path / "x.db").read_bytes()
    other = dataclasses.replace(MATCHES, keypoints0=MATCHES.keypoints0 + 1)
    with pytest.raises(OutputError, match="one set per image"):
        export(("a.jpg", "b.jpg", MATCHES), ("a.jpg", "b.jpg", other))
    with pytest.raises(UsageError, match=r"c\.jpg"):
        export(("a.jpg", "c.jpg", MATCHES))
    with pytest.raises(UsageError, match="itself"):
        export(("a.jpg", "a.jpg", MATCHES))
    assert (tmp_path / "x.db").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["x.db"]


def test_without_pycolmap_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(UsageError, match=r"flowkit-align\[colmap\]"):
        export_database(tmp_path / "x.db", {}, [])
    assert not any(tmp_path.iterdir())


def test_importing_pycolmap_leaves_the_signals_alone():
    """It would take SIGTERM, and a training run could not end with a checkpoint; in a process that has not imported it yet."""
    pytest.importorskip("pycolmap")
    program = """if True:
        import os, signal
        from flowkit.io.colmap import require_pycolmap
        signal.signal(signal.SIGTERM, lambda *_: print("ours"))
        require_pycolmap("this")
        os.kill(os.getpid(), signal.SIGTERM)
        import cv2, numpy
        cv2.imencode(".png", numpy.zeros((300, 400, 3), "uint8"))
        print("alive")
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert done.stdout.split() == ["ours", "alive"], done.stderr
