"""What one event causes: something to learn, something to answer."""

from msgspec import Struct

from models.events import Request, Source


class Ask(Struct, frozen=True):
    """A request to answer, and the offset of the event that asked."""

    request: Request
    source: int


class Lesson(Struct, frozen=True):
    """An encoded learning record and where it came from."""

    source: Source
    data: bytes


class Yield(Struct, frozen=True):
    """What one event causes: learning records in their order, and what to answer.

    `fate` is the counter the event ended in, or "waiting" if it came before its request.
    """

    lessons: list[Lesson]
    asks: list[Ask]
    fate: str
