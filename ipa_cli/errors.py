"""Foreseen failures: one line saying what is wrong, one saying what to type next."""


class IpaError(Exception):
    """A failure the user can act on; anything else is a bug and keeps its traceback."""

    exit_code = 1

    def __init__(self, message: str, hint: str = ""):
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(IpaError):
    """The command was typed wrongly or a setting has an impossible value."""

    exit_code = 2
