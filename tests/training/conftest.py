"""The tiny recipe and photos of tiny_training.py."""

import pytest
from tiny_training import TINY, tiny_photos

from flowkit.training.material import Material, parted


@pytest.fixture
def recipe():
    return TINY


@pytest.fixture(scope="session")
def material() -> Material:
    return parted(tiny_photos())
