"""Where a partition's logs must be read from to make its attribution again, in a few numbers.

Rule L3 of the logs: what is pending, correctable or early says where to begin, not a length of
time. Every place may be earlier than it need be, never later.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agents.attribution_state import EarlyEventState, PendingState, RestartState
from agents.join_window import EarlyEvent
from agents.pending import PendingDecision
from models.events import Source

VERSION = 1
MAX_MARKS = 512  # kept of where the watermark stood; beyond, every other one goes
Offset = Annotated[int, Meta(ge=0)]


class Bookmark(Struct, frozen=True, kw_only=True, array_like=True):
    """What a commit says beside its offset.

    From `ids_from`, before which the watermark stood at `watermark`, ids are noted; from
    `open_from` all is folded, with the decisions from `rankings_from` on. Every decision whose
    (deadline, source) is at most `closed` was closed before the last event.

    >>> bookmark = Bookmark(ids_from=3, watermark=9, open_from=5, rankings_from=2, rules="r")
    >>> encode_bookmark(bookmark)
    '[1,3,9,5,2,[-1,-1],null,"","r"]'
    >>> decode_bookmark(encode_bookmark(bookmark), "r") == bookmark
    True
    """

    version: int = VERSION
    ids_from: Offset
    watermark: Offset
    open_from: Offset
    rankings_from: Offset
    closed: tuple[int, int] = (-1, -1)
    last: Source | None = None  # of the newest record made
    chain: str = ""
    rules: str  # that it was made under: others keep other things


def encode_bookmark(bookmark: Bookmark) -> str:
    """As commit metadata: a hundred characters or so."""
    return msgspec.json.encode(bookmark).decode()


def decode_bookmark(metadata: str, rules: str) -> Bookmark | None:
    """None if there is none, or if another release or other rules made it.

    >>> decode_bookmark("", "r"), decode_bookmark('[2,"of a later release"]', "r")
    (None, None)
    """
    try:
        bookmark = msgspec.json.decode(metadata, type=Bookmark)
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return None
    known = bookmark.version == VERSION and bookmark.rules == rules
    return bookmark if known and bookmark.ids_from <= bookmark.open_from else None


class WatermarkHistory:
    """Where the watermark stood before which offset: a mark whenever it had moved by `step`.

    >>> trail = WatermarkHistory(step=10)
    >>> for offset, watermark in enumerate([0, 100, 105, 200]):
    ...     trail.mark(offset, watermark)
    >>> trail.before(3, window=50), trail.before(3, window=150)
    ((1, 100), (0, 0))
    """

    def __init__(self, step: int, offset: int = 0, watermark: int = 0) -> None:
        self.step = step
        self._offsets = [offset]
        self._watermarks = [watermark]

    def state(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The offsets of the marks, and the watermark at each."""
        return tuple(self._offsets), tuple(self._watermarks)

    def restore(self, offsets: Sequence[int], watermarks: Sequence[int]) -> None:
        """Go on from a state."""
        self._offsets, self._watermarks = list(offsets), list(watermarks)

    def mark(self, offset: int, watermark: int) -> None:
        """Take note of the watermark before folding the event at `offset`, if it is news."""
        if watermark >= self._watermarks[-1] + self.step:
            self._offsets.append(offset)
            self._watermarks.append(watermark)

    @property
    def full(self) -> bool:
        return len(self._offsets) > MAX_MARKS

    def before(self, offset: int, window: int) -> tuple[int, int]:
        """An offset, and the watermark before it.

        Whatever came earlier was beyond `window` before the watermark before `offset`. The first
        mark is as good as any: nothing before it has mattered since.
        """
        at = self._watermarks[bisect_right(self._offsets, offset) - 1]
        i = max(0, bisect_left(self._watermarks, at - window) - 1)
        return self._offsets[i], self._watermarks[i]

    def shorten(self, first: int) -> None:
        """Forget the marks below the offset `first`, and if that is too little, every other one."""
        i = max(0, bisect_right(self._offsets, first) - 1)
        del self._offsets[:i], self._watermarks[:i]
        if len(self._offsets) > MAX_MARKS // 2:
            del self._offsets[1::2], self._watermarks[1::2]


