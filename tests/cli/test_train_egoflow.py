"""`flowkit train egoflow-cpu` as a user meets it: all stages from photos, a video with K, and one line for faults."""

import json

import imageio.v3 as iio
import numpy as np
import pytest
from small_pictures import texture, write

from flowkit.cli.main import run
from flowkit.training.checkpoints import read_checkpoint, read_index

SMALL = (
    *(
        "base=",
        "size=64,64",
        "crop=64,64",
        "batch=1",
        "workers=0",
        "validate_every=0",
        "log_every=1",
        "checkpoint_every=1",
    ),
    *("lower.hypotheses=32", "lower.drawn=300", "lower.held_out=60", "lower.iterations=5"),
    *("superpixels.segments=40", "stages.0.share=0.2", "stages.2.size=64,96"),
)


@pytest.fixture
def train(capsys):
    """Run `flowkit train egoflow-cpu ...`; gives (exit code, stderr)."""

    def answer(*arguments, recipe="egoflow-cpu"):
        settings = [word for setting in SMALL for word in ("--set", setting)] if recipe == "egoflow-cpu" else []
        code = run(["train", recipe, *settings, *map(str, arguments)])
        return code, capsys.readouterr().err

    return answer


def logged(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def video(tmp_path):
    big = texture(3)
    path = tmp_path / "drive.mp4"
    iio.imwrite(path, np.stack([big[2 * n : 2 * n + 96, 3 * n : 3 * n + 128] for n in range(8)]), fps=10)
    return path


def test_from_photos_through_all_stages_and_a_stop_between(train, tmp_path):
    for seed in range(2):
        write(tmp_path / "photos" / f"{seed}.png", texture(seed))
    given = ("--photos", tmp_path / "photos", "--output", tmp_path / "run")
    code, err = train(*given, "--steps", 3)
    assert code == 0, err
    baseline, epipolar, student = logged(tmp_path / "run")
    assert "epipolar" not in baseline and "smoothness" in baseline and baseline["epe"] > 0
    assert "epipolar" in epipolar and "occlusion" not in epipolar and 0 <= epipolar["rotation"] <= 180
    assert "occlusion" in student and "smoothness" not in student
    assert read_checkpoint(tmp_path / "run" / "last").group("teacher")
    code, err = train(*given, "--resume", "--steps", 4)  # a student still, of the same teacher
    assert code == 0, err
    assert read_index(tmp_path / "run" / "last")["step"] == 4
    assert logged(tmp_path / "run")[-1]["stage"] == 2


def test_from_a_video_without_photos_or_labels(train, video, tmp_path):
    given = ("--video", video, "--output", tmp_path / "run")
    code, err = train(*given, "--K", "110,110,63.5,47.5", "--steps", 2, "--set", "stages.0.share=0.001")
    assert code == 0, err
    last = logged(tmp_path / "run")[-1]
    assert last["loss"] > 0 and "epe" not in last
    recipe = read_index(tmp_path / "run" / "last")["recipe"]
    assert recipe["K"] == "110,110,63.5,47.5" and recipe["real"] == 1
    code, err = train(*given, "--resume", "--steps", 3)  # K is remembered
    assert code == 0, err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--video", "{video}"), 2, "K is not known; give --K"),
        (("--video", "{video}", "--K", "110,110"), 2, "2 numbers where four belong"),
        (("--K", "1,1,1,1"), 2, "give it together with --video"),
        (("--video", "{video}.txt", "--K", "1,1,1,1"), 3, "no such file"),
        ((), 2, "give --photos"),
    ],
)
def test_one_line_says_what_is_wrong(train, video, tmp_path, arguments, code, words):
    found, err = train("--output", tmp_path / "run", *(word.format(video=video) for word in arguments))
    assert found == code and words in err and err.startswith("flowkit: error: ") and err.count("\n") == 1, err


def test_other_recipes_do_not_learn_from_videos(train, video, tmp_path):
    code, err = train("--video", video, "--output", tmp_path / "run", recipe="liteflownetx")
    assert code == 2 and "only egoflow learns from videos" in err
