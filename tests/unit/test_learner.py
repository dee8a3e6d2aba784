"""The second fold: what is learned once, what is refused, and what stops a worker."""

from collections.abc import Mapping

import pytest

from agents.errors import UnknownRecordTypeError
from agents.learner import Learner
from models.base import Doubles
from models.candidates import Candidates
from models.events import (
    MAX_MESSAGE_BYTES,
    Interaction,
    Outcome,
    OutcomeSlot,
    Source,
    Tick,
    chain,
    encode,
)
from models.memory import Memory
from models.popularity import Popularity
from policies.uniform import Uniform


class MemorisingPolicy(Uniform):
    """A policy that learns: it keeps what it was given."""

    def __init__(self) -> None:
        super().__init__("remembering")
        self.learned: list[tuple[str, int]] = []

    def learn(self, outcome: Outcome, seed: int) -> None:
        self.learned.append((outcome.status, seed))

    def scores(
        self, user: str, context: Mapping[str, str | float | bool], candidates: Candidates
    ) -> Doubles:
        raise AssertionError("a fold does not rank")

    def save(self) -> bytes:
        return repr(self.learned).encode()


def learner(learn_corrections: bool = False) -> Learner:
    return Learner(Memory(None, {}), MemorisingPolicy(), learn_corrections)


def interaction(offset: int, prev: str = "", partition: int = 0, item: str = "i") -> bytes:
    return encode(
        Interaction(
            id=f"c{offset}",
            user="ann",
            item=item,
            at=offset,
            value=1.0,
            source=Source(partition, offset, 0),
            prev=prev,
        )
    )


def outcome(offset: int, prev: str, status: str = "complete") -> bytes:
    return encode(
        Outcome(
            id="r",
            user="ann",
            at=offset,
            status=status,  # pyright: ignore[reportArgumentType]
            policy="p",
            model=0,
            slots=(OutcomeSlot(item="i", position=0, propensity=0.5, reward=1.0),),
            source=Source(0, offset, 0),
            prev=prev,
        )
    )


def records(n: int, partition: int = 0) -> list[bytes]:
    """A chain of interactions, each with an item of its own."""
    made: list[bytes] = []
    for offset in range(n):
        made.append(interaction(offset, chain(made[-1]) if made else "", partition, f"i{offset}"))
    return made


def seen(learned: Learner) -> list[str]:
    return list(learned.memory.histories.seen("ann"))


def test_records_are_learned_in_their_order() -> None:
    fold = learner()
    assert [fold(n, data) for n, data in enumerate(records(3))] == ["learned"] * 3
    assert seen(fold) == ["i0", "i1", "i2"]


def test_the_version_is_the_offset_to_read_next_whatever_the_record_was() -> None:
    fold = learner()
    for offset, data in ((4, records(1)[0]), (7, b"garbage"), (9, records(1)[0])):
        fold(offset, data)
        assert fold.version == offset + 1


def test_a_lower_source_was_learned_before() -> None:
    fold = learner()
    first, second, _ = records(3)
    verdicts = [fold(n, data) for n, data in enumerate([first, second, first, second])]
    assert verdicts == ["learned", "learned", "duplicate", "duplicate"]
    assert seen(fold) == ["i0", "i1"]


def test_a_hole_is_refused_and_accepted_later_in_its_order() -> None:
    fold = learner()
    first, second, third = records(3)
    verdicts = [fold(n, data) for n, data in enumerate([first, third, second, third])]
    assert verdicts == ["learned", "refused", "learned", "learned"]
    assert seen(fold) == ["i0", "i1", "i2"]


def test_a_hole_at_the_very_start_is_refused() -> None:
    fold = learner()
    assert fold(0, records(2)[1]) == "refused"
    assert not fold.ledger.places
    assert seen(fold) == []


def test_a_record_that_differs_from_the_one_chained_to_is_refused() -> None:
    fold = learner()
    fold(0, records(1)[0])
    assert fold(1, interaction(1, prev="0123456789abcdef")) == "refused"


def test_each_partition_has_a_chain_of_its_own() -> None:
    fold = learner()
    mixed = zip(records(3, partition=0), records(3, partition=1), strict=True)
    verdicts = [fold(0, data) for pair in mixed for data in pair]
    assert verdicts == ["learned"] * 6
    assert {p: place.source.offset for p, place in fold.ledger.places.items()} == {0: 2, 1: 2}