class RestartTracker:
    """The first offset of the events, of the rankings and of the ids that matter still.

    Every event, decision and time costs a few steps once; `places` looks at the ends alone. Memory:
    the requests, early events and decisions since the first one that is live.

    >>> reach = RestartTracker(window=64)
    >>> reach.places(next=3)
    (0, 0, 3, 0)
    """

    def __init__(self, window: int, offset: int = 0, watermark: int = 0, read: int = 0) -> None:
        self.window = window
        self.read = read  # the rankings offset after the last one taken
        self.trail = WatermarkHistory(max(1, window // 64), offset, watermark)
        self._held: deque[PendingDecision | EarlyEvent] = (
            deque()
        )  # in the log's order; its first one is live
        self._lows: deque[tuple[int, int]] = deque()  # source, lowest rankings offset from it on

    @classmethod
    def at(cls, window: int, bookmark: Bookmark) -> "RestartTracker":
        """Begin where a bookmark says."""
        return cls(window, bookmark.ids_from, bookmark.watermark, bookmark.rankings_from)

    @classmethod
    def of(
        cls, window: int, state: RestartState, held: Iterable[PendingDecision | EarlyEvent]
    ) -> "RestartTracker":
        """Go on from a state, with what was live then."""
        self = cls(window, read=state.read)
        self.trail.restore(state.offsets, state.watermarks)
        self._lows.extend(state.lows)
        live = sorted(held, key=lambda one: (one.source, isinstance(one, PendingDecision)))
        if state.first is not None and (not live or state.first < live[0].source):
            self._held.append(EarlyEvent(None, state.first, until=0))  # over, and not let go of yet
        self._held.extend(live)
        return self

    def state(self) -> RestartState:
        """How far back the logs matter."""
        first = self._held[0].source if self._held else None
        return RestartState(first, self.read, *self.trail.state(), tuple(self._lows))

    def pending(self, now: int) -> tuple[PendingState, ...]:
        """All decisions that are live, in the log's order."""
        live = (one for one in self._held if isinstance(one, PendingDecision) and one.live(now))
        return tuple(one.state() for one in live)

    def early(self, now: int) -> tuple[EarlyEventState, ...]:
        """All events that are live and came before their request, in the log's order."""
        live = (one for one in self._held if isinstance(one, EarlyEvent) and one.live(now))
        return tuple(one.state() for one in live)

    @property
    def idle(self) -> bool:
        return not self._held

    def mark(self, offset: int, watermark: int, idle: bool) -> None:
        """Where the watermark stood before the event at `offset`; if `idle`, all begins there."""
        if idle:
            self.trail = WatermarkHistory(self.trail.step, offset, watermark)
        else:
            self.trail.mark(offset, watermark)

    def hold(self, one: PendingDecision | EarlyEvent) -> None:
        """Something that its event's offset is needed for while it is live."""
        self._held.append(one)

    def decided(self, source: int, offset: int) -> None:
        """The decision that counts for `source` is in the rankings at `offset`.

        Where they are not in the order of their sources, a lower offset stands for more of them.
        """
        while self._lows and self._lows[-1][1] >= offset:
            source = max(source, self._lows.pop()[0])
        if self._lows:
            source = max(source, self._lows[-1][0])
        self._lows.append((source, offset))

    def expire(self, offset: int, now: int) -> None:
        """Let go of what is not live any more, before the event at `offset` is taken in."""
        held, lows = self._held, self._lows
        while held and not held[0].live(now):
            held.popleft()
        first = held[0].source if held else offset
        while lows and lows[0][0] < first:
            lows.popleft()
        if self.trail.full:
            self.trail.shorten(self.trail.before(first, self.window)[0])

    def places(self, next: int) -> tuple[int, int, int, int]:
        """Where ids are needed from, the watermark before that, where events are, and rankings."""
        open_from = self._held[0].source if self._held else next
        rankings_from = self._lows[0][1] if self._lows else self.read
        return *self.trail.before(open_from, self.window), open_from, rankings_from
