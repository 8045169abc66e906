"""Every reader on a tiny data set written here in the original layout: the right pairs, the right truth."""

import json

import cv2
import numpy as np
import pytest

from flowkit.datasets.catalogue import DATASETS, find_samples, read_dataset
from flowkit.errors import InputError, UsageError
from flowkit.io.flow_files import write_flow

SIZE = (6, 8)


def picture(path, size=SIZE, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def text(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(" ".join(str(v) for v in row) for row in rows))


def flow(path, u=1.5, v=-2.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_flow(path, np.stack([np.full(SIZE, u, np.float32), np.full(SIZE, v, np.float32)]))


def names(samples):
    return [sample.name for sample in samples]


@pytest.mark.parametrize("original", [False, True])
def test_middlebury(tmp_path, original):
    frames, truth = ("other-data", "other-gt-flow") if original else ("", "")
    for frame in ("frame10.png", "frame11.png"):
        picture(tmp_path / frames / "Venus" / frame)
    flow(tmp_path / truth / "Venus" / "flow10.flo")
    (sample,) = read_dataset("middlebury", tmp_path)
    assert (sample.name, sample.image0.name, sample.image1.name) == ("Venus", "frame10.png", "frame11.png")
    assert sample.flow().shape == (2, *SIZE) and sample.flow()[0, 0, 0] == 1.5


@pytest.mark.parametrize("folder", ["image_2", "colored_0", "image_0"])
def test_kitti(tmp_path, folder):
    base = tmp_path / "training"
    for end in ("10", "11"):
        picture(base / folder / f"000003_{end}.png")
    flow(base / "flow_occ" / "000003_10.png")
    noc = np.full((2, *SIZE), 1.5, np.float32)
    noc[:, 0] = np.nan
    (base / "flow_noc").mkdir()
    write_flow(base / "flow_noc" / "000003_10.png", noc)
    (sample,) = read_dataset("kitti", tmp_path)
    assert sample.image1.name == "000003_11.png"
    np.testing.assert_array_equal(sample.flow()[:, 0, 0], [1.5, -2])
    assert not sample.visible()[0].any() and sample.visible()[1:].all()


@pytest.mark.parametrize("suffix", ["ppm", "png"])
def test_flyingchairs(tmp_path, suffix):
    for end in ("img1", "img2"):
        picture(tmp_path / f"00007_{end}.{suffix}")
    flow(tmp_path / "00007_flow.flo")
    (sample,) = read_dataset("flyingchairs", tmp_path)
    assert sample.name == "00007" and sample.image0.name == f"00007_img1.{suffix}"


def test_sintel(tmp_path):
    base = tmp_path / "training"
    for number in (1, 2):
        picture(base / "clean" / "alley_1" / f"frame_000{number}.png")
        picture(base / "final" / "alley_1" / f"frame_000{number}.png")
    flow(base / "flow" / "alley_1" / "frame_0001.flo")
    mask = np.zeros((*SIZE, 3), np.uint8)
    mask[0, 0] = 255
    for kind in ("invalid", "occlusions"):
        (base / kind / "alley_1").mkdir(parents=True)
        cv2.imwrite(str(base / kind / "alley_1" / "frame_0001.png"), mask)
    (clean,), (final,) = read_dataset("sintel-clean", tmp_path), read_dataset("sintel-final", tmp_path)
    assert clean.image1 == base / "clean" / "alley_1" / "frame_0002.png"
    assert final.image0 == base / "final" / "alley_1" / "frame_0001.png"
    assert np.isnan(clean.flow()[:, 0, 0]).all() and np.isfinite(clean.flow()[:, 0, 1:]).all()
    assert not clean.visible()[0, 0] and clean.visible()[1].all()


@pytest.mark.parametrize("files", [("aloeL.jpg", "aloeR.jpg", "aloeGT.png"), ("view1.png", "view5.png", "disp1.png")])
def test_middlebury_stereo_points_to_the_left(tmp_path, files):
    scene = tmp_path / "aloe"
    picture(scene / files[0])
    picture(scene / files[1])
    disparity = np.full(SIZE, 7, np.uint8)
    disparity[0, 0] = 0
    cv2.imwrite(str(scene / files[2]), disparity)
    (sample,) = read_dataset("middlebury-2006", tmp_path)
    assert sample.image0.name == files[0]
    np.testing.assert_array_equal(sample.flow()[:, 1, 1], [-7, 0])
    assert np.isnan(sample.flow()[:, 0, 0]).all()


def test_hpatches_kinds(tmp_path):
    for sequence in ("v_wall", "i_fog"):
        for k in (1, 2):
            picture(tmp_path / sequence / f"{k}.ppm")
        text(tmp_path / sequence / "H_1_2", np.diag([2, 2, 2]))
    assert names(read_dataset("hpatches", tmp_path)) == ["i_fog/1-2", "v_wall/1-2"]
    assert names(read_dataset("hpatches-v", tmp_path)) == ["v_wall/1-2"]
    assert names(read_dataset("hpatches-i", tmp_path)) == ["i_fog/1-2"]
    np.testing.assert_array_equal(read_dataset("hpatches-v", tmp_path)[0].H, np.eye(3))  # scaled to H[2][2] = 1


@pytest.mark.parametrize("root", [".", "graf"])
def test_oxford(tmp_path, root):
    for n in (1, 3):
        picture(tmp_path / "graf" / f"img{n}.ppm")
    text(tmp_path / "graf" / "H1to3p", np.eye(3))
    (sample,) = read_dataset("oxford", tmp_path / root)
    assert (sample.name, sample.image1.name) == ("graf/1-3", "img3.ppm")


def test_homogr_and_evd(tmp_path):
    homogr, evd = tmp_path / "homogr", tmp_path / "evd"
    picture(homogr / "cityA.png")
    picture(homogr / "cityB.jpg")
    text(homogr / "city_H_A_to_B.txt", np.eye(3))
    text(homogr / "city_vpts.txt", [(1, 2, 3, 4)])
    (sample,) = read_dataset("homogr", homogr)
    np.testing.assert_array_equal(sample.points1, [[3, 4]])
    for side in ("1", "2"):
        picture(evd / side / "fox.png")
    text(evd / "h" / "fox.txt", np.eye(3))
    (sample,) = read_dataset("evd", evd)
    assert sample.image1 == evd / "2" / "fox.png"


def turn(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_strecha_camera_files_agree_with_cameras_json(tmp_path):
    K = np.array([[100, 0, 15.5], [0, 100, 11.5], [0, 0, 1]])
    views = {"0000.png": (turn(0), np.zeros(3)), "0001.png": (turn(30), np.array([1.0, 2, 3]))}
    half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])  # the images are half the size of the .camera files
    cameras = {}
    for name, (axes, centre) in views.items():
        for scene in ("original", "json"):
            picture(tmp_path / scene / "images" / name, (12, 16))
        rows = [*K, (0, 0, 0), *axes, centre, (32, 24)]
        text(tmp_path / "original" / "gt_dense_cameras" / f"{name}.camera", rows)
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = axes.T, -axes.T @ centre
        cameras[name] = {"K": (half @ K).tolist(), "T_world_to_cam": T[:3].tolist()}
    (tmp_path / "json" / "cameras.json").write_text(json.dumps(cameras))
    from_json, from_files = sorted(read_dataset("strecha", tmp_path), key=lambda sample: sample.name)
    assert from_files.name == "original/0000-0001"
    np.testing.assert_allclose(from_files.K1, from_json.K1)
    np.testing.assert_allclose(from_files.T_0to1, from_json.T_0to1)
    np.testing.assert_allclose(from_files.T_0to1[:3, 3], -turn(-30) @ [1, 2, 3])  # camera 0 is the world


def test_scannet_pair_list(tmp_path):
    K, T = np.diag([5, 6, 1]).ravel(), np.eye(4).ravel()
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "scene1" / name)
    text(tmp_path / "test_pairs_with_gt.txt", [("scene1/a.jpg", "scene1/b.jpg", 0, 0, *K, *K, *T)])
    (sample,) = read_dataset("scannet", tmp_path)
    assert sample.image1 == tmp_path / "scene1" / "b.jpg"
    np.testing.assert_array_equal(sample.K0, np.diag([5, 6, 1]))
    np.testing.assert_array_equal(sample.T_0to1, np.eye(4))


