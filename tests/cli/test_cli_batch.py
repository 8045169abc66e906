"""Batches through the command line: resume, shards, failures, a real kill."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from small_pictures import pair, write

from flowkit.cli.main import run
from flowkit.io.flow_files import read_flow

FAST = ("--model", "dis", "--preset", "fast", "--no-pictures", "-q")


def make_list(folder, count):
    """A list of `count` pairs, the i-th moved by i + 1 pixels to the right."""
    lines = []
    for index in range(count):
        names = (f"im/{index}a.png", f"im/{index}b.png")
        pair(folder, dx=index % 5 + 1, dy=0, seed=index, names=names)
        lines.append(" ".join(names))
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    return folder / "list.txt"


def batch(folder, *more, output="out"):
    arguments = [
        "flow",
        "--pairs",
        folder / "list.txt",
        "--image-root",
        folder,
        "--output",
        folder / output,
        *FAST,
        *more,
    ]
    return [str(argument) for argument in arguments]


def done(folder, output="out"):
    return {file.parent.name: file.stat().st_mtime_ns for file in (folder / output).glob("*/flow.json")}


def test_a_list_gives_a_folder_per_pair_and_is_resumed(tmp_path, capsys):
    make_list(tmp_path, 3)
    assert run(batch(tmp_path)) == 0
    first = done(tmp_path)
    assert sorted(first) == [f"im-{i}a_im-{i}b" for i in range(3)]
    assert np.median(read_flow(tmp_path / "out/im-2a_im-2b/flow.flo")[0]) == pytest.approx(-3, abs=0.1)
    manifest = json.loads((tmp_path / "out/failures.json").read_text())
    assert (manifest["pairs"], manifest["computed"], manifest["failures"]) == (3, 3, [])

    damaged = tmp_path / "out/im-1a_im-1b/flow.json"
    damaged.write_text(damaged.read_text()[:-20])
    assert run(batch(tmp_path)) == 0
    again = done(tmp_path)
    assert {name for name in first if first[name] != again[name]} == {"im-1a_im-1b"}
    assert json.loads((tmp_path / "out/failures.json").read_text())["skipped"] == 2

    capsys.readouterr()
    assert run(batch(tmp_path, "--bidirectional")) == 2
    assert "bidirectional: False, now True" in capsys.readouterr().err
    assert done(tmp_path) == again
    assert run(batch(tmp_path, "--overwrite")) == 0
    assert all(done(tmp_path)[name] != again[name] for name in again)


def test_failures_are_listed_and_exit_6(tmp_path, capsys):
    make_list(tmp_path, 2)
    write(tmp_path / "im/black.png", np.zeros((60, 80, 3), np.uint8))
    (tmp_path / "im/text.png").write_text("no picture")
    with (tmp_path / "list.txt").open("a") as stream:
        stream.write("im/black.png im/black.png\nim/0a.png im/text.png\nim/0a.png im/none.png\nim/0a.png im/0b.png\n")
    assert run([*batch(tmp_path), "--json"]) == 6
    manifest = json.loads(capsys.readouterr().out)
    assert manifest == json.loads((tmp_path / "out/failures.json").read_text())
    assert (manifest["pairs"], manifest["computed"], manifest["failed"]) == (5, 5, 3)
    codes = {failure["image1"]: (failure["kind"], failure["exit_code"]) for failure in manifest["failures"]}
    assert codes == {
        "im/black.png": ("too_few_matches", 5),
        "im/text.png": ("InputError", 3),
        "im/none.png": ("InputError", 3),
    }
    before = done(tmp_path)
    assert len(before) == 3
    assert run(batch(tmp_path)) == 6  # the black pair has its record and is not computed again, but still counts
    manifest = json.loads((tmp_path / "out/failures.json").read_text())
    assert (manifest["computed"], manifest["skipped"], manifest["failed"]) == (2, 3, 3)
    assert done(tmp_path) == before


def test_shards_share_the_work(tmp_path):
    make_list(tmp_path, 5)
    with (tmp_path / "list.txt").open("a") as stream:
        stream.write("im/0a.png im-0b.png\n")  # its folder's name would collide
    write(tmp_path / "im-0b.png", np.zeros((60, 80, 3), np.uint8))
    assert run(batch(tmp_path, "--shard", "1/2")) == 0
    assert len(done(tmp_path)) == 3
    assert run(batch(tmp_path, "--shard", "2/2")) == 6
    assert len(done(tmp_path)) == 6
    assert json.loads((tmp_path / "out/failures-2-of-2.json").read_text())["shard"] == "2/2"
    assert (tmp_path / "out/failures-1-of-2.json").exists() and not (tmp_path / "out/failures.json").exists()
    assert run(batch(tmp_path, output="whole")) == 6
    assert set(done(tmp_path)) == set(done(tmp_path, "whole"))


def test_jobs_give_the_same_files(tmp_path):
    make_list(tmp_path, 3)
    assert run(batch(tmp_path, "--jobs", "2")) == 0
    assert run(batch(tmp_path, output="alone")) == 0
    for folder in done(tmp_path):
        name = f"{folder}/flow.flo"
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_rotations_and_intrinsics_of_the_list_are_used(tmp_path, capsys):
    pair(tmp_path)
    K = "150 0 80 0 150 60 0 0 1"
    (tmp_path / "list.txt").write_text(f"a.png b.png 1 0 {K} {K}\n")
    arguments = ["pose", "--pairs", tmp_path / "list.txt", "--output", tmp_path / "out", "--features", "sift", "-q"]
    assert run([str(argument) for argument in arguments]) in (0, 6)
    record = json.loads((tmp_path / "out/a_b/pose.json").read_text())
    assert record["K0"] == [[150, 0, 60], [0, 150, 79], [0, 0, 1]]
    assert record["K1"] == [[150, 0, 80], [0, 150, 60], [0, 0, 1]]


def test_what_would_fail_every_pair_stops_the_batch(tmp_path, capsys):
    make_list(tmp_path, 3)
    arguments = ["match", "--pairs", tmp_path / "list.txt", "--output", tmp_path / "out", "--features", "nonsense"]
    assert run([str(argument) for argument in arguments]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out/failures.json").read_text())["failures"]) == 1


def start(folder, *more):
    command = [sys.executable, "-m", "flowkit", *batch(folder, "--model", "dis", "--preset", "fine", *more)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(folder, count, process):
    deadline = time.monotonic() + 120
    while len(done(folder)) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def check_whole(folder):
    """Every file under a final name is whole, whatever became of the run."""
    for file in (folder / "out").rglob("*"):
        if file.name.startswith(".") or file.is_dir():
            continue
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".flo":
            assert read_flow(file).shape == (2, 120, 160)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_killed_batch_loses_the_pairs_in_flight_only(jobs, tmp_path):
    count = 30
    make_list(tmp_path, count)
    process = start(tmp_path, "--jobs", jobs)
    wait_for(tmp_path, 5, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stderr.close()
    time.sleep(0.5)  # its workers finish what they hold and leave
    check_whole(tmp_path)
    before = done(tmp_path)
    assert 5 <= len(before) < count
    stale = (
        tmp_path
        / f"out/{next(iter(set(f'im-{i}a_im-{i}b' for i in range(count)) - set(before)))}/.flow.{2**22}-0123abcd.tmp.flo"
    )
    stale.parent.mkdir(exist_ok=True)
    stale.write_text("half")

    again = start(tmp_path)
    assert again.wait() == 0, again.stderr.read()
    again.stderr.close()
    after = done(tmp_path)
    assert len(after) == count
    assert all(after[name] == before[name] for name in before)
    check_whole(tmp_path)
    assert not [file for file in (tmp_path / "out").rglob(".*")]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_ctrl_c_keeps_what_is_finished_and_exits_130(jobs, tmp_path):
    make_list(tmp_path, 30)
    process = start(tmp_path, "--jobs", jobs)
    wait_for(tmp_path, 3, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers, too
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "flowkit: interrupted\n"
    check_whole(tmp_path)
    manifest = json.loads((tmp_path / "out/failures.json").read_text())
    assert 3 <= len(done(tmp_path)) < 30 and manifest["failures"] == []


def test_a_sequence_is_resumed_too(tmp_path, capsys):
    from small_pictures import HEIGHT, WIDTH, texture

    big = texture()
    for index in range(4):
        write(tmp_path / f"frames/f{index}.png", big[10 : 10 + HEIGHT, 2 * index : 2 * index + WIDTH])
    arguments = ["flow", "--sequence", str(tmp_path / "frames"), "--output", str(tmp_path / "out"), *FAST]
    assert run(arguments) == 0
    before = done(tmp_path)
    assert sorted(before) == ["000000", "000001", "000002"]
    assert np.median(read_flow(tmp_path / "out/000001/flow.flo")[0]) == pytest.approx(-2, abs=0.1)
    assert run(arguments) == 0 and done(tmp_path) == before
    assert run([*arguments[:-1], "--jobs", "2"]) == 2
    (tmp_path / "frames").rename(tmp_path / "other")
    assert run([*arguments[:2], str(tmp_path / "other"), *arguments[3:]]) == 2
    assert "sequence: frames, now other" in capsys.readouterr().err
