"""Rows, networks and their weights: ours load strictly, others' are refused with what to do."""

import subprocess
import sys
import tomllib

import pytest
import torch

from flowkit.errors import OutputError, UsageError, WeightsError
from flowkit.io import weights as files
from flowkit.models import registry, weights
from flowkit.models.registry import MODELS, ModelSpec, build, model_spec, network_spec


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 3)
        self.norm = torch.nn.BatchNorm2d(2)


def convert(state):
    """The foreign layout says "module." before each name and keeps one tensor twice."""
    return {name.removeprefix("module."): tensor for name, tensor in state.items() if name != "module.twice"}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    here = "test_registry"
    row = ModelSpec(
        name="tiny",
        kind="network",
        target=f"{here}:Tiny",
        divisor=8,
        iterations=4,
        weights="tiny",
        paper="none",
        licence="none",
        convert=f"{here}:convert",
        sources="theirs are free",
    )
    monkeypatch.setattr(registry, "MODELS", {**MODELS, "tiny": row})
    torch.manual_seed(0)
    return Tiny().state_dict(), tmp_path


def foreign(state):
    return {**{f"module.{name}": tensor for name, tensor in state.items()}, "module.twice": state["conv.weight"]}


def test_rows_are_complete():
    for name, spec in MODELS.items():
        assert spec.name == name and spec.paper and spec.licence and ":" in spec.target
        assert spec.network == (spec.weights is not None)
        if spec.network:
            assert spec.divisor % spec.stride == 0 and spec.memory > 0
    with pytest.raises(UsageError, match="raft-small"):
        model_spec("nonsense")
    with pytest.raises(UsageError, match="'dis' is no network"):
        network_spec("dis")


def test_nothing_heavy_is_imported_for_the_table():
    code = "import sys, flowkit.models.registry, flowkit.models.weights; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.network])
def test_every_network_can_be_built_and_run(name):
    spec = model_spec(name)
    torch.manual_seed(0)
    network = build(name).eval()
    side = 64
    images = torch.rand(2, 1, 3, side, 2 * side)
    initial = torch.zeros(1, 2, side // spec.stride, 2 * side // spec.stride)
    options = {} if spec.iterations is None else {"iterations": 2}
    if not spec.coarse:  # which homographies start, not flows
        options["initial"] = initial
    with torch.inference_mode():
        prediction = network(*images, **options)
    assert prediction.flow.shape == (1, 2, side, 2 * side)
    assert spec.coarse or prediction.coarse.shape == initial.shape


def test_weights_come_back_as_they_were_written(tiny):
    state, folder = tiny
    path = folder / "tiny.safetensors"
    files.write_weights(path, state, {"model": "tiny"}, half=True)
    found = weights.load_network("tiny", path)
    assert found.weights == {"tiny.safetensors": files.sha256(path)} and not found.module.training
    loaded = found.module.state_dict()
    assert loaded["conv.weight"].dtype == torch.float32 and loaded["norm.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(loaded["conv.weight"], state["conv.weight"].half().float())
    assert found.module.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert weights.load_network("tiny", path) is found  # read once
    files.write_weights(path, {name: tensor + 1 for name, tensor in state.items()})
    assert weights.load_network("tiny", path) is not found  # unless the file has changed


def test_shipped_weights_are_found_by_their_card(tiny, monkeypatch):
    state, folder = tiny
    path = folder / "tiny.safetensors"
    files.write_weights(path, state, half=True)
    card = tomllib.loads(
        f'file = "tiny.safetensors"\nsha256 = "{files.sha256(path)}"\nsize = 1\nlicence = "Apache-2.0"\n'
        'source = "here"\ndescription = "a test"\ntraining = { command = "flowkit train" }'
    )
    monkeypatch.setattr(files, "weights_folder", lambda: folder)
    monkeypatch.setattr(files, "cards", lambda: {"tiny": files.Card(name="tiny", **card)})
    assert weights.load_network("tiny").weights == {"tiny": card["sha256"]}
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(WeightsError, match="sha256"):
        weights.load_network("tiny")


def test_shipped_weights_may_lie_in_several_files(tiny, monkeypatch):
    state, folder = tiny
    both = [{n: t for n, t in state.items() if n.startswith("conv") == first} for first in (True, False)]
    cards = {}
    for name, part in zip(("tiny", "tiny-norm"), both, strict=True):
        files.write_weights(folder / f"{name}.safetensors", part)
        sums, further = files.sha256(folder / f"{name}.safetensors"), ("tiny-norm",) if name == "tiny" else ()
        cards[name] = files.Card(name, f"{name}.safetensors", sums, 1, "Apache-2.0", "here", "a test", parts=further)
    monkeypatch.setattr(files, "weights_folder", lambda: folder)
    monkeypatch.setattr(files, "cards", lambda: cards)
    loaded = weights.load_network("tiny")
    assert loaded.weights == {name: card.sha256 for name, card in cards.items()}
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.module.state_dict().items())
    (folder / "tiny-norm.safetensors").unlink()
    weights._loaded.cache_clear()
    with pytest.raises(WeightsError, match=r"tiny-norm\.safetensors.* not found"):
        weights.load_network("tiny")


def test_missing_weights_say_how_to_get_some(tiny):
    with pytest.raises(WeightsError, match=r"not shipped.*flowkit weights convert CHECKPOINT --model tiny") as caught:
        weights.load_network("tiny")
    assert "\n" not in str(caught.value)
    with pytest.raises(WeightsError, match=r"absent\.safetensors: no such weights file"):
        weights.load_network("tiny", tiny[1] / "absent.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (foreign, r"flowkit weights convert .* --model tiny"),
        (lambda state: {**state, "extra": torch.zeros(1)}, "1 tensors are unknown, extra"),
        (lambda state: {**state, "conv.bias": torch.zeros(3)}, r"conv.bias has shape \(3,\) where \(2,\)"),
        (lambda state: {**state, "conv.bias": torch.full((2,), torch.nan)}, "not finite"),
        (
            lambda state: {name: tensor for name, tensor in state.items() if "norm" not in name},
            "5 of 7 tensors are missing",
        ),
    ],
)
def test_what_is_not_in_our_layout_is_refused(tiny, change, words):
    state, folder = tiny
    path = folder / "theirs.pth"
    torch.save(change(state), path)
    with pytest.raises(WeightsError, match=words) as caught:
        weights.load_network("tiny", path)
    assert "theirs.pth" in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_another_model_are_named(tiny):
    state, folder = tiny
    path = folder / "w.safetensors"
    files.write_weights(path, state, {"model": "raft-small"})
    with pytest.raises(WeightsError, match=r"weights of 'raft-small', not of 'tiny'; give --model raft-small"):
        weights.load_network("tiny", path)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_foreign_checkpoint_is_converted(tiny, wrapped):
    state, folder = tiny
    torch.save({"state_dict": foreign(state), "epoch": 3} if wrapped else foreign(state), folder / "theirs.ckpt")
    output = folder / "new" / "ours.safetensors"
    assert weights.convert_checkpoint(folder / "theirs.ckpt", "tiny", output) == 7
    loaded = weights.load_network("tiny", output).module.state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    notes = files.metadata(output)
    assert notes["model"] == "tiny" and notes["note"] == "theirs are free"
    assert notes["converted_sha256"] == files.sha256(folder / "theirs.ckpt")


