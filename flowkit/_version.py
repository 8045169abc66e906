"""The version, in one place: the wheel and every result file carry it."""

__version__ = "0.1.0"
