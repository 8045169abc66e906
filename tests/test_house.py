"""The order of the house: what is imported when, one version, the pinned set-up, short files."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import flowkit

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "flowkit").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
HEAVY = ("torch", "cv2", "kornia", "poselib", "scipy", "pycolmap")
COMMANDS: list[list[str]] = [
    [],
    *([verb] for verb in ("flow", "match", "align", "pose", "homography", "warp", "show", "bench", "weights", "train")),
    *(["weights", verb] for verb in ("list", "path", "verify", "pull", "convert")),
    *(
        ["bench", kind]
        for kind in ("pairs", "flow", "homography", "pose", "matching", "localization", "odometry", "speed")
    ),
]


def loaded_by(code: str, *arguments: str) -> tuple[set[str], str]:
    """The heavy modules that a fresh Python has loaded after running `code`, and what it printed."""
    report = "import sys; print(*[name for name in HEAVY if name in sys.modules], file=sys.stderr)"
    program = f"HEAVY = {HEAVY!r}\n{code}\n{report}"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split()), done.stdout


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = [line.partition("==") for line in lines if line and not line.startswith("#")]
    assert all(sign for _, sign, _ in pinned), "constraints.txt pins every package with =="
    return {canonicalize_name(name): number for name, _, number in pinned}


def test_import_is_light():
    loaded, _ = loaded_by("import flowkit; flowkit.__version__; dir(flowkit)")
    assert not loaded


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "flowkit")
def test_help_is_light(command):
    run = """
import sys
from flowkit.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    loaded, printed = loaded_by(run, *command, "--help")
    assert "Usage" in printed
    assert not loaded, f"`flowkit {' '.join(command)} --help` loads {sorted(loaded)}"


def test_public_names_exist():
    for name in flowkit.__all__:
        assert getattr(flowkit, name) is not None
    with pytest.raises(AttributeError):
        _ = flowkit.no_such_name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path):
    assert len(path.read_text("utf-8").splitlines()) < 450


def test_version_has_one_source():
    assert version("flowkit-align") == flowkit.__version__, "run `make install` again"
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "flowkit/_version.py"
    literal = re.compile(rf"""["']{re.escape(flowkit.__version__)}["']""")
    assert [path.name for path in SOURCES if literal.search(path.read_text("utf-8"))] == ["_version.py"]


def test_changelog_knows_the_version():
    headings = re.findall(r"^## \[?([\w.]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert flowkit.__version__ in headings


def test_torch_is_pinned_to_the_version_with_a_cpu_build():
    assert pins()["torch"] == "2.13.0"


def test_setup_has_no_cuda_and_no_second_opencv():
    names = pins().keys()
    assert not {name for name in names if name.startswith(("nvidia", "cuda", "triton"))}
    assert names.isdisjoint({"torchvision", "opencv-python", "opencv-contrib-python"})


def test_every_dependency_is_pinned_and_in_range():
    project, pinned = PROJECT["project"], pins()
    groups = [project["dependencies"], PROJECT["build-system"]["requires"], *project["optional-dependencies"].values()]
    for requirement in map(Requirement, chain(*groups)):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"{name} is not in constraints.txt"
        assert pinned[name] in requirement.specifier, f"{name}: {pinned[name]} is not {requirement.specifier}"


def test_every_import_is_a_declared_dependency():
    project = PROJECT["project"]
    declared = [*project["dependencies"], *project["optional-dependencies"]["colmap"]]
    allowed = {canonicalize_name(Requirement(line).name) for line in declared} | {
        "triton"
    }  # comes with torch's CUDA builds
    homes = packages_distributions()
    undeclared = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            else:
                continue
            for top in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - {"flowkit", ""}:
                if allowed.isdisjoint(map(canonicalize_name, homes.get(top, []))):
                    undeclared.add(f"{path.relative_to(ROOT)}: {top}")
    assert not undeclared


def test_readme_names_every_verb():
    text = (ROOT / "README.md").read_text("utf-8")
    for verb in ("flow", "match", "align", "pose", "homography", "warp", "show", "bench", "weights", "train"):
        assert f"flowkit {verb}" in text
