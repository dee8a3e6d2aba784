"""The second fold: feedback -> everything learned, in one order; its offset is the version."""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b

import msgspec
import numpy as np
from msgspec import Struct

from agents.ledger import Ledger, LedgerState, Verdict
from agents.scoreboard import Score, scoreboard
from models.base import Arrays
from models.events import Interaction, InvalidMessageError, Mark, Outcome
from models.memory import Memory
from policies.base import Policy

FOLD = 1  # of this release: raised when it learns something else from the same records (L12)
MARKED = 10_000  # every so many versions a probe is kept, to compare with a Mark
PROBED = 32  # of the last interactions: whose users and items a probe looks at


class LearnerState(Struct, frozen=True, kw_only=True):
    """All that was learned up to a version. It shares nothing with the learner it came from."""

    ledger: LedgerState
    memory: Arrays
    policy: bytes
    challengers: dict[str, bytes] = {}
    board: bytes = b""

    @property
    def version(self) -> int:
        """The feedback offset to read next."""
        return self.ledger.version

    def digest(self) -> str:
        """64 bits over all that was learned: equal on every worker at one version."""
        digest = blake2b(digest_size=8)
        for name, array in sorted(self.memory.items()):
            digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
        digest.update(_places(self.ledger))
        digest.update(self.policy)
        for name, learned in sorted(self.challengers.items()):
            digest.update(f"{name}:{len(learned)};".encode() + learned)
        digest.update(self.board)
        return digest.hexdigest()


