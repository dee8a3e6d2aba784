"""The errors that agents raise, and the roots of all of ours: `stream.errors` shows the tree."""

from typing import ClassVar


class RankloopError(Exception):
    """Whatever ends a command in one line; not an error of the program."""

    exit_code: ClassVar[int] = 1


class UserError(RankloopError):
    """A setting, a file, a topic or a server is not as it must be: says what to do."""


class LogError(RankloopError):
    """The log is not what it must be, and no retry mends that: the worker must stop."""


class RetryableError(RankloopError):
    """It may work at the next try."""


class DivergedError(LogError):
    """This worker derives another record than the one that was learned: it must not go on."""


class RestartNeededError(LogError):
    """What a partition needs of its logs is gone: it goes on from a Restart alone.

    `offset`: where to, if nothing that is still in the log is lost by it.
    """

    def __init__(self, text: str, offset: int | None = None) -> None:
        super().__init__(text)
        self.offset = offset


class UnknownRecordTypeError(LogError):
    """A record of a type, or a schema version, that this release does not know.

    To go on without it would be to learn otherwise.
    """
