"""Checkpoints: pieces of bounded size, replaced wholly or not at all."""

import errno
import json
from pathlib import Path

import pytest
import torch

from flowkit.errors import OutputError, WeightsError
from flowkit.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint


def tensors(seed=0):
    make = torch.Generator().manual_seed(seed)
    large = torch.randn(64, 16, 9, 9, generator=make).contiguous(memory_format=torch.channels_last)
    return {
        "model/large": large,
        "model/half": torch.randn(7, 3, generator=make).half(),
        "model/none": torch.zeros(0, 4),
        "ema/count": torch.tensor(12),
        **{f"ema/{i}": torch.randn(2000, generator=make) for i in range(40)},
    }


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype and torch.equal(value, other[name]), name


def test_large_tensors_are_cut_and_put_together(tmp_path):
    limit = 2**16
    wanted = tensors()
    write_checkpoint(tmp_path, Checkpoint(wanted, {"step": 5, "model": "tiny"}), limit)
    pieces = list(tmp_path.glob("*.safetensors"))
    assert len(pieces) >= 9 and all(piece.stat().st_size <= limit for piece in pieces)
    assert sum(piece.stat().st_size for piece in pieces) > (len(pieces) - 2) * limit / 2, "pieces are filled"
    found = read_checkpoint(tmp_path)
    same(found.tensors, wanted)
    assert found.facts == {"step": 5, "model": "tiny"}
    assert found.group("ema").keys() == {"count", *map(str, range(40))}


def test_the_next_one_takes_its_place(tmp_path):
    for step in (1, 2, 2):
        write_checkpoint(tmp_path, Checkpoint(tensors(step), {"step": step}), 2**17)
    same(read_checkpoint(tmp_path).tensors, tensors(2))
    index = json.loads((tmp_path / "index.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} == {"index.json", *index["pieces"]}


@pytest.mark.parametrize("fails_at", [0, 3, "index.json"])
def test_a_full_disk_leaves_the_old_one(tmp_path, monkeypatch, fails_at):
    write_checkpoint(tmp_path, Checkpoint(tensors(1), {"step": 1}), 2**17)
    before = {path.name for path in tmp_path.iterdir()}
    write, count = Path.write_bytes, []

    def full(path, data):
        count.append(path)
        if len(count) - 1 == fails_at or (fails_at == "index.json" and path.suffix == ".json"):
            write(path, data[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="no space left"):
        write_checkpoint(tmp_path, Checkpoint(tensors(2), {"step": 2}), 2**17)
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == before
    same(read_checkpoint(tmp_path).tensors, tensors(1))


def test_damage_is_noticed(tmp_path):
    with pytest.raises(WeightsError, match="no checkpoint there"):
        read_checkpoint(tmp_path)
    write_checkpoint(tmp_path, Checkpoint(tensors(), {}), 2**17)
    piece = sorted(tmp_path.glob("*.safetensors"))[1]
    good = piece.read_bytes()
    piece.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(WeightsError, match=r"000000-001\.safetensors.*corrupt"):
        read_checkpoint(tmp_path)
    piece.unlink()
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "something else"}')
    with pytest.raises(WeightsError, match="not an index"):
        read_checkpoint(tmp_path)