class Learner:
    """Folds the feedback log into the memory and the policies; `ledger` says which records count.

    `fold` names how it folds: see `Fold`. Its last few probes are kept by version. `challengers`
    learn as `policy` does, and each may take its place (see `Champion`); `board` judges them.

    >>> from policies.uniform import Uniform
    >>> fold = Learner(Memory(None, {}), Uniform())
    >>> fold(0, b"no record"), fold.version
    ('invalid', 1)
    >>> again = Learner(Memory(None, {}), Uniform())
    >>> again.load(fold.state())
    >>> again.version, again.digest() == fold.digest()
    (1, True)
    """

    def __init__(
        self,
        memory: Memory,
        policy: Policy,
        learn_corrections: bool = False,
        fold: str = "",
        marked: int = MARKED,
        probed: int = PROBED,
        challengers: Sequence[Policy] = (),
        reward: float = 1.0,
    ) -> None:
        self.memory = memory
        self.policies = {one.name: one for one in (policy, *challengers)}
        if len(self.policies) != 1 + len(challengers):
            raise ValueError(f"policies need names of their own, got {[*self.policies]} alone")
        self.board = scoreboard([*self.policies], reward)
        self.learn_corrections = learn_corrections
        self.fold = fold
        self.marked = marked
        self.probed = probed
        self.ledger = Ledger(policies=[*self.policies])
        self.whole = True  # False while a record is being learned, and for good if that failed
        self.probes: dict[int, str] = {}  # by version, the last few
        self.differs: Mark | None = None  # the first mark that says otherwise
        self.unprobed = ""  # why the last probe could not be made; learning goes on without one
        self._last: deque[Interaction] = deque(maxlen=probed)

    @property
    def version(self) -> int:
        """The feedback offset to read next."""
        return self.ledger.version

    @property
    def learned(self) -> int:
        """How many records were learned."""
        return self.ledger.counts["learned"]

    @property
    def policy(self) -> Policy:
        """The champion: who decides."""
        return self.policies[self.ledger.champion]

    @property
    def challengers(self) -> dict[str, Policy]:
        """All others by name."""
        champion = self.ledger.champion
        return {name: one for name, one in self.policies.items() if name != champion}

    def scores(self) -> list[Score]:
        """How the champion and its challengers do; [] without challengers."""
        return self.board.scores() if self.board else []

    def __call__(self, offset: int, data: bytes) -> Verdict:
        """Take the record at `offset`. UnknownRecordTypeError: its type is of another release."""
        verdict, record = self.ledger(offset, data)
        if self.board is not None and verdict in ("learned", "noted"):
            self.board(record, self.ledger)  # before anybody learns from it
        if verdict == "learned":
            self.whole = False
            if isinstance(record, Interaction):
                self.memory.learn(record, offset)
                self._last.append(record)
            elif isinstance(record, Outcome):
                self._judge(record, offset)
            self.whole = True
        elif isinstance(record, Mark) and record.fold == self.fold and self.differs is None:
            if self.probes.get(record.version, record.digest) != record.digest:
                self.differs = record
        if self.version % self.marked == 0 and len(self._last) == self.probed:
            try:
                self.probes[self.version] = self.probe()
            except OSError as error:  # a policy that needs a file found no room for it
                self.unprobed = str(error)
            if len(self.probes) > 4:
                del self.probes[min(self.probes)]
        return verdict

    def _judge(self, outcome: Outcome, offset: int) -> None:
        self.memory.shown(outcome)
        if outcome.status != "corrected" or self.learn_corrections:
            for policy in self.policies.values():
                # features it cannot take: all workers refuse them alike
                with suppress(InvalidMessageError):
                    policy.learn(outcome, offset)

    def probe(self) -> str:
        """64 bits over the places, the policy and what is known of the last users and items.

        Cheap, unlike `digest`; equal on every worker at one version.
        """
        digest = blake2b(_places(self.ledger.state()), digest_size=8)
        for policy in self.policies.values():
            digest.update(policy.save())
        if self.board is not None:
            digest.update(self.board.save())
        memory, items = self.memory, sorted({one.item for one in self._last})
        scorers = [*memory.scorers.values(), *filter(None, [memory.popularity])]
        for user in sorted({one.user for one in self._last}):
            seen, repeats = memory.histories.seen(user), memory.histories.repeats(user)
            digest.update(msgspec.json.encode((user, list(seen.items()), list(repeats.items()))))
            for scorer in scorers:
                digest.update(scorer.scores(user, items).tobytes())
        return digest.hexdigest()

    def digest(self) -> str:
        """64 bits over all that was learned: equal on every worker at one version."""
        return self.state().digest()

    def state(self) -> LearnerState:
        """A copy of all that was learned; `load` of it goes on bit for bit."""
        if not self.whole:
            raise ValueError(
                f"the record before {self.version} was learned in part, so this is the state of no "
                "version; start again from the snapshot before"
            )
        policy, *challengers = [(name, one.save()) for name, one in self.policies.items()]
        return LearnerState(
            ledger=self.ledger.state(),
            memory=self.memory.state(),
            policy=policy[1],
            challengers=dict(challengers),
            board=self.board.save() if self.board else b"",
        )

    def load(self, state: LearnerState) -> None:
        """Replace all that was learned. Raises ValueError, and has changed nothing, if it cannot.

        What was loaded is read out again and compared: a state that contradicts itself is refused.
        """
        before = self.state()
        try:
            _alike(before.memory, state.memory)
            self._take(state)
            _same(self.state(), state)
        except Exception as error:
            self._take(before)
            raise ValueError(
                f"what was learned up to {state.version} cannot be loaded ({error}); start from an "
                "older snapshot, or fold the log again"
            ) from error

    def _take(self, state: LearnerState) -> None:
        (_, policy), *challengers = self.policies.items()
        if state.challengers.keys() != dict(challengers).keys():
            raise ValueError(f"its challengers are {sorted(state.challengers)}")
        if state.ledger.champion not in ("", *self.policies):
            raise ValueError(f"its champion is {state.ledger.champion!r}")
        self.memory.load(state.memory)
        policy.load(state.policy)
        for name, one in challengers:
            one.load(state.challengers[name])
        if self.board is not None:
            self.board.load(state.board)
        self.ledger.load(state.ledger)
        self.probes.clear()
        self._last.clear()


def _places(ledger: LedgerState) -> bytes:
    places = sorted((*msgspec.to_builtins(p.source), p.chain) for p in ledger.places.values())
    decided = f"{ledger.champion},{ledger.former}" if ledger.former else ""
    return f"{places}{ledger.fold}\n{decided}".encode()


def _same(ours: LearnerState, theirs: LearnerState) -> None:
    """Refuse a state that is not what comes out again once it was loaded."""
    rest = [msgspec.structs.replace(state, memory={}).digest() for state in (ours, theirs)]
    names = ours.memory.keys()
    if rest[0] != rest[1] or names != theirs.memory.keys():
        raise ValueError("the state contradicts itself")
    for name in sorted(names):
        if not np.array_equal(ours.memory[name], theirs.memory[name]):
            raise ValueError(f"the state contradicts itself in {name}")


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
