"""What the dead letters say: which messages of events could not be used, and why."""

from collections.abc import Sequence
from hashlib import blake2b

from msgspec import Struct


class Letter(Struct, frozen=True):
    """A dead letter in short."""

    reason: str
    digest: bytes


class Letters:
    """Takes the dead letters; `first` has those of one topic by partition and offset.

    >>> letters = Letters("events")
    >>> headers = (("topic", b"events"), ("partition", b"0"), ("offset", b"7"), ("reason", b"bad"))
    >>> letters(headers, b"x"), letters.says(0, 7, "ba", b"x"), letters.says(0, 8, "bad", b"x")
    (None, True, False)
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.first: dict[tuple[int, int], Letter] = {}
        self.again = 0

    def __call__(self, headers: Sequence[tuple[str, bytes]], value: bytes) -> None:
        """Take a dead letter."""
        says = {name: text.decode() for name, text in headers}
        if says["topic"] != self.topic:
            return
        place = int(says["partition"]), int(says["offset"])
        if place in self.first:
            self.again += 1
        else:
            self.first[place] = Letter(says["reason"], _digest(value))

    def says(self, partition: int, offset: int, reason: str, value: bytes) -> bool:
        """Whether the message lies there, whole, for that reason; it is then accounted for."""
        letter = self.first.pop((partition, offset), None)
        return (
            letter is not None
            and letter.reason.startswith(reason)
            and letter.digest == _digest(value)
        )


def _digest(value: bytes) -> bytes:
    return blake2b(value, digest_size=8).digest()
