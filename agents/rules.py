"""How rewards find their decisions: what a log is folded by, and must go on to be folded by."""

from hashlib import blake2b

import msgspec
from msgspec import Struct


class Rules(Struct, frozen=True, kw_only=True):
    """How rewards find their decisions; times in milliseconds of event time."""

    horizon: int = 600_000  # a decision closes this long after its request
    early: int = 120_000  # a reward may precede its request by this
    lateness: int = 600_000  # after closing, a reward still corrects for this long
    future: int = 60_000  # the watermark runs at most this far ahead of the append time
    implied: bool = True  # without an Impression a decision counts as shown as it stands
    refresh: bool = True  # a click asks for a fresh ranking
    refresh_k: int = 10
    most_closings: int = 100  # at one event; the rest follow at the next ones

    @property
    def window(self) -> int:
        """An event older than the watermark less this is too late."""
        return self.horizon + self.lateness + self.early

    @property
    def digest(self) -> str:
        """Some characters that differ for other rules."""
        return blake2b(msgspec.json.encode(self), digest_size=4).hexdigest()
