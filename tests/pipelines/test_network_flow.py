"""Networks on pictures of any size: what comes back is in the original pixels of both, to a hundredth."""

import numpy as np
import pytest
import ramp_network
import torch
from ramp_network import ramp, true_flow

import flowkit
from flowkit.errors import InputError, UsageError
from flowkit.pipelines import network, tiling

ONE, CORNER = (1.0, 1.0), (600.0, 400.0)


@pytest.fixture
def loaded(monkeypatch, tmp_path):
    weights, calls = ramp_network.register(monkeypatch, tmp_path)
    return {"model": "ramp", "weights": weights}, calls


def worst(uv, truth, border=0):
    inner = slice(border, -border or None)
    return float(np.abs(uv - truth)[:, inner, inner].max())


@pytest.mark.parametrize("size", [(200, 300), (131, 257), (40, 50), (16, 16), (17, 700), (129, 128)])
def test_the_flow_of_a_shift_is_exact_at_any_size(loaded, size):
    options, calls = loaded
    corner1 = (CORNER[0] + 7, CORNER[1] - 4)
    found = flowkit.flow(ramp(*size), ramp(*size, corner=corner1), bidirectional=True, **options)
    truth = true_flow(size, ONE, CORNER, ONE, corner1)
    assert truth[0, 0, 0] == -7 and truth[1, 0, 0] == 4
    border = 0 if min(size) >= 128 else 4  # the resampling of small pictures bends ramps at the rim
    assert worst(found.uv, truth, border) < 0.05
    assert worst(found.backward.uv, -truth, border) < 0.05
    for call in calls:
        height, width = call["image0"].shape[-2:]
        assert height % 8 == width % 8 == 0 and min(height, width) >= 128 and call["iterations"] == 12


def test_pictures_of_two_sizes_keep_their_own_pixels(loaded):
    scale1, corner1 = (0.5, 0.8), (580.0, 410.0)
    pair = ramp(200, 300), ramp(260, 420, scale1, corner1)
    found = flowkit.flow(*pair, bidirectional=True, **loaded[0])
    assert found.size1 == (260, 420)
    # OpenCV's shrinking by a fraction costs a tenth of a pixel; half a one in either picture would be four times that.
    assert worst(found.uv, true_flow((200, 300), ONE, CORNER, scale1, corner1), 3) < 0.1
    assert worst(found.backward.uv, true_flow((260, 420), scale1, corner1, ONE, CORNER), 6) < 0.1


def test_resize_does_not_move_the_flow(loaded):
    corner1 = (590.0, 407.0)
    found = flowkit.flow(ramp(300, 400), ramp(300, 400, corner=corner1), resize=(150, 200), **loaded[0])
    assert found.run.working_size0 == (150, 200)
    assert worst(found.uv, true_flow((300, 400), ONE, CORNER, ONE, corner1), 4) < 0.05


def test_padding_is_split_and_repeats_the_border(loaded):
    options, calls = loaded
    flowkit.flow(ramp(133, 201), ramp(133, 201), **options)
    padded = calls[0]["image0"][0, 0]
    assert padded.shape == (136, 208)  # 3 more rows, 7 more columns
    inside = torch.from_numpy(ramp(133, 201)[..., 0])
    assert torch.equal(padded[1:134, 3:204], inside)
    assert (padded[1:134, :3] == inside[:, :1]).all() and (padded[1:134, 204:] == inside[:, -1:]).all()
    assert network.padding((133, 201), 8) == (3, 4, 1, 2) and network.padding((60, 512), 32) == (0, 0, 34, 34)


def test_small_pictures_are_enlarged_in_moderation():
    assert network.enlarged_size((64, 64)) == (128, 128)
    assert network.enlarged_size((64, 400)) == (82, 512)
    assert network.enlarged_size((20, 900)) == (20, 900)
    assert network.enlarged_size((128, 4000)) == (128, 4000)


def test_pixels_of_every_depth_become_the_same_tensor():
    values = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    expected = torch.from_numpy(values.astype(np.float32) / 255).permute(2, 0, 1)[None]
    for pixels in (values, values.astype(np.uint16) * 257, values.astype(np.float32) / 255):
        tensor = network.to_tensor(pixels, "cpu")
        assert tensor.dtype == torch.float32 and torch.allclose(tensor, expected, atol=1e-6)
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert network.to_tensor(np.full((2, 2, 3), np.nan, np.float32), "cpu").eq(0).all()


