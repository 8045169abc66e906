"""Each verb on a good pair: the files that scripts rely on, the record on stdout, the direction."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from small_pictures import HEIGHT, WIDTH, pair, texture, write

from flowkit.cli.main import run
from flowkit.io.flow_files import read_flow
from flowkit.io.images import read_image
from flowkit.io.matches import read_matches
from flowkit.io.results import is_complete, read_record, to_json
from flowkit.pipelines.outputs import FILES


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return pair(tmp_path)


@pytest.fixture
def call(capsys):
    """Run a command that must work; its JSON record."""

    def check(*arguments, code=0):
        assert run([*map(str, arguments), "--json"]) == code
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out)

    return check


def names(folder):
    return sorted(file.name for file in Path(folder).iterdir())


def test_flow(images, call):
    record = call("flow", *images, "--bidirectional", "--legend", "--max-flow", "10", "--fov", "60")
    assert names("a_b") == sorted(FILES["flow"])
    assert record == json.loads(Path("a_b/flow.json").read_text())
    assert record["grid"]["name"] == str(images[0]) and record["points_into"]["name"] == str(images[1])
    uv = read_flow("a_b/flow.flo")
    assert np.median(uv[0]) == pytest.approx(-3, abs=0.1) and np.median(uv[1]) == pytest.approx(-2, abs=0.1)
    assert np.median(read_flow("a_b/backward.flo")[0]) == pytest.approx(3, abs=0.1)


def test_the_summary_is_for_people_and_quiet_is_quiet(images, capsys):
    assert run(["flow", "a.png", "b.png", "--model", "dis"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("flow a.png -> b.png: 160x120, 100% known, median 3.") and err == ""
    assert out.splitlines()[1:] == ["  a_b/flow.flo", "  a_b/flow.png", "  a_b/flow.json"]
    assert run(["flow", "a.png", "b.png", "--model", "dis", "--overwrite", "--no-pictures", "-q"]) == 0
    assert capsys.readouterr() == ("", "") and names("a_b") == ["flow.flo", "flow.json"]


def test_the_flow_of_a_b_warps_b_onto_a(images, call):
    call("flow", *images)
    record = call("warp", images[1], "--flow", "a_b/flow.flo")
    assert names("b_by_flow") == sorted(FILES["warp"]) and record["status"] == "ok"
    warped, a = read_image("b_by_flow/warped.png").pixels, read_image(images[0]).pixels
    inside = np.s_[10:-10, 10:-10]
    assert np.abs(warped[inside].astype(int) - a[inside]).mean() < 2


def test_splatting_a_by_it_gives_b(images, call):
    call("flow", *images)
    record = call("warp", images[0], "--flow", "a_b/flow.flo", "--splat", "--output", "o")
    assert record["grid"]["name"] == str(images[0])
    pushed, b = read_image("o/warped.png").pixels, read_image(images[1]).pixels
    assert np.abs(pushed[10:-10, 10:-10].astype(int) - b[10:-10, 10:-10]).mean() < 4


def test_a_backward_flow_empties_what_is_hidden(images, call):
    call("flow", *images, "--bidirectional")
    wrong = read_flow("a_b/backward.flo")
    wrong[0, 50:60, 50:60] += 30  # pretends that something else is seen there
    np.save("wrong.npy", wrong)
    call("warp", images[1], "--flow", "a_b/flow.flo", "--backward-flow", "wrong.npy", "--output", "o")
    mask = cv2.imread("o/occlusion.png", cv2.IMREAD_GRAYSCALE)
    assert mask[54, 58] == 255 and mask[30, 30] == 0
    assert not read_image("o/warped.png").pixels[54, 58].any()


@pytest.mark.parametrize("suffix", [".json", ".txt"])
def test_homography_and_warping_by_it(images, call, suffix):
    record = call("homography", *images, "--features", "sift", "--output", "o")
    assert names("o") == sorted(FILES["homography"])
    np.testing.assert_allclose(record["matrix"], [[1, 0, -3], [0, 1, -2], [0, 0, 1]], atol=0.2)
    file = Path("o/homography.json")
    if suffix == ".txt":
        file = Path("h.txt")
        np.savetxt(file, record["matrix"])
    call("warp", images[0], "--homography", file, "--output", "w", "--size", "100x90")
    warped, b = read_image("w/warped.png").pixels, read_image(images[1]).pixels[:90, :100]
    assert warped.shape == b.shape and np.abs(warped[10:-10, 10:].astype(int) - b[10:-10, 10:]).mean() < 4


@pytest.mark.parametrize(
    ("format", "files"), [("npz", ["matches.npz"]), ("json", ["points.json"]), ("h5", ["features.h5", "matches.h5"])]
)
def test_match(images, call, format, files):
    record = call("match", *images, "--features", "sift", "--format", format, "--output", "o")
    assert names("o") == sorted([*files, "matches.json", "matches.png"])
    assert record["matches"] > 20
    if format != "h5":
        matches = read_matches(Path("o") / files[0])
        np.testing.assert_allclose(np.median(matches.points1 - matches.points0, axis=0), [-3, -2], atol=0.2)


def test_match_to_colmap(images, call, capsys):
    pycolmap = pytest.importorskip("pycolmap")
    call("match", *images, "--features", "sift", "--colmap", "x.db", "--output", "o")
    database = pycolmap.Database.open("x.db") if hasattr(pycolmap.Database, "open") else pycolmap.Database("x.db")
    assert {image.name for image in database.read_all_images()} == {"a.png", "b.png"}
    database.close()
    assert run(["match", *map(str, images), "--colmap", "x.db", "--output", "o2"]) == 2
    assert "x.db" in capsys.readouterr().err


def two_views(folder):
    """A camera that moves sideways along two walls at different depths."""
    near, far = texture(3, 120, 160), texture(4, 160, 240)
    views = []
    for shift in (0, 1):
        view = far[20:140, 20 + 6 * shift : 180 + 6 * shift].copy()
        view[30:110, 40 - 20 * shift + 20 : 120 - 20 * shift + 20] = near[30:110, 40:120]
        views.append(view)
    return write(folder / "l.png", views[0]), write(folder / "r.png", views[1])


@pytest.mark.parametrize("camera", [("--K", "150,150,79.5,59.5"), ("--fov", "56"), ("--K0", "K.txt", "--K1", "K.txt")])
def test_pose(tmp_path, monkeypatch, call, camera):
    monkeypatch.chdir(tmp_path)
    np.savetxt("K.txt", [[150, 0, 79.5], [0, 150, 59.5], [0, 0, 1]])
    record = call("pose", *two_views(tmp_path), "--features", "sift", "--output", "o", *camera)
    assert names("o") == sorted({*FILES["pose"]} - {"two_view.ply"})
    assert record["t"][0] < -0.9  # the camera goes right, the scene left
    assert record["rotation_angle_deg"] < 3


def test_align(images, call):
    record = call("align", *images, "--output", "o")
    assert names("o") == sorted({*FILES["align"]} - {"transfer.png"})
    assert record["grid"]["name"] == str(images[1]) and record["points_into"]["name"] == str(images[0])
    uv = read_flow("o/flow.flo")
    assert np.nanmedian(uv[0]) == pytest.approx(3, abs=0.1)  # from b's grid into a
    aligned, b = read_image("o/aligned.png").pixels, read_image(images[1]).pixels
    assert np.abs(aligned[10:-10, 10:-10].astype(int) - b[10:-10, 10:-10]).mean() < 2


def test_align_a_group(tmp_path, monkeypatch, call, capsys):
    monkeypatch.chdir(tmp_path)
    big = texture()
    for index in range(3):
        write(Path(f"set/{index}.png"), big[10 + index : 10 + index + HEIGHT, 10 : 10 + WIDTH])
    call("align", "--group", "set", "--to", "set/0.png", "--features", "sift")
    averages = ["average.gif", "average.png", "average_before.png", "average_coarse.png"]
    assert names("set_to_0") == ["aligned-1.png", "aligned-2.png", *averages, "group.json"]
    reference = read_image("set/0.png").pixels[10:-10, 10:-10].astype(int)
    after, before = (
        read_image(f"set_to_0/{name}.png").pixels[10:-10, 10:-10] for name in ("average", "average_before")
    )
    assert np.abs(after - reference).mean() < 0.5 * np.abs(before - reference).mean()

    Path("set/broken.png").write_text("no picture")
    write(Path("set/unrelated.png"), texture(9))
    arguments = ["align", "--group", "set", "--to", "set/0.png", "--features", "sift", "--output", "o"]
    assert run(arguments) == 6
    assert "broken.png: unreadable" in capsys.readouterr().out
    record = json.loads(Path("o/group.json").read_text())
    assert to_json(read_record("o/group.json")) == Path("o/group.json").read_text() and is_complete("o/group.json")
    assert {image["name"]: image["file"] for image in record["images"] if image["status"] == "ok"} == {
        "set/1.png": "aligned-1.png",
        "set/2.png": "aligned-2.png",
    }
    (message,) = [image["message"] for image in record["images"] if image["message"]]
    assert message.startswith("set/broken.png: ")
    statuses = {Path(image["name"]).stem: image["status"] for image in record["images"]}
    assert statuses.pop("unrelated") in ("no_overlap", "too_few_matches")
    assert statuses == {"1": "ok", "2": "ok", "broken": "unreadable"}
    assert run(arguments) == 2


def test_show(tmp_path, monkeypatch, call, capsys):
    monkeypatch.chdir(tmp_path)
    uv = np.full((2, 100, 120), 3, np.float32)
    uv[1] = 4
    uv[:, :50] = np.nan
    np.save("f.npy", uv)
    saves = [argument for name in ("f.flo", "f.pfm", "f.flo5", "f.png") for argument in ("--save", name)]
    record = call("show", "f.npy", *saves, "--legend")
    assert record["known"] == 0.5 and record["length"]["median"] == 5 and record["x"]["max"] == 3
    for name in ("f.flo", "f.pfm", "f.flo5"):
        np.testing.assert_array_equal(read_flow(name), uv)
    assert read_image("f.png").size == (100, 120)
    assert run(["show", "f.npy", "--save", "f.flo"]) == 2
    assert run(["show", "f.npy", "--save", "k.png", "--kitti"]) == 0
    np.testing.assert_array_equal(read_flow("k.png"), uv)
    assert "120x100, 50.0% known" in capsys.readouterr().out


def test_a_closer_look_at_the_log(images, capsys):
    assert run(["flow", "a.png", "b.png", "--model", "dis", "--preset", "fast", "--resize", "64", "-v"]) == 0
    err = capsys.readouterr().err
    assert all(line.startswith("flowkit: ") for line in err.splitlines())
