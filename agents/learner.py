"""The second fold: feedback -> everything learned, in one fixed order; its offset is the version.

Rule L4: a record is taken iff its source is above its partition's last one and its `prev` equals
that partition's chain. A lower source was learned before; anything else is a hole and refused.
"""

from collections import Counter
from hashlib import blake2b
from typing import Literal

import msgspec
import numpy as np
from msgspec import Struct

from models.base import Arrays
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


class State(Struct, frozen=True, kw_only=True):
    """All that was learned up to a version. It shares nothing with the learner it came from.

    `last` is the chain value of the record before the version, to know the log again by (L6).
    """

    version: int
    last: str
    places: dict[int, Place]
    counts: dict[Verdict, int]
    memory: Arrays
    policy: bytes

    def digest(self) -> str:
        """64 bits over all that was learned: equal on every worker at one version."""
        digest = blake2b(digest_size=8)
        for name, array in sorted(self.memory.items()):
            digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        places = sorted((*msgspec.to_builtins(p.source), p.chain) for p in self.places.values())
        digest.update(f"{places}\n".encode())
        digest.update(self.policy)
        return digest.hexdigest()


class Learner:
    """Folds the feedback log into the memory and the policy.

    `version` is the feedback offset to read next; `places` how far each partition was learned.

    >>> from policies.uniform import Uniform
    >>> fold = Learner(Memory(None, {}), Uniform())
    >>> fold(0, b"no record"), fold.version
    ('invalid', 1)
    >>> again = Learner(Memory(None, {}), Uniform())
    >>> again.load(fold.state())
    >>> again.version, again.digest() == fold.digest()
    (1, True)
    """

    def __init__(self, memory: Memory, policy: Policy, learn_late: bool = False) -> None:
        self.memory = memory
        self.policy = policy
        self.learn_late = learn_late
        self.version = 0
        self.last = ""
        self.whole = True  # False while a record is being learned, and for good if that failed
        self.places: dict[int, Place] = {}
        self.counts: Counter[Verdict] = Counter()

    def __call__(self, offset: int, data: bytes) -> Verdict:
        """Take the record at `offset`. Raises Unknown for a type of another release."""
        verdict = self._fold(offset, data)
        self.version = offset + 1
        self.last = chain(data)
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
        self.whole = False
        self.places[partition] = Place(record.source, chain(data))
        if isinstance(record, Interaction):
            self.memory.learn(record, offset)
        else:
            self._judge(record, offset)
        self.whole = True
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
        return self.state().digest()

    def state(self) -> State:
        """A copy of all that was learned; `load` of it goes on bit for bit."""
        if not self.whole:
            raise ValueError(
                f"the record at {self.version} was learned in part, so this is the state of no "
                "version; start again from the snapshot before"
            )
        return State(
            version=self.version,
            last=self.last,
            places=dict(self.places),
            counts=dict(self.counts),
            memory=self.memory.state(),
            policy=self.policy.save(),
        )

    def load(self, state: State) -> None:
        """Replace all that was learned. Raises ValueError, and has changed nothing, if it cannot.

        What was loaded is read out again and compared: a state that contradicts itself is refused.
        """
        before = self.state()
        try:
            _alike(before.memory, state.memory)
            self._take(state)
            if self.digest() != state.digest():
                raise ValueError("the state contradicts itself")
        except Exception as error:
            self._take(before)
            raise ValueError(
                f"what was learned up to {state.version} cannot be loaded ({error}); start from an "
                "older snapshot, or fold the log again"
            ) from error

    def _take(self, state: State) -> None:
        self.memory.load(state.memory)
        self.policy.load(state.policy)
        self.places, self.counts = dict(state.places), Counter(state.counts)
        self.version, self.last = state.version, state.last


def _alike(ours: Arrays, theirs: Arrays) -> None:
    """Refuse arrays of other names, types or widths than this learner's own."""
    for name in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(name), theirs.get(name)
        if a is None or b is None:
            raise ValueError(f"{name} is in one of both only")
        if (a.dtype, a.shape[1:], a.ndim) != (b.dtype, b.shape[1:], b.ndim):
            raise ValueError(
                f"{name} is {b.dtype.name} of shape {b.shape}, not {a.dtype.name} like {a.shape}"
            )
