"""RANSAC-Flow's protocols: what is read where, and numbers worked out by hand. The layouts are written here."""

import cv2
import numpy as np
import pytest

from flowkit.datasets.catalogue import missing_parts, read_dataset
from flowkit.errors import GeometryError, UsageError
from flowkit.evaluation import metrics
from flowkit.evaluation.cache import Cache
from flowkit.evaluation.methods import Method, WeightsFile, build_methods
from flowkit.evaluation.preparation import prepared_images, prepared_sizes
from flowkit.evaluation.protocols import run, summarise
from flowkit.io.flow_files import write_flow

HERE = Cache(None)


def picture(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*size, 3), 90, np.uint8))


def rows_of(task, samples, call, **options):
    rows = summarise(task, list(run(task, samples, [Method("made up", call, {}, **options)], cache=HERE)))
    return {row.group or row.dataset: row.values for row in rows}


def still(image0, image1, sample, *, device, seed):
    return {"uv": np.zeros((2, *image0.size), np.float32)}, "ok"


def crash(*args, **options):
    raise ValueError("on purpose")


# --- HPatches at 240 -------------------------------------------------------------------------------------------------

NAME = "hpatches-flow-v-ransac-flow"


def sequence(root, name, homographies, size, size_k):
    picture(root / name / "1.ppm", size)
    for k, H in homographies.items():
        picture(root / name / f"{k}.ppm", size_k)
        np.savetxt(root / name / f"H_1_{k}", H)


def shift(x, y=0):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def test_pictures_at_a_short_side_of_480_truth_at_240(tmp_path):
    sequence(tmp_path, "v_wall", {2: shift(40), 5: np.diag([0.9, 0.9, 1])}, (600, 1000), (1024, 683))
    sequence(tmp_path, "i_fog", {2: shift(0)}, (60, 80), (60, 80))
    first, second = samples = read_dataset(NAME, tmp_path)
    assert [(s.group.name, s.group.equal) for s in samples] == [("I", True), ("IV", True)]
    assert (first.image0.name, first.image1.name) == ("2.ppm", "1.ppm")
    assert prepared_sizes(first) == ((720, 480), (480, 800))  # cut to multiples of 16
    assert [image.size for image in prepared_images(first)] == [(720, 480), (480, 800)]
    assert first.flow().shape == (2, 240, 240)
    # x on image 2 at 240 is 683 / 240 x there, 40 less in image 1, whose width of 1000 becomes 240, too.
    x = np.arange(240)
    expected = (x * 683 / 240 - 40) * 240 / 1000 - x
    expected[expected + x < 0] = np.nan
    np.testing.assert_allclose(first.flow()[0, 7], expected, atol=1e-9)
    np.testing.assert_allclose(second.flow()[1, :100, 3], np.arange(100) * (1024 / 600 / 0.9 - 1), atol=1e-9)
    assert missing_parts(samples) == {NAME: "1 of 59 sequences"}


def test_a_flow_is_read_corner_on_corner():
    x, y = np.meshgrid(np.arange(31), np.arange(21))
    flow = np.stack([0.5 * x + 1, -0.25 * y])  # of a picture of 21 x 31 into one of 41 x 81
    read = metrics.flow_on_grid(flow, (41, 81), (11, 16))
    place = np.arange(16) * 2.0  # two pixels a step; of 81 columns the last is 80, here 15
    np.testing.assert_allclose(read[0, 3], (1.5 * place + 1) * 15 / 80 - np.arange(16))
    place = np.arange(11) * 2.0
    np.testing.assert_allclose(read[1, :, 5], 0.75 * place * 10 / 40 - np.arange(11))
    flow[:, 8, 6] = np.nan
    unknown = np.isnan(metrics.flow_on_grid(flow, (41, 81), (11, 16)))
    assert unknown[:, 4, 3].all() and unknown.sum() == 2


def test_errors_are_pixels_of_240_and_what_is_missing_has_not_moved(tmp_path):
    sequence(tmp_path, "v_a", {2: shift(100)}, (480, 800), (480, 800))  # 30 of 240 columns
    sequence(tmp_path, "v_b", {2: shift(200), 3: shift(0, 48)}, (480, 800), (480, 800))
    samples = read_dataset(NAME, tmp_path)

    def right(image0, image1, sample, *, device, seed):
        k, name = sample.name[-3], sample.name
        uv = np.zeros((2, *image0.size), np.float32)
        uv[:] = {"v_a/2-1": [[[-100]], [[0]]], "v_b/2-1": [[[-200]], [[0]]], "v_b/3-1": [[[0]], [[-48]]]}[name]
        if k == "2":
            uv[:, :, :400] = np.nan  # half is unknown
        return {"uv": uv, "confidence": np.ones(image0.size)}, "ok"

    # 100 px of 799 between corners are 29.91 of 239, the truth's plain scale makes 30 of them.
    slip = 30 - 100 * 239 / 799
    rows = rows_of("flow", samples, right, dense=True)
    assert list(rows) == ["I", "II", NAME]
    known_a, known_b = 210, 180  # columns whose truth lies inside image 1, from 30 and from 60 on
    left_a, left_b = 120 - 30, 120 - 60
    level = np.mean(
        [(left_a * 30 + (known_a - left_a) * slip) / known_a, (left_b * 60 + (known_b - left_b) * 2 * slip) / known_b]
    )
    assert rows["I"]["aepe"] == pytest.approx(level, abs=1e-4)
    assert rows["II"]["aepe"] == pytest.approx(24 - 48 * 239 / 479, abs=1e-4)
    assert rows[NAME]["aepe"] == pytest.approx((rows["I"]["aepe"] + rows["II"]["aepe"]) / 2)
    assert rows[NAME]["coverage"] == 1
    unmoved, failed = rows_of("flow", samples, still, dense=True), rows_of("flow", samples, crash, dense=True)
    assert unmoved["I"]["aepe"] == failed["I"]["aepe"] == pytest.approx(45)
    assert failed["I"]["failed"] == 2 and unmoved["I"]["failed"] == 0