def test_provenance_says_how_it_was_run(loaded):
    from flowkit.io.weights import sha256

    options, calls = loaded
    found = flowkit.flow(ramp(140, 150), ramp(140, 150), iterations=5, precision="bf16", seed=3, **options)
    run = found.run
    assert run.method == "ramp" and run.seed == 3 and run.device == "cpu"
    assert run.weights == {"ramp.safetensors": sha256(options["weights"])}
    assert (run.options["iterations"], run.options["precision"], run.options["tile"]) == (5, "bf16", None)
    assert calls[0]["iterations"] == 5 and calls[0]["image0"].dtype == torch.float32 and "preset" not in run.options


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ({"architecture": "x86_64"}, 1),
        ({"architecture": "x86_64", "amx_bf16": True}, 0),
        ({"architecture": "aarch64"}, 0),
    ],
)
def test_a_cpu_without_bf16_units_is_said_to_be_slow(loaded, monkeypatch, units, said):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units, raising=False)
    for precision, notes in (("bf16", said), ("fp32", 0)):
        found = flowkit.flow(ramp(140, 150), ramp(140, 150), precision=precision, **loaded[0])
        assert sum("emulates bf16" in note for note in found.run.notes) == notes


def test_a_flow_to_start_from_arrives_in_cells_of_the_network(loaded):
    """It is given in original pixels; 400 px wide pictures worked at 200 have half the motion, an eighth of it a cell."""
    options, calls = loaded
    start = np.full((2, 300, 400), np.nan, np.float32)
    start[0], start[1, :150] = 24, -8
    start[:, :, 390:] = np.nan
    found = flowkit.flow(ramp(300, 400), ramp(300, 400), resize=200, initial=start, **options)
    initial = calls[0]["initial"]
    assert initial.shape == (1, 2, 19, 25) and found.run.options["init"] == "given"
    assert initial[0, 0, 3, 10].item() == pytest.approx(24 / 2 / 8)
    assert initial[0, 1, 3, 10].item() == pytest.approx(-8 / 2 / 8)
    for row, column in ((15, 10), (3, 24)):  # what is unknown takes after what is near
        assert initial[0, :, row, column].tolist() == pytest.approx([1.5, -0.5])
    with pytest.raises(InputError, match=r"\(2, 300, 400\) belongs"):
        flowkit.flow(ramp(300, 400), ramp(300, 400), initial=start[:, :10], **options)


