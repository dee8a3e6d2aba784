"""Retrieval finds what may be recommended, says what is known of it, and changes nothing."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from models.candidates import Candidates, CandidateSource, Retrieval, standardised
from models.catalogue import Catalogue
from models.content import Content
from models.events import Embedding, Interaction, Item, Outcome, OutcomeSlot, Request, Source
from models.item_knn import ItemKNN
from models.memory import Memory
from models.popularity import Popularity
from stream.build import features, sources
from stream.settings import Settings

NOWHERE = Source(0, 0, 0)
DAY = 86_400_000
COLUMNS, PROPOSERS = features(Settings()), sources(Settings())


class World:
    """A catalogue and a memory to fill, and the retrieval that reads them."""

    def __init__(self, **settings: object) -> None:
        self.catalogue = Catalogue(encoder="tiny", dimensions=4)
        self.memory = Memory(Popularity(), {"knn": ItemKNN()})
        self.content = Content(self.catalogue, self.memory.histories)
        self.retrieval = Retrieval(
            self.memory,
            self.catalogue,
            self.content,
            **{"features": COLUMNS, "sources": PROPOSERS} | settings,  # type: ignore[arg-type]
        )

    def items(self, *ids: str, **fields: object) -> "World":
        for id in ids:
            item = Item(id=id, **{"at": 0} | fields)  # type: ignore[arg-type]
            self.catalogue.fold_item(self.catalogue.items_version, item)
        return self

    def vectors(self, **vectors: Sequence[float]) -> "World":
        for id, vector in vectors.items():
            self.catalogue.fold_embedding(self.catalogue.embeddings_version, embedded(id, vector))
        return self

    def likes(self, user: str, *items: str, value: float = 1.0) -> "World":
        for item in items:
            self.memory.learn(Interaction("i", user, item, 0, value, NOWHERE), seed=0)
        return self

    def shows(self, user: str, *items: str) -> "World":
        slots = tuple(OutcomeSlot(item=i, position=0, propensity=1.0, reward=0.0) for i in items)
        fields = {"id": "o", "user": user, "at": 0, "policy": "p", "model": 0, "source": NOWHERE}
        self.memory.shown(Outcome(status="expired", slots=slots, **fields))
        return self

    def __call__(self, user: str = "ann", **fields: object) -> Candidates:
        return self.retrieval(Request(**{"id": "r", "user": user, "at": DAY} | fields))  # type: ignore[arg-type]


def embedded(id: str, vector: Sequence[float]) -> Embedding:
    data = np.array(vector, "<f2").tobytes()
    return Embedding(id=id, encoder="tiny", text_hash="0" * 16, vector=data)


def alone(name: str, share: float) -> list[CandidateSource]:
    return [replace(source, share=share) for source in PROPOSERS if source.name == name]


def column(found: Candidates, name: str) -> dict[str, float]:
    return dict(zip(found.items, found.x[:, found.names.index(name)].tolist(), strict=True))


def equal(one: Candidates, other: Candidates) -> bool:
    same = one.items == other.items and one.sources == other.sources and one.tags == other.tags
    return (
        same and one.x.tobytes() == other.x.tobytes() and one.text.tobytes() == other.text.tobytes()
    )


def test_an_empty_catalogue_gives_no_candidates() -> None:
    found = World()()
    assert (found.items, found.x.shape, found.text.shape) == ((), (0, len(COLUMNS)), (0, 4))


def test_nothing_learned_gives_the_newest_items() -> None:
    world = World(limit=3)
    for age, id in enumerate("abcdef"):
        world.items(id, at=100 - age)
    assert set(world().items) >= {"a", "b"}
    assert len(world().items) == 3


def test_candidates_are_sorted_by_item_and_unique() -> None:
    world = World().items(*"hgfedcba").likes("bob", *"aceg").likes("ann", "h")
    assert list(world().items) == list("abcdefg")


def test_excluded_deleted_and_expired_items_never_come() -> None:
    world = World().items("a", "b").items("c", expires_at=DAY).items("d", expires_at=DAY + 1)
    world.likes("bob", "a", "b", "c", "d").items("b", deleted=True)
    assert world(exclude=("a",)).items == ("d",)
    assert world(exclude=("a",), candidates=("a", "b", "c", "d")).items == ("d",)


def test_items_in_the_users_history_come_only_when_asked_for() -> None:
    once, again = World(), World(repeat_seen=True)
    for world in (once, again):
        world.items("a", "b", "c").likes("ann", "a").likes("ann", "b", value=-1.0)
    assert once().items == ("c",)
    assert once(candidates=("a", "b", "c")).items == ("a", "b", "c")
    assert once(candidates=("a", "b", "c"), exclude_seen=True).items == ("c",)
    assert once(exclude_seen=False).items == ("a", "b", "c")
    assert again(exclude_seen=True).items == ("c",)
    assert again().items == ("a", "b", "c")


def test_what_was_learned_of_items_that_are_in_no_catalogue_is_not_proposed() -> None:
    assert World().items("a").likes("bob", "ghost")().items == ("a",)


def test_a_requests_own_candidates_are_all_kept_even_unknown_ones() -> None:
    world = World(limit=2).items("a", "b", tags=("x",)).vectors(a=(1, 0, 0, 0), ghost=(1, 0, 0, 0))
    found = world(candidates=("ghost", "b", "a", "b"))
    assert found.items == ("a", "b", "ghost")
    assert found.sources == ("request",) * 3
    assert found.tags == (("x",), ("x",), ())
    assert found.text[2].tolist() == [0.0] * 4
    assert found.text[0].any()
    assert column(found, "age") == {"a": 0.7071, "b": 0.7071, "ghost": -1.4142}


def test_an_empty_list_of_own_candidates_gives_none() -> None:
    assert World().items("a")(candidates=()).items == ()


def test_each_candidate_names_the_source_that_proposed_it_first() -> None:
    world = World(limit=100).items("k1", "k2", "near", "far", "pop", "new")
    world.vectors(k1=(1, 0, 0, 0), near=(1, 0.1, 0, 0), far=(0, 1, 0, 0))
    world.likes("ann", "k1").likes("bob", "k1", "k2").likes("cid", "pop")
    found = world()
    assert dict(zip(found.items, found.sources, strict=True)) == {
        "k2": "knn",
        "near": "content",
        "far": "content",
        "pop": "popular",
        "new": "fresh",
    }


def test_each_source_gets_its_share_and_the_limit_is_filled() -> None:
    world = World(limit=20)
    world.items(*(f"k{i:02}" for i in range(50)), *(f"p{i:02}" for i in range(50)))
    world.items("n1", "n2", "n3", at=1)
    world.likes("bob", *(f"k{i:02}" for i in range(50)), *(f"p{i:02}" for i in range(50)))
    world.likes("ann", "k00")
    found = world()
    count = {source: found.sources.count(source) for source in sorted(set(found.sources))}
    assert count == {"explore": 1, "fresh": 1, "knn": 15, "popular": 3}  # no mf here
    assert len(found.items) == 20
    assert abs(sum(source.share for source in PROPOSERS) - 1) < 1e-9


def test_a_long_history_of_the_most_popular_items_does_not_empty_the_list() -> None:
    ids = [f"i{i:03}" for i in range(400)]
    world = World(limit=10, sources=alone("popular", 1.0)).items(*ids).likes("bob", *ids[:300])
    world.likes("ann", *ids[100:300])
    found = world()
    assert found.sources == ("popular",) * 10
    assert set(found.items) <= set(ids[:100])


def test_least_shown_among_the_newest_come_as_fresh() -> None:
    world = World(limit=3, sources=alone("fresh", 0.34)).items("a", "b", "c", "d")
    world.shows("bob", "a", "b", "d")
    found = world()
    assert found.items[found.sources.index("fresh")] == "a"
    assert "c" in found.items


def test_exploration_reaches_every_item_in_time() -> None:
    ids = [f"i{i}" for i in range(60)]
    world = World(limit=5, sources=alone("explore", 1.0)).items(*ids)
    reached = {item for i in range(100) for item in world(id=f"r{i}").items}
    assert reached == set(ids)


def test_users_who_ask_by_the_same_id_explore_other_items() -> None:
    ids = [f"i{i}" for i in range(600)]
    world = World(limit=5, sources=alone("explore", 1.0)).items(*ids)
    assert world(user="ann", id="1").items != world(user="bob", id="1").items


def test_features_say_what_is_known() -> None:
    world = World(repeat_seen=True).items("old", at=0, tags=("x", "y")).items("new", at=DAY)
    world.vectors(old=(1, 0, 0, 0), new=(1, 1, 0, 0)).likes("bob", "new", "old")
    world.likes("ann", "old")
    world.shows("ann", "new").shows("bob", "new")
    found = world()
    for name in ("popularity", "content", "nearest", "latest", "rate", "age", "tags"):
        assert column(found, name) == {"new": -1.0, "old": 1.0}, name
    for name in ("knn", "shown", "repeats"):
        assert column(found, name) == {"new": 1.0, "old": -1.0}, name
    assert column(found, "text") == {"new": 0.0, "old": 0.0}


def test_features_are_standardised_within_the_request() -> None:
    rng = np.random.default_rng(0)
    x = standardised(rng.normal(3, 9, size=(50, 4)) * [1, 1e-6, 1e6, 0])
    assert np.allclose(x[:, :3].mean(axis=0), 0, atol=1e-4)
    assert np.allclose(x[:, :3].std(axis=0), 1, atol=1e-3)
    assert x[:, 3].tolist() == [0.0] * 50
    assert (x == x.round(4)).all()
    assert x.dtype == np.float64
    assert not np.signbit(standardised(np.array([[1.0], [-1e-7], [-1.0]]))[1, 0])


def test_one_candidate_has_no_features_to_tell_it_from_others() -> None:
    assert World().items("a")().x.tolist() == [[0.0] * len(COLUMNS)]


def test_reading_writes_nothing() -> None:
    world = World().items("a", "b", tags=("x",)).vectors(a=(1, 0, 0, 0), b=(0, 1, 0, 0))
    world.likes("ann", "a").shows("ann", "b")
    before = world.memory.digest(), world.catalogue.changes, len(world.catalogue.ids)
    first = world()
    for user in ("ann", "nobody"):
        world(user, candidates=("a", "ghost"))
        world(user, id="other")
    assert (world.memory.digest(), world.catalogue.changes, len(world.catalogue.ids)) == before
    assert equal(first, world())


IDS = ("a", "b", "c", "d", "e", "f", "g")
Changes = list[Item | Embedding]
items = st.builds(
    Item,
    id=st.sampled_from(IDS),
    at=st.integers(0, 3),
    tags=st.lists(st.sampled_from(["x", "y"]), unique=True).map(tuple),
    expires_at=st.sampled_from([None, None, DAY]),
    deleted=st.sampled_from([False, False, True]),
)
small = st.tuples(*[st.integers(-2, 2)] * 4)
embeddings = st.builds(embedded, st.sampled_from(IDS), small)


def fold(catalogue: Catalogue, changes: Iterable[Item | Embedding]) -> None:
    for change in changes:
        if isinstance(change, Item):
            catalogue.fold_item(catalogue.items_version, change)
        else:
            catalogue.fold_embedding(catalogue.embeddings_version, change)


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[Changes, Changes]:
    logs = draw(st.lists(items, max_size=12)), draw(st.lists(embeddings, max_size=12))
    orders = []
    for _ in range(2):
        turns = draw(st.permutations([0] * len(logs[0]) + [1] * len(logs[1])))
        rest = iter(logs[0]), iter(logs[1])
        orders.append([next(rest[turn]) for turn in turns])
    return orders[0], orders[1]


@settings(deadline=None)
@given(interleaved(), st.integers(0, 24))
def test_candidates_do_not_depend_on_how_the_logs_interleave(
    orders: tuple[Changes, Changes], looks_in_between: int
) -> None:
    answers = []
    for order in orders:
        world = World(limit=4).likes("ann", "a", "b").likes("bob", "a", "d").shows("ann", "d", "e")
        fold(world.catalogue, order[:looks_in_between])
        world()
        fold(world.catalogue, order[looks_in_between:])
        answers.append([world(), world("bob"), world(candidates=IDS), world(id="another")])
    assert all(equal(one, other) for one, other in zip(*answers, strict=True))


SCRIPT = """
import sys
from hashlib import blake2b
sys.path.insert(0, {tests!r})
import test_candidates as t
world = t.World(limit=15).items(*(f"i{{i}}" for i in range(80)), tags=("x", "y", "z"))
world.vectors(**{{f"i{{i}}": (1, i % 7, i % 5, i % 3) for i in range(70)}})
for i in range(200):
    world.likes(f"u{{i % 9}}", f"i{{i * 7 % 80}}").shows(f"u{{i % 9}}", f"i{{i * 3 % 80}}")
out = blake2b()
for i in range(30):
    found = world(f"u{{i % 10}}", id=f"r{{i}}", exclude=("i1", "i2"))
    out.update(repr((found.items, found.sources, found.tags)).encode())
    out.update(found.x.tobytes() + found.text.tobytes())
print(out.hexdigest(), world.memory.digest())
"""


def test_two_processes_with_other_hash_seeds_agree() -> None:
    answers = set()
    for seed in ("1", "2"):
        script = SCRIPT.format(tests=str(Path(__file__).parent))
        run = subprocess.run(
            [sys.executable, "-c", script],
            env=os.environ | {"PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=True,
        )
        answers.add(run.stdout)
    assert len(answers) == 1
    assert len(answers.pop().split()) == 2
