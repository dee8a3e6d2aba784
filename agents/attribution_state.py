"""All that a partition's attribution remembers, as values, and those values as bytes.

A bookmark says where to read it all again; this is it all, for where that would take long (L3).
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from models.events import Click, Decision, Impression, Request, Reward, Source

FORMAT = 3
CHUNK = 5_000  # entries encoded or decoded at once: between them, other threads have their turn

Offset = Annotated[int, Meta(ge=0)]


class PendingState(Struct, frozen=True, array_like=True, gc=False):
    """A decision that may close or be corrected: what `PendingDecision` collects."""

    request: Request
    source: Offset
    deadline: int
    explicit: bool
    until: int
    closed: bool
    forgotten: bool
    decision: bytes | None
    shown: tuple[str, ...] | None
    clicked: tuple[str, ...]
    rewards: dict[str, float]
    whole: float
    rewarded: bool


class EarlyEventState(Struct, frozen=True, array_like=True, gc=False):
    """An event that came before its request: it waits, or is part of the decision `joined`."""

    source: Offset
    until: int
    event: Click | Reward | Impression | None
    joined: Offset | None


class RestartState(Struct, frozen=True, array_like=True):
    """How far back the logs matter: what `RestartTracker` keeps."""

    first: Offset | None  # of what is held; it may be over already, and what is held begin later
    read: Offset
    offsets: Annotated[tuple[Offset, ...], Meta(min_length=1)]
    watermarks: Annotated[tuple[int, ...], Meta(min_length=1)]
    lows: tuple[tuple[Offset, Offset], ...]


class AttributionState(Struct, frozen=True, kw_only=True):
    """An attribution before the event at `next`. Nothing in it changes, and no order matters.

    >>> from agents.attribution import Attribution, AttributionRules
    >>> state = Attribution(0, AttributionRules()).state()
    >>> decode_state(encode_state(state), AttributionRules().digest) == state
    True
    >>> decode_state(encode_state(state), "other rules")
    """

    format: int = FORMAT
    partition: Offset
    rules: str
    next: Offset
    watermark: Offset
    chain: str
    last: Source | None
    counts: dict[str, int]
    closed: tuple[int, int]
    reach: RestartState
    ahead: tuple[tuple[Offset, Decision], ...]  # decisions before their request, by rankings offset
    early: tuple[EarlyEventState, ...]
    held: tuple[PendingState, ...] = ()
    seen: dict[str, int] = {}


class _Known(Struct, frozen=True):
    """What any format says of itself."""

    format: int
    rules: str


_encode = msgspec.msgpack.Encoder().encode
_known = msgspec.msgpack.Decoder(_Known).decode
_head = msgspec.msgpack.Decoder(AttributionState).decode
_held = msgspec.msgpack.Decoder(list[PendingState]).decode
_seen = msgspec.msgpack.Decoder(dict[str, int]).decode


def encode_state(state: AttributionState) -> Iterator[tuple[str, bytes]]:
    """A state as named pieces of bytes, the first one without what the others hold."""
    yield "head", _encode(msgspec.structs.replace(state, held=(), seen={}))
    held, seen = iter(state.held), iter(state.seen.items())
    while some := list(islice(held, CHUNK)):
        yield "held", _encode(some)
    while ids := dict(islice(seen, CHUNK)):
        yield "seen", _encode(ids)


def decode_state(pieces: Iterable[tuple[str, bytes]], rules: str) -> AttributionState | None:
    """The state again; None if another release or other rules made it.

    Raises ValueError if there is no state in it.
    """
    pieces = iter(pieces)
    held: list[PendingState] = []
    seen: dict[str, int] = {}
    try:
        name, data = next(pieces, ("", b""))
        known = _known(data)
        if name != "head" or (known.format, known.rules) != (FORMAT, rules):
            return None
        head = _head(data)
        for name, data in pieces:
            if name == "held":
                held += _held(data)
            else:
                seen |= _seen(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"what is remembered cannot be read: {error}") from None
    return msgspec.structs.replace(head, held=tuple(held), seen=seen)
