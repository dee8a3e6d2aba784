"""A log in memory, in event time: nothing is known before it happened."""

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from pathlib import Path

from msgspec import Struct, structs

from models.events import (
    Click,
    Embedding,
    Event,
    Impression,
    Item,
    Request,
    Reward,
    Tick,
    text_hash,
    text_of,
)
from stream import build
from stream.datasets.log_files import read_log
from stream.settings import Settings
from stream.storage.vector_cache import EncoderIdentity, embedded

EVENTS = Request | Impression | Click | Reward | Tick


class EventLog(Struct, frozen=True):
    """A log in memory: all versions of all items, vectors of those that have one, events.

    `places` says how many events came before each item in the file; empty: none before any.

    >>> ann = {"user": "ann", "item": "a"}
    >>> log = EventLog(
    ...     (Item(id="a", at=0), Item(id="a", at=0, deleted=True)),
    ...     (Embedding(id="a", encoder="none", text_hash=text_hash(""), vector=b"00"),),
    ...     (Click(id="c", at=5, **ann), Click(id="d", at=6, **ann)),
    ...     EncoderIdentity("none", 1), (0, 1))
    >>> [type(message).__name__ for message in log.in_time()]
    ['Item', 'Embedding', 'Click', 'Item', 'Click']
    """

    items: tuple[Item, ...]
    embeddings: tuple[Embedding, ...]
    events: tuple[Event, ...]
    encoder: EncoderIdentity
    places: tuple[int, ...] = ()

    def in_time(self) -> Iterator[Item | Embedding | Event]:
        """Everything in event time: before an event come the versions that were known by then.

        An item's first version is known from its `at` on, wherever the file has it: a catalogue is
        written before or after its events. A later version or a deletion is known neither before
        its `at`, which may still be the first one's, nor before its place in the file: so what
        follows all events never is.
        """
        entering = self._entering()
        later = next(entering, None)
        waiting: list[tuple[int, int, Item, Embedding | None]] = []
        for n, event in enumerate(self.events):
            while later and later[0] <= n:
                heappush(waiting, later[1:])
                later = next(entering, None)
            while waiting and waiting[0][0] <= event.at:
                _, _, item, embedding = heappop(waiting)
                yield item
                if embedding is not None:
                    yield embedding
            yield event

    def _entering(self) -> Iterator[tuple[int, int, int, Item, Embedding | None]]:
        """(place, time, number, item, vector) of each version, by place; versions keep order."""
        places = self.places or (0,) * len(self.items)
        vectors = pairs(self.items, self.embeddings)
        known: dict[str, int] = {}  # id: when its latest version entered
        made: list[tuple[int, int, int, Item, Embedding | None]] = []
        for i, (place, (item, vector)) in enumerate(zip(places, vectors, strict=True)):
            first = item.id not in known
            at = known[item.id] = max(item.at, known.get(item.id, item.at))
            made.append((0 if first else place, at, i, item, vector))
        return iter(sorted(made, key=lambda one: one[0]))


def pairs(
    items: Iterable[Item], embeddings: Iterable[Embedding]
) -> Iterator[tuple[Item, Embedding | None]]:
    """Each item with the vector of its text, if there is one.

    A new version without a vector comes with one of zeros where an older one has a vector: that one
    is not its own.
    """
    known = {(made.id, made.text_hash): made for made in embeddings}
    had: dict[str, Embedding] = {}
    for item in items:
        if item.deleted:
            yield item, None
            continue
        vector = known.get((item.id, text_hash(text_of(item))))
        old = had.pop(item.id, None)
        if vector is not None:
            had[item.id] = vector
        elif old is not None:
            vector = structs.replace(old, vector=bytes(len(old.vector)))
        yield item, vector


def read_event_log(path: Path, settings: Settings, limit: int | None = None) -> EventLog:
    """Read a log, of its events the first `limit`, and embed its items.

    Vectors are kept under `data_dir` for the next time.
    """
    items: list[Item] = []
    places: list[int] = []
    events: list[Event] = []
    for message in read_log(path):
        if isinstance(message, Item):
            items.append(message)
            places.append(len(events))
        elif isinstance(message, EVENTS):
            events.append(message)
    texts = [item for item in items if not item.deleted]
    vectors, encoder = embedded(texts, build.encoder(settings), Path(settings.data_dir))
    return EventLog(tuple(items), vectors, tuple(events[:limit]), encoder, tuple(places))


def liked(event: object) -> str | None:
    """The item that an event shows its user to like, if it does."""
    if isinstance(event, Click):
        return event.item
    if isinstance(event, Reward) and event.item is not None and event.value > 0:
        return event.item
    return None
