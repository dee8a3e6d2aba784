"""Where a partition's logs must be read from to make its attribution again, in a few numbers.

Rule L3 of the logs: what is pending, correctable or early says where to begin, not a length of
time. Every place may be earlier than it need be, never later.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

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


class Trail:
    """Where the watermark stood before which offset: a mark whenever it had moved by `step`.

    >>> trail = Trail(step=10)
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
