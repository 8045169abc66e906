"""The layouts of GOCor's evaluation protocols, written here: which way the truth points, on which grid, in which group."""

import os
import pickle
import struct

import cv2
import numpy as np
import pytest

from flowkit.datasets.catalogue import missing_parts, read_dataset
from flowkit.datasets.plain_pickle import read_plain_pickle
from flowkit.errors import InputError
from flowkit.evaluation.preparation import preparation_key, prepared_images, prepared_sizes
from flowkit.io.flow_files import write_flow


def texture(size, seed=0):
    noise = np.random.default_rng(seed).uniform(0, 255, (*size, 3)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


# --- ETH3D -----------------------------------------------------------------------------------------------------------

IMAGES = "{}/images/rig_undistorted"


def pair(sequence, source="1.png", target="2.png", Xs=(0.0,), Ys=(0.0,), Xt=(0.0,), Yt=(0.0,)):
    folder = IMAGES.format(sequence)
    names = {"source_image": f"{folder}/{source}", "target_image": f"{folder}/{target}"}
    return names | {"Xs": np.array(Xs), "Ys": np.array(Ys), "Xt": np.array(Xt), "Yt": np.array(Yt)}


def eth3d(root, sequence, rate, pairs, protocol=None, folder=""):
    for name in ("1.png", "2.png"):
        picture(root / IMAGES.format(sequence) / name, texture((6, 8)))
    (root / folder).mkdir(exist_ok=True)
    file = root / folder / f"{sequence}_every_5_rate_of_{rate}"
    file.write_bytes(pairs if isinstance(pairs, bytes) else pickle.dumps(pairs, protocol))
    return file


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["float64", "float32", ">f8", "int64", "list", "scalars"])
def test_eth3d_truth_lies_on_the_target_at_the_nearest_pixel(tmp_path, protocol, kind):
    points = {"Xs": [5.25, 1, 0, 3, 9], "Ys": [1, 2, 0, 4, 9], "Xt": [3.4, 5, 0, 0.4, 8], "Yt": [2.6, 4, 0, 0, 3]}
    if kind == "int64":
        points = {name: np.array(values).astype(int) for name, values in points.items()}
    elif kind == "scalars":
        points = {name: [np.float64(value) for value in values] for name, values in points.items()}
    elif kind != "list":
        points = {name: np.array(values, kind) for name, values in points.items()}
    eth3d(tmp_path, "lakeside", 3, [pair("lakeside") | points], protocol, "info_ETH3D_files")
    (sample,) = read_dataset("eth3d", tmp_path)
    assert (sample.image0.name, sample.image1.name) == ("2.png", "1.png")
    flow = sample.flow()
    assert flow.shape == (2, 6, 8) and np.isfinite(flow).all(axis=0).sum() == 3  # the last point is beyond column 7
    whole = kind == "int64"
    np.testing.assert_allclose(flow[:, 2 if whole else 3, 3], [2, -1] if whole else [5.25 - 3.4, 1 - 2.6], atol=1e-6)
    np.testing.assert_allclose(flow[:, 4, 5], [-4, -2])
    np.testing.assert_allclose(flow[:, 0, 0], [3 if whole else 2.6, 4], atol=1e-6)  # of two points there the last


def test_eth3d_intervals_are_groups_and_sequences_their_parts(tmp_path):
    for sequence, rate in (("tunnel", 15), ("tunnel", 3), ("storage_room_2", 3), ("tunnel", 5)):
        eth3d(tmp_path, sequence, rate, [pair(sequence)] * 2)
    samples = read_dataset("eth3d", tmp_path)
    found = [(sample.group.name, sample.group.equal, sample.part) for sample in samples[::2]]
    assert found == [
        ("rate 3", True, "storage_room_2"),
        ("rate 3", True, "tunnel"),
        ("rate 5", True, "tunnel"),
        ("rate 15", True, "tunnel"),
    ]
    assert len({sample.name for sample in samples}) == len(samples) == 8
    assert missing_parts(samples) == {"eth3d": "4 of 70 info files"}


