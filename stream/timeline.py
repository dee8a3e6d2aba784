"""A log in memory, in event time: nothing is known before it happened."""

from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from models.events import Click, Embedding, Event, Impression, Item, Request, Reward, Tick
from stream import build
from stream.files import read_log
from stream.settings import Settings
from stream.vectors import Known, embedded

EVENTS = Request | Impression | Click | Reward | Tick


class Log(Struct, frozen=True):
    """A log in memory: items with their vectors, and events in the file's order."""

    items: tuple[Item, ...]
    embeddings: tuple[Embedding, ...]
    events: tuple[Event, ...]
    encoder: Known

    def in_time(self) -> Iterator[Item | Embedding | Event]:
        """Everything in event time: before an event come the items that existed by then."""
        order = sorted(range(len(self.items)), key=lambda i: self.items[i].at)
        pairs = ((self.items[i], self.embeddings[i]) for i in order)
        following = next(pairs, None)
        for event in self.events:
            while following and following[0].at <= event.at:
                yield from following
                following = next(pairs, None)
            yield event


def read(path: Path, settings: Settings) -> Log:
    """Read a log and embed its items; vectors are kept under `data_dir` for the next time."""
    items: dict[str, Item] = {}
    events: list[Event] = []
    for message in read_log(path):
        if isinstance(message, Item):
            items[message.id] = message
        elif isinstance(message, EVENTS):
            events.append(message)
    kept = tuple(item for item in items.values() if not item.deleted)
    vectors, encoder = embedded(kept, build.encoder(settings), Path(settings.data_dir))
    return Log(kept, vectors, tuple(events), encoder)


def liked(event: object) -> str | None:
    """The item that an event shows its user to like, if it does."""
    if isinstance(event, Click):
        return event.item
    if isinstance(event, Reward) and event.item is not None and event.value > 0:
        return event.item
    return None
