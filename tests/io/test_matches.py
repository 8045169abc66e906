"""Files of matches keep every array, and are what SuperGlue's and hloc's readers expect."""

import dataclasses
import json

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowkit.errors import InputError, OutputError
from flowkit.io.matches import read_hloc, read_matches, write_hloc, write_hloc_pairs, write_matches
from flowkit.types import Matches


def some_matches(**changes):
    """Keypoint 3 of image0 has two matches, keypoint 0 of image1, too; nothing is symmetric."""
    matches = Matches(
        keypoints0=np.array([[0, 0], [10.5, 20.25], [1 / 3, 7], [99, 49]], np.float32),
        keypoints1=np.array([[5, 6], [7.125, 8], [9, 10]], np.float32),
        pairs=np.array([[3, 2], [1, 0], [3, 0]]),
        scores=np.array([0.25, 0.5, 0.75], np.float32),
        size0=(50, 100),
        size1=(60, 80),
        origins=("sift", "xfeat*", "größe"),
        origin=np.array([0, 2, 1]),
        inliers=np.array([True, False, True]),
    )
    return dataclasses.replace(matches, **changes)


def assert_same(back, matches):
    for field in dataclasses.fields(Matches):
        value, expected = getattr(back, field.name), getattr(matches, field.name)
        if isinstance(expected, np.ndarray):
            assert value.dtype == expected.dtype, field.name
            np.testing.assert_array_equal(value, expected)
        else:
            assert value == expected, field.name


@pytest.mark.parametrize("suffix", [".npz", ".json"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"origins": (), "origin": None, "inliers": None},
        {"pairs": np.empty((0, 2), np.int64), "scores": np.empty(0, np.float32), "origin": None, "inliers": None},
        {"keypoints0": np.array([[0.1, 1 / 3]] * 4)},
        {"keypoints0": np.array([[np.nan, 1]] * 4, np.float32)},
        {"size0": (0, 0)},
        {"stage": np.array([1, 2, 0])},
    ],
)
def test_round_trip(tmp_path, suffix, changes):
    matches = some_matches(**changes)
    write_matches(tmp_path / f"m{suffix}", matches)
    assert_same(read_matches(tmp_path / f"m{suffix}"), matches)
    first = (tmp_path / f"m{suffix}").read_bytes()
    write_matches(tmp_path / f"m{suffix}", matches)
    assert (tmp_path / f"m{suffix}").read_bytes() == first


def test_no_keypoints_at_all(tmp_path):
    none = np.empty((0, 2), np.float32)
    matches = Matches(none, none, np.empty((0, 2), np.int64), np.empty(0, np.float32), (5, 6), (7, 8))
    for suffix in (".npz", ".json"):
        write_matches(tmp_path / f"m{suffix}", matches)
        assert_same(read_matches(tmp_path / f"m{suffix}"), matches)


def test_npz_is_superglues_layout(tmp_path):
    write_matches(tmp_path / "m.npz", some_matches())
    with np.load(tmp_path / "m.npz") as store:  # the names and meaning SuperGlue's README gives
        keypoints0, keypoints1, best = store["keypoints0"], store["keypoints1"], store["matches"]
        assert best.tolist() == [-1, 0, -1, 0]  # of two matches the better one
        assert store["match_confidence"].tolist() == [0, 0.5, 0, 0.75]
        assert store["size0"].tolist() == [50, 100] and "(height, width)" in str(store["convention"])
    assert keypoints0[best > -1].tolist() == [[10.5, 20.25], [99, 49]]
    assert keypoints1[best[best > -1]].tolist() == [[5, 6], [5, 6]]


@pytest.mark.parametrize("integers", [np.int32, np.int64])
def test_plain_superglue_file(tmp_path, integers):
    keypoints0, keypoints1 = np.arange(8).reshape(4, 2).astype(np.float32), np.ones((3, 2), np.float32)
    best, confidence = np.array([-1, 2, -1, 0], integers), np.array([0, 0.5, 0, 0.75], np.float32)
    np.savez(
        tmp_path / "m.npz", keypoints0=keypoints0, keypoints1=keypoints1, matches=best, match_confidence=confidence
    )
    matches = read_matches(tmp_path / "m.npz")
    assert matches.pairs.tolist() == [[1, 2], [3, 0]] and matches.scores.tolist() == [0.5, 0.75]
    assert matches.size0 == matches.size1 == (0, 0)
    assert matches.inliers is None and matches.origins == ()


