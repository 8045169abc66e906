"""GOCor's protocols: numbers worked out by hand, and whole runs through the command line on pictures made here."""

import json
import pickle

import cv2
import numpy as np
import pytest

from flowkit.cli.bench import app
from flowkit.datasets.samples import FlowSample, Group, MatchSample
from flowkit.evaluation import metrics, tables
from flowkit.evaluation.cache import Cache
from flowkit.evaluation.methods import Method
from flowkit.evaluation.protocols import run, summarise
from flowkit.io.flow_files import write_flow

SHIFT = (6.5, -3.25)
"""A point at p of the target is at p + SHIFT of the source."""


def picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def shifted(size, shift=(0.0, 0.0)):
    """A picture whose point p shows what another one's shows at p + shift."""
    noise = np.random.default_rng(0).uniform(0, 255, (*size, 3)).astype(np.float32)
    smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    move = np.float32([[1, 0, shift[0]], [0, 1, shift[1]]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(smooth, move, size[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)


def rows_of(task, samples, call):
    rows = summarise(task, list(run(task, samples, [Method("made up", call)], cache=Cache(None))))
    return {row.group or row.dataset: row.values for row in rows}, rows


def still(image0, image1, sample, *, device, seed):
    return {"uv": np.zeros((2, *image0.size), np.float32)}, "ok"


def bench(capsys, task, dataset, root):
    arguments = [task, "--dataset", dataset, "--root", str(root), "--method", "dis", "--json", "--no-cache"]
    assert not app(args=arguments, standalone_mode=False)
    rows = json.loads(capsys.readouterr().out)["rows"]
    return {row["group"] or "all": row for row in rows}


# --- by hand ---------------------------------------------------------------------------------------------------------


def known_errors(image, name, rate, part, errors):
    flow = np.full((2, 12, 16), np.nan, np.float32)
    flow[:, 0, : len(errors)] = [errors, [0] * len(errors)]
    return FlowSample("eth3d", name, image, image, lambda: flow, group=Group(rate, equal=True), part=part)


def test_eth3d_means_are_over_images_then_sequences_then_intervals(tmp_path):
    image = picture(tmp_path / "a.png", np.zeros((12, 16, 3), np.uint8))
    samples = [
        known_errors(image, "0", "rate 3", "tunnel", [0.5, 1.5]),
        known_errors(image, "1", "rate 3", "tunnel", [3.0]),
        known_errors(image, "2", "rate 3", "electro", [10.0] * 3),
        known_errors(image, "3", "rate 3", "electro", []),  # nothing to be measured
        known_errors(image, "4", "rate 5", "tunnel", [4.0] * 5),
    ]
    values, _ = rows_of("flow", samples, still)
    assert list(values) == ["rate 3", "rate 5", "eth3d"]
    near, far, whole = values.values()
    assert near["aepe"] == ((1 + 3) / 2 + 10) / 2  # neither over images, 14/3, nor over points, 35/6
    assert near["mean_within_1"] == 0.125 and near["within_1"] == 1 / 6
    assert near["mean_within_5"] == 0.5 and near["within_5"] == 3 / 6
    assert far["aepe"] == 4 and far["mean_within_5"] == far["within_5"] == 1
    assert whole["aepe"] == (6 + 4) / 2 and whole["epe_pooled"] == pytest.approx((35 + 20) / 11)
    assert whole["mean_within_5"] == 0.75 and whole["within_5"] == 8 / 11


def test_flow_without_truth_is_undefined():
    scores = metrics.flow_errors(np.zeros((2, 2, 2)), np.full((2, 2, 2), np.nan))
    assert scores["pixels"] == 0 and np.isnan([scores["epe"], scores["within_1"], scores["fl"]]).all()
    assert np.isnan(metrics.flow_pck(np.zeros((2, 2, 2)), np.full((2, 2, 2), np.nan), 1))


def test_semantic_pck_is_a_share_per_image_of_the_foreground(tmp_path):
    image = picture(tmp_path / "a.png", np.zeros((12, 16, 3), np.uint8))

    def sample(name, group, extent, errors):
        flow = np.full((2, 12, 16), np.nan, np.float32)
        flow[:, 3, : len(errors)] = [[0] * len(errors), errors]
        return FlowSample("tss", name, image, image, lambda: flow, extent=extent, group=Group(group))

    samples = [
        sample("0", "JODS", 100, [5, 5.01, 6, 7]),  # at most 5 px
        sample("1", "JODS", 140, [7.0]),
        sample("2", "PASCAL", 20, [1.5, 1.5]),
    ]
    values, rows = rows_of("flow", samples, still)
    assert [each["pck_0.05"] for each in values.values()] == pytest.approx([0.625, 0, 1.25 / 3])
    assert "PCK .05 %" in [column.header for column in tables.screen_table(rows).columns]
    blind = lambda *_, **__: ({"uv": np.full((2, 12, 16), np.nan)}, "ok")  # noqa: E731
    assert rows_of("flow", samples, blind)[0]["tss"]["pck_0.05"] == 0
    plain = [FlowSample("kitti", "0", image, image, samples[0].flow)]
    assert "pck_0.05" not in rows_of("flow", plain, still)[0]["kitti"]


def test_sparse_pck_of_gocor_reads_the_nearest_pixel_and_keeps_fractions(tmp_path):
    image = picture(tmp_path / "a.png", np.zeros((12, 16, 3), np.uint8))

    def flow(image0, image1, sample, *, device, seed):
        uv = np.full((2, 12, 16), np.nan, np.float32)
        uv[:, 4, 3] = [2, -1]
        return {"uv": uv}, "ok"

    points0 = np.array([[2.6, 4.4]] * 3)
    points1 = points0 + np.array([[2, -1], [3, -1], [4.1, -1]])
    for nearest, expected in ((True, [2 / 3, 1]), (False, [0, 0])):
        sample = MatchSample("x", "a", image, image, points0, points1, pooled_pck=(1.0, 10.0), nearest=nearest)
        values, rows = rows_of("matching", [sample], flow)
        assert [values["x"][f"pooled_pck_{t}"] for t in (1, 10)] == pytest.approx(expected)
    assert "PCK@10 %" in [column.header for column in tables.screen_table(rows).columns]


# --- whole runs ------------------------------------------------------------------------------------------------------


def test_dis_on_eth3d(tmp_path, capsys):
    size, rng = (120, 160), np.random.default_rng(1)
    for sequence in ("tunnel", "electro"):
        picture(tmp_path / sequence / "images" / "source.png", shifted(size, -np.array(SHIFT)))
        picture(tmp_path / sequence / "images" / "target.png", shifted(size))
        for rate in (3, 15):
            Xt, Yt = rng.uniform(20, 130, 50), rng.uniform(20, 100, 50)
            pair = {"Xt": Xt, "Yt": Yt, "Xs": Xt + SHIFT[0], "Ys": Yt + SHIFT[1]}
            pair |= {f"{name}_image": f"{sequence}/images/{name}.png" for name in ("source", "target")}
            (tmp_path / f"{sequence}_every_5_rate_of_{rate}").write_bytes(pickle.dumps([pair]))
    rows = bench(capsys, "flow", "eth3d", tmp_path)
    assert list(rows) == ["rate 3", "rate 15", "all"] and rows["all"]["pairs"] == 4
    for row in rows.values():
        assert row["aepe"] < 0.2 and row["mean_within_1"] == row["within_1"] == 1  # turned round: 14.5 px


def test_dis_on_tss(tmp_path, capsys):
    whole, shift = shifted((200, 220)), (8, -6)
    for group in ("FG3DCar", "PASCAL"):
        folder = tmp_path / group / "a"
        picture(folder / "image1.png", whole[20:150, 20:180])
        picture(folder / "image2.png", whole[14:164, 28:168])
        for number, sign, size in ((1, -1, (130, 160)), (2, 1, (150, 140))):
            mask = np.zeros(size, np.uint8)
            mask[30:100, 30:110] = 255
            picture(folder / f"mask{number}.png", mask)
            flow = np.where(mask > 0, sign * np.array(shift, np.float32).reshape(2, 1, 1), 1e10)
            write_flow(folder / f"flow{number}.flo", flow.astype(np.float32))
    rows = bench(capsys, "flow", "tss", tmp_path)
    assert list(rows) == ["FG3DCar", "PASCAL", "all"] and rows["all"]["pairs"] == 4
    assert rows["all"]["pck_0.05"] == 1 and rows["all"]["aepe"] < 0.2  # turned round: none, 20 px
    assert rows["PASCAL"]["coverage"] == 1


def test_dis_on_sparse_megadepth(tmp_path, capsys):
    picture(tmp_path / "img" / "0" / "s.png", shifted((480, 640), -np.array(SHIFT)))
    picture(tmp_path / "img" / "0" / "t.png", shifted((480, 640))[:, :560])
    rng = np.random.default_rng(1)
    target = np.column_stack([rng.uniform(20, 500, 99), rng.uniform(20, 450, 99)])
    columns = [";".join(map(str, each)) for each in (*(target + SHIFT).T, *target.T)]
    head = "scene,source_image,target_image,XA,YA,XB,YB"
    (tmp_path / "pairs.csv").write_text("\n".join([head, ",".join(["0", "s.png", "t.png", *columns])]))
    row = bench(capsys, "matching", "megadepth-sparse-gocor", tmp_path)["all"]
    assert row["pooled_pck_1"] > 0.95 and row["pooled_pck_10"] == 1  # turned round: none within 13 px
