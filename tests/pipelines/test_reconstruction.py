"""A room with known cameras, reconstructed by COLMAP from our matches: poses, half pixels, undistorted images."""

import json

import numpy as np
import pytest
import textured_room as room

from flowkit.cli.main import run
from flowkit.errors import InputError, UsageError
from flowkit.features.matching import match_descriptors
from flowkit.features.sift import Sift
from flowkit.io.cameras import colmap_to_pixel_centre
from flowkit.io.images import read_image, write_image
from flowkit.io.results import is_complete
from flowkit.pipelines.reconstruction import chosen_frames, reconstruct
from flowkit.types import Image, Status

pycolmap = pytest.importorskip("pycolmap")
POSES = room.poses(4)


@pytest.fixture(scope="module")
def frames():
    return [(f"view {i}.png", Image(room.view(pose))) for i, pose in enumerate(POSES)]


@pytest.fixture(scope="module")
def known(frames, tmp_path_factory):
    """Reconstructed with the true K, all pairs."""
    folder = tmp_path_factory.mktemp("known") / "room"
    return reconstruct(frames, folder, features="sift", max_keypoints=1200, K=room.K)


def model_of(result):
    """Images by number of the view, and the camera's K in our pixels."""
    model = pycolmap.Reconstruction(result.folder / "sparse")
    (camera,) = model.cameras.values()
    return {int(image.name[5]): image for image in model.images.values()}, camera, model


def similarity(source, target):
    """(s, R, t) with target ~ s R source + t (Umeyama)."""
    a, b = source - source.mean(0), target - target.mean(0)
    U, D, Vt = np.linalg.svd(b.T @ a)
    S = np.diag([1, 1, np.sign(np.linalg.det(U @ Vt))])
    s = np.trace(np.diag(D) @ S) / (a**2).sum()
    return s, U @ S @ Vt, target.mean(0) - s * U @ S @ Vt @ source.mean(0)


def test_poses_up_to_a_similarity(known):
    assert known.status is Status.OK and known.registered == tuple(f"view_{i}.jpg" for i in range(4))
    assert known.reprojection_error < 0.3 and known.points > 200 and known.verified == known.pairs == 6
    images, _, model = model_of(known)
    truth = {i: pose for i, pose in enumerate(POSES)}
    surfaces = np.array([point.xyz for point in model.points3D.values()])
    centres = np.array([images[i].projection_center() for i in range(4)])
    true_centres = np.array([-pose[:, :3].T @ pose[:, 3] for pose in truth.values()])
    s, R, t = similarity(centres, true_centres)
    assert np.linalg.norm(s * centres @ R.T + t - true_centres, axis=1).max() < 0.01  # of a path 1.8 long
    for i, pose in truth.items():
        turn = images[i].cam_from_world().rotation.matrix() @ R.T @ pose[:, :3].T
        assert np.degrees(np.arccos(min(1, (np.trace(turn) - 1) / 2))) < 1
    distances = [
        abs(normal @ (s * surfaces @ R.T + t).T - d) for normal, d in ((np.array(n), d) for n, d in room.PLANES)
    ]
    assert np.median(np.min(distances, axis=0)) < 0.02


def test_points_lie_half_a_pixel_further_in_colmap(known):
    images, camera, _ = model_of(known)
    assert camera.model.name == "PINHOLE" and (camera.width, camera.height) == room.SIZE[::-1]
    np.testing.assert_allclose(colmap_to_pixel_centre(camera.calibration_matrix()), room.K)
    found = Sift(max_keypoints=1200).extract(read_image(known.folder / "images/view_0.jpg"))
    stored = np.array([point.xy for point in images[0].points2D if point.has_point3D()]) - 0.5
    nearest = np.linalg.norm(stored[:, None] - found.keypoints[None], axis=2).min(axis=1)
    assert np.median(nearest) < 0.01


def epipolar(K0, K1, pose0, pose1, points0, points1):
    """Distances of points1 from the lines of points0, pixels."""
    R = pose1[:, :3] @ pose0[:, :3].T
    t = pose1[:, 3] - R @ pose0[:, 3]
    F = np.linalg.inv(K1).T @ np.cross(np.eye(3), t).T @ R @ np.linalg.inv(K0)
    lines = np.column_stack([points0, np.ones(len(points0))]) @ F.T
    return abs((lines[:, :2] * points1).sum(1) + lines[:, 2]) / np.linalg.norm(lines[:, :2], axis=1)


