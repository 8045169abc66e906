"""The data sets that recipes train on, each a tiny copy in its original layout: which pairs, which way, and what is refused."""

import cv2
import numpy as np
import pytest

from flowkit.datasets.flyingthings import read_flyingthings
from flowkit.datasets.hd1k import read_hd1k
from flowkit.datasets.training_sets import SETS, SPLIT, load, read_training_set
from flowkit.errors import InputError, UsageError
from flowkit.io.flow_files import write_flow

SIZE = (6, 8)


def picture(path, value=100, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), value, np.uint8))


def flow(path, u=1.5, v=-2.0, unknown=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    uv = np.stack([np.full(SIZE, u, np.float32), np.full(SIZE, v, np.float32)])
    if unknown is not None:
        uv[:, unknown] = np.nan
    write_flow(path, uv)


def write_chairs(root, marks=(1, 2, 1)):
    for number in range(1, len(marks) + 1):
        for end in ("img1", "img2"):
            picture(root / "data" / f"{number:05d}_{end}.ppm")
        flow(root / "data" / f"{number:05d}_flow.flo", u=number)
    (root / SPLIT).write_text("".join(f"{mark}\n" for mark in marks))


def write_things(root, frames=(6, 7, 8), split="TRAIN"):
    for frame in frames:
        for kind, value in (("clean", 50), ("final", 60)):
            for side in ("left", "right"):
                picture(root / f"frames_{kind}pass" / split / "A" / "0000" / side / f"{frame:04d}.png", value + frame)
        for time, direction in (("Future", "into_future"), ("Past", "into_past")):
            for side in ("left", "right"):
                base = root / "optical_flow" / split / "A" / "0000" / direction / side
                sign = 1 if time == "Future" else -1
                flow(base / f"OpticalFlowInto{time}_{frame:04d}_{side[0].upper()}.pfm", u=sign * frame)


def write_things_subset(root, frames=(0, 1, 2), last=2, part="train"):
    for frame in frames:
        picture(root / part / "image_clean" / "left" / f"{frame:07d}.png")
        if frame != last:
            flow(root / part / "flow" / "left" / "into_future" / f"{frame:07d}.flo", u=frame)
        if frame != frames[0]:
            flow(root / part / "flow" / "left" / "into_past" / f"{frame:07d}.flo", u=-frame)


def write_sintel(root):
    base = root / "training"
    for number in (1, 2, 3):
        for kind in ("clean", "final"):
            picture(base / kind / "alley_1" / f"frame_{number:04d}.png")
    for number in (1, 2):
        flow(base / "flow" / "alley_1" / f"frame_{number:04d}.flo")
        for kind, at in (("invalid", 0), ("occlusions", 1)):
            mask = np.zeros(SIZE, np.uint8)
            mask[at] = 255
            (base / kind / "alley_1").mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(base / kind / "alley_1" / f"frame_{number:04d}.png"), mask)


def write_kitti(root, images="image_2"):
    base = root / "training"
    for end in ("10", "11"):
        picture(base / images / f"000003_{end}.png")
    sky, hidden = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    sky[0], hidden[:2] = True, True
    flow(base / "flow_occ" / "000003_10.png", unknown=sky)
    flow(base / "flow_noc" / "000003_10.png", unknown=hidden)


def write_hd1k(root, frames=("000000_0010", "000000_0011", "000001_0010", "000001_0011", "000001_0013")):
    sky = np.zeros(SIZE, bool)
    sky[0] = True
    for frame in frames:
        picture(root / "hd1k_input" / "image_2" / f"{frame}.png")
        flow(root / "hd1k_flow_gt" / "flow_occ" / f"{frame}.png", unknown=sky)


def test_flyingchairs_split(tmp_path):
    write_chairs(tmp_path)
    train, held_out = read_training_set("flyingchairs", tmp_path), read_training_set("flyingchairs-val", tmp_path)
    assert [sample.name for sample in train.samples] == ["00001", "00003"]
    assert [sample.name for sample in held_out.samples] == ["00002"]
    assert not train.sparse and len(train) == 2
    pair = load(train[1])
    assert pair.image0.shape == (*SIZE, 3) and pair.image0.dtype == np.uint8
    assert pair.flow[0, 0, 0] == 3 and pair.occluded is None


def test_flyingchairs_without_its_split(tmp_path, caplog):
    write_chairs(tmp_path)
    (tmp_path / SPLIT).unlink()
    assert len(read_training_set("flyingchairs", tmp_path)) == 3
    assert SPLIT in caplog.text
    with pytest.raises(InputError, match=SPLIT):
        read_training_set("flyingchairs-val", tmp_path)


@pytest.mark.parametrize("text", ["1\n2\n", "1\n0\n1\n"])
def test_flyingchairs_with_another_split(tmp_path, text):
    write_chairs(tmp_path)
    (tmp_path / SPLIT).write_text(text)
    with pytest.raises(InputError, match=SPLIT):
        read_training_set("flyingchairs", tmp_path)


def pairs_of(samples):
    """(frame of image0, frame of image1, u) of every sample, sorted."""
    return sorted((int(s.image0.stem), int(s.image1.stem), float(s.flow()[0, 0, 0])) for s in samples)


def test_flyingthings_forwards_and_backwards(tmp_path):
    write_things(tmp_path)
    clean = read_training_set("flyingthings-clean", tmp_path)
    assert pairs_of(clean.samples) == [
        (6, 7, 6),
        (7, 6, -7),
        (7, 8, 7),
        (8, 7, -8),
    ]  # each flow is that of its own frame
    assert all("frames_cleanpass" in str(s.image1) and s.image0.parent.name == "left" for s in clean.samples)
    assert load(clean[0]).image0[0, 0, 0] == 56
    final = read_training_set("flyingthings-final", tmp_path)
    assert all("frames_finalpass" in str(s.image0) for s in final.samples) and len(final) == 4
    both = read_flyingthings(tmp_path, sides=("left", "right"), directions=("into_future",))
    assert len({s.name for s in both}) == len(both) == 4
    assert all(s.image0.parent.name == s.name.split("/")[2] for s in both)


