"""What one event causes: something to learn, something to answer."""

from msgspec import Struct

from agents.pending import Joined
from models.events import Click, Impression, Interaction, Request, Source


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


def interaction(event: Joined, at: int, source: Source, prev: str) -> Interaction | None:
    """What an event says of a user and an item, if it does."""
    if isinstance(event, Impression) or event.item is None:
        return None
    value = 1.0 if isinstance(event, Click) else event.value
    return Interaction(
        id=event.id, user=event.user, item=event.item, at=at, value=value, source=source, prev=prev
    )


def refresh(click: Click, before: Request | None, k: int) -> Request:
    """A click asks for its user's next ranking, as the request before it did, else of length `k`.

    It counts as shown once something says so.

    >>> refresh(Click(id="c", user="u", item="i", at=5), None, k=3).id
    'refresh:c'
    """
    id, context = f"refresh:{click.id}", {}
    if before is not None and before.user == click.user:
        k, context = before.k, before.context
    return Request(id=id, user=click.user, at=click.at, k=k, context=context)