def test_written_images_obey_the_written_cameras(frames, tmp_path):
    """Also when COLMAP found a distortion, which is taken out: matches of the written images lie on their epipolar lines."""
    result = reconstruct(
        frames, tmp_path / "room", features="sift", max_keypoints=1200, shared_camera=True, offsets=(1, 2)
    )
    assert result.status is Status.OK and result.pairs == 5
    images, camera, _ = model_of(result)
    assert camera.model.name == "PINHOLE"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["room"]
    assert sorted(path.name for path in (tmp_path / "room").iterdir()) == ["images", "sparse"]
    K = colmap_to_pixel_centre(camera.calibration_matrix())
    pictures = [read_image(result.folder / "images" / images[i].name) for i in (0, 1)]
    assert all(picture.size == (camera.height, camera.width) for picture in pictures)
    matches = match_descriptors(*(Sift(max_keypoints=800).extract(picture) for picture in pictures), ratio=0.7)
    poses = [images[i].cam_from_world().matrix() for i in (0, 1)]
    distance = epipolar(K, K, *poses, matches.points0, matches.points1)
    assert np.median(distance) < 0.12
    shifted = epipolar(K, K, *poses, matches.points0 + np.array([0, 0.5]), matches.points1)
    assert np.median(shifted) > 0.3  # the test sees half a pixel


def test_command_on_a_folder_with_known_intrinsics(frames, tmp_path, capsys):
    for name, image in frames:
        write_image(tmp_path / "photos" / name, image.pixels)
    K = ",".join(str(value) for value in (room.K[0, 0], room.K[1, 1], *room.K[:2, 2]))
    given = {"--reconstruct": tmp_path / "room", "--sequence": tmp_path / "photos", "--K": K, "--distortion": "0.001,0"}
    words = [str(word) for pair in given.items() for word in pair]
    assert run(["match", *words, "--max-keypoints", "1200", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["status"] == "ok" and record["images"] == 4 and record["missing"] == [] and record["pairs"] == 6
    assert is_complete(tmp_path / "room/reconstruction.json")
    camera = next(iter(pycolmap.Reconstruction(tmp_path / "room/sparse").cameras.values()))
    assert camera.model.name == "PINHOLE" and abs(camera.focal_length_x - 250) < 0.5  # distortion taken out
    assert run(["match", *words]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_no_model_is_a_status_and_writes_nothing(tmp_path):
    noise = [(f"{i}.png", Image(np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8))) for i in range(3)]
    result = reconstruct(noise, tmp_path / "nothing", features="sift", max_keypoints=200)
    assert result.status is Status.TOO_FEW_MATCHES and result.registered == () and result.reprojection_error is None
    assert not list(tmp_path.iterdir())


def test_refusals(frames, tmp_path):
    with pytest.raises(InputError, match="2 images are too few"):
        reconstruct(frames[:2], tmp_path / "few", features="sift")
    with pytest.raises(InputError, match="suffix"):
        reconstruct([*frames, ("view 0.jpg", frames[0][1])], tmp_path / "twice", features="sift")
    with pytest.raises(UsageError, match=r"ghost\.png"):
        reconstruct(frames, tmp_path / "list", features="sift", pairs=[("view 0.png", "ghost.png")])
    with pytest.raises(UsageError, match=r"xfeat\*"):
        reconstruct(frames, tmp_path / "star", features="xfeat*")
    (tmp_path / "full" / "sparse").mkdir(parents=True)
    with pytest.raises(UsageError, match="--overwrite"):
        reconstruct(frames, tmp_path / "full", features="sift")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]


def test_every_so_many_th_frame():
    names = [(f"{i:06d}", None) for i in range(20)]
    assert [int(name) for name, _ in chosen_frames(names, 3, 4)] == [0, 3, 6, 9]
    assert [int(name) for name, _ in chosen_frames(names, 7)] == [0, 7, 14]
