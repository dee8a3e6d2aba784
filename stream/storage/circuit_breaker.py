"""Whether a server that we can do without answers, so that its outage is cheap and logged once."""

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

Clock = Callable[[], float]

PAUSE = 1.0  # seconds a server that does not answer is left alone at first; doubles
LONGEST_PAUSE = 30.0


class CircuitBreaker:
    """Closed for 1, 2, 4 ... 30 seconds after each failure in a row, else open.

    >>> line = CircuitBreaker("rankings", lambda: 7.0)
    >>> line.failed(TimeoutError()); line.open()
    False
    """

    def __init__(self, name: str, clock: Clock) -> None:
        self._name, self._clock = name, clock
        self._pause = 0.0  # 0 while it answers
        self._until = 0.0

    @property
    def answers(self) -> bool:
        """Whether it answered when it was last asked."""
        return not self._pause

    def open(self) -> bool:
        """Whether it is worth asking now."""
        return not self._pause or self._clock() >= self._until

    def failed(self, error: Exception) -> None:
        """It did not answer, or refused; logged at the first failure of an outage."""
        if not self._pause:
            log.warning("store lost", extra={"store": self._name, "error": type(error).__name__})
        self._pause = min(self._pause * 2, LONGEST_PAUSE) or PAUSE
        self._until = self._clock() + self._pause

    def succeeded(self) -> None:
        """It answered."""
        if self._pause:
            log.warning("store back", extra={"store": self._name})
        self._pause = 0.0