@pytest.mark.parametrize("tile", [None, 160])
def test_a_flow_to_start_from_knows_both_sizes(loaded, tile):
    """Given the truth in original pixels, the network gets what it will answer (in tiles first at the size of one)."""
    options, calls = loaded
    scale1, corner1 = (0.5, 0.75), (580.0, 410.0)
    truth = true_flow((240, 320), ONE, CORNER, scale1, corner1)
    pair = ramp(240, 320), ramp(300, 480, scale1, corner1)
    flowkit.flow(*pair, initial=truth, tile=tile, **options)
    initial, (height, width) = calls[0]["initial"][0].numpy(), calls[0]["image0"].shape[-2:]
    assert (height, width) == ((240, 320) if tile is None else (144, 192))  # 139 x 185 before padding
    scale = 240 / (240 if tile is None else 139)
    scale0, scale1 = (scale, scale), (0.5 * 480 / 320 * scale, 0.75 * 300 / 240 * scale)
    size = (240, 320) if tile is None else (139, 185)
    expected = true_flow(size, scale0, CORNER, scale1, corner1)
    rows, columns = (range(5, length // 8 - 5) for length in (height, width))
    top, left = network.padding(size, 8)[2::-2]
    for row, column in zip(rows, columns, strict=False):
        y, x = 8 * row - top, 8 * column - left
        mean = expected[:, y : y + 8, x : x + 8].mean((1, 2)) / 8
        assert initial[:, row, column] == pytest.approx(mean, abs=0.02)


def test_a_start_from_coarse_to_fine(loaded, monkeypatch):
    """Every level starts from the truth that the one below has found, in its own cells."""
    options, calls = loaded
    monkeypatch.setattr(network, "COARSEST", 150)
    corner1 = (624.0, 408.0)
    pair = ramp(512, 640), ramp(512, 640, corner=corner1)
    found = flowkit.flow(*pair, init="coarse", bidirectional=True, **options)
    assert (
        found.run.options["init"] == "coarse"
        and worst(found.uv, true_flow((512, 640), ONE, CORNER, ONE, corner1)) < 0.05
    )
    assert [call["image0"].shape[-1] for call in calls] == 2 * [160, 320, 640]
    assert calls[0]["initial"] is None and calls[3]["initial"] is None
    for call, cells in zip((calls[1], calls[2], calls[4], calls[5]), (1.5, 3, -1.5, -3), strict=True):
        assert call["initial"][0, 0, 10, 10].item() == pytest.approx(-cells, abs=0.05)
    calls.clear()
    flowkit.flow(*pair, init="coarse", tile=320, **options)  # the guide is found so; 320 px for 512 x 640
    assert [call["image0"].shape[-1] for call in calls[:2]] == [184, 360]
    monkeypatch.setattr(network, "COARSEST", 161)
    calls.clear()
    flowkit.flow(*pair, init="coarse", **options)
    assert [call["image0"].shape[-1] for call in calls] == [320, 640]


def test_matches_can_seed_a_network(loaded, monkeypatch):
    from types import SimpleNamespace

    from flowkit.pipelines import flow as module

    options, calls = loaded
    there, back = np.full((150, 160, 2), 16, np.float32), np.full((150, 160, 2), -24, np.float32)
    monkeypatch.setattr(module, "densify", lambda *_, **__: SimpleNamespace(forward=there, backward=back))
    found = flowkit.flow(ramp(150, 160), ramp(150, 160), init="matches", features="sift", bidirectional=True, **options)
    assert [call["initial"].unique().tolist() for call in calls] == [[2.0], [-3.0]]
    assert found.run.options["init"] == "matches" and found.run.options["features"] == "sift"


def test_what_overflows_is_computed_again_in_fp32(loaded, monkeypatch):
    forward = ramp_network.Ramp.forward

    def overflows(self, *images, **options):
        prediction = forward(self, *images, **options)
        if torch.is_autocast_enabled("cpu"):
            prediction.flow[0, 0, 5, 5] = torch.inf
        return prediction

    monkeypatch.setattr(ramp_network.Ramp, "forward", overflows)
    found = flowkit.flow(ramp(140, 150), ramp(140, 150), precision="bf16", **loaded[0])
    assert np.abs(found.uv).max() < 0.01 and any("fp32" in note for note in found.run.notes)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"preset": "fine"}, "leave the option out"),
        ({"iterations": 0}, "--iters 0"),
        ({"precision": "fp64"}, "--precision fp64"),
        ({"precision": "fp16", "device": "cpu"}, "use bf16 or fp32"),
        ({"tile": 32}, "--tile-size 32"),
        ({"init": "coarse", "initial": np.zeros((2, 16, 16))}, "given already"),
        ({"init": "matches", "initial": np.zeros((2, 16, 16))}, "given already"),
    ],
)
def test_what_a_network_cannot_do_is_a_usage_error(loaded, wrong, words):
    with pytest.raises(UsageError, match=words):
        flowkit.flow(ramp(16, 16), ramp(16, 16), **loaded[0], **wrong)


@pytest.mark.parametrize("option", ["weights", "iterations", "precision", "tile", "initial", "init"])
def test_dis_takes_nothing_that_is_a_networks(option):
    value = {"weights": "w.safetensors", "iterations": 3, "precision": "bf16", "tile": True, "init": "coarse"}
    value["initial"] = np.zeros(1)
    with pytest.raises(UsageError, match="leave the option out"):
        flowkit.flow(ramp(16, 16), ramp(16, 16), model="dis", **{option: value[option]})


def test_tiles_carry_motion_longer_than_a_tile(loaded):
    """A zoom over 700 px with shifts up to 600 px, in tiles of 192."""
    options, calls = loaded
    scale1, corner1 = (0.6, 0.7), (480.0, 380.0)
    pair = ramp(400, 700), ramp(400, 700, scale1, corner1)
    truth = true_flow((400, 700), ONE, CORNER, scale1, corner1)
    found = flowkit.flow(*pair, tile=192, **options)
    assert np.abs(truth[0]).max() > 600 and found.run.options["tile"] == 192
    seen = found.inside
    error = np.abs(found.uv - truth).max(axis=0)[seen]
    assert seen.mean() > 0.1 and (error < 0.1).mean() > 0.99 and error.max() < 1  # the last few have only the guide
    assert len(calls) > 3 and max(max(call["image0"].shape) for call in calls[1:]) == 192


