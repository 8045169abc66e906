"""What all tests share: few threads, a hypothesis profile, the folder of real pairs, the command as a process."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parents[1]

# Before torch or OpenCV is imported anywhere: one thread a process, since the workers of pytest-xdist share the cores.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"):
    os.environ.setdefault(_variable, "1")

settings.register_profile(
    "flowkit",
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("thorough", parent=settings.get_profile("flowkit"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "flowkit"))


class Answer(NamedTuple):
    """What a command came back with."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout, with the real pairs in `shared/data`; the test is skipped without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("no ../shared/data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def examples() -> Path:
    """The example pairs of the repository."""
    return ROOT / "examples"


@pytest.fixture(scope="session")
def flowkit_cli() -> Callable[..., Answer]:
    """Run the command as a user does: `code, stdout, stderr = flowkit_cli("flow", a, b, "--output", directory)`."""

    def run(
        *arguments: str | Path,
        cwd: str | Path | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 300,
    ) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "flowkit", *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=timeout,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    return run
