"""What `flowkit bench speed` measures; never how fast it is."""

import sys
import textwrap

import pytest
import torch
from torch import nn

from flowkit.errors import UsageError
from flowkit.evaluation import speed, speed_worker
from flowkit.evaluation.speed import Settings, find_ptlflow, measure, networks, parse_size, steps
from flowkit.evaluation.speed_blocks import blocks, count_blocks, time_blocks
from flowkit.models.pwcnet import pwcnet_paper
from flowkit.models.registry import build

SMALL = Settings(size=(64, 60), repeats=2)


class Toy(nn.Module):
    """A convolution at the side, a dictionary of levels with a unit inside, and a part that is called from outside."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.levels = nn.ModuleDict({"2": Level(), "1": Level()})

    def forward(self, image):
        x = self.first(image)
        for level in self.levels.values():
            x = level.after(level(x))
        return x.flatten(2) @ x.flatten(2).mT


class Level(nn.Module):
    def __init__(self):
        super().__init__()
        self.own = nn.Conv2d(4, 4, 1, bias=False)
        self.unit = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
        self.after = nn.Conv2d(4, 4, 1, bias=False)

    def forward(self, x):
        return self.unit(self.own(x))


def counted(network, size=(64, 64)):
    learned = {name for name, p in network.named_parameters() if p.requires_grad}
    image = torch.rand(1, 3, *size)
    with torch.no_grad():
        return count_blocks(network.eval(), lambda: network(image), learned)


def test_blocks_hold_flops_parameters_and_layers_where_they_are():
    found = counted(Toy())
    pixels = 64 * 64
    rows = {row["name"]: row for row in found["blocks"]}
    assert list(rows) == ["first", "levels.2", "levels.2.unit", "levels.1", "levels.1.unit"]
    assert [row["parent"] for row in rows.values()] == [None, None, "levels.2", None, "levels.1"]
    assert rows["first"]["convolutions"] == 2 * 3 * 4 * 9 * pixels
    assert rows["levels.2.unit"]["convolutions"] == 2 * 16 * 9 * pixels
    assert (
        rows["levels.2"]["convolutions"] == 2 * 16 * (1 + 9 + 1) * pixels
    )  # what is called from outside is the level's, too
    assert rows["levels.2"]["calls"] == 2
    assert rows["levels.2"]["parameters"] == 16 + 16 * 9 + 4 + 16 and rows["levels.2"]["layers"] == 3
    assert found["convolutions"] == rows["first"]["convolutions"] + 2 * rows["levels.2"]["convolutions"]
    assert found["products"] == 2 * pixels * 16  # of no block


def test_times_of_blocks_lie_inside_one_another_and_hooks_are_gone():
    network, image = Toy(), torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        found = time_blocks(network, lambda: network(image), "cpu")
    times = found["blocks"]
    assert 0 < times["levels.2.unit"] < times["levels.2"]
    assert times["first"] + times["levels.2"] + times["levels.1"] < found["seconds"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_frozen_parameters_are_not_learned():
    network = Toy()
    network.first.requires_grad_(False)
    found = counted(network)
    assert found["blocks"][0]["layers"] == found["blocks"][0]["parameters"] == 0


@pytest.mark.parametrize(
    ("name", "layers", "parameters"),
    [
        ("liteflownet2", 90, 6_428_112),
        ("liteflownetx", 68, 896_563),
        ("pwcnet", 63, 9_374_274),
        ("raft", 47, 5_257_536),
    ],
)
def test_layers_and_parameters_of_table_5(name, layers, parameters):
    network = build(name)
    learned = set(dict(network.named_parameters()))
    assert speed_worker.count_layers(network, learned) == layers
    assert speed_worker.count_parameters(network, learned) == parameters
    outer = [part for part in blocks(network) if part.parent is None]
    assert sum(speed_worker.count_parameters(part.module, learned, part.name) for part in outer) == parameters


def test_layers_of_the_papers_pwcnet():
    network = pwcnet_paper()
    assert speed_worker.count_layers(network, set(dict(network.named_parameters()))) == 57


def test_rows_add_up(monkeypatch, tmp_path):
    monkeypatch.setattr(speed_worker, "PEERS", {"pwcnet": "ptlflow.models.pwcnet.pwcnet:pwcnet"})
    monkeypatch.setenv("PYTHONPATH", str(made_up_ptlflow(tmp_path)))
    calls = []
    models = ["liteflownetx", "pwcnet"]
    x, pwc, theirs = measure(models, SMALL, sys.executable, step=lambda: calls.append(1))
    assert len(calls) == steps(models, SMALL, sys.executable)

    assert (x.model, x.who, x.size, x.error) == ("liteflownetx", "flowkit", (64, 64), None)
    assert x.facts["parameters"] == 896_563 and x.facts["layers"] == 68
    assert len(x.seconds) == 2 and x.median > 0 and x.peak >= 0 and x.peak_total > x.peak
    assert [block.name for block in x.blocks if block.parent is None] == [
        "netc",
        *(f"nete.{i}" for i in range(6, 1, -1)),
        "between",
    ]
    inside = [block for block in x.blocks if block.parent == "nete.3"]
    assert [block.name for block in inside] == ["nete.3.subpixel", "nete.3.regularization", "nete.3.between"]
    level = next(block for block in x.blocks if block.name == "nete.3")
    for key in ("layers", "parameters", "convolutions", "products", "seconds"):
        assert sum(getattr(block, key) for block in inside) == pytest.approx(getattr(level, key))
    for one in (x, pwc):
        outer = [block for block in one.blocks if block.parent is None]
        assert sum(block.parameters for block in outer) == one.facts["parameters"]
        assert sum(block.layers for block in outer) == one.facts["layers"]
        assert sum(block.convolutions for block in outer) == one.convolutions > 0
        assert all(block.seconds > 0 for block in outer)

    assert (theirs.model, theirs.who, theirs.error, theirs.blocks) == ("pwcnet", "ptlflow", None, ())
    assert theirs.facts["parameters"] == 6 * 2 and theirs.facts["layers"] == 1 and len(theirs.seconds) == 2
    assert theirs.convolutions == 2 * 12 * 64 * 64


def made_up_ptlflow(folder):
    """A network of two channels where ptlflow has PWC-Net."""
    package = folder / "ptlflow" / "models" / "pwcnet"
    package.mkdir(parents=True)
    (package / "pwcnet.py").write_text(
        textwrap.dedent(
            """
            import torch

            class pwcnet(torch.nn.Module):
                def __init__(self):
                    super().__init__()
                    self.layer = torch.nn.Conv2d(6, 2, 1, bias=False)

                def forward(self, inputs):
                    assert inputs["images"].shape[:3] == (1, 2, 3) and not torch.is_grad_enabled()
                    print("to be heard by nobody")
                    return {"flows": self.layer(inputs["images"].flatten(1, 2))[:, None]}
            """
        )
    )
    return folder


@pytest.mark.parametrize(
    ("does", "says"),
    [("kill -9 $$", "memory was short"), ("echo nothing found >&2; exit 3", "exit code 3: nothing found")],
)
def test_a_process_that_dies_is_said_to_have(does, says, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{does}\n")
    python.chmod(0o755)
    monkeypatch.setattr(speed.sys, "executable", str(python))
    (found,) = measure(["liteflownetx"], SMALL)
    assert says in found.error and found.median is None and found.blocks == ()


def test_names_and_sizes_that_do_not_exist():
    assert "liteflownet2" in networks() and "dis" not in networks()
    assert networks(["pwcnet", "pwcnet"]) == ["pwcnet"]
    for wrong in ("dis", "flownet"):
        with pytest.raises(UsageError, match=wrong):
            networks([wrong])
    assert parse_size("436x1024") == (436, 1024)
    for wrong in ("436", "436x", "0x1024", "436x1024x3", "32x64"):
        with pytest.raises(UsageError, match="height x width"):
            parse_size(wrong)
    with pytest.raises(UsageError, match="--device gpu"):
        speed.settings(device="gpu")
    with pytest.raises(UsageError, match="cannot be run"):
        find_ptlflow("/nowhere/python")
    with pytest.raises(UsageError, match="no ptlflow"):
        find_ptlflow("true")  # no Python at all
