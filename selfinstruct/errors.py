"""The errors a user can meet: a message, a hint what to do next, and the exit code of the command line.

    SelfInstructError
    ├── UsageError       2   flags, recipe, a missing extra, a run folder that was changed or is in use
    ├── InputError       3   a malformed file (file:line), or a check that failed
    ├── ExhaustedError   5   below the target, and nothing new comes any more
    ├── EngineError      6   the engine cannot answer
    └── StorageError     7   cannot read or write

Everything else that escapes is a bug and shows a traceback (exit 1).
"""

from __future__ import annotations


class SelfInstructError(Exception):
    """What happened, and (as ``hint``) what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SelfInstructError):
    """The command, the recipe or the installation is not right, or the run folder is refused."""

    exit_code = 2


class InputError(SelfInstructError):
    """A file does not hold what it should; the message names file:line. Also a failed check."""

    exit_code = 3


class ExhaustedError(SelfInstructError):
    """The run stopped below its target because nothing new came for long."""

    exit_code = 5


class EngineError(SelfInstructError):
    """The engine cannot answer at all: refused key, unknown model, outage. Nothing of it becomes data."""

    exit_code = 6


class StorageError(SelfInstructError):
    """A file or folder cannot be read or written."""

    exit_code = 7
