"""A log in memory, in event time: nothing is known before it happened."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import accumulate
from pathlib import Path

from msgspec import Struct, structs

from agents.attribution import AttributionRules
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
from stream.datasets.accounting import (
    TOLERATED,
    CountedEvents,
    LogAccounting,
    count_events,
    left_out_warnings,
    named,
    share,
)
from stream.datasets.log_files import read_log
from stream.settings import Settings
from stream.storage.vector_cache import EncoderIdentity, embedded

NO_ENCODER = EncoderIdentity("none", 1)
NOTHING = LogAccounting(messages=0, what="events", fates={})
EVENTS = Request | Impression | Click | Reward | Tick


class EventLog(Struct, frozen=True):
    """A log in memory: all versions of all items, vectors of those that have one, events.

    `places` says how many events came before each item in the file; empty: none before any.
    `accounting` says what became of every message of the file.

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
    accounting: LogAccounting = NOTHING

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


class FileLog(Struct, frozen=True):
    """A log file without vectors: see `EventLog`."""

    items: tuple[Item, ...]
    events: tuple[Event, ...]
    places: tuple[int, ...]
    accounting: LogAccounting = NOTHING


def read_event_log(path: Path, settings: Settings, limit: int | None = None) -> EventLog:
    """Read a log as `read_file_log` does, and embed its items.

    Vectors are kept under `data_dir` for the next time.
    """
    log = read_file_log(path, settings.attribution_rules(), limit)
    texts = [item for item in log.items if not item.deleted]
    vectors, encoder = embedded(texts, build.encoder(settings), Path(settings.data_dir))
    return EventLog(log.items, vectors, log.events, encoder, log.places, log.accounting)


def read_file_log(path: Path, rules: AttributionRules, limit: int | None = None) -> FileLog:
    """Read a log, of its events the first `limit`, in the order of their time.

    Of events of which a worker learns nothing (duplicates), their time is left. Of equal times the
    order is the file's.
    """
    items: list[Item] = []
    places: list[int] = []
    events: list[Event] = []
    unused = Counter[str]()
    for message in read_log(path):
        if isinstance(message, Item):
            items.append(message)
            places.append(len(events))
        elif isinstance(message, EVENTS):
            events.append(message)
        else:
            unused[message.__struct_config__.tag] += 1
    return _accounted(items, places, events, dict(unused), rules, limit)


def _accounted(
    items: Sequence[Item],
    places: Sequence[int],
    events: Sequence[Event],
    unused: dict[str, int],
    rules: AttributionRules,
    limit: int | None,
) -> FileLog:
    latest = list(accumulate((event.at for event in events), max))
    behind = sum(event.at < at for event, at in zip(events, latest, strict=True))
    if behind:  # of an item, before it are all events up to the latest that lay before it
        events = sorted(events, key=lambda event: event.at)
        times = [event.at for event in events]
        places = [bisect_right(times, latest[n - 1]) if n else 0 for n in places]
    read = events[:limit]
    counted = count_events(read, rules)
    kept = zip(read, counted.kept, strict=True)
    log = FileLog(
        tuple(items),
        tuple(event if useful else Tick(at=event.at) for event, useful in kept),
        tuple(places),
    )
    unread = len(events) - len(read)
    accounting = LogAccounting(
        messages=len(items) + len(events) + sum(unused.values()),
        what="events",
        fates=counted.fates | ({"unread": unread} if unread else {}),
        unused=unused,
        out_of_order=behind,
    )
    return structs.replace(log, accounting=_with_catalogue(log, accounting, counted))


def _with_catalogue(
    log: FileLog, accounting: LogAccounting, counted: CountedEvents
) -> LogAccounting:
    """The accounting with what the catalogue held at each time, and every warning."""
    there: dict[str, int | None] = {}  # id: until when
    entered, about, example, unlisted = 0, 0, None, 0
    for message in EventLog(log.items, (), log.events, NO_ENCODER, log.places).in_time():
        if isinstance(message, Item):
            entered += 1
            if message.deleted:
                there.pop(message.id, None)
            else:
                there[message.id] = message.expires_at
        elif isinstance(message, Click | Reward) and message.item is not None:
            about += 1
            until = there.get(message.item, -1)
            if until is not None and until <= message.at:
                unlisted += 1
                example = example or message
    after = len(log.items) - entered
    warnings: list[str] = []
    if accounting.out_of_order:
        warnings.append(
            f"{share(accounting.out_of_order, accounting.read)} events lay behind a later one in "
            "the file: all are read in the order of `at`"
        )
    warnings += left_out_warnings(counted.fates, counted.examples)
    if after > TOLERATED * len(log.items):
        warnings.append(
            f"{share(after, len(log.items))} items come after the log, of which the last event is "
            f"at {max((event.at for event in log.events), default=0)}: no ranking has them; give "
            "an item the time from which it could be shown, in milliseconds as events, or 0"
        )
    if example is not None and unlisted > TOLERATED * about:
        warnings.append(
            f"{share(unlisted, about)} events are on items that the catalogue did not have at that "
            f"time (not listed yet, deleted or expired), for example {named(example)} on "
            f"{example.item!r}: what is not in the catalogue cannot be recommended, and has no text"
        )
    return structs.replace(
        accounting,
        items=entered,
        items_after_log=after,
        unlisted=unlisted,
        warnings=tuple(warnings),
    )


def liked(event: object) -> str | None:
    """The item that an event shows its user to like, if it does."""
    if isinstance(event, Click):
        return event.item
    if isinstance(event, Reward) and event.item is not None and event.value > 0:
        return event.item
    return None
