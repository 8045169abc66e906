"""The tiny recipe and photos of tiny_training.py."""

import pytest
from tiny_training import PLAIN, TINY, tiny_photos

from flowkit.training.material import Material, parted


@pytest.fixture
def recipe():
    return TINY


@pytest.fixture
def plain():
    return PLAIN


@pytest.fixture(scope="session")
def material() -> Material:
    return parted(tiny_photos())
