"""Dead letters in the log: one line a reason and minute, with an example and a hint."""

import logging

from msgspec import Struct

log = logging.getLogger(__name__)
SECONDS = 60.0  # between two lines about one reason
MOST = 100  # reasons that are told apart
LONGEST = 300  # characters of a reason

HINTS = {
    "misrouted": "librdkafka? set partitioner=murmur2_random; the key of an event is its user",
    "future": "at is in milliseconds since 1970; look at the producer's clock",
    "too_late": "older than horizon + allowed lateness + early reward; at is in milliseconds",
    "invalid": "`rankloop schema` prints what a message must look like",
    "wrong key": "the key of an item is its id, of an embedding its encoder, a space and the id",
    "not embedded": "the text model failed on it; the ERROR line before this names the item",
}


class Example(Struct):
    """Where the first of some dead letters lies, why it is one, and how many there were."""

    topic: str
    partition: int
    offset: int
    why: str
    count: int = 0


class DeadLetterLog:
    """Says the first dead letter of a reason at once, and what follows once a minute.

    Nothing of a message is logged but what its reason quotes, cut and escaped: it may be secret.

    >>> letters = DeadLetterLog()
    >>> letters.add("rankloop.events", 1, 42, "misrouted: the key must be the user", now=0.0)
    >>> letters.add("rankloop.events", 1, 43, "misrouted: the key must be the user", now=1.0)
    >>> [one.count for one in letters.due(now=59.0)], [one.count for one in letters.due(now=60.0)]
    ([], [1])
    """

    def __init__(self) -> None:
        self._said: dict[tuple[str, str], float] = {}
        self._open: dict[tuple[str, str], Example] = {}  # since then

    def add(self, topic: str, partition: int, offset: int, reason: str, now: float) -> None:
        """One more, which was published."""
        key = topic, reason.partition(":")[0][:LONGEST]
        if key not in self._said and len(self._said) >= MOST:
            key = topic, "other"
        example = Example(topic, partition, offset, _escaped(reason))
        self._open.setdefault(key, example).count += 1
        if key not in self._said:
            self.say(now)

    def due(self, now: float) -> list[Example]:
        """What is to be said now; it is not due again."""
        keys = [k for k in self._open if now - self._said.get(k, now - SECONDS) >= SECONDS]
        self._said |= dict.fromkeys(keys, now)
        return [self._open.pop(key) for key in keys]

    def say(self, now: float) -> None:
        """Log what is due."""
        for one in self.due(now):
            reason = one.why.partition(":")[0]
            log.warning(
                "dead letters: %d %s",
                one.count,
                reason,
                extra={
                    "reason": reason,
                    "count": one.count,
                    "topic": one.topic,
                    "partition": one.partition,
                    "offset": one.offset,
                    "example": one.why,
                    "hint": HINTS.get(reason, "its header `reason` says what is wrong"),
                },
            )

    def finish(self) -> None:
        """Log all that was not said yet."""
        self.say(float("inf"))


def _escaped(text: str) -> str:
    """One line of printable ASCII, cut: what a stranger wrote must not write our log.

    >>> _escaped("invalid: got \\x1b[2J\\n" + "x" * 1000)[:24]
    'invalid: got \\\\x1b[2J\\\\nxx'
    """
    return ascii(text[:LONGEST])[1:-1]