def test_megadepth_pair(tmp_path):
    for name in ("img_0.jpg", "img_1.jpg"):
        picture(tmp_path / name)
    K = np.eye(3).tolist()
    record = {"img_0.jpg": {"K": K}, "img_1.jpg": {"K": K}, "T_0to1": np.eye(4).tolist()}
    (tmp_path / "cameras.json").write_text(json.dumps(record))
    (sample,) = read_dataset("megadepth", tmp_path)
    assert sample.image0.name == "img_0.jpg"


def test_tum_rotation(tmp_path):
    for stamp in ("1.000000", "2.000000", "9.000000"):
        picture(tmp_path / "rgb" / f"{stamp}.png")
    (tmp_path / "camera.json").write_text(json.dumps({"K": np.eye(3).tolist()}))
    s, c = np.sin(np.radians(15)), np.cos(np.radians(15))
    text(tmp_path / "groundtruth.txt", [("#", "header"), (1.01, 0, 0, 0, 0, 0, 0, 1), (2.0, 0, 0, 0, 0, 0, s, c)])
    (sample,) = read_dataset("tum", tmp_path)  # the third frame has no pose within 20 ms
    assert sample.rotation_only
    np.testing.assert_allclose(
        sample.T_0to1[:3, :3], turn(30).T, atol=1e-12
    )  # camera -> world turned into camera -> camera


