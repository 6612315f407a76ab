"""How a command says that it could not do what was asked."""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the exit status means."""

    OK = 0
    FAILED = 1
    """It was tried, and did not work; the message says why and what to do."""
    USAGE = 2
    """The arguments, or a file they name, are wrong; nothing was done."""
    NOT_IN_TIME = 3
    """What was waited for did not come in the time that was given."""
    IMPOSSIBLE = 4
    """There is no such object, or it needs a person to change something first."""
    INTERRUPTED = 130


class CommandError(Exception):
    """A command failed. The message says what happened and what to type next."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code
