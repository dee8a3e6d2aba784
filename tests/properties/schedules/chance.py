"""Chance that can be written down, cut shorter and played again: a schedule is what it drew."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import TypeVar

from msgspec import Struct

T = TypeVar("T")
Frames = list[list[int]]  # the numbers drawn for each event, or at each step


class Schedule(Struct, frozen=True):
    """All that was drawn: for the world as a whole, for each event, at each step."""

    knobs: list[int]
    events: Frames
    steps: Frames


class Chance:
    """Draws from `rng` and keeps what it drew, or draws again what is given.

    What is not given is 0, and 0 is always the peaceful choice: so a schedule may be cut anywhere.

    >>> drawn = Chance(rng=Random(1))
    >>> drawn.frame(); drawn.below(10), drawn.odds(0.5), drawn.frames
    (1, False, [[1, 0]])
    >>> again = Chance(frames=drawn.frames)
    >>> again.frame(); again.below(10), again.odds(0.5), again.below(7)
    (1, False, 0)
    """

    def __init__(self, *, rng: Random | None = None, frames: Frames | None = None) -> None:
        self.rng = rng
        self.frames: Frames = frames or []
        self._given = iter(self.frames)
        self._left: Iterator[int] = iter(())

    def frame(self) -> None:
        """The next event or step begins."""
        if self.rng is None:
            self._left = iter(next(self._given, ()))
        else:
            self.frames.append([])

    def peace(self) -> None:
        """From here on everything is 0."""
        self.rng, self._given, self._left = None, iter(()), iter(())

    def below(self, n: int) -> int:
        """One of 0, 1, ... n - 1."""
        if self.rng is None:
            return min(next(self._left, 0), n - 1)
        value = int(self.rng.random() * n)
        self.frames[-1].append(value)
        return value

    def odds(self, p: float) -> bool:
        """True with this probability."""
        if self.rng is None:
            return next(self._left, 0) > 0
        value = self.rng.random() < p
        self.frames[-1].append(int(value))
        return value

    def some(self, n: int) -> int:
        """From n down to 0: at peace, all there is."""
        return n - self.below(n + 1)

    def pick(self, options: Sequence[T]) -> T:
        """One of these; at peace the first."""
        return options[self.below(len(options))]
