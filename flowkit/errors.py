"""Every error that flowkit raises on purpose, each with the exit code of the command line.

A message is one line: it names the file or option, what is wrong and what to do about it.
"""

EXIT_OK = 0
EXIT_USAGE = 2
EXIT_INPUT = 3
EXIT_WEIGHTS = 4
EXIT_NO_GEOMETRY = 5
EXIT_PARTIAL_BATCH = 6
EXIT_INTERRUPTED = 130


_OUT_OF_MEMORY = (
    "can't allocate memory",
    "Insufficient memory",
    "out of memory",
    "Unable to allocate",
    "Cannot allocate memory",
)


class FlowkitError(Exception):
    """Base of all errors that flowkit raises on purpose; `exit_code` is what the command line returns."""

    exit_code: int = 1


class UsageError(FlowkitError):
    """Options that contradict each other or name something that does not exist (exit 2)."""

    exit_code = EXIT_USAGE


class InputError(FlowkitError):
    """A file or array that cannot be read or used (exit 3)."""

    exit_code = EXIT_INPUT


class OutputError(FlowkitError):
    """A result that cannot be written: no permission, no space, a file in the way (exit 3)."""

    exit_code = EXIT_INPUT


class WeightsError(FlowkitError):
    """Weights that are missing, corrupt or of another architecture (exit 4)."""

    exit_code = EXIT_WEIGHTS


class GeometryError(FlowkitError):
    """No reliable geometry where the caller asked for one (exit 5). Pipelines answer with a status instead of raising."""

    exit_code = EXIT_NO_GEOMETRY


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy, OpenCV, torch or the system says by this exception that memory is short."""
    if isinstance(error, MemoryError):
        return True
    speaks = isinstance(error, RuntimeError | OSError) or type(error).__name__ in ("error", "OutOfMemoryError")
    return speaks and any(words in str(error) for words in _OUT_OF_MEMORY)
