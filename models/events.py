"""The nouns: every message rankloop reads or writes, as frozen structs, with one codec.

Messages are JSON objects tagged by `type`; unknown fields are ignored, optional ones that are
missing or null take their defaults, so older and newer producers understand each other. `v` is the
schema version: one above `SCHEMA_VERSION` is refused. Times (`at`) are milliseconds since
1970-01-01 UTC. Every size is bounded: see also `fields`.
"""

from hashlib import blake2b
from typing import Annotated, Literal

from msgspec import Meta, Struct

from models.codec import MAX_MESSAGE_BYTES as MAX_MESSAGE_BYTES
from models.codec import Decode as Decode
from models.codec import InvalidMessageError as InvalidMessageError
from models.codec import NewerVersionError as NewerVersionError
from models.codec import chain as chain
from models.codec import encode as encode
from models.fields import (
    EXACT,
    MAX_MILLIS,
    MAX_SLOTS,
    SCHEMA_VERSION,
    DecisionId,
    Flat,
    Id,
    Ids,
    Label,
    Millis,
    Propensity,
    Value,
    Version,
    Weights,
    unit_of,
)
from models.fields import MAX_CANDIDATES as MAX_CANDIDATES

DAY = 86_400_000


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type"):
    """What all messages share."""

    v: Version = SCHEMA_VERSION


class Item(Message, frozen=True, tag="item"):
    """Something that can be recommended; the latest message with an id replaces the ones before.

    >>> Item(id="film-1", title="Toy Story (1995)", tags=("comedy",), at=0).text
    ''
    """

    id: Id
    at: Millis
    title: Annotated[str, Meta(max_length=1_000)] = ""
    text: Annotated[str, Meta(max_length=20_000)] = ""
    language: Annotated[str, Meta(max_length=100)] | None = None
    tags: Annotated[tuple[Label, ...], Meta(max_length=50)] = ()
    attributes: Flat = {}
    expires_at: Millis | None = None
    deleted: bool = False


class Embedding(Message, frozen=True, tag="embedding"):
    """An item's text as a vector: little-endian float16, under one encoder's version."""

    id: Id
    encoder: Label
    text_hash: Annotated[str, Meta(min_length=16, max_length=64)]
    vector: Annotated[bytes, Meta(min_length=2, max_length=16_384)]


class Request(Message, frozen=True, tag="request"):
    """Somebody wants a ranking of `k` items; `candidates` restricts, `exclude` removes.

    `exclude_seen` removes what the user clicked, or keeps it; without it, the setting says so of
    what rankloop finds, and nothing is removed from `candidates`.
    """

    id: Id
    user: Id
    at: Millis
    k: Annotated[int, Meta(ge=1, le=MAX_SLOTS)] = 10
    context: Flat = {}
    candidates: Ids | None = None
    exclude: Ids = ()
    exclude_seen: bool | None = None


class Impression(Message, frozen=True, tag="impression"):
    """What was really displayed for a request, in order, after any override."""

    id: Id
    request: DecisionId
    user: Id
    at: Millis
    shown: Annotated[tuple[Id, ...], Meta(max_length=MAX_SLOTS)]


class Click(Message, frozen=True, tag="click"):
    """A user chose an item. Without `request` it still teaches what users like."""

    id: Id
    user: Id
    item: Id
    at: Millis
    request: DecisionId | None = None
    position: Annotated[int, Meta(ge=0, le=EXACT)] | None = None


class Reward(Message, frozen=True, tag="reward"):
    """A value earned later or elsewhere: a purchase, dwell time, a rating. May be negative.

    Without `item` it belongs to the whole ranking; without `request`, to the item alone.
    """

    id: Id
    user: Id
    at: Millis
    value: Value
    request: DecisionId | None = None
    item: Id | None = None

    def __post_init__(self) -> None:
        if self.request is None and self.item is None:
            raise ValueError("a reward needs a request, an item or both; it has neither")


class Tick(Message, frozen=True, tag="tick"):
    """Time entering a quiet partition as an event, so that horizons close in the log."""

    at: Millis