def test_tiling_sets_in_where_memory_ends(loaded, monkeypatch):
    options, calls = loaded
    corner1 = (605.0, 400.0)
    pair = ramp(300, 420), ramp(300, 420, corner=corner1)
    monkeypatch.setattr(tiling, "free_memory", lambda device: 2 * 100 * 256**2)  # half of it, 100 bytes a pixel
    found = flowkit.flow(*pair, **options)
    assert found.run.options["tile"] == 256 and "tiles of 256" in found.run.notes[-1] and len(calls) > 2
    assert worst(found.uv, true_flow((300, 420), ONE, CORNER, ONE, corner1)) < 0.05
    calls.clear()
    assert flowkit.flow(*pair, tile=False, **options).run.options["tile"] is None and len(calls) == 1
    monkeypatch.setattr(tiling, "free_memory", lambda device: None)
    assert flowkit.flow(*pair, **options).run.options["tile"] is None


def test_load_model_gives_a_network_of_ones_own(loaded):
    options, _ = loaded
    one, other = (flowkit.load_model("ramp", options["weights"], device="cpu") for _ in range(2))
    assert one is not other and not one.training and one.span.item() == ramp_network.SPAN
    with pytest.raises(UsageError, match="is no network"):
        flowkit.load_model("dis")


def test_a_flow_carried_on_lies_where_its_pixels_went():
    """A block that moves 40 px to the right moves on from where it arrived; what it uncovers goes like what is near."""
    flow = np.zeros((2, 128, 256), np.float32)
    flow[0, 32:96, 40:104] = 40
    flow[0, 0, 0] = np.nan
    carried = network.carried_on(flow)
    assert carried.shape == flow.shape and np.isfinite(carried).all()
    assert carried[0, 64, 112] == pytest.approx(40, abs=0.5)  # the middle of where it is now
    assert carried[0, 64, 130] == pytest.approx(40, abs=0.5) and abs(carried[0, 64, 200]) < 0.5
    assert 0 <= carried[0, 64, 50] < 25 and abs(carried[0, 10, 60]) < 0.5 and np.abs(carried[1]).max() < 1e-3


@pytest.mark.parametrize("tile", [None, 192])
@pytest.mark.parametrize("resize", [None, (200, 260)])
def test_a_networks_own_confidence_comes_back_in_place(loaded, monkeypatch, tile, resize):
    """Padded, resized and in tiles it stays with its pixel."""
    monkeypatch.setattr(ramp_network.Ramp, "sure", True)
    picture = ramp(300, 410)
    found = flowkit.flow(picture, ramp(300, 410, corner=(590.0, 407.0)), tile=tile, resize=resize, **loaded[0])
    assert found.confidence.shape == (300, 410) and found.occlusion is None
    inner = np.s_[6:-6, 6:-6]  # half a pixel would be 1.2e-4
    assert np.abs(found.confidence - picture[..., 0])[inner].max() < 3e-5
    both = flowkit.flow(picture, ramp(300, 410, corner=(590.0, 407.0)), bidirectional=True, **loaded[0])
    assert both.occlusion is not None and not np.allclose(both.confidence, found.confidence, atol=1e-3)


def test_gocor_takes_a_number_of_steps_but_has_its_own(monkeypatch, tmp_path):
    weights, calls = ramp_network.register(monkeypatch, tmp_path, iterations=None, gocor=True)
    pair = ramp(200, 300), ramp(200, 300, corner=(605.0, 400.0))
    found = flowkit.flow(*pair, model="ramp", weights=weights)
    assert calls[0]["iterations"] == 12 and "iterations" not in found.run.options  # the network's own default
    found = flowkit.flow(*pair, model="ramp", weights=weights, iterations=5)
    assert calls[1]["iterations"] == 5 and found.run.options["iterations"] == 5


def test_a_flip_test_is_refused_where_there_is_none(loaded):
    pair = ramp(200, 300), ramp(200, 300)
    with pytest.raises(UsageError, match="--flip-test: 'ramp' has none"):
        flowkit.flow(*pair, flip_test=True, **loaded[0])
    with pytest.raises(UsageError, match="--flip-test: 'dis' is no network"):
        flowkit.flow(*pair, model="dis", flip_test=True)
