import io

import numpy as np
import pytest
from PIL import Image

from flowkit.errors import InputError, UsageError
from flowkit.viz.animation import blink

A = np.tile(np.linspace(0, 255, 900).astype(np.uint8)[None, :, None], (300, 1, 3))
B = A[:, ::-1]


@pytest.mark.parametrize("fmt", ["gif", "webp"])
def test_blink_shows_both_pictures_forever(fmt):
    data = blink(A, B, fmt, duration_ms=400, labels=("before", "after"))
    picture = Image.open(io.BytesIO(data))
    assert picture.format.lower() == fmt
    assert picture.n_frames == 2 and picture.size == (640, 213) and picture.info["loop"] == 0
    for frame, expected in enumerate((A, B)):
        picture.seek(frame)
        middle = np.asarray(picture.convert("RGB")).astype(int)[150]
        assert picture.info["duration"] == 400
        assert abs(middle[20, 0] - int(expected[0, 28, 0])) < 12
    assert data == blink(A, B, fmt, duration_ms=400, labels=("before", "after"))


def test_small_pictures_keep_their_size():
    assert Image.open(io.BytesIO(blink(A[:50, :70], B[:50, :70]))).size == (70, 50)


def test_bad_calls_are_refused():
    with pytest.raises(UsageError, match="mp4"):
        blink(A, B, "mp4")
    with pytest.raises(InputError):
        blink(A, B[:100])
