import json

from typer.testing import CliRunner

from flowkit.cli.weights import app
from flowkit.errors import UsageError, WeightsError

RUN = CliRunner()


def test_list_names_every_card():
    rows = json.loads(RUN.invoke(app, ["list", "--json"]).stdout)
    assert {"xfeat", "disk", "aliked", "disk-lightglue", "aliked-lightglue"} <= {row["name"] for row in rows}
    table = RUN.invoke(app, ["list"])
    assert table.exit_code == 0 and "Apache-2.0" in table.stdout


def test_verify_and_path_report_a_corrupt_or_missing_file(monkeypatch, tmp_path):
    from flowkit.io import weights

    known = weights.cards()
    monkeypatch.setattr(weights, "weights_folder", lambda: tmp_path)
    monkeypatch.setattr(weights, "cards", lambda: known)
    monkeypatch.setattr(weights, "_module_folder", lambda module: None)
    monkeypatch.setenv("FLOWKIT_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FLOWKIT_OFFLINE", "1")
    for arguments in (["path", "xfeat"], ["verify", "xfeat"], ["pull", "xfeat"]):
        assert isinstance(RUN.invoke(app, arguments).exception, WeightsError)
    assert RUN.invoke(app, ["verify"]).exit_code == 0
    (tmp_path / "xfeat.pt").write_bytes(b"something else")
    assert RUN.invoke(app, ["path", "xfeat"]).stdout.strip() == str(tmp_path / "xfeat.pt")
    result = RUN.invoke(app, ["verify"])
    assert "CORRUPT" in result.stdout and isinstance(result.exception, WeightsError)
    assert isinstance(RUN.invoke(app, ["path", "nonsense"]).exception, UsageError)
