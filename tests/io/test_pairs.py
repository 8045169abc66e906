"""Every layout of a pair list is read alike, and nothing but a clear InputError comes of a wrong one."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowkit.errors import InputError, OutputError
from flowkit.io.pairs import Pair, read_pairs, write_pairs

K = "500.5 0 320 0 501.5 240 0 0 1"
T = "0 -1 0 1.5 1 0 0 2.5 0 0 1 3.5 0 0 0 1"


@pytest.fixture
def read(tmp_path):
    def read(content, name="pairs.txt"):
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_pairs(file)

    return read


def names(pairs):
    return [(pair.name0, pair.name1) for pair in pairs]


def test_hloc_list(read):
    pairs = read("# query db\n\nquery/1.jpg db/2.jpg\r\n  a.png\tb.png  \nquery/1.jpg db/2.jpg")
    assert names(pairs) == [("query/1.jpg", "db/2.jpg"), ("a.png", "b.png"), ("query/1.jpg", "db/2.jpg")]
    assert pairs[0].rotation0 == 0 and pairs[0].K0 is None and pairs[0].T_0to1 is None


def test_rotations(read):
    (pair,) = read("a b 1 3\n")
    assert (pair.rotation0, pair.rotation1) == (1, 3)


def test_superglue_lines_are_row_major(read):
    other = K.replace("500.5", "600.5")
    pairs = read(f"a b 0 2 {K} {other} {T}\na  b 0   2 {K} {other}\n")
    for pair in pairs:
        assert pair.rotation1 == 2
        np.testing.assert_array_equal(pair.K0, [[500.5, 0, 320], [0, 501.5, 240], [0, 0, 1]])
        assert pair.K1[0, 0] == 600.5
    np.testing.assert_array_equal(pairs[0].T_0to1, [[0, -1, 0, 1.5], [1, 0, 0, 2.5], [0, 0, 1, 3.5], [0, 0, 0, 1]])
    assert pairs[1].T_0to1 is None


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("image_A,image_B\nmy a.jpg,b.jpg\n", "pairs.csv"),
        ("image0,image1\nmy a.jpg, b.jpg\n", "pairs.txt"),
        ('image1,score,image0\nb.jpg,0.5,"my a.jpg"\n', "pairs.csv"),
        ("my a.jpg,b.jpg\n", "pairs.csv"),
        ('"my a.jpg","b.jpg"\n', "pairs.txt"),
        ('"my a.jpg", b.jpg\n', "pairs.txt"),
        ('"my a.jpg" b.jpg\n', "pairs.txt"),
        ('"my a.jpg"   "b.jpg"  \n', "pairs.txt"),
        ("my a.jpg\tb.jpg\n", "pairs.txt"),
        ("my a.jpg\tb.jpg\t0\t0\n", "pairs.tsv"),
        ("\ufeffmy a.jpg\tb.jpg\n", "pairs.txt"),
    ],
)
def test_names_with_blanks(read, content, name):
    assert names(read(content, name)) == [("my a.jpg", "b.jpg")]


@pytest.mark.parametrize("line", ["a.jpg,b.jpg", "a.jpg, b.jpg"])
def test_commas_without_header(read, line):
    assert names(read(line)) == [("a.jpg", "b.jpg")]


def test_names_are_taken_as_they_are(read):
    assert names(read("a,1.jpg b#2.jpg\nбеседка/ä.jpg 東京.png\n")) == [
        ("a,1.jpg", "b#2.jpg"),
        ("беседка/ä.jpg", "東京.png"),
    ]


@pytest.mark.parametrize(
    ("content", "line", "fault"),
    [
        ("a b\nonly_one\n", 2, "1 fields"),
        ("a b c\n", 1, "3 fields"),
        ("my a.jpg my b.jpg\n", 1, "double quotes"),
        ("a b 0 4\n", 1, "rotation '4'"),
        ("a b 0 1.0\n", 1, "rotation '1.0'"),
        (f"a b 0 0 {K} {K[:-1]}\n", 1, "21 fields"),
        (f"a b 0 0 {K} {K} {T} 7\n", 1, "39 fields"),
        (f"# x\n\na b 0 0 {K} {K.replace('320', 'wide')}\n", 3, "'wide' is not a number"),
        (f"a b 0 0 {K} {K.replace('320', 'nan')}\n", 1, "not finite"),
        (f"a b 0 0 {K} {K.replace('320', '1e999')}\n", 1, "not finite"),
        (f"a b 0 0 {K} {K.replace('320', '3_20')}\n", 1, "not a number"),
        (f"a b 0 0 {K} {K.replace('500.5', '0')}\n", 1, "K1: the focal lengths"),
        ("a b 0 0 0 0 0 0 0 0 0 0 0 " + K + "\n", 1, "K0: "),
        ("a b 0 0 500 0 0 0 500 0 320 240 1 " + K + "\n", 1, "transposed"),
        (f"a b 0 0 {K} {K} 1 0 0 0 0 1 0 0 0 0 1 0 1 2 3 1\n", 1, "T_0to1"),
        ('a "b\n', 1, "quotes"),
        ('"" b\n', 1, "empty"),
        ("image0,image1\na\n", 2, "columns"),
        ("a\tb\tc\n", 1, "3 fields"),
    ],
)
def test_wrong_lines(read, content, line, fault):
    with pytest.raises(InputError) as caught:
        read(content)
    message = str(caught.value)
    assert f"pairs.txt:{line}: " in message and fault in message and "\n" not in message


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "empty"),
        (b"# nothing\n\n", "no pairs"),
        (b"image0,image1\n", "no pairs"),
        (b"a \xff\xfe\n", "UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "UTF-8"),
        (b"PK\0\0", "binary"),
        ("a b\n".encode("utf-16"), "UTF-8"),
    ],
)
def test_wrong_files(read, content, fault):
    with pytest.raises(InputError, match=fault):
        read(content)


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match=str(path)):
            read_pairs(path)


def test_round_trip(tmp_path):
    K0 = np.array([[1 / 3, 0, 100.1], [0, 700, 50], [0, 0, 1]])
    T_0to1 = np.vstack([np.arange(12).reshape(3, 4) / 7, [0, 0, 0, 1]])
    pairs = [
        Pair("a", "b"),
        Pair("my a", 'quoted "b"'),
        Pair("#a", "b,"),
        Pair("a", ",b"),
        Pair("ä", "b", 1, 3),
        Pair("a", "b", 0, 0, K0, 2 * K0 - np.diag([0, 0, 1])),
        Pair("a b", "c", 2, 1, K0, K0, T_0to1),
    ]
    write_pairs(tmp_path / "x.txt", pairs)
    for pair, back in zip(pairs, read_pairs(tmp_path / "x.txt"), strict=True):
        for field in ("name0", "name1", "rotation0", "rotation1", "K0", "K1", "T_0to1"):
            np.testing.assert_array_equal(getattr(back, field), getattr(pair, field))
    write_pairs(tmp_path / "x.csv", pairs[:4])
    assert names(read_pairs(tmp_path / "x.csv")) == names(pairs[:4])
    with pytest.raises(OutputError, match="names only"):
        write_pairs(tmp_path / "x.csv", pairs)
    for name in ("", "a\nb", "a\tb", " a", "\udcff"):
        with pytest.raises(OutputError, match="cannot stand"):
            write_pairs(tmp_path / "y.txt", [Pair(name, "b")])
    assert not (tmp_path / "y.txt").exists()


name = st.text(min_size=1, max_size=8).map(lambda text: text.strip(" ")).filter(bool)


@given(st.lists(st.tuples(name, name), min_size=1, max_size=4), st.sampled_from([".txt", ".csv"]))
@example([("image0,image1", "x")], ".txt")
@example([('a"b', "'")], ".txt")
def test_any_names_round_trip(tmp_path_factory, pairs, suffix):
    path = tmp_path_factory.mktemp("names") / f"x{suffix}"
    try:
        write_pairs(path, [Pair(*both) for both in pairs])
    except OutputError:
        return
    assert names(read_pairs(path)) == pairs


junk = st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "ignore"))
words = st.sampled_from(
    ["a", "b.jpg", "0", "1", '"', ",", "\t", " ", "\n", "\r", "#", "image0,image1", "nan", K, T, "\x1c", "é"]
)


@given(junk | st.lists(words, max_size=30).map(lambda parts: " ".join(parts).encode()))
@example(b"\x0b")
@example(b"\x1c\x1d a")
def test_junk_gives_pairs_or_an_input_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("junk") / "x.txt"
    path.write_bytes(content)
    try:
        pairs = read_pairs(path)
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert pairs and all(pair.name0 and pair.name1 for pair in pairs)