def test_it_has_what_it_learned_and_nothing_beyond() -> None:
    fold = learner()
    assert not fold.ledger.has(Source(0, 0, 0))
    for n, data in enumerate(records(2)):
        fold(n, data)
    assert fold.ledger.has(Source(0, 1, 0))
    assert not fold.ledger.has(Source(0, 1, 1))
    assert not fold.ledger.has(Source(1, 0, 0))


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\xfe",
        b"not json",
        b"[]",
        b"7",
        b"{}",
        b'{"type":7}',
        b'{"type":"interaction"}',
        b'{"type":"outcome","id":""}',
        b"[" * 100_000,
        b'{"type":"outcome","x":' + b"[" * 100_000,
        b'{"type":"interaction","user":"\xff"}',
        b" " * (MAX_MESSAGE_BYTES + 1),
    ],
    ids=lambda garbage: repr(garbage[:30]),
)
def test_garbage_is_skipped_and_changes_nothing(garbage: bytes) -> None:
    fold = learner()
    fold(0, records(1)[0])
    before = fold.digest()
    assert fold(1, garbage) == "invalid"
    assert fold.digest() == before
    assert fold(2, records(2)[1]) == "learned"


@pytest.mark.parametrize(
    "data",
    [
        b'{"type":"mark","version":7}',
        encode(Tick(at=1)),
        b'{"type":"fold","text":"' + b"x" * MAX_MESSAGE_BYTES + b'"}',
        b'{"type":"outcome","v":2,"lesson":[]}',
        records(1)[0].replace(b"{", b'{"v":2,', 1),
    ],
    ids=["mark", "tick", "large", "outcome", "interaction"],
)
def test_a_record_of_an_unknown_type_stops_the_worker_before_it(data: bytes) -> None:
    fold = learner()
    with pytest.raises(
        UnknownRecordTypeError, match="run the release that wrote it, or a newer one"
    ):
        fold(0, data)
    assert fold.version == 0


def test_every_verdict_is_counted() -> None:
    fold = learner()
    first, second, third = records(3)
    for n, data in enumerate([first, third, b"", first, second]):
        fold(n, data)
    assert fold.ledger.counts == {"learned": 2, "refused": 1, "invalid": 1, "duplicate": 1}


def test_the_policy_learns_from_outcomes_with_chance_seeded_by_the_offset() -> None:
    fold = learner()
    first = outcome(0, "", "complete")
    fold(5, first)
    fold(8, outcome(1, chain(first), "expired"))
    assert fold.policy.learned == [("complete", 5), ("expired", 8)]  # pyright: ignore


@pytest.mark.parametrize("learn_corrections", [False, True])
def test_a_corrected_outcome_is_learned_by_the_policy_only_if_asked(
    learn_corrections: bool,
) -> None:
    fold = learner(learn_corrections)
    assert fold(0, outcome(0, "", "corrected")) == "learned"
    assert bool(fold.policy.learned) is learn_corrections  # pyright: ignore


def test_the_digest_tells_apart_all_that_was_learned() -> None:
    digests = [learner().digest()]
    fold = learner()
    for n, data in enumerate([*records(2), outcome(2, chain(records(2)[1]))]):
        fold(n, data)
        digests.append(fold.digest())
    assert len(set(digests)) == 4


def test_the_digest_tells_apart_partitions_and_policies() -> None:
    one, other = learner(), learner()
    one(0, interaction(0, partition=0))
    other(0, interaction(0, partition=1))
    assert one.digest() != other.digest()
    one, other = learner(), learner(learn_corrections=True)
    for fold in (one, other):
        fold(0, outcome(0, "", "corrected"))
    assert one.digest() != other.digest()


def test_what_was_skipped_leaves_the_digest_alone() -> None:
    plain, bumpy = learner(), learner()
    first, second, third = records(3)
    for data in (first, second, third):
        plain(0, data)
    for data in (first, b"", third, first, second, first, third):
        bumpy(0, data)
    assert plain.digest() == bumpy.digest()


def test_where_partitions_are_noted_first_does_not_show_in_the_digest() -> None:
    fold = learner()
    for partition in (0, 1, 2):
        fold(0, interaction(0, partition=partition))
    before = fold.digest()
    fold.ledger.places = dict(reversed(fold.ledger.places.items()))
    assert fold.digest() == before


class Seeds(Popularity):
    """Popularity that keeps what chance it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.seeds: list[int] = []

    def learn(self, user: str, item: str, value: float, seed: int) -> None:
        self.seeds.append(seed)
        super().learn(user, item, value, seed)


def test_the_models_learn_from_interactions_with_chance_seeded_by_the_offset() -> None:
    popularity = Seeds()
    fold = Learner(Memory(popularity, {}), Uniform())
    for offset, data in zip((5, 8), records(2), strict=True):
        fold(offset, data)
    assert popularity.seeds == [5, 8]
