"""Networks on the command line, with one that is there for the test: it answers with the motion that its weights hold."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_pictures import HEIGHT, WIDTH, pair, texture, write

from flowkit.cli.main import run
from flowkit.io.flow_files import read_flow
from flowkit.io.weights import sha256, write_weights
from flowkit.models import registry
from flowkit.models.prediction import FlowPrediction
from flowkit.pipelines import network

MOTION = (2.5, -1.25)


class Constant(torch.nn.Module):
    """The flow is `motion` and half of what it starts from; `calls` are the options of each call."""

    calls: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.motion = torch.nn.Parameter(torch.zeros(2))

    def forward(self, image0, image1, *, iterations=12, initial=None):
        self.calls.append({"iterations": iterations, "initial": initial, "mean": float(image0.mean())})
        flow = self.motion[None, :, None, None].expand(1, 2, *image0.shape[-2:])
        if initial is not None:
            flow = flow + 0.5 * 8 * initial.mean((2, 3), keepdim=True)
        return FlowPrediction(flow=flow)


def convert(state):
    return {"motion": state["module.motion"]}


@pytest.fixture
def images(tmp_path, monkeypatch):
    row = registry.ModelSpec(
        name="constant",
        kind="network",
        target="test_flow_network:Constant",
        divisor=8,
        iterations=12,
        weights="constant",
        paper="none",
        licence="none",
        stride=8,
        memory=100,
        convert="test_flow_network:convert",
        sources="theirs are free",
    )
    monkeypatch.setattr(registry, "MODELS", {**registry.MODELS, "constant": row})
    monkeypatch.setattr(Constant, "calls", [])
    monkeypatch.setattr(network, "SMALL", 16)  # pictures are small here; enlarged, their motion would be larger
    monkeypatch.chdir(tmp_path)
    write_weights("w.safetensors", {"motion": torch.tensor(MOTION)}, {"model": "constant"})
    return pair(tmp_path)


NETWORK = ("--model", "constant", "--weights", "w.safetensors")


@pytest.fixture
def call(capsys):
    def check(*arguments, code=0):
        assert run([*map(str, arguments), "--json"]) == code
        out, err = capsys.readouterr()
        return json.loads(out) if code in (0, 5, 6) else err

    return check


def test_a_network_writes_what_dis_writes(images, call):
    record = call("flow", *images, *NETWORK, "--iters", "3", "--bidirectional", "--precision", "fp32")
    uv = read_flow("a_b/flow.flo")
    assert uv.shape == (2, HEIGHT, WIDTH) and np.abs(uv - np.reshape(MOTION, (2, 1, 1))).max() < 1e-3
    provenance = record["provenance"]
    assert provenance["weights"] == {"w.safetensors": sha256(Path("w.safetensors"))}
    options = provenance["options"]
    assert (options["model"], options["iterations"], options["precision"], options["tile"]) == (
        "constant",
        3,
        "fp32",
        None,
    )
    assert provenance["device"] == "cpu" and Path("a_b/confidence.png").exists()
    assert [each["iterations"] for each in Constant.calls] == [3, 3]
    assert Constant.calls[0]["mean"] != Constant.calls[1]["mean"]  # the second is the way back


def test_converted_weights_are_used(images, call, capsys):
    torch.save({"module.motion": torch.tensor([4.0, 1.0])}, "theirs.pth")
    refused = call("flow", *images, "--model", "constant", "--weights", "theirs.pth", code=4)
    assert "flowkit weights convert theirs.pth --model constant" in refused and refused.count("\n") == 1
    assert run(["weights", "convert", "theirs.pth", "--model", "constant", "--output", "c.safetensors"]) == 0
    out, err = capsys.readouterr()
    assert "theirs are free" in out and "--weights c.safetensors" in out and err == ""
    call("flow", *images, "--model", "constant", "--weights", "c.safetensors")
    assert read_flow("a_b/flow.flo")[0].mean() == pytest.approx(4, abs=1e-3)
    again = ["weights", "convert", "theirs.pth", "--model", "constant", "--output", "c.safetensors"]
    assert run(again) == 2 and "--overwrite" in capsys.readouterr().err
    assert run([*again, "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--model", "constant"), 4, "flowkit weights convert"),
        (("--model", "raft"), 4, "not shipped"),
        (("--model", "constant", "--weights", "absent.safetensors"), 4, "no such weights file"),
        (("--model", "constant", "--preset", "fast"), 2, "leave the option out"),
        (("--model", "constant", "--iters", "0"), 2, "--iters"),
        (("--model", "constant", "--tile-size", "8"), 2, "--tile-size 8"),
        (("--model", "constant", "--tile-size", "256", "--no-tile"), 2, "not together"),
        (("--model", "dis", "--iters", "3"), 2, "--iters 3: 'dis' is no network"),
        (("--model", "dis", "--tile"), 2, "--tile True: 'dis' is no network"),
        ((*NETWORK, "--warm-start"), 2, "only together with --sequence"),
    ],
)
def test_what_cannot_be_is_one_line(images, capsys, arguments, code, words):
    if arguments == ("--model", "raft") and registry.MODELS["raft"].weights in known_cards():
        pytest.skip("raft's weights are shipped by now")
    assert run(["flow", *map(str, images), *arguments]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and words in err and not Path("a_b").exists()


def known_cards():
    from flowkit.io.weights import cards

    return cards()


def test_the_fine_stage_of_align_may_be_a_network(images, call):
    record = call("align", *images, *NETWORK)
    assert record["provenance"]["weights"]["w.safetensors"] == sha256(Path("w.safetensors"))
    assert len(Constant.calls) == 2 and Path("a_b/aligned.png").exists()
    assert "is no network" in call("align", *images, "--iters", "3", "--overwrite", code=2)


def test_matches_out_of_a_flow(images, call):
    """There and back must agree: the constant network says the same both ways, so with motion nothing does."""
    assert call("match", *images, *NETWORK, "--iters", "2", code=5)["matches"] == 0
    write_weights("still.safetensors", {"motion": torch.zeros(2)}, {"model": "constant"})
    options = ("--model", "constant", "--weights", "still.safetensors", "--max-keypoints", "100", "--overwrite")
    record = call("match", *images, *options)
    assert 80 < record["matches"] <= 100 and record["provenance"]["options"]["model"] == "constant"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model", "constant", "--features", "sift"), "takes the place of features"),
        (("--weights", "w.safetensors"), "only together with --model"),
        (("--model", "constant", "--weights", "w.safetensors", "--reconstruct", "out"), "let it guide features"),
    ],
)
def test_match_says_what_does_not_go_together(images, call, options, words):
    assert words in call("match", *images, *options, code=2)


def frames(folder, count=4):
    big = texture()
    for i in range(count):
        write(folder / f"f{i}.png", big[10 : 10 + HEIGHT, 2 * i : 2 * i + WIDTH])
    return folder


def means(folder):
    return [round(float(read_flow(path)[0].mean()), 3) for path in sorted(Path(folder).glob("*/flow.flo"))]


def test_a_sequence_starts_from_the_frames_before(images, tmp_path, call):
    sequence = frames(tmp_path / "frames")
    call("flow", "--sequence", sequence, *NETWORK, "--output", "cold")
    assert means("cold") == [2.5, 2.5, 2.5]
    record = call("flow", "--sequence", sequence, *NETWORK, "--warm-start", "--output", "warm")
    assert record["computed"] == 3
    expected = [2.5, 2.5 + 0.5 * 2.5, 2.5 + 0.5 * (2.5 + 0.5 * 2.5)]
    assert means("warm") == pytest.approx(expected, abs=2e-3)
    inits = [
        json.loads(path.read_text())["provenance"]["options"]["init"]
        for path in sorted(Path("warm").glob("*/flow.json"))
    ]
    assert inits == ["none", "given", "given"]


def test_a_warm_start_goes_on_where_it_was_stopped(images, tmp_path, call):
    sequence = frames(tmp_path / "frames")
    arguments = ("flow", "--sequence", sequence, *NETWORK, "--warm-start", "--output", "warm")
    call(*arguments)
    before = means("warm")
    (Path("warm/000002/flow.json")).unlink()
    assert call(*arguments)["skipped"] == 2 and means("warm") == before
    options = [arguments[0], *map(str, arguments[1:])]
    options.remove("--warm-start")
    assert run(options) == 2  # made with other options


def test_a_warm_start_survives_a_change_of_size(images, tmp_path, call):
    sequence = frames(tmp_path / "frames", 3)
    write(sequence / "f2.png", texture()[:100, :100])
    write(sequence / "f3.png", texture()[:100, 2:102])
    call("flow", "--sequence", sequence, *NETWORK, "--warm-start", "--output", "warm")
    assert len(means("warm")) == 3 and read_flow("warm/000002/flow.flo").shape == (2, 100, 100)
    assert Constant.calls[2]["initial"] is None


@pytest.mark.parametrize(
    ("arguments", "words"), [(("--model", "dis"), "choose a network"), (NETWORK, "where to start already")]
)
def test_warm_starts_that_cannot_be(images, tmp_path, capsys, arguments, words):
    extra = () if "dis" in arguments else ("--init", "matches")
    sequence = frames(tmp_path / "frames", 2)
    assert run(["flow", "--sequence", str(sequence), "--warm-start", "--output", "o", *arguments, *extra]) == 2
    assert words in capsys.readouterr().err


def test_pairs_in_a_batch(images, tmp_path, call):
    Path("list.txt").write_text("a.png b.png\nb.png a.png\n")
    record = call("flow", "--pairs", "list.txt", *NETWORK, "--output", "out", "--tile-size", "128")
    assert record["computed"] == 2 and record["failed"] == 0
    options = json.loads(Path("out/a_b/flow.json").read_text())["provenance"]["options"]
    assert options["tile"] == 128


def test_the_bench_measures_networks(images, tmp_path, capsys):
    from flowkit.io.flow_files import write_flow

    scene = tmp_path / "data" / "flow_middlebury" / "Toy"
    scene.mkdir(parents=True)
    pair(scene, names=("frame10.png", "frame11.png"))
    write_flow(scene / "flow10.flo", np.tile(np.float32([[[2.5]], [[-2.25]]]), (1, HEIGHT, WIDTH)))
    write_weights("other.safetensors", {"motion": torch.tensor([2.5, -2.25])})
    os.environ["FLOWKIT_HOME"], before = str(tmp_path / "home"), os.environ.get("FLOWKIT_HOME")
    arguments = ["bench", "pairs", "data", "--task", "flow", "--model", "constant", "--iters", "2,5", "--json"]
    try:
        assert run([*arguments, "--weights", "w.safetensors,other.safetensors"]) == 0
        record = json.loads(capsys.readouterr().out)
        assert [(row["method"], row["aepe"]) for row in record["rows"]] == [
            ("flow constant w.safetensors 2", pytest.approx(1)),
            ("flow constant w.safetensors 5", pytest.approx(1)),
            ("flow constant other.safetensors 2", pytest.approx(0, abs=1e-6)),
            ("flow constant other.safetensors 5", pytest.approx(0, abs=1e-6)),
        ]
        assert [each["iterations"] for each in Constant.calls] == [2, 5, 2, 5]
        write_weights("w.safetensors", {"motion": torch.tensor([2.5, 0.75])})  # another file of that name
        assert run([*arguments, "--weights", "w.safetensors"]) == 0
        assert json.loads(capsys.readouterr().out)["rows"][0]["aepe"] == pytest.approx(3)
        for wrong, words in ((("--model", "dis,constant"), "goes with one network"), (("--iters", "x"), "--iters x")):
            assert run([*arguments, "--weights", "w.safetensors", *wrong]) == 2
            assert words in capsys.readouterr().err
    finally:
        os.environ.pop("FLOWKIT_HOME")
        if before is not None:
            os.environ["FLOWKIT_HOME"] = before