def test_eth3d_mistakes(tmp_path):
    good = pair("forest")
    for pairs, message in (
        ({}, "not a list of pairs"),
        ([3], "pair 0: .*not a dict"),
        ([good, {**good, "Xs": np.zeros(2)}], "pair 1"),
        ([{**good, "Xs": np.array([np.nan])}], "finite"),
        ([{**good, "Yt": "abc"}], "neither an array"),
        ([{name: good[name] for name in good if name != "Xt"}], "no 'Xt'"),
        ([{**good, "source_image": "../1.png"}], "inside"),
        ([{**good, "source_image": "/1.png"}], "inside"),
        ([pair("forest", source="3.png")], r"3\.png"),
        (b"junk", "is not a list of ETH3D's pairs"),
        (pickle.dumps([good])[:-30], "is not a list of ETH3D's pairs"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        eth3d(folder, "forest", 3, pairs)
        with pytest.raises(InputError, match=message):
            read_dataset("eth3d", folder)


class Call:
    """Pickled, it calls a function."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def test_pickles_cannot_run_anything(tmp_path):
    trap, file = tmp_path / "trap", tmp_path / "file"
    for call, named in (
        (Call(os.system, f"touch {trap}"), "system"),
        (Call(os.mkdir, str(trap)), "mkdir"),
        (Call(eval, f"open({str(trap)!r}, 'w')"), "eval"),
        (Call(getattr, [], "append"), "getattr"),
        (Call(np.load, "x"), "load"),
    ):
        for protocol in range(6):
            file.write_bytes(pickle.dumps([call], protocol))
            with pytest.raises(InputError, match=f"{named}.*do not trust") as caught:
                read_plain_pickle(file, "a list")
            assert "\n" not in str(caught.value)
    assert not trap.exists()


def test_pickled_arrays_hold_numbers_and_fit_their_state(tmp_path):
    file = tmp_path / "file"
    for value in (np.array([None, 3]), np.zeros(2, [("x", "f8")]), np.zeros(2, "M8[s]")):
        file.write_bytes(pickle.dumps(value))
        with pytest.raises(InputError, match="dtype"):
            read_plain_pickle(file, "a list")
    four = pickle.dumps(np.arange(4, dtype=np.uint8), 2)
    for damaged in (four.replace(b"K\x04\x85", b"K\x05\x85"), four.replace(b"K\x04\x85", b"J\xff\xff\xff\xff\x85")):
        assert damaged != four
        file.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot have 4 bytes"):
            read_plain_pickle(file, "a list")
    turned = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    for protocol in range(6):
        file.write_bytes(pickle.dumps({"a": (turned, np.str_("b"), {1, 2}, b"c")}, protocol))
        array, text, numbers, raw = read_plain_pickle(file, "a list")["a"]
        np.testing.assert_array_equal(array, turned)
        assert text == "b" and numbers == {1, 2} and raw == b"c"


def test_pickles_of_python_2(tmp_path):
    numbers = struct.pack("<2d", 1.5, -200.25)
    (tmp_path / "old").write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02\x85"
        b"cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x10"
        + numbers
        + b"tb."
    )
    np.testing.assert_array_equal(read_plain_pickle(tmp_path / "old", "a list"), [1.5, -200.25])


# --- TSS -------------------------------------------------------------------------------------------------------------

SHIFT = (9, 5)
"""A point at p of image 2 is at p + SHIFT of image 1."""


def tss(root, group="JODS", name="a", big=False):
    """Both images are cut from one picture, of different sizes; the foreground of each is what the other shows, too."""
    factor = 2 if big else 1
    (height1, width1), (height2, width2) = (60 * factor, 80 * factor), (70 * factor, 64 * factor)
    whole, folder = texture((200, 200)), root / group / name
    picture(folder / "image1.png", whole[20 : 20 + height1, 30 : 30 + width1])
    x, y = 30 + SHIFT[0], 20 + SHIFT[1]
    picture(folder / "image2.png", whole[y : y + height2, x : x + width2])
    for number, sign, size in ((1, -1, (height1, width1)), (2, 1, (height2, width2))):
        mask = np.zeros(size, np.uint8)
        mask[10 : 50 * factor, 12 : 60 * factor] = 255
        picture(folder / f"mask{number}.png", mask)
        flow = np.full((2, *size), np.nan, np.float32)
        flow[:, :, 11:] = sign * np.array(SHIFT).reshape(2, 1, 1)
        flow[:, 20, 20] = 1e10
        write_flow(folder / f"flow{number}.flo", flow)
    return folder


def explained(sample, offset=0.0):
    """Mean grey levels between image0 and image1 sampled where the truth points."""
    image0, image1 = (image.rgb8.astype(np.float32) for image in prepared_images(sample))
    flow = sample.flow() + offset
    known = np.isfinite(flow).all(axis=0)
    y, x = np.indices(known.shape)
    moved = (flow + np.stack([x, y])).astype(np.float32)
    return float(np.abs(cv2.remap(image1, *moved, cv2.INTER_LINEAR) - image0)[known].mean())


def test_tss_flow_n_lives_on_image_n(tmp_path):
    tss(tmp_path)
    first, second = read_dataset("tss", tmp_path)
    assert [sample.name for sample in (first, second)] == ["JODS/a: 1-2", "JODS/a: 2-1"]
    assert (first.image0.name, second.image0.name) == ("image1.png", "image2.png")
    assert (first.extent, second.extent) == (70, 80)  # of the image that the flow points into
    for sample in (first, second):
        assert prepared_sizes(sample) == ((70, 80), (70, 80)) and sample.flow().shape == (2, 70, 80)
        assert explained(sample) == 0
        for wrong in (0.5, -0.5, -2 * np.nan_to_num(sample.flow())):
            assert explained(sample, wrong) > 5
        known = np.isfinite(sample.flow()[0])
        assert known.sum() == 40 * 48 - 1 and known[10:50, 12:60].sum() == known.sum() and not known[20, 20]
    padded = prepared_images(first)[0].rgb8
    assert not padded[60:].any() and padded[:60].any(axis=-1).mean() > 0.9
    assert preparation_key(first) != preparation_key(second)


def test_tss_groups(tmp_path):
    for group in ("PASCAL", "FG3DCar", "other"):
        tss(tmp_path / "TSS_CVPR2016", group)
    samples = read_dataset("tss", tmp_path)
    assert [(s.group.name, s.group.equal) for s in samples[::2]] == [("FG3DCar", False), ("PASCAL", False)]
    assert missing_parts(samples) == {"tss": "4 of 800 pairs"}


def test_tss_mistakes(tmp_path):
    folder = tss(tmp_path)
    _, sample = read_dataset("tss", tmp_path)
    picture(folder / "mask2.png", np.zeros((70, 64), np.uint8))
    with pytest.raises(InputError, match=r"flow2\.flo: has no flow where mask2"):
        sample.flow()
    picture(folder / "mask2.png", np.zeros((60, 80), np.uint8))
    with pytest.raises(InputError, match=r"mask2\.png: is \(60, 80\), but its image \(70, 64\)"):
        sample.flow()
    write_flow(folder / "flow2.flo", np.zeros((2, 60, 80), np.float32))
    with pytest.raises(InputError, match=r"flow2\.flo: is \(60, 80\)"):
        sample.flow()
    (folder / "flow2.flo").unlink()
    with pytest.raises(InputError, match=r"flow2\.flo"):
        read_dataset("tss", tmp_path)


# --- MegaDepth -------------------------------------------------------------------------------------------------------


def test_megadepth_of_gocor_keeps_fractions_and_pads(tmp_path):
    picture(tmp_path / "pairs" / "0015" / "a.jpg", texture((40, 30)))  # times 16: 640 x 480
    picture(tmp_path / "pairs" / "0015" / "b.jpg", texture((60, 70)))  # times 8: 480 x 560
    points = "10.03;5;3;4;5,20;6.1;3;4;5,30.7;9;70;69.98;9,40;8;8;8;59.98"
    (tmp_path / "pairs.csv").write_text(
        f"scene,source_image,target_image,XA,YA,XB,YB\n0015,a.jpg,b.jpg,{points}\n0015,b.jpg,a.jpg,9,5,29.98,30\n"
    )
    sample, turned = read_dataset("megadepth-sparse-gocor", tmp_path)
    assert (sample.image0.name, sample.image1.name) == ("b.jpg", "a.jpg") and sample.nearest
    assert prepared_sizes(sample) == ((640, 560), (640, 560))
    image0, image1 = (image.rgb8 for image in prepared_images(sample))
    assert not image0[480:].any() and image0[:480].any() and not image1[:, 480:].any() and image1[:, :480].any()
    # x = 70 is not inside, 69.98 * 8 is but rounds to 560, beyond the padded image; 59.98 * 8 rounds to row 480, padded.
    np.testing.assert_allclose(sample.points0, [[245.6, 320], [72, 64], [72, 479.84]])
    np.testing.assert_allclose(sample.points1, [[160.48, 320], [80, 97.6], [80, 80]])
    np.testing.assert_allclose(turned.points0, [[479.68, 480]])
    assert sample.pooled_pck == (1, 2, 3, 5, 8, 10, 13, 22, 36)
    plain, _ = read_dataset("megadepth-sparse", tmp_path)
    assert prepared_sizes(plain) == ((480, 560), (640, 480)) and len(plain.points0) == 4 and not plain.nearest