class Features(Struct, frozen=True, array_like=True):
    """What a candidate was judged on: `x` named by `Decision.features`, tags, projected text."""

    x: Annotated[tuple[float, ...], Meta(max_length=64)] = ()
    tags: Annotated[tuple[str, ...], Meta(max_length=64)] = ()
    text: Annotated[tuple[float, ...], Meta(max_length=64)] = ()


class Slot(Struct, frozen=True, kw_only=True):
    """One place of a ranking; `propensity` is conditional on the slots above it."""

    item: Id
    propensity: Propensity
    score: float = 0.0
    source: str = ""
    features: Features = Features()


class Decision(Message, frozen=True, tag="decision"):
    """A ranking, and everything needed to make it again. `id` is its request's id.

    `model` is the feedback offset the model had read up to; `items` and `embeddings` likewise;
    `source` is the offset in the events partition that asked. A request that cannot be served
    has no slots and says why in `refused`. With one id twice, the lowest offset counts.
    `left_out`: how many of the request's own candidates were not ranked, by why.
    `weights`: how many times as likely as `policy` each challenger was to fill slots down to each.
    """

    id: DecisionId
    user: Id
    at: Millis
    k: int
    policy: str
    model: int
    items: int
    embeddings: int
    source: int
    encoder: str = ""
    build: str = ""
    settings: str = ""
    seed: int = 0
    slots: Annotated[tuple[Slot, ...], Meta(max_length=MAX_SLOTS)] = ()
    features: tuple[str, ...] = ()
    context: Flat = {}
    candidates: tuple[Id, ...] | None = None
    refused: str | None = None
    left_out: dict[Label, int] = {}
    weights: Weights = {}

    def __post_init__(self) -> None:
        _each(self.weights, len(self.slots))


class Source(Struct, frozen=True, array_like=True, order=True):
    """Where a learning record came from: partition, offset and index among that event's records."""

    partition: int
    offset: int
    index: int


class Interaction(Message, frozen=True, tag="interaction"):
    """A first-seen click or reward of a user on an item: taught to the models at once.

    `prev` is the chain value of the partition's record before (see `chain`).
    """

    id: Id
    user: Id
    item: Id
    at: Millis
    value: Value
    source: Source
    prev: str = ""


class OutcomeSlot(Struct, frozen=True, kw_only=True):
    """A slot that was shown, with what it earned."""

    item: Id
    position: int
    propensity: Propensity
    reward: Value
    features: Features = Features()


class Outcome(Message, frozen=True, tag="outcome"):
    """A decision closed with its rewards: what a policy learns from, and is evaluated on.

    `complete`: a reward came; `expired`: none by the horizon; `corrected`: something late changed
    it, or showed it for the first time. `reward` is that of what was shown, and of the whole.
    `foreign` lists items that were shown though the decision had not proposed them.
    """

    id: DecisionId
    user: Id
    at: Millis
    status: Literal["complete", "expired", "corrected"]
    policy: str
    model: int
    slots: tuple[OutcomeSlot, ...]
    source: Source
    features: tuple[str, ...] = ()
    context: Flat = {}
    reward: float = 0.0
    foreign: tuple[Id, ...] = ()
    prev: str = ""
    weights: Weights = {}

    def __post_init__(self) -> None:
        _each(self.weights, len(self.slots))


def _each(weights: Weights, slots: int) -> None:
    if any(len(found) != slots for found in weights.values()):
        raise ValueError(f"weights are one a slot, of which there are {slots}; got {weights}")


# Whole numbers stay whole: the values hash to the fold they tell of.
SettingValues = Annotated[dict[str, bool | int | float | str], Meta(max_length=256)]


