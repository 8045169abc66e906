"""The result folder of a set: a file of its own for each image, an honest record, also when nothing was aligned."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from flowkit.io.images import read_image
from flowkit.io.results import is_complete, read_record
from flowkit.pipelines.group import Aligned
from flowkit.pipelines.group_outputs import write_group_results
from flowkit.types import Alignment, Flow, Image, Matches, Run, Status, Warped

SIZE = (6, 8)
METHOD = {"model": "dis", "seed": 3, "device": "auto"}
TARGET = Image(np.full((*SIZE, 3), 100, np.uint8), "set/target.png")
NO_MATCHES = Matches(np.empty((0, 2)), np.empty((0, 2)), np.empty((0, 2), int), np.empty(0), SIZE, SIZE)


def one(name, level=0, status=Status.OK, **run):
    """An image of one grey level and its alignment, as if it had been found."""
    image = Image(np.full((*SIZE, 3), level, np.uint8), f"set/{name}")
    found = status is Status.OK
    alignment = Alignment(
        flow=Flow(np.full((2, *SIZE), 0 if found else np.nan, np.float32), SIZE),
        status=status,
        homographies=(np.eye(3),) if found else (),
        regions=np.full(SIZE, 0 if found else -1, np.int16),
        inliers=(30,) if found else (),
        matches=NO_MATCHES,
        run=Run("sift + homographies + dis", **run),
    )
    warped = Warped(image.pixels, np.ones(SIZE, bool)) if found else None
    coarse = Warped(image.pixels // 2, np.ones(SIZE, bool)) if found else None
    return Aligned(image, alignment, warped, coarse)


def test_no_picture_is_written_over_another(tmp_path):
    group = [one("a-2.png", 10), one("a.jpg", 20), one("a.png", 30), one("A.tif", 40)]
    outcome = write_group_results(tmp_path, group, TARGET, method=METHOD)
    files = [image["file"] for image in outcome.record["images"]]
    assert files == ["aligned-a-2.png", "aligned-a.png", "aligned-a-3.png", "aligned-A-4.png"]
    assert [read_image(tmp_path / file).pixels.max() for file in files] == [10, 20, 30, 40]
    assert read_image(tmp_path / "average.png").pixels.max() == (10 + 20 + 30 + 40 + 100) / 5
    assert read_image(tmp_path / "average_coarse.png").pixels.max() == (5 + 10 + 15 + 20 + 100) / 5
    with PIL.Image.open(tmp_path / "average.gif") as animation:
        assert animation.n_frames == 3
    assert is_complete(tmp_path / "group.json")


def test_the_record_says_how_the_whole_set_was_made(tmp_path):
    group = [
        one("a.png", weights={"xfeat": "00"}, device="cuda:0", notes=("first of 2 frames taken",)),
        one("b.png", status=Status.NO_OVERLAP, weights={"disk": "ff"}, device="cuda:0"),
    ]
    outcome = write_group_results(tmp_path, group, TARGET, [(Path("set/c.png"), "no picture")], method=METHOD)
    record = read_record(tmp_path / "group.json")
    assert record.model_dump(mode="json") == outcome.record
    assert [image.status for image in record.images] == [Status.OK, Status.NO_OVERLAP, "unreadable"]
    made = record.provenance
    assert (made.method, made.seed, made.device, made.options) == ("dis", 3, "cuda:0", METHOD)
    assert made.weights == {"disk": "ff", "xfeat": "00"} and made.notes == ["first of 2 frames taken"]
    assert made.seconds["total"] > 0


@pytest.mark.parametrize("pictures", [True, False])
def test_averages_only_of_what_was_aligned(tmp_path, pictures):
    write_group_results(tmp_path, [one("a.png")], TARGET, method=METHOD)
    group = [one("b.png", status=Status.TOO_FEW_MATCHES)]
    outcome = write_group_results(tmp_path, group, TARGET, method=METHOD, pictures=pictures)
    assert outcome.status is Status.NO_OVERLAP and outcome.files == (tmp_path / "group.json",)
    assert not (tmp_path / "average.png").exists() and not (tmp_path / "average_before.png").exists()
    assert outcome.summary == ("align 1 images onto set/target.png: 0 aligned", "  set/b.png: too_few_matches")


def test_without_pictures_the_aligned_images_remain(tmp_path):
    outcome = write_group_results(tmp_path, [one("a.png")], TARGET, method=METHOD, pictures=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["aligned-a.png", "group.json"]
    assert outcome.record["files"] == ["aligned-a.png"]
