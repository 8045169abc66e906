"""Options, help, usage errors: one line and exit code 2."""

import subprocess
import sys

import pytest

from flowkit.cli.main import run
from flowkit.cli.options import parse_resize, parse_shard
from flowkit.errors import UsageError

VERBS = ("flow", "match", "homography", "pose", "align", "warp", "show", "weights", "bench")


def test_heavy_libraries_are_not_imported_for_help():
    code = (
        f"import sys, flowkit.cli.main as m; m.run(['--help']); [m.run([verb, '--help']) for verb in {VERBS}];"
        "heavy = {'torch', 'cv2', 'kornia', 'scipy', 'numpy', 'PIL', 'h5py'};"
        "sys.stderr.write(','.join(sorted(heavy & {*sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for verb in VERBS:
        assert f"flowkit {verb} " in done.stdout


def test_version(capsys):
    from flowkit import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"flowkit {__version__}\n"


def test_completion_works(flowkit_cli):
    answer = flowkit_cli(env={"_FLOWKIT_COMPLETE": "complete_bash", "COMP_WORDS": "flowkit homo", "COMP_CWORD": "1"})
    assert answer.code == 0 and answer.stdout.split() == ["homography"]
    assert "--install-completion" in flowkit_cli("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("flow",), "two images are needed"),
        (("flow", "a.png"), "two images are needed"),
        (("flow", "a.png", "b.png", "--nonsense"), "--nonsense"),
        (("nonsense",), "nonsense"),
        (("flow", "a.png", "b.png", "--preset", "slow"), "--preset"),
        (("flow", "a.png", "b.png", "--resize", "big"), "--resize big"),
        (("flow", "a.png", "b.png", "--resize", "0"), "--resize 0"),
        (("flow", "a.png", "b.png", "--model", "nope"), "nope"),
        (("flow", "a.png", "b.png", "--model", "dis", "--weights", "w.safetensors"), "has no weights"),
        (("flow", "a.png", "b.png", "--model", "dis", "--precision", "fp16"), "is no network"),
        (("flow", "a.png", "b.png", "--model", "dis", "--features", "sift"), "--init matches"),
        (("flow", "a.png", "b.png", "--pairs", "list.txt", "--output", "o"), "not both"),
        (("flow", "a.png", "b.png", "--sequence", "folder"), "only one of them"),
        (("flow", "a.png", "b.png", "--shard", "1/2"), "only together with --pairs"),
        (("match", "--pairs", "list.txt"), "--output DIR"),
        (("match", "--pairs", "list.txt", "--output", "o", "--shard", "3/2"), "--shard 3/2"),
        (("match", "--pairs", "list.txt", "--output", "o", "--shard", "0/2"), "from 1 to N"),
        (("match", "--pairs", "list.txt", "--output", "o", "--colmap", "x.db"), "--colmap"),
        (("pose", "a.png", "b.png", "--fov", "190"), "between 0 and 180"),
        (("warp", "a.png"), "either --flow or --homography"),
        (("warp", "a.png", "--flow", "f.flo", "--homography", "h.json"), "either --flow or --homography"),
        (("warp", "a.png", "--homography", "h.json", "--splat"), "only together with --flow"),
        (("align", "--group", "folder"), "give both"),
        (("align", "a.png", "b.png", "--group", "folder", "--to", "a.png"), "only one of them"),
    ],
)
def test_usage_errors_are_one_line_and_exit_2(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("flowkit: error: ") and words in err
    assert not list(tmp_path.iterdir())


def test_parse_resize():
    assert parse_resize(None) is None
    assert parse_resize("800") == 800
    assert parse_resize("640x480") == (480, 640)
    for text in ("", "x", "640x", "-3", "1.5", "640x0"):
        with pytest.raises(UsageError):
            parse_resize(text)


def test_parse_shard():
    assert parse_shard(None) == (1, 1)
    assert parse_shard("8/8") == (8, 8)
    for text in ("", "8", "0/8", "9/8", "a/b", "1/0"):
        with pytest.raises(UsageError):
            parse_shard(text)
