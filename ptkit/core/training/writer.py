"""The thread that writes what is recorded of a run, while the run goes on."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """Does one job after the other in a thread of its own: a job is all that is written of an
    epoch, in its order.

    A job that failed ends all writing: when it is done, every method but `close` raises its error,
    so that nothing is written after a gap.
    """

    def __init__(self) -> None:
        # One thread, which starts with the first job; the program does not end before its job does.
        self._thread = ThreadPoolExecutor(1, "ptkit-writer")
        self._job: Future[None] | None = None

    def begin(self, job: Callable[[], None]) -> None:
        """Begin a job when the one before is done: it is never more than one behind.

        Raises:
            Exception: what the job before raised.
        """
        self.wait()
        self._job = self._thread.submit(job)

    def check(self) -> None:
        """Raise what the job raised if it has failed; waits for nothing, so each step may ask.

        Raises:
            Exception: what the job raised.
        """
        if self._job is not None and self._job.done():
            self._job.result()

    def wait(self) -> None:
        """Wait until the job is done.

        Raises:
            Exception: what the job raised.
        """
        if self._job is not None:
            self._job.result()

    def close(self) -> None:
        """Wait until the job is done, well or not, and end the thread."""
        self._thread.shutdown()
