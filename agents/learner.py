"""The second fold: feedback -> everything learned, in one fixed order; its offset is the version.

Rule L4: a record is taken iff its source is above its partition's last one and its `prev` equals
that partition's chain. A lower source was learned before; anything else is a hole and refused.
"""

from collections import Counter
from hashlib import blake2b
from typing import Literal

import msgspec
from msgspec import Struct

from models.codec import Invalid, chain, too_deep
from models.events import Interaction, Outcome, Source, decode_record
from models.memory import Memory
from policies.base import Policy

Verdict = Literal["learned", "duplicate", "refused", "invalid"]


class Place(Struct, frozen=True):
    """How far one partition has been learned."""

    source: Source
    chain: str


class Unknown(Exception):
    """A record of a type this release does not know: to go on would be to learn otherwise."""


class Tag(Struct):
    type: str = ""


class Learner:
    """Folds the feedback log into the memory and the policy.

    `version` is the feedback offset to read next; `places` how far each partition was learned.

    >>> from policies.uniform import Uniform
    >>> fold = Learner(Memory(None, {}), Uniform())
    >>> fold(0, b"no record"), fold.version
    ('invalid', 1)
    """

    def __init__(self, memory: Memory, policy: Policy, learn_late: bool = False) -> None:
        self.memory = memory
        self.policy = policy
        self.learn_late = learn_late
        self.version = 0
        self.places: dict[int, Place] = {}
        self.counts: Counter[Verdict] = Counter()

    def __call__(self, offset: int, data: bytes) -> Verdict:
        """Take the record at `offset`. Raises Unknown for a type of another release."""
        verdict = self._fold(offset, data)
        self.version = offset + 1
        self.counts[verdict] += 1
        return verdict

    def has(self, source: Source) -> bool:
        """True if the record from this source was learned."""
        place = self.places.get(source.partition)
        return place is not None and source <= place.source

    def _fold(self, offset: int, data: bytes) -> Verdict:
        try:
            record = decode_record(data)
        except Invalid as invalid:
            return self._unusable(data, invalid)
        partition = record.source.partition
        place = self.places.get(partition)
        if place is not None and record.source <= place.source:
            return "duplicate"
        if record.prev != (place.chain if place else ""):
            return "refused"
        self.places[partition] = Place(record.source, chain(data))
        if isinstance(record, Interaction):
            self.memory.learn(record, offset)
        else:
            self._judge(record, offset)
        return "learned"

    def _judge(self, outcome: Outcome, offset: int) -> None:
        self.memory.shown(outcome)
        if outcome.status != "corrected" or self.learn_late:
            self.policy.learn(outcome, offset)

    def _unusable(self, data: bytes, invalid: Invalid) -> Verdict:
        """Bytes that are no record are skipped, by all alike; a record of another kind is not."""
        if too_deep(data):
            return "invalid"
        try:
            kind = msgspec.json.decode(data, type=Tag).type
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return "invalid"
        if kind in ("", "interaction", "outcome"):
            return "invalid"
        raise Unknown(
            f"feedback holds a record of type {kind!r}, which this release cannot fold "
            f"({invalid}); run the release that wrote it, or a newer one"
        )

    def digest(self) -> str:
        """64 bits over all that was learned: equal on every worker at one version."""
        places = sorted((*msgspec.to_builtins(p.source), p.chain) for p in self.places.values())
        digest = blake2b(f"{self.memory.digest()}\n{places}\n".encode(), digest_size=8)
        digest.update(self.policy.save())
        return digest.hexdigest()
