"""benchmarks/gocor.py: who wins is told the right way round, and rows that were measured are not measured again."""

import argparse
import importlib
import math
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gocor")


def flow_pairs(*errors):
    shares = {f"within_{n}": 0.5 for n in (1, 3, 5)}
    common = {"coverage": 1.0, "fl": 0.0, "pixels": 10, **shares}
    return [{"pair": str(k), "epe": error, **common} for k, error in enumerate(errors)]


def test_smaller_errors_win_and_pairs_are_counted_one_by_one(script):
    row = script.compared("static", flow_pairs(2.0, 4.0, 6.0), flow_pairs(1.0, 5.0, 3.0))
    assert (row["epe_plain"], row["epe_gocor"]) == (4.0, 3.0)
    assert math.isclose(row["gain"], 0.25)
    assert row["better"] == 2
    assert row["verdict"] == "wins by 25.0 %"
    assert script.compared("static", flow_pairs(3.0), flow_pairs(4.0))["verdict"] == "loses by 33.3 %"
    assert script.compared("static", flow_pairs(3.0), flow_pairs(3.001))["verdict"] == "even"


def test_larger_pck_wins_where_there_is_no_error(script):
    plain, gocor = ([{"pair": "a", "pck_0.05": 0.3, "pck_0.1": share}] for share in (0.5, 0.6))
    row = script.compared("pf-willow", plain, gocor)
    assert row["verdict"] == "wins by 10.0 points"
    assert row["better"] == 1
    assert "0.3" not in script.accuracy_table([row]).splitlines()[2]
    assert "50.0 / 60.0" in script.accuracy_table([row])


def test_errors_inside_the_wallpaper_are_those_of_its_pixels_only(script):
    flow = np.zeros((2, 4, 6), np.float32)
    flow[:, 0] = np.nan
    repeating = np.zeros((4, 6), bool)
    repeating[:2, :2] = True
    found = np.zeros_like(flow)
    found[0, 1, 0] = 8
    found[0, 3] = 100  # outside
    pair = script.Truth("a", None, None, flow, repeating, period=10.0)
    scores = script._where_it_repeats(found, pair)
    assert scores["inside_pixels"] == 2
    assert scores["inside_epe"] == 4.0
    assert scores["inside_off"] == 0.5
    without = script.Truth("a", None, None, flow, np.zeros((4, 6), bool), period=10.0)
    assert script._where_it_repeats(found, without) == {}


def test_a_measured_row_is_kept_until_what_it_depends_on_changes(script, tmp_path):
    arguments = argparse.Namespace(output=tmp_path, photos=tmp_path, device="cpu", fresh=False)
    measuring = script.Measuring(arguments)
    calls = []

    def measure():
        calls.append(1)
        return {"pairs": [{"epe": math.inf}]}

    what = {"model": "a", "set": "static", "weights": "1"}
    first = measuring.kept(what, measure)
    assert measuring.kept(what, measure) == first
    assert len(calls) == 1
    measuring.kept({**what, "weights": "2"}, measure)
    assert len(calls) == 2
    assert not measuring.others
    arguments.fresh = True
    measuring.kept(what, measure)
    assert len(calls) == 3


def test_pairs_of_networks_need_a_plain_and_a_gocor_one(script):
    from flowkit.errors import UsageError, WeightsError

    with pytest.raises(UsageError, match="PLAIN"):
        script.network_pair("basenet")
    with pytest.raises(WeightsError, match="no such weights file"):
        script.network_pair("basenet=none.safetensors,basenet-gocor=none.safetensors")