def test_flyingthings_subset(tmp_path):
    write_things_subset(tmp_path / "FlyingThings3D_subset")
    clean = read_training_set("flyingthings-clean", tmp_path)
    assert pairs_of(clean.samples) == [(0, 1, 0), (1, 0, -1), (1, 2, 1), (2, 1, -2)]
    with pytest.raises(InputError, match="image_final"):
        read_training_set("flyingthings-final", tmp_path)


def test_flyingthings_parts(tmp_path):
    write_things(tmp_path / "full", split="TEST")
    write_things_subset(tmp_path / "subset", part="val")
    assert len(read_flyingthings(tmp_path / "full", split="test")) == 4
    assert len(read_flyingthings(tmp_path / "subset", split="test")) == 4
    with pytest.raises(InputError):
        read_flyingthings(tmp_path / "subset")
    with pytest.raises(UsageError, match="up"):
        read_flyingthings(tmp_path / "full", split="test", sides=("up",))


def test_flyingthings_frame_missing(tmp_path):
    write_things(tmp_path)
    missing = tmp_path / "frames_cleanpass" / "TRAIN" / "A" / "0000" / "left" / "0007.png"
    missing.unlink()
    with pytest.raises(InputError, match=r"0007\.png"):
        read_training_set("flyingthings-clean", tmp_path)


def test_sintel(tmp_path):
    write_sintel(tmp_path)
    clean, final = read_training_set("sintel-clean", tmp_path), read_training_set("sintel-final", tmp_path)
    assert [s.name for s in clean.samples] == ["alley_1/frame_0001", "alley_1/frame_0002"]
    assert "final" in str(final[0].image0)
    pair = load(clean[0])
    assert np.isnan(pair.flow[:, 0]).all() and np.isfinite(pair.flow[:, 1:]).all()
    assert pair.occluded is not None and pair.occluded[1].all() and not pair.occluded[2:].any()


@pytest.mark.parametrize(("year", "images"), [(2012, "colored_0"), (2015, "image_2")])
def test_kitti(tmp_path, year, images):
    write_kitti(tmp_path, images)
    everything, visible = (read_training_set(f"kitti{year}{end}", tmp_path) for end in ("", "-noc"))
    assert everything.sparse and visible.sparse
    assert everything[0].image0.name == "000003_10.png" and everything[0].image1.name == "000003_11.png"
    flow_all, flow_visible = load(everything[0], True).flow, load(visible[0], True).flow
    np.testing.assert_array_equal(np.isfinite(flow_all[0]).all(axis=1), [False, True, True, True, True, True])
    np.testing.assert_array_equal(np.isfinite(flow_visible[0]).all(axis=1), [False, False, True, True, True, True])
    np.testing.assert_array_equal(flow_visible[:, 3, 3], [1.5, -2])
    assert load(everything[0], True).occluded is None
    with pytest.raises(InputError, match=f"has no {'image_2' if year == 2012 else 'colored_0'}/"):
        read_training_set(f"kitti{4027 - year}", tmp_path)


def test_kitti_noc_needs_its_folder(tmp_path):
    write_kitti(tmp_path)
    (tmp_path / "training" / "flow_noc" / "000003_10.png").unlink()
    assert len(read_training_set("kitti2015", tmp_path)) == 1
    with pytest.raises(InputError, match="flow_noc"):
        read_training_set("kitti2015-noc", tmp_path)


def test_hd1k_pairs_stay_in_their_sequence(tmp_path):
    write_hd1k(tmp_path)
    data = read_training_set("hd1k", tmp_path)
    assert data.sparse
    names = [(s.image0.stem, s.image1.stem) for s in data.samples]
    assert names == [("000000_0010", "000000_0011"), ("000001_0010", "000001_0011")]  # 0012 is missing: no pair over it
    assert np.isnan(data[0].flow()[:, 0]).all() and np.isfinite(data[0].flow()[:, 1:]).all()


def test_hd1k_frame_missing(tmp_path):
    write_hd1k(tmp_path)
    (tmp_path / "hd1k_input" / "image_2" / "000000_0010.png").unlink()
    with pytest.raises(InputError, match=r"000000_0010\.png"):
        read_hd1k(tmp_path)


@pytest.mark.parametrize("name", SETS)
def test_another_layout_is_named(tmp_path, name):
    (tmp_path / "holiday").mkdir()
    picture(tmp_path / "cat.jpg")
    with pytest.raises(InputError) as error:
        read_training_set(name, tmp_path)
    message = str(error.value)
    assert f"{name} is laid out as " in message and "has cat.jpg, holiday/" in message and "\n" not in message
    with pytest.raises(InputError, match="is not there"):
        read_training_set(name, tmp_path / "nowhere")


def test_unknown_set():
    with pytest.raises(UsageError, match="flyingchairs"):
        read_training_set("chairs", "/")


def test_sizes_must_agree(tmp_path):
    write_chairs(tmp_path)
    data = read_training_set("flyingchairs", tmp_path)
    picture(tmp_path / "data" / "00001_img2.ppm", size=(6, 9))
    with pytest.raises(InputError, match=r"00001_img1\.ppm.*next frame 6 x 9"):
        load(data[0])
    for end in ("img1", "img2"):
        picture(tmp_path / "data" / f"00003_{end}.ppm", size=(7, 8))
    with pytest.raises(InputError, match="its flow 6 x 8"):
        load(data[1])