def test_json_has_null_for_nan(tmp_path):
    write_matches(tmp_path / "m.json", some_matches(keypoints0=np.array([[np.nan, np.inf]] * 4, np.float32)))
    text = (tmp_path / "m.json").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert json.loads(text)["keypoints0"][0] == [None, None]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"pairs": np.array([[0, 3]])}, "keypoint that is not there"),
        ({"pairs": np.array([[-1, 0]])}, "keypoint that is not there"),
        ({"scores": np.ones(7, np.float32)}, "scores has shape"),
        ({"origin": np.array([5])}, "origin that is not there"),
        ({"inliers": np.ones(2, bool)}, "inliers has shape"),
        ({"keypoints0": np.zeros((4, 3), np.float32)}, "keypoints|shape"),
        ({"keypoints0": np.zeros((4, 2), np.complex64)}, "keypoints0"),
        ({"pairs": np.array([[0.5, 1.0]])}, "matches"),
        ({"pairs": np.array([[0, 0, 0]])}, "pairs has shape"),
        ({"pairs": np.array(0)}, "matches|pairs"),
        ({"stage": np.array([1, 2])}, "stage has shape"),
        ({"stage": np.array([3])}, "stage that is not"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path, change, fault):
    arrays = {
        "keypoints0": np.zeros((4, 2), np.float32),
        "keypoints1": np.zeros((3, 2), np.float32),
        "matches": np.full(4, -1),
        "pairs": np.array([[0, 0]]),
        "scores": np.ones(1, np.float32),
    }
    np.savez(tmp_path / "m.npz", **(arrays | change))
    with pytest.raises(InputError, match=fault) as caught:
        read_matches(tmp_path / "m.npz")
    assert "m.npz" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("m.npz", b"", "empty"),
        ("m.npz", b"PK\x03\x04 cut", "npz"),
        ("m.json", b"[]", "object"),
        ("m.json", b"{", "JSON"),
        ("m.json", b'{"keypoints0": []}', "keypoints1"),
        ("m.json", b'{"kind": "matches"}', "matches.npz beside it"),
        ("m.json", b'{"keypoints0": [[0]], "keypoints1": [], "matches": [1]}', "keypoints0"),
        ("m.json", b'{"keypoints0": "x", "keypoints1": [], "matches": []}', "matches"),
        ("m.txt", b"0 0 1 1", "format"),
        ("m.json", b"[" * 100_000, "JSON"),
    ],
)
def test_broken_files(tmp_path, name, content, fault):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=fault):
        read_matches(tmp_path / name)


@given(position=st.integers(0, 2000), byte=st.integers(0, 255))
def test_any_flipped_byte_is_read_or_an_input_error(tmp_path_factory, position, byte):
    path = tmp_path_factory.mktemp("flip") / "m.npz"
    write_matches(path, some_matches())
    data = bytearray(path.read_bytes())
    data[position % len(data)] = byte
    path.write_bytes(data)
    try:
        read_matches(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "m.npz", keypoints0=np.array([{}], object), keypoints1=np.zeros((1, 2)), matches=np.array([-1]))
    with pytest.raises(InputError, match="npz"):
        read_matches(tmp_path / "m.npz")


def test_unknown_format(tmp_path):
    with pytest.raises(OutputError, match=r"\.npz or \.json"):
        write_matches(tmp_path / "m.csv", some_matches())


# --- hloc ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hloc(tmp_path):
    return tmp_path / "features.h5", tmp_path / "matches.h5"


def test_hloc_layout(hloc):
    write_hloc(*hloc, "db/a.jpg", "query/b.jpg", some_matches())
    with h5py.File(hloc[0]) as features, h5py.File(hloc[1]) as store:
        group = store["db-a.jpg/query-b.jpg"]
        assert group["matches0"][()].tolist() == [-1, 0, -1, 0]
        assert group["matching_scores0"][()].tolist() == [0, 0.5, 0, 0.75]
        np.testing.assert_array_equal(
            features["db/a.jpg/keypoints"][()], some_matches().keypoints0
        )  # no half pixel here
        assert features["db/a.jpg/scores"][()].tolist() == [0, 0.5, 0, 0.75]
        assert features["query/b.jpg/scores"][()].tolist() == [0.75, 0, 0.25]
        assert features["db/a.jpg/image_size"][()].tolist() == [100, 50]  # width first, as hloc has it