# --- KITTI -----------------------------------------------------------------------------------------------------------


def test_kitti_2015_all_and_noc(tmp_path):
    """The flow lives on _10; both means are of the pictures' means, both Fl of all pixels."""
    truths = {"000000": [8.0, 8, 100, 2], "000001": [1.0, 1]}  # nothing moves in the answer: these are the errors
    seen = {"000000": [True, False, False, True], "000001": [True, True]}
    for name, values in truths.items():
        for end, size in (("10", (6, 8)), ("11", (6, 10))):
            picture(tmp_path / "training" / "image_2" / f"{name}_{end}.png", size)
        for folder, kept in (("flow_occ", [True] * len(values)), ("flow_noc", seen[name])):
            flow = np.full((2, 6, 8), np.nan, np.float32)
            for x, (value, known) in enumerate(zip(values, kept, strict=True)):
                flow[:, 2, x] = (value, 0) if known else np.nan
            (tmp_path / "training" / folder).mkdir(exist_ok=True)
            write_flow(tmp_path / "training" / folder / f"{name}_10.png", flow)
    samples = read_dataset("kitti2015", tmp_path)
    assert [(s.image0.stem, s.image1.stem) for s in samples] == [
        ("000000_10", "000000_11"), ("000001_10", "000001_11")
    ]  # fmt: skip
    values = rows_of("flow", samples, still, dense=True)["kitti2015"]
    assert values["aepe"] == pytest.approx((118 / 4 + 1) / 2)
    assert values["aepe_visible"] == pytest.approx((10 / 2 + 1) / 2)
    assert values["fl"] == 3 / 6 and values["fl_visible"] == 1 / 4
    failed = rows_of("flow", samples, crash, dense=True)["kitti2015"]
    assert failed["fl"] == failed["fl_visible"] == 1 and failed["aepe_visible"] == np.inf


def test_the_paper_s_variant_for_kitti_reaches_align(tmp_path, monkeypatch):
    """`--method align-multi-h --model ransac-flow --rules kitti --weights W`; the target is image0, the source image1."""
    asked = {}

    def made_up(source, target, **options):
        asked.update(options, sizes=(source.size, target.size))
        raise GeometryError("nothing found")

    monkeypatch.setattr("flowkit.pipelines.align.align", made_up)
    for name, size in (("10", (60, 80)), ("11", (60, 90))):
        picture(tmp_path / "image_2" / f"000000_{name}.png", size)
    (tmp_path / "flow_occ").mkdir()
    write_flow(tmp_path / "flow_occ" / "000000_10.png", np.ones((2, 60, 80), np.float32))
    weights = WeightsFile(tmp_path / "w.safetensors", "0" * 64)
    varied = {"model": ["ransac-flow"], "rules": ["kitti"], "weights": [weights], "precision": ["fp32"]}
    methods = build_methods("flow", ["align-multi-h"], varied)
    (result,) = run("flow", read_dataset("kitti2015", tmp_path), methods, cache=HERE, device="cpu", seed=3)
    assert result.status == "no_geometry" and result.scores["fl"] == 1
    assert asked == {
        "multi_h": True,
        "model": "ransac-flow",
        "rules": "kitti",
        "weights": weights.path,
        "precision": "fp32",
        "device": "cpu",
        "seed": 3,
        "sizes": ((60, 90), (60, 80)),
    }
    with pytest.raises(UsageError, match="--rules means nothing to align"):
        build_methods("flow", ["align"], {"rules": ["kitti"]})


# --- MegaDepth and RobotCar ------------------------------------------------------------------------------------------


def test_points_are_scaled_in_single_precision_before_they_are_cut(tmp_path):
    (tmp_path / "test6511.csv").write_text(
        "scene,source_image,target_image,XA,YA,XB,YB\n/,a.jpg,b.jpg,6.18749999,5,30.2,40\n"
    )
    picture(tmp_path / "imgs" / "a.jpg", (30, 40))
    picture(tmp_path / "imgs" / "b.jpg", (60, 70))
    (sample,) = read_dataset("robotcar-sparse", tmp_path)  # the scene / is the folder itself
    np.testing.assert_array_equal(sample.points1, [[99, 80]])  # 16 * 6.18749999 is 98.99999984
    np.testing.assert_array_equal(sample.points0, [[241, 320]])
