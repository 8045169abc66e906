"""Folder names, turned images, the ledger, the worker processes."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from flowkit.cli import batch, pairwise, report
from flowkit.cli.workers import WorkerDied, run_in_workers
from flowkit.types import Image


def test_folder_names_are_flat_and_tell_pairs_apart():
    keys = [
        ("a/1.png", "b/2.png", 0, 0),
        ("a-1.png", "b/2.png", 0, 0),
        ("c/1.png", "c/2.png", 0, 0),
        ("c/1.jpg", "c/2.png", 0, 0),
        ("D/x.png", "d/y.png", 0, 0),
        ("d/X.png", "d/y.png", 0, 0),
        ("/abs/ü ö.png", "../up.png", 0, 0),
        ("n" * 150 + ".png", "m" * 150 + ".png", 0, 0),
    ]
    names = batch.folder_names(keys)
    assert len({name.casefold() for name in names}) == len(keys)
    assert all("/" not in name and len(name.encode()) < 255 for name in names)
    assert names[6] == "abs-ü ö_up"
    assert names[0].startswith("a-1_b-2_") and names[1].startswith("a-1_b-2_")
    assert dict(zip(keys[::-1], batch.folder_names(keys[::-1]), strict=True)) == dict(zip(keys, names, strict=True))


def test_simple_names_have_no_hash():
    assert batch.folder_names([("a/1.png", "b/2.png", 0, 0), ("a/1.png", "b/3.png", 0, 0)]) == ["a-1_b-2", "a-1_b-3"]


@pytest.mark.parametrize("turns", range(4))
def test_intrinsics_turn_with_the_image(turns):
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[5, 8] = 255
    K = np.array([[50.0, 0, 18], [0, 60, 14], [0, 0, 1]])
    turned = pairwise.turn_image(Image(pixels), turns)
    K_turned = pairwise.turn_intrinsics(K, (30, 40), turns)
    y, x = np.argwhere(turned.pixels[..., 0])[0]
    ray = np.linalg.inv(K) @ [8, 5, 1]
    ray_turned = np.linalg.inv(K_turned) @ [x, y, 1]
    for _ in range(turns):  # counter-clockwise in the picture: right becomes up
        ray = np.array([ray[1], -ray[0], 1])
    np.testing.assert_allclose(ray_turned, ray, atol=1e-12)
    assert K_turned[0, 0] > 0 and K_turned[1, 1] > 0 and K_turned[2, 2] == 1


def test_the_manifest_does_not_depend_on_the_order_of_arrival(tmp_path):
    texts = []
    for order in ((0, 1, 2), (2, 0, 1)):
        ledger = batch.Ledger("flow", total=3)
        for index in order:
            fault = report.Fault("InputError", "bad", 3) if index else None
            ledger.add(pairwise.Task(Path("a"), Path("b"), tmp_path / f"{index}", "a", "b"), fault)
        ledger.write(tmp_path)
        texts.append((tmp_path / "failures.json").read_text())
    assert texts[0] == texts[1]
    record = json.loads(texts[0])
    assert record["failed"] == 2 and [failure["folder"] for failure in record["failures"]] == ["1", "2"]
    assert ledger.exit_code == 6 and batch.Ledger("flow").exit_code == 0


def test_a_folder_is_not_filled_up_with_other_options(tmp_path):
    from flowkit.errors import UsageError

    job = pairwise.job("flow", {"model": "dis", "device": "cpu"})
    batch.remember_options(job, tmp_path, overwrite=False)
    batch.remember_options(pairwise.job("flow", {"model": "dis", "device": "cuda"}), tmp_path, overwrite=False)
    other = pairwise.job("flow", {"model": "raft", "device": "cpu"})
    with pytest.raises(UsageError, match="model: dis, now raft"):
        batch.remember_options(other, tmp_path, overwrite=False)
    batch.remember_options(other, tmp_path, overwrite=True)
    batch.remember_options(other, tmp_path, overwrite=False)


def _double_or_die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def test_a_worker_that_dies_costs_its_own_item_only():
    results = dict(run_in_workers(_double_or_die, range(6), jobs=2))
    died = results.pop(3)
    assert isinstance(died, WorkerDied) and died.exit_code == -9
    assert results == {number: 2 * number for number in (0, 1, 2, 4, 5)}


def test_leaving_early_ends_the_workers():
    import multiprocessing

    results = run_in_workers(_double_or_die, iter(range(100, 200)), jobs=2)
    next(results)
    results.close()
    assert not multiprocessing.active_children()
