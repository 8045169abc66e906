"""`flowkit bench speed` through the command line."""

import csv
import json

import pytest

from flowkit.cli.bench import app
from flowkit.errors import OutputError, UsageError
from flowkit.evaluation import speed


def invoke(*arguments):
    return app(args=["speed", *map(str, arguments)], standalone_mode=False) or 0


def test_tables_and_files(tmp_path, capsys):
    arguments = ("--model", "liteflownetx", "--size", "64x64", "--repeats", "1", "--device", "cpu", "--threads", "1")
    assert invoke(*arguments, "--output", tmp_path) == 0
    shown = capsys.readouterr().out
    assert "64x64, cpu, 1 thread, fp32" in shown and "liteflownetx by block" in shown and "subpixel" in shown
    record = json.loads((tmp_path / "speed.json").read_text("utf-8"))
    (network,) = record["networks"]
    assert (network["status"], network["parameters"], network["layers"]) == ("ok", 896_563, 68)
    assert network["frames_per_second"] == pytest.approx(1 / network["seconds"])
    outer = [block for block in network["blocks"] if block["inside"] is None]
    assert sum(block["flops_convolutions"] for block in outer) == network["flops_convolutions"]
    (row,) = csv.DictReader((tmp_path / "rows.csv").open(encoding="utf-8"))
    assert (row["model"], row["by"], row["parameters"]) == ("liteflownetx", "flowkit", "896563")
    lines = list(csv.DictReader((tmp_path / "blocks.csv").open(encoding="utf-8")))
    assert [line["block"] for line in lines] == [block["block"] for block in network["blocks"]]
    with pytest.raises(OutputError, match="--overwrite"):
        invoke(*arguments, "--output", tmp_path)


def test_one_that_fails_is_a_row_and_exit_code_6(monkeypatch, tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no room >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(speed.sys, "executable", str(python))
    assert invoke("--model", "pwcnet,raft", "--size", "64x64", "--repeats", "1", "--json") == 6
    record = json.loads(capsys.readouterr().out)
    assert [(one["model"], one["status"], one["seconds"]) for one in record["networks"]] == [
        ("pwcnet", "failed", None),
        ("raft", "failed", None),
    ]
    assert "no room" in record["networks"][0]["message"]
    assert invoke("--model", "pwcnet", "--size", "64x64", "--repeats", "1") == 6
    assert "no room" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--model", "dis"), "no network"),
        (("--size", "1024"), "height x width"),
        (("--device", "mps:1"), "--device"),
        (("--precision", "fp16", "--device", "cpu"), "fp16"),
        (("--ptlflow-python", "/nowhere/python"), "cannot be run"),
    ],
)
def test_wrong_options_in_one_line(arguments, says):
    with pytest.raises(UsageError, match=says):
        invoke(*arguments)
