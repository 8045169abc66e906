"""The command `flowkit`: gathers the verbs, and turns every error into one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Never

import typer

from flowkit._version import __version__
from flowkit.cli import align, bench, flow, homography, match, pose, report, show, train, warp, weights
from flowkit.errors import EXIT_INTERRUPTED, EXIT_USAGE, FlowkitError, UsageError

_EPILOG = (
    "Exit codes: 0 ok, 1 internal error, 2 usage, 3 unreadable or unusable input or output, 4 weights missing or corrupt, "
    "5 no reliable geometry, 6 part of a batch failed, 130 interrupted."
)

app = typer.Typer(
    name="flowkit",
    help="Given any two images, where did every pixel go? As flow, matches, geometry, or an aligned picture.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _verb in (flow.flow, match.match, homography.homography, pose.pose, align.align, warp.warp, train.train, show.show):
    app.command()(_verb)
app.add_typer(weights.app, name="weights")
app.add_typer(bench.app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"flowkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    report.start()


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing is raised, everything is reported."""
    try:
        code = app(args=None if arguments is None else list(arguments), prog_name="flowkit", standalone_mode=False)
        sys.stdout.flush()
        if code == EXIT_INTERRUPTED:  # typer has caught the KeyboardInterrupt
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except SystemExit as leaving:  # typer leaves with 0 after shell completion, and with 1 when the pipe is closed
        return report.EXIT_BROKEN_PIPE if leaving.code else 0
    except typer.Abort:
        return report.fail(KeyboardInterrupt())
    except BaseException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error, file=sys.stderr)
            return EXIT_USAGE
        return report.fail(_usage(error) or error)


def main() -> Never:
    """Entry point of the command `flowkit`.

    Leaves without taking the interpreter apart, which with torch loaded takes half a second, unless there are
    processes to end.
    """
    code = run()
    processes = sys.modules.get("multiprocessing")
    if processes is None or not processes.active_children():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed: `run` has said so
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _usage(error: BaseException) -> FlowkitError | None:
    """What typer says of wrong options as our own error; typer brings its own copy of click, so it is told by its shape."""
    message = getattr(error, "format_message", None)
    if message is None:
        return None
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "flowkit"
    text = " ".join(str(message()).split()).rstrip(".")
    return UsageError(f"{text}; see `{path} --help`")
