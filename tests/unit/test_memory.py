"""Memory is an exact fold of bounded parts: what was learned, seen and shown."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.arrays.id_table import IdTable
from models.arrays.packed_rows import PackedRows, cell
from models.base import Arrays
from models.events import Interaction, Outcome, OutcomeSlot, Source
from models.history import EXAMINED, Exposure, Histories
from models.item_knn import ItemKNN
from models.matrix_factorisation import MatrixFactorisation
from models.memory import Memory
from models.popularity import Popularity

Status = Literal["complete", "expired", "corrected"]
NOWHERE = Source(0, 0, 0)


def memory() -> Memory:
    """Small enough for everything to be evicted now and then."""
    users, items = IdTable(), IdTable()
    return Memory(
        Popularity(limit=4, item_names=items),
        {
            "knn": ItemKNN(users=3, items=4, user_names=users, item_names=items),
            "mf": MatrixFactorisation(factors=2, limit=3, user_names=users, item_names=items),
        },
        Histories(limit=3, length=3, shown_length=2, user_names=users, item_names=items),
        Exposure(limit=4, halving=3, item_names=items),
        users,
        items,
    )


def apart() -> Memory:
    """The same, each part with names of its own."""
    return Memory(
        Popularity(limit=4),
        {"knn": ItemKNN(users=3, items=4), "mf": MatrixFactorisation(factors=2, limit=3)},
        Histories(limit=3, length=3, shown_length=2),
        Exposure(limit=4, halving=3),
    )


def liked(user: str, item: str, value: float = 1.0, at: int = 0) -> Interaction:
    return Interaction("i", user, item, at, value, NOWHERE)


def shown(user: str, *items: str, clicked: str = "", status: Status = "expired") -> Outcome:
    slots = tuple(
        OutcomeSlot(item=item, position=i, propensity=0.5, reward=float(item in clicked.split()))
        for i, item in enumerate(items)
    )
    return Outcome(
        id="o",
        user=user,
        at=0,
        status=status,
        policy="p",
        model=0,
        slots=slots,
        source=NOWHERE,
    )


users = st.sampled_from(["ann", "bob", "cid", "dée"])
items = st.sampled_from([*"abcde", "ü f"])
records = st.lists(
    st.builds(liked, users, items, st.sampled_from([1.0, 0.0, -1.0]), st.integers(0, 2**47))
    | st.builds(
        lambda user, items, clicked, status: shown(user, *items, clicked=clicked, status=status),
        users,
        st.lists(items, max_size=4, unique=True),
        items,
        st.sampled_from(["expired", "complete", "corrected"]),
    ),
    max_size=40,
)


def learn(memory: Memory, records: list[Interaction | Outcome], seed: int = 0) -> None:
    for offset, record in enumerate(records, seed):
        if isinstance(record, Interaction):
            memory.learn(record, seed=offset)
        else:
            memory.shown(record)


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name])
        for name in one
    )


@settings(deadline=None)
@given(records, st.integers(0, 40))
def test_saving_and_loading_on_the_way_changes_nothing(
    records: list[Interaction | Outcome], cut: int
) -> None:
    straight, first, second = memory(), memory(), memory()
    learn(straight, records)
    learn(first, records[:cut])
    learn(second, records[::-1])  # whatever was there before is replaced
    second.load(first.state())
    assert second.digest() == first.digest()
    learn(second, records[cut:], seed=len(records[:cut]))
    assert second.digest() == straight.digest()
    assert same(second.state(), straight.state())


@settings(deadline=None)
@given(records)
def test_a_state_is_not_touched_by_learning_on(records: list[Interaction | Outcome]) -> None:
    learning = memory()
    learn(learning, records)
    state = learning.state()
    before = {name: array.copy() for name, array in state.items()}
    loaded = memory()
    loaded.load(state)
    for one in (learning, loaded):
        learn(one, [liked("ann", "a"), shown("ann", "a", "b"), shown("bob", "a"), *records])
    assert same(state, before)


@settings(deadline=None)
@given(records)
def test_everything_stays_within_its_bounds(records: list[Interaction | Outcome]) -> None:
    learning = memory()
    learn(learning, records)
    state = learning.state()
    assert len(state["histories.seen.users.numbers"]) <= 3
    assert len(state["histories.shown.users.numbers"]) <= 3
    assert all(np.diff(state["histories.seen.ends"], prepend=0) <= 3)
    assert all(np.diff(state["histories.shown.ends"], prepend=0) <= 2)
    assert len(state["exposure.counts"]) <= 4


def test_every_record_shows_in_the_digest() -> None:
    digests = [memory().digest()]
    learning = memory()
    for record in (liked("ann", "a"), liked("ann", "a", 0.0), shown("ann", "b"), shown("ann")):
        learn(learning, [record])
        digests.append(learning.digest())
    assert len(set(digests)) == 5


def test_reading_changes_nothing() -> None:
    read = memory()
    learn(read, [liked("ann", "a"), liked("bob", "b"), shown("ann", "b", "c")])
    before = read.digest()
    for user in ("ann", "nobody"):
        read.histories.seen(user)
        read.histories.positives(user, 5)
        read.histories.repeats(user)
    read.exposure.read(["b", "ghost"])
    assert read.digest() == before


def test_a_state_of_other_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="start it with the same scorers"):
        memory().load(Memory(Popularity(), {}).state())


@pytest.mark.parametrize("name", ["exposure", "popularity", "a.b"])
def test_a_scorer_whose_name_would_clash_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="choose other names"):
        Memory(Popularity(), {name: Popularity()})


def test_the_order_of_scorers_does_not_show_in_the_digest() -> None:
    one = Memory(None, {"a": Popularity(), "b": Popularity(half_life=5)})
    other = Memory(None, {"b": Popularity(half_life=5), "a": Popularity()})
    for each in (one, other):
        learn(each, [liked("ann", "x"), liked("ann", "y")])
    assert one.digest() == other.digest()


# Histories


def test_the_latest_likes_come_first_and_dislikes_not_at_all() -> None:
    histories = Histories()
    for item, value in [("a", 1.0), ("b", 1.0), ("c", 0.0), ("d", 1.0), ("a", 1.0), ("d", -1.0)]:
        histories.learn(liked("ann", item, value))
    assert histories.positives("ann", 5) == ["a", "b"]
    assert histories.positives("ann", 1) == ["a"]
    assert list(histories.seen("ann")) == ["b", "c", "a", "d"]


def test_a_history_keeps_whether_an_item_was_liked_when_it_was_last_met() -> None:
    histories = Histories()
    for item, value in [("a", 1.0), ("b", 0.0), ("c", 0.0), ("c", 2.0)]:
        histories.learn(liked("ann", item, value))
    assert histories.seen("ann") == {"a": True, "b": False, "c": True}


def test_the_user_heard_of_longest_ago_makes_room() -> None:
    histories = Histories(limit=2)
    for user in ("ann", "bob", "ann", "cid"):
        histories.learn(liked(user, "a"))
    assert [user for user in ("ann", "bob", "cid") if histories.seen(user)] == ["ann", "cid"]


def test_showings_without_a_click_add_up_until_the_click() -> None:
    histories = Histories()
    for _ in range(2):
        histories.shown(shown("ann", "a", "b", "c"))
    assert histories.repeats("ann") == {"a": 2, "b": 2, "c": 2}
    histories.shown(shown("ann", "a", clicked="a"))
    histories.learn(liked("ann", "b"))
    assert histories.repeats("ann") == {"c": 2}


def test_a_correction_is_not_a_second_showing() -> None:
    histories, exposure = Histories(), Exposure()
    for part in (histories, exposure):
        part.shown(shown("ann", "a", "b"))
        part.shown(shown("ann", "a", "b", clicked="b", status="corrected"))
    assert histories.repeats("ann") == {"a": 1}
    assert exposure.read(["a", "b"])[0].tolist() == [1.0, 1.0]


# Exposure


def test_the_rate_of_an_item_moves_from_that_of_all_items_to_its_own() -> None:
    exposure = Exposure(prior=10.0)
    for i in range(1000):
        exposure.shown(shown("ann", "good", clicked="good" if i % 2 else ""))
        exposure.shown(shown("ann", "bad"))
    times, rates = exposure.read(["good", "bad", "new"])
    assert times.tolist() == [1000.0, 1000.0, 0.0]
    assert np.allclose(rates, [0.5, 0.0, 0.25], atol=0.005)


def test_a_place_far_down_counts_as_less_of_a_look() -> None:
    exposure = Exposure()
    for _ in range(50):
        exposure.shown(shown("ann", "first", *"abcdefgh", "last"))
    _, (first, last) = exposure.read(["first", "last"])
    assert first < last
    assert EXAMINED[0] == 1.0
    assert list(EXAMINED) == sorted(EXAMINED, reverse=True)


def test_old_showings_fade() -> None:
    exposure = Exposure(halving=4)
    for item in "aaab":
        exposure.shown(shown("ann", item))
    assert exposure.read(["a", "b"])[0].tolist() == [1.5, 0.5]


def test_an_item_that_made_room_comes_back_with_nothing() -> None:
    exposure = Exposure(limit=1)
    for item in "aaba":
        exposure.shown(shown("ann", item))
    assert exposure.read(["a", "b"])[0].tolist() == [1.0, 0.0]


# Names


def test_an_id_that_nobody_keeps_leaves_its_number_to_the_next() -> None:
    names = IdTable()
    for id in ("ann", "bob", "ann"):
        names.acquire(id)
    names.release(1)
    assert names.find(["ann", "bob", "cid"]).tolist() == [1, 2, 0]
    names.release(1)
    assert (names.number("ann"), names.acquire("cid"), names.ids) == (0, 1, ["", "cid", "bob"])


@settings(deadline=None)
@given(records)
def test_names_are_kept_by_someone_and_no_longer(records: list[Interaction | Outcome]) -> None:
    learning = memory()
    learn(learning, records)
    state = learning.state()
    shown = state["histories.shown.cells"][:, 0]
    kept = {
        "users": ["knn.users", "mf.users", "histories.seen.users", "histories.shown.users"],
        "items": ["popularity.items", "knn.items", "mf.items", "exposure.items"],
    }
    for kind, parts in kept.items():
        numbers = [state[f"{part}.numbers"] for part in parts]
        if kind == "items":
            numbers += [state["histories.seen.cells"] >> 1, shown]
        ids = state[f"{kind}.ids"].tobytes().decode().split("\n")
        in_use = {n for n, id in enumerate(ids) if id}
        assert in_use == set(np.concatenate(numbers).tolist())


@settings(deadline=None)
@given(records)
def test_parts_know_the_same_whether_they_share_names_or_not(
    records: list[Interaction | Outcome],
) -> None:
    one, other = memory(), apart()
    learn(one, records)
    learn(other, records)
    for user in ("ann", "bob", "cid", "dée"):
        assert one.histories.seen(user) == other.histories.seen(user)
        assert one.histories.repeats(user) == other.histories.repeats(user)
        for name in ("knn", "mf"):
            assert one.scorers[name].top(user, 9) == other.scorers[name].top(user, 9)


# Rows


writes = st.lists(st.tuples(st.integers(0, 20), st.lists(st.integers(0, 2**31 - 1), max_size=6)))


@settings(deadline=None)
@given(writes, st.sampled_from([1, 2]))
def test_rows_are_what_was_last_written_there_also_after_a_load(
    writes: list[tuple[int, list[int]]], width: int
) -> None:
    rows, expected = PackedRows(most=6 * width), list[bytes]()
    for row, written in writes:
        while row >= len(rows):
            rows.append()
            expected.append(b"")
        rows[row] = expected[row] = b"".join(map(cell, written)) * width
    loaded = PackedRows(most=6 * width)
    loaded.load(rows.state(width), len(expected))
    assert [*map(rows.__getitem__, range(len(rows)))] == expected
    assert [*map(loaded.__getitem__, range(len(loaded)))] == expected
    assert same(loaded.state(width), rows.state(width))


@pytest.mark.parametrize("most", [0, 2**16])
def test_rows_too_long_to_be_counted_are_refused(most: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 65535 numbers"):
        PackedRows(most)


# A state that lies


def taught() -> Memory:
    learned = memory()
    for n in range(60):
        user, items = f"u{n % 4}", [f"i{n * 5 % 7}", f"i{n * 3 % 6}", "x"]
        learn(learned, [liked(user, items[0]), shown(user, *items[1:])], seed=n)
    return learned


ARRAYS = sorted(taught().state())
LIES = {
    "empty": lambda a: a[:0],
    "shorter": lambda a: a[:-1],
    "longer": lambda a: np.concatenate([a, a[-1:]]),
    "negative": lambda a: -a - 1 if a.dtype != np.uint8 else a[::-1].copy(),
    "huge": lambda a: np.full_like(a, np.inf if a.dtype.kind == "f" else np.iinfo(a.dtype).max),
    "backwards": lambda a: a[::-1].copy(),
    "all alike": lambda a: np.full_like(a, a[0]) if len(a) else a,
}


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("lie", LIES.values(), ids=list(LIES))
def test_a_state_that_lies_is_refused_or_does_no_harm(
    name: str, lie: Callable[[np.ndarray], np.ndarray]
) -> None:
    state = taught().state()
    loaded = memory()
    try:
        loaded.load(state | {name: lie(state[name])})
    except ValueError:
        return
    for n in range(60):  # all rows are read and made anew
        user, items = f"v{n % 5}", [f"j{n * 5 % 7}", f"i{n % 6}", "x"]
        learn(loaded, [liked(user, items[0]), shown(user, *items[1:])], seed=n)
        for each in (user, f"u{n % 4}"):
            loaded.histories.seen(each)
            loaded.histories.repeats(each)
            loaded.exposure.read(items)
            assert loaded.popularity is not None
            for scorer in (loaded.popularity, *loaded.scorers.values()):
                assert np.isfinite(scorer.scores(each, items)).all()
                scorer.top(each, 9)
    memory().load(loaded.state())


def test_an_id_with_a_line_break_is_not_saved_as_two() -> None:
    learned = Popularity()
    learned.learn("ann", "a\nb", 1.0, 0)
    with pytest.raises(ValueError, match="line break cannot be saved"):
        learned.state()


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import test_memory as t
memory = t.memory()
for i in range(300):
    t.learn(memory, [t.liked(f"u{{i % 5}}", f"i{{i * 7 % 11}}", float(i % 3 > 0)),
                     t.shown(f"u{{i % 4}}", f"i{{i % 6}}", "x", clicked="x")], seed=i)
print(memory.digest())
"""


def test_two_processes_with_other_hash_seeds_agree() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent))],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop()) == 32
