"""Take turns as one side of a contest: words on standard input, figures on standard output."""

import sys
from collections.abc import Callable, Iterator


def words() -> Iterator[str]:
    """Print READY and yield each word that asks for a round, until there are no more."""
    print("\nREADY", flush=True)
    for line in sys.stdin:
        yield line.strip()


def answer(figure: float) -> None:
    """Print the figure of a round."""
    print(f"\nFIGURE {figure}", flush=True)


def serve(rounds: dict[str, Callable[[], float]]) -> None:
    """Do the rounds that are asked for by name, until there are no more."""
    for word in words():
        answer(rounds[word]())


class Turns:
    """Turns inside a framework's own loop: `begin` waits for one, `end` prints its figure."""

    def __init__(self) -> None:
        self._words: Iterator[str] | None = None

    def begin(self, *, others: dict[str, Callable[[], float]] | None = None) -> str:
        """Wait for a word and return it; rounds of `others` are done meanwhile, when their word
        comes.

        Raises:
            SystemExit: there are no more turns.
        """
        self._words = self._words or words()
        for word in self._words:
            if not others or word not in others:
                return word
            answer(others[word]())
        raise SystemExit(0)

    def end(self, figure: float) -> None:
        answer(figure)