@pytest.mark.parametrize("numbered", [True, False])
def test_kitti_odometry(tmp_path, numbered):
    P = [[5, 0, 2, 0], [0, 5, 1, 0], [0, 0, 1, 0]]
    poses = [np.eye(4)[:3].ravel(), np.column_stack([np.eye(3), [0, 0, 2]]).ravel()]
    sequence = tmp_path / "01" if numbered else tmp_path / "sequences" / "01"
    for i in range(2):
        picture(sequence / "image_0" / f"{i:06d}.png")
    head = [] if numbered else ["P0:"]
    text(sequence / "calib.txt", [[*head, *np.ravel(P)]])
    if numbered:
        text(sequence / "poses.txt", [[f"{i:06d}", *pose] for i, pose in enumerate(poses)])
    else:
        text(tmp_path / "poses" / "01.txt", poses)
    (sample,) = read_dataset("kitti-odometry", tmp_path)
    np.testing.assert_allclose(sample.T_0to1[:3, 3], [0, 0, -2])  # driving forward, points come nearer
    np.testing.assert_allclose(sample.K0, [[5, 0, 2], [0, 5, 1], [0, 0, 1]])


def test_labelled_matches(tmp_path):
    wxbs, modal, labelled = tmp_path / "wxbs", tmp_path / "modal", tmp_path / "labelled"
    for name in ("01.png", "02.png"):
        picture(wxbs / "WGABS" / "kyiv" / name)
    text(wxbs / "WGABS" / "kyiv" / "corrs.txt", [(1, 2, 3, 4)])
    (sample,) = read_dataset("wxbs", wxbs)
    assert sample.name == "WGABS/kyiv" and sample.points1.tolist() == [[3, 4]]
    for name in ("move.png", "fix.png"):
        picture(modal / "pair" / name)
    text(modal / "pair" / "landmarks_fix_move.txt", [(6, 2, 1, 2)])
    text(modal / "pair" / "H_move_to_fix.txt", [(1, 0, 5), (0, 1, 0), (0, 0, 1)])
    (sample,) = read_dataset("multimodal", modal)
    assert sample.image0.name == "move.png" and sample.points0.tolist() == [[1, 2]]
    for name in ("seneA.png", "seneB.png"):
        picture(labelled / name)
    text(labelled / "sene_pts.txt", [(0, 0, 0, 0, 0), (1, 1, 1, 1, 1), (2, 2, 2, 2, 2), (3, 3, 3, 3, 2)])
    (sample,) = read_dataset("epipolar-labelled", labelled)
    assert sample.points0.tolist() == [[2, 2], [3, 3]]  # the motion with the most points
    text(labelled / "sene_vpts.txt", [(5, 5, 5, 5), (6, 6, 6, 6)])
    assert len(read_dataset("epipolar-labelled", labelled)[0].points0) == 3  # now motion 1 has more


def test_pf_willow(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "duck" / name)
    points = {"a.png": [[0, 0], [4, 4]], "b.png": [[1, 1], [31, 11]], "c.png": [[0, 0], [1, 1]]}
    (tmp_path / "duck" / "keypoints.json").write_text(json.dumps(points))
    samples = read_dataset("pf-willow", tmp_path)
    assert names(samples) == ["duck/a-b", "duck/a-c", "duck/b-c"]
    assert samples[0].extent == 30 and not samples[0].rigid


def test_collection_by_folder(tmp_path):
    for n in (1, 3):
        picture(tmp_path / "homography_oxford" / "graf" / f"img{n}.png")
    text(tmp_path / "homography_oxford" / "graf" / "H1to3p", np.eye(3))
    samples = find_samples(tmp_path)
    assert names(samples["homography"]) == ["graf/1-3"] and not samples["flow"]
    with pytest.raises(InputError):
        find_samples(tmp_path, tasks=["flow"])
    with pytest.raises(UsageError, match="nonsense"):
        find_samples(tmp_path, names=["nonsense"])


@pytest.mark.parametrize("dataset", DATASETS)
def test_an_empty_or_missing_folder_is_one_clear_error(tmp_path, dataset):
    with pytest.raises(InputError, match=str(tmp_path)):
        read_dataset(dataset, tmp_path)
    with pytest.raises(InputError, match="no such"):
        read_dataset(dataset, tmp_path / "missing")


def test_damaged_truth_is_one_clear_error(tmp_path):
    for n in (1, 2):
        picture(tmp_path / f"img{n}.png")
    for damaged in ([(1, 2)], [("a", "b", "c")] * 3, np.zeros((3, 3))):
        text(tmp_path / "H1to2p", damaged)
        with pytest.raises(InputError, match="H1to2p"):
            read_dataset("oxford", tmp_path)
    text(tmp_path / "H1to2p", np.eye(3))
    (tmp_path / "img2.png").unlink()
    with pytest.raises(InputError, match="img2"):
        read_dataset("oxford", tmp_path)