def test_hloc_is_read_back_both_ways_round(hloc):
    matches = some_matches()
    write_hloc(*hloc, "a", "b", matches)
    back = read_hloc(*hloc, "a", "b")
    assert back.pairs.tolist() == [[1, 0], [3, 0]] and back.scores.tolist() == [0.5, 0.75]
    assert back.size0 == (50, 100) and back.size1 == (60, 80)
    turned = read_hloc(*hloc, "b", "a")
    np.testing.assert_array_equal(turned.points0, back.points1)
    np.testing.assert_array_equal(turned.points1, back.points0)
    assert turned.size0 == (60, 80)
    for names in (("a", "c"), ("a", "a")):
        with pytest.raises(InputError, match="has no pair"):
            read_hloc(*hloc, *names)


def test_hloc_pairs_share_keypoints(hloc):
    first = some_matches()
    second = some_matches(keypoints1=np.array([[1, 2]], np.float32), pairs=np.array([[0, 0]]), scores=np.float32([0.5]))
    write_hloc(*hloc, "a", "b", first)
    write_hloc(*hloc, "a", "c", second)
    assert len(read_hloc(*hloc, "a", "b")) == 2 and len(read_hloc(*hloc, "a", "c")) == 1
    with h5py.File(hloc[0]) as features:
        assert features["a/scores"][()].tolist() == [0.5, 0.5, 0, 0.75]  # the best of both pairs
    before = [path.read_bytes() for path in hloc]
    with pytest.raises(OutputError, match="a has other keypoints") as caught:
        write_hloc(*hloc, "a", "d", some_matches(keypoints0=first.keypoints0 + 1))
    assert "\n" not in str(caught.value)
    assert [path.read_bytes() for path in hloc] == before  # all or nothing


def test_hloc_pair_is_replaced(hloc):
    write_hloc(*hloc, "a", "b", some_matches())
    write_hloc(*hloc, "a", "b", some_matches(pairs=np.array([[2, 2]]), scores=np.float32([1])))
    assert read_hloc(*hloc, "a", "b").pairs.tolist() == [[2, 2]]


def test_hloc_names_that_clash(hloc):
    with pytest.raises(OutputError, match="differ only"):
        write_hloc_pairs(*hloc, [("x/a", "b", some_matches()), ("x-a", "b", some_matches())])
    for name in ("", "../a", "a//b"):
        with pytest.raises(OutputError, match="cannot name"):
            write_hloc(*hloc, name, "b", some_matches())
    with pytest.raises(OutputError, match="in the way"):
        write_hloc_pairs(*hloc, [("a", "b", some_matches()), ("a/keypoints", "c", some_matches())])
    assert not hloc[0].exists() and not hloc[1].exists()


def test_hloc_files_of_hloc_itself(hloc):
    with h5py.File(hloc[0], "w") as features, h5py.File(hloc[1], "w") as store:
        for name, count in (("db/1.jpg", 3), ("q.jpg", 2)):
            features[f"{name}/keypoints"] = np.arange(2 * count).reshape(count, 2).astype(np.float16)
            features[f"{name}/descriptors"] = np.zeros((128, count), np.float16)
        store["db-1.jpg/q.jpg/matches0"] = np.array([-1, 1, -1], np.int16)
        store["db-1.jpg/q.jpg/matching_scores0"] = np.array([0, 0.5, 0], np.float16)
        store["db-1.jpg_old.jpg/matches0"] = np.array([0, -1, -1], np.int16)
        features["old.jpg/keypoints"] = np.zeros((1, 2), np.float32)
    matches = read_hloc(*hloc, "db/1.jpg", "q.jpg")
    assert matches.pairs.tolist() == [[1, 1]] and matches.size0 == (0, 0) and matches.keypoints0.dtype == np.float32
    assert read_hloc(*hloc, "db/1.jpg", "old.jpg").scores.tolist() == [1]


def test_hloc_broken_files(hloc):
    for path in hloc:
        path.write_bytes(b"no HDF5")
    with pytest.raises(InputError, match="HDF5"):
        write_hloc(*hloc, "a", "b", some_matches())
    with pytest.raises(InputError, match="hloc"):
        read_hloc(*hloc, "a", "b")
