"""The wheel, installed elsewhere: weights and schema are in it, and the commands work away from the checkout."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import flowkit

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(directory), str(ROOT)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def elsewhere(wheel, tmp_path_factory) -> Path:
    """A virtual environment with flowkit from the wheel; its dependencies are those already installed."""
    directory = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(directory, with_pip=False, symlinks=os.name != "nt")
    scheme = {"base": str(directory), "platbase": str(directory)}
    python = Path(sysconfig.get_path("scripts", "venv", vars=scheme)) / Path(sys.executable).name
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    install = [*pip, "install", "--no-deps", "--no-index", "--quiet", str(wheel)]
    done = subprocess.run(install, capture_output=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    # The folders are added, the .pth files inside them (the checkout, installed to be edited) are not read.
    installed = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    own = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    (own / "dependencies.pth").write_text("\n".join(installed) + "\n", "utf-8")
    return python


@pytest.fixture
def run(elsewhere, tmp_path):
    """Run a command of the new environment in an empty folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def command(program: str, *arguments: object) -> str:
        done = subprocess.run(
            [elsewhere.with_name(program), *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return command


def test_contents(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"flowkit/__init__.py", "flowkit/__main__.py", "flowkit/_weights/models.toml"} <= names
    licences = {Path(name).name for name in names if ".dist-info/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    folders = {name.split("/")[0] for name in names}
    assert folders == {"flowkit", f"flowkit_align-{flowkit.__version__}.dist-info"}


def test_flowkit_is_the_one_of_the_wheel(run, elsewhere):
    path = Path(run(elsewhere.name, "-c", "import flowkit; print(flowkit.__file__)").strip())
    assert path.is_relative_to(elsewhere.parents[1])


def test_version_and_help(run):
    assert flowkit.__version__ in run("flowkit", "--version")
    assert "align" in run("flowkit", "--help")


def test_weights_and_schema_came_along(run, elsewhere):
    assert run("flowkit", "weights", "list").strip()
    code = "from flowkit.io.results import schemas; import json; print(json.dumps(schemas()))"
    assert "schema" in run(elsewhere.name, "-c", code)


def test_a_verb_works(run, examples, tmp_path):
    run("flowkit", "flow", examples / "chelsea_0.png", examples / "chelsea_1.png", "--output", tmp_path / "out")
    assert {"flow.flo", "flow.png", "flow.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
