"""Whether a worker answers requests, and if not, why: for `/readyz`, `/metrics` and the log."""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

log = logging.getLogger(__name__)
EVERY = 1.0  # seconds between two looks
AGAIN = 30.0  # seconds between two lines while it is not ready
SAMPLES = 600  # of the end of a log; beyond, every other one is left out
WORKING = {"catching_up", "joining", "restoring"}  # steps of a start: no alarm by themselves

Check = Callable[[], str | None]


class Readiness:
    """Reasons why this worker is not ready, by name, each with what to do about it.

    A check gives the reason, with the rule and the remedy, or None.

    >>> ready = Readiness()
    >>> ready.add("no_items", lambda: "no item was published yet")
    >>> ready.add("kafka_away", lambda: None)
    >>> ready.reasons(), ready.names
    ({'no_items': 'no item was published yet'}, ['kafka_away', 'no_items'])
    """

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}
        self._notes: dict[str, Check] = {}
        self._said: frozenset[str] | None = None
        self._said_at = 0.0

    def add(self, name: str, check: Check) -> None:
        """Look at this whenever somebody asks."""
        self._checks[name] = check

    def add_note(self, name: str, check: Check) -> None:
        """The same for what is worth knowing of a worker that is ready."""
        self._notes[name] = check

    @property
    def names(self) -> list[str]:
        """All reasons that there may be."""
        return sorted(self._checks)

    def reasons(self) -> dict[str, str]:
        """Why it is not ready, by name; {}: it is."""
        return _found(self._checks)

    def notes(self) -> dict[str, str]:
        """What else is worth knowing, by name."""
        return _found(self._notes)

    def say(self, now: float, facts: Callable[[], Mapping[str, Any]]) -> None:
        """Log a change, and again every half a minute while it is not ready."""
        reasons, notes = self.reasons(), self.notes()
        names = frozenset({*reasons, *notes})
        if names == self._said and (not reasons or now - self._said_at < AGAIN):
            return
        if reasons:
            starts = reasons.keys() <= WORKING and names != self._said
            level = logging.INFO if starts else logging.WARNING
            level = logging.ERROR if "standing_by" in reasons else level
            log.log(level, "not ready", extra=reasons)
        else:
            log.info("ready", extra={**facts(), **notes})
        self._said, self._said_at = names, now


def _found(checks: Mapping[str, Check]) -> dict[str, str]:
    return {name: why for name, check in checks.items() if (why := check())}


async def keep_saying(
    ready: Readiness, look: Callable[[float], None], facts: Callable[[], Mapping[str, Any]]
) -> None:
    """Look and log until cancelled."""
    while True:
        now = time.monotonic()
        look(now)
        ready.say(now, facts)
        await asyncio.sleep(EVERY)


class LagClock:
    """For how long a log has been ahead of who reads it: from samples of its end and their time.

    >>> clock = LagClock()
    >>> [clock(now, end, position) for now, end, position in ((0., 5, 5), (1., 9, 5), (7., 9, 8))]
    [0.0, 0.0, 6.0]
    >>> clock(8, 9, 9)
    0.0
    """

    def __init__(self) -> None:
        self._ends: list[tuple[float, int]] = []

    def __call__(self, now: float, end: int, position: int) -> float:
        """Seconds since the log was first seen to go beyond `position`, as far as it is known."""
        if not self._ends or end > self._ends[-1][1]:
            self._ends.append((now, end))
        if len(self._ends) > SAMPLES:
            del self._ends[1::2]
        self._ends = [sample for sample in self._ends if sample[1] > position]
        return now - self._ends[0][0] if self._ends else 0.0
