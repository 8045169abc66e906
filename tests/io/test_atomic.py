"""Nothing half-written is ever left, and every refusal of the system is one clear line."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flowkit.errors import OutputError
from flowkit.io.atomic import atomic_path, remove_stale, write_bytes, write_text


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def test_writes_and_makes_parent_folders(tmp_path):
    target = tmp_path / "a" / "b ü" / "x.txt"
    write_text(target, "größe\n")
    assert target.read_bytes() == "größe\n".encode()
    write_bytes(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(target.parent) == ["x.txt"]


def test_temporary_is_hidden_beside_the_target_and_keeps_the_suffix(tmp_path):
    with atomic_path(tmp_path / "flow.flo") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".flo"
        assert temporary.name.startswith(".flow.") and str(os.getpid()) in temporary.name
        temporary.write_bytes(b"x")
        assert not (tmp_path / "flow.flo").exists()
    assert names(tmp_path) == ["flow.flo"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_failure_keeps_the_old_file_and_removes_the_temporary(tmp_path, error):
    target = tmp_path / "x.bin"
    target.write_bytes(b"old")
    with pytest.raises(error), atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise error
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_file_mode_follows_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        write_bytes(tmp_path / "x", b"")
    finally:
        os.umask(old)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on device; free some space or choose another --output"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
    ],
)
def test_refusals_inside_the_block_become_output_errors(tmp_path, number, words):
    target = tmp_path / "out" / "flow.flo"
    with pytest.raises(OutputError) as caught, atomic_path(target) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"cannot write {target}: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert names(target.parent) == []


def test_errors_about_other_files_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "missing").read_bytes()
    with pytest.raises(PermissionError), atomic_path(tmp_path / "x"):
        raise PermissionError(errno.EACCES, "permission denied", "/elsewhere/input.png")


def test_things_in_the_way(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="a folder of that name is in the way"):
        write_bytes(tmp_path / "folder", b"")
    (tmp_path / "file").write_bytes(b"1")
    for below in ("file/x.png", "file/deep/x.png"):
        with pytest.raises(OutputError, match="a file is where a folder should be"):
            write_bytes(tmp_path / below, b"")
    with pytest.raises(OutputError, match="too long"):
        write_bytes(tmp_path / ("n" * 300), b"")
    assert names(tmp_path) == ["file", "folder"]


def test_a_name_as_long_as_allowed_still_works(tmp_path):
    write_bytes(tmp_path / ("n" * 251 + ".png"), b"x")


def test_a_device_is_not_replaced():
    with pytest.raises(OutputError, match="not a regular file"):
        write_bytes("/dev/null", b"x")


def test_a_symbolic_link_is_written_through(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_a_writer_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="produced nothing"), atomic_path(tmp_path / "x"):
        pass


def test_a_full_device_is_reported(tmp_path):
    with pytest.raises(OutputError, match="no space left"), atomic_path(tmp_path / "x"):
        Path("/dev/full").write_bytes(b"x")


def test_remove_stale_removes_only_what_dead_runs_left(tmp_path):
    script = "import os,sys; from flowkit.io.atomic import atomic_path\n"
    script += "with atomic_path(sys.argv[1]) as t: t.write_bytes(b'half'); os._exit(9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "flow.flo")], check=False)
    (left,) = names(tmp_path)
    assert left.endswith(".tmp.flo")
    (tmp_path / ".keep.tmp").write_bytes(b"")
    (tmp_path / "flow.flo").write_bytes(b"")
    with atomic_path(tmp_path / "mine.flo") as temporary:
        temporary.write_bytes(b"")
        assert [file.name for file in remove_stale(tmp_path)] == [left]
    assert names(tmp_path) == [".keep.tmp", "flow.flo", "mine.flo"]
    assert remove_stale(tmp_path / "missing") == []
