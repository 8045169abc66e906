"""Pictures that several of these tests use."""

import pytest

cv2 = pytest.importorskip("cv2")


@pytest.fixture(scope="module")
def photo():
    data = pytest.importorskip("skimage.data")
    return cv2.resize(data.astronaut(), (384, 320), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def unrelated():
    data = pytest.importorskip("skimage.data")
    return cv2.resize(data.coffee(), (384, 320), interpolation=cv2.INTER_AREA)