class Begin(Message, frozen=True, tag="begin"):
    """Which log this is; the first one of a feedback log counts, for as long as the log lasts.

    `cluster` and `topics` (topic -> id) are Kafka's, empty from a broker that tells none; `rules`
    are those of attribution; `fold` is the one that decides from here on. `learning` and `joining`
    are the settings behind `fold` and `rules`, by name, for people to compare with; never secrets.
    """

    fold: Label
    rules: Label
    partitions: Annotated[int, Meta(ge=1)]
    cluster: str = ""
    topics: dict[str, str] = {}
    learning: SettingValues = {}
    joining: SettingValues = {}


class Fold(Message, frozen=True, tag="fold"):
    """From here on, workers that fold as `fold` says decide, if those of `expects` did before.

    `learning`: as in `Begin`.
    """

    fold: Label
    expects: Annotated[str, Meta(max_length=256)]
    learning: SettingValues = {}


class Champion(Message, frozen=True, tag="champion"):
    """From here on `policy` decides, if `expects` did before: a promotion, or a rollback."""

    policy: Label
    expects: Label


class Mark(Message, frozen=True, tag="mark"):
    """What a worker of `fold` had learned up to `version`, as a digest, to compare with."""

    fold: Label
    version: Annotated[int, Meta(ge=0)]
    digest: Label
    build: str = ""


class Restart(Message, frozen=True, tag="restart"):
    """From here on `partition` goes on at `offset` of its events, if `prev` is its chain so far.

    What came before and was not learned never is. `topics` have ids that are accepted with it: of
    topics that were made anew.
    """

    partition: Annotated[int, Meta(ge=0)]
    offset: Annotated[int, Meta(ge=0)]
    prev: str = ""
    topics: dict[str, str] = {}


Event = Request | Impression | Click | Reward | Tick
Record = Interaction | Outcome  # what is learned
Control = Begin | Fold | Champion | Mark | Restart  # what governs the log

decode_event: Decode[Event] = Decode(Event)
decode_item: Decode[Item] = Decode(Item)
decode_embedding: Decode[Embedding] = Decode(Embedding)
decode_decision: Decode[Decision] = Decode(Decision)
decode_record: Decode[Record] = Decode(Record)
decode_feedback: Decode[Record | Control] = Decode(Record | Control)
decode_any: Decode[Item | Embedding | Event | Decision | Record | Control] = Decode(
    Item | Embedding | Event | Decision | Record | Control
)


def read_event(data: bytes, appended: int) -> Event:
    """The event that was appended at `appended`; InvalidMessageError also for other units.

    The past may be replayed, so nothing is too old; but what in seconds would lie between 1973 and
    now is not taken for a time in January 1970.

    >>> read_event(b'{"type":"tick","at":1732780000}', appended=1_760_000_000_000)
    Traceback (most recent call last):
    models.codec.InvalidMessageError: at 1732780000 looks like seconds: multiply by 1000 ...
    """
    event = decode_event(data)
    check_unit("at", event.at, appended + DAY)
    return event


def read_item(data: bytes, appended: int) -> Item:
    """The item that was appended at `appended`; InvalidMessageError also for other units.

    It may be announced, and may expire, in any year to come.
    """
    item = decode_item(data)
    check_unit("at", item.at, appended + DAY)
    expires = item.expires_at
    # After an `at` that can be nothing else than milliseconds, it is that itself.
    if expires is not None and not appended + DAY < item.at * 1000 <= expires * 1000:
        check_unit("expires_at", expires, MAX_MILLIS)
    return item


def check_unit(field: str, time: int, until: int) -> None:
    """InvalidMessageError if a time that is at most `until` is told in another unit."""
    strange = time * 1000 <= until or (field == "at" and time >= 1e14)
    if strange and (what := unit_of(time)):
        raise InvalidMessageError(f"{field} {time} {what} (milliseconds since 1970-01-01 UTC)")


def text_of(item: Item) -> str:
    """The text that stands for an item when it is embedded: title, tags, text."""
    return "\n".join(part for part in (item.title, ", ".join(item.tags), item.text) if part)


def text_hash(text: str) -> str:
    """128 bits over a text, to know an embedding that is still good."""
    return blake2b(text.encode(), digest_size=16).hexdigest()