def test_raft_small_as_it_is_published_is_converted(tmp_path):
    torch.manual_seed(0)
    network = build("raft-small")
    theirs = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save(theirs, tmp_path / "raft-small.pth")
    output = tmp_path / "ours.safetensors"
    weights.convert_checkpoint(tmp_path / "raft-small.pth", "raft-small", output)
    loaded = weights.load_network("raft-small", output).module.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.state_dict().items())
    with pytest.raises(WeightsError, match=r"raft-small\.pth: .*another --model"):
        weights.convert_checkpoint(tmp_path / "raft-small.pth", "raft", output)


def test_conversions_that_fail_leave_nothing(tiny, monkeypatch):
    state, folder = tiny
    output = folder / "ours.safetensors"
    broken, pickled, other = folder / "broken.pth", folder / "pickled.pth", folder / "other.pth"
    broken.write_bytes(b"no checkpoint")
    torch.save({"network": Tiny()}, pickled)  # would run code when unpickled
    torch.save({"module.fc.weight": torch.zeros(2)}, other)
    for path, words in ((broken, "read safely"), (pickled, "read safely"), (other, "7 of 7 tensors are missing")):
        with pytest.raises(WeightsError, match=words) as caught:
            weights.convert_checkpoint(path, "tiny", output)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    torch.save(foreign(state), other)
    with pytest.raises(UsageError, match=r"\.safetensors"):
        weights.convert_checkpoint(other, "tiny", folder / "ours.pth")
    with pytest.raises(UsageError, match="nothing to convert"):
        weights.convert_checkpoint(other, "raft-xfeat", output)
    (folder / "folder.safetensors").mkdir()
    with pytest.raises(OutputError):
        weights.convert_checkpoint(other, "tiny", folder / "folder.safetensors")
    monkeypatch.setitem(globals(), "convert", lambda state: {}["no such layout"])
    with pytest.raises(WeightsError, match="layout that flowkit knows"):
        weights.convert_checkpoint(other, "tiny", output)
    assert not output.exists()
