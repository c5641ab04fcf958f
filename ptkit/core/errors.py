"""Errors that the user can fix, and the exit code of each kind."""


class PtkitError(Exception):
    """Base of all errors that are printed as one line: what was found, where, what to do."""

    exit_code = 1


class UsageError(PtkitError):
    """Wrong usage or settings."""

    exit_code = 2


class DataError(PtkitError):
    """Bad data: an unreadable image, a wrong list line, an empty folder."""

    exit_code = 3


class ImageError(DataError):
    """An image that cannot be read."""


class CheckpointError(PtkitError):
    """A checkpoint or weights file that is damaged, foreign or does not fit."""

    exit_code = 4


class DivergedError(PtkitError):
    """Training diverged: the loss became NaN or infinite.

    step: of the run, from 1, None where it is not known. where: the first gradient that shows it.
    """

    exit_code = 5

    def __init__(self, message: str, *, step: int | None = None, where: str | None = None) -> None:
        super().__init__(message)
        self.step, self.where = step, where


class UntrainableError(PtkitError):
    """A check before training failed: nothing was trained."""

    exit_code = 5


class StorageError(PtkitError):
    """The disk or the network failed."""

    exit_code = 74


class FindingsError(PtkitError):
    """Something was found in a run that --strict does not let pass."""

    exit_code = 5


class InterruptedRunError(PtkitError):
    """A signal ended the work; what was saved is still there."""

    def __init__(self, message: str, *, signal_number: int = 2) -> None:
        super().__init__(message)
        self.signal_number, self.exit_code = signal_number, 128 + signal_number
