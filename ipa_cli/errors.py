"""Foreseen failures: one line saying what is wrong, one saying what to type next.

One rule for exit statuses: 2 when what was typed or set is wrong in itself, whatever the machine, its files and the
network hold, so that another command line, variable or line of `ipa.toml` is needed; 1 for everything else that is
foreseen: a file that is missing, damaged, there already or not as it must be, no room, no network, no such device, an
answer of "no" to a question.
"""

from collections.abc import Iterable
from difflib import get_close_matches

RESUME_HINT = "the same command with --resume draws what is missing"


class IpaError(Exception):
    """A failure the user can act on; anything else is a bug and keeps its traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(IpaError):
    """What was typed or set is wrong in itself."""

    exit_code = 2


class Interrupted(IpaError):
    """A signal ended the work; what there was by then is the result."""

    exit_code = 130


class OutputError(IpaError):
    """The result cannot be written to stdout, which holds nothing then, not even JSON."""

    def __init__(self, error: OSError):
        super().__init__(f"stdout cannot be written: {error.strerror}", "send the output somewhere else")


def suggest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for a near miss, else nothing."""
    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
