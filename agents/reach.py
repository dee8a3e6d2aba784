"""How far back a partition's logs are needed, kept while folding, so that asking is cheap."""

from collections import deque
from collections.abc import Iterable

from agents.attribution_state import Awaiting, Held, Reached
from agents.bookmark import Bookmark, Trail
from agents.early import Early
from agents.pending import Pending


class Reach:
    """The first offset of the events, of the rankings and of the ids that matter still.

    Every event, decision and time costs a few steps once; `places` looks at the ends alone. Memory:
    the requests, early events and decisions since the first one that is live.

    >>> reach = Reach(window=64)
    >>> reach.places(next=3)
    (0, 0, 3, 0)
    """

    def __init__(self, window: int, offset: int = 0, watermark: int = 0, read: int = 0) -> None:
        self.window = window
        self.read = read  # the rankings offset after the last one taken
        self.trail = Trail(max(1, window // 64), offset, watermark)
        self._held: deque[Pending | Early] = deque()  # in the log's order; its first one is live
        self._lows: deque[tuple[int, int]] = deque()  # source, lowest rankings offset from it on

    @classmethod
    def at(cls, window: int, bookmark: Bookmark) -> "Reach":
        """Begin where a bookmark says."""
        return cls(window, bookmark.ids_from, bookmark.watermark, bookmark.rankings_from)

    @classmethod
    def of(cls, window: int, state: Reached, held: Iterable[Pending | Early]) -> "Reach":
        """Go on from a state, with what was live then."""
        self = cls(window, read=state.read)
        self.trail.restore(state.offsets, state.watermarks)
        self._lows.extend(state.lows)
        live = sorted(held, key=lambda one: (one.source, isinstance(one, Pending)))
        if state.first is not None and (not live or state.first < live[0].source):
            self._held.append(Early(None, state.first, until=0))  # over, and not let go of yet
        self._held.extend(live)
        return self

    def state(self) -> Reached:
        """How far back the logs matter."""
        first = self._held[0].source if self._held else None
        return Reached(first, self.read, *self.trail.state(), tuple(self._lows))

    def pending(self, now: int) -> tuple[Held, ...]:
        """All decisions that are live, in the log's order."""
        live = (one for one in self._held if isinstance(one, Pending) and one.live(now))
        return tuple(one.state() for one in live)

    def early(self, now: int) -> tuple[Awaiting, ...]:
        """All events that are live and came before their request, in the log's order."""
        live = (one for one in self._held if isinstance(one, Early) and one.live(now))
        return tuple(one.state() for one in live)

    @property
    def idle(self) -> bool:
        return not self._held

    def mark(self, offset: int, watermark: int, idle: bool) -> None:
        """Where the watermark stood before the event at `offset`; if `idle`, all begins there."""
        if idle:
            self.trail = Trail(self.trail.step, offset, watermark)
        else:
            self.trail.mark(offset, watermark)

    def hold(self, one: Pending | Early) -> None:
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
