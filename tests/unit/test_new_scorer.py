"""A scorer is one file and one row of `stream/build.py`; all else follows from the row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from agents.loop import Loop
from models.arrays.id_table import IdTable
from models.arrays.lru_index import LruIndex, grown, nested, part
from models.base import Arrays, Floats
from models.bert_encoder import embed
from models.candidates import FEATURES, SOURCES, Retrieval, scores_of, standardised, top_of
from models.catalogue import Catalogue
from models.content import Content
from models.events import Click, Decision, Interaction, Item, Request, Source
from models.hash_encoder import HashEncoder
from models.memory import Memory
from policies.blend import Blend
from stream import build
from stream.build import ScorerRow
from stream.offline.compare.arms import ARMS, arm_loop
from stream.settings import Settings

SETTINGS = Settings(encoder="hash", candidates=10)
USUAL = (
    *("popularity", "knn", "knn_long", "mf", "content", "nearest", "latest"),
    *("rate", "shown", "repeats", "age", "tags", "text"),
)


class Underdog:
    """The toy: prefers what was liked, but least often."""

    name = "underdog"

    def __init__(self, limit: int) -> None:
        self._items = LruIndex(limit)
        self._likes: Floats = np.zeros(0, np.float32)

    def scores(self, user: str, items: Sequence[str]) -> Floats:
        rows = self._items.rows(items)
        known = np.append(self._likes, np.float32(0))  # -1, the unknown one's, is the last
        return -np.where(rows >= 0, known[rows], 0).astype(np.float32)

    def top(self, user: str, n: int) -> list[str]:
        ids = self._items.ids()
        return [id for _, id in sorted(zip(self._likes.tolist(), ids, strict=False))[:n]]

    def learn(self, user: str, item: str, value: float, seed: int) -> None:
        if value > 0:
            row, fresh = self._items.touch(item)
            self._likes = grown(self._likes, len(self._items))
            self._likes[row] = 1 if fresh else self._likes[row] + 1

    def state(self) -> Arrays:
        likes = self._likes[: len(self._items)].copy()
        return {"likes": likes, **nested(items=self._items.state())}

    def load(self, state: Arrays) -> None:
        self._items.load(part(state, "items"))
        self._likes = state["likes"].copy()


@pytest.fixture
def with_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of scorers with one row more."""
    usual = build.scorers

    def scorers(
        settings: Settings, users: IdTable | None = None, items: IdTable | None = None
    ) -> dict[str, ScorerRow]:
        row = ScorerRow(Underdog(settings.max_items), (scores_of("toy"),), top_of("toy", share=0.3))
        return usual(settings, users, items) | {"toy": row}

    monkeypatch.setattr(build, "scorers", scorers)


def played(settings: Settings = SETTINGS) -> Loop:
    """A loop that was told of 40 items and 120 likes; item 30 has one like alone."""
    loop, encoder = build.loop(settings, HashEncoder()), HashEncoder()
    for n in range(40):
        item = Item(id=f"i{n:02}", at=0, title=f"title {n}")
        for message in (item, *embed([item], encoder)):
            loop(message)
    for n in range(120):
        item = "i30" if n == 119 else f"i{n * 7 % 30:02}"
        loop(Click(id=f"c{n}", user=f"u{n % 9}", item=item, at=n + 1))
    return loop


def retrieval(memory: Memory, catalogue: Catalogue | None = None, **settings: Any) -> Retrieval:
    catalogue = catalogue or Catalogue(encoder="", dimensions=1)
    return Retrieval(memory, catalogue, Content(catalogue, memory.histories), **settings)


def asked(loop: Loop) -> Decision:
    [decision] = loop(Request(id="r", user="ann", at=200, k=10))
    return decision


@pytest.mark.usefixtures("with_row")
def test_its_column_has_its_name_and_its_scores() -> None:
    loop = played()
    found = loop.recommender.retrieval(Request(id="r", user="ann", at=200))
    assert found.names == (*USUAL[:4], "toy", *USUAL[4:]) == asked(loop).features
    toy = loop.learner.memory.scorers["toy"]
    expected = standardised(toy.scores("ann", found.items).astype(np.float64)[:, None])
    column = found.x[:, found.names.index("toy")]
    assert column.any()
    assert column.tolist() == expected[:, 0].tolist()


@pytest.mark.usefixtures("with_row")
def test_slots_name_it_as_the_source_of_what_it_puts_first() -> None:
    loop = played()
    sources = {slot.item: slot.source for slot in asked(loop).slots}
    assert sources["i30"] == "toy"
    assert [*sources.values()].count("toy") == round(0.3 / 1.3 * 10)
    assert "mf" in sources.values()


@pytest.mark.usefixtures("with_row")
def test_a_policy_ranks_by_it() -> None:
    loop = played()
    found = loop.recommender.retrieval(Request(id="r", user="ann", at=200))
    scores = Blend(weights={"toy": 1.0}).scores("ann", {}, found)
    assert found.items[int(scores.argmax())] == "i30"


@pytest.mark.usefixtures("with_row")
def test_what_it_learned_is_saved_and_loaded_with_the_rest() -> None:
    loop, again = played(), build.parts(SETTINGS, HashEncoder())
    state = loop.learner.state()
    assert state.memory["toy.likes"].sum() == 120
    again.learner.load(state)
    assert again.learner.digest() == loop.learner.digest()
    like = Interaction("i", "ann", "i39", 0, 1.0, Source(0, 0, 0))
    for learner in (again.learner, loop.learner):
        learner.memory.learn(like, seed=7)
    assert again.learner.memory.digest() == loop.learner.memory.digest()
    assert again.learner.memory.state()["toy.likes"].sum() == 121
    _, recommender = build.deciding(SETTINGS, again.learner, loop.recommender.catalogue)
    request = Request(id="r", user="ann", at=200)
    one, other = recommender.retrieval(request), loop.recommender.retrieval(request)
    assert (one.names, one.items, one.sources) == (other.names, other.items, other.sources)
    assert one.x.tobytes() == other.x.tobytes()


def test_a_state_of_other_scorers_is_refused(request: pytest.FixtureRequest) -> None:
    before = build.learner(SETTINGS).state()
    request.getfixturevalue("with_row")
    with pytest.raises(ValueError, match="toy"):
        build.learner(SETTINGS).load(before)


def test_the_usual_columns_and_sources_are_in_their_order() -> None:
    assert tuple(feature.name for feature in build.features(SETTINGS)) == USUAL
    assert {source.name: source.share for source in build.sources(SETTINGS)} == {
        "knn": 0.4,
        "mf": 0.25,
        "content": 0.1,
        "popular": 0.15,
        "fresh": 0.05,
        "explore": 0.05,
    }
    quotas = build.loop(Settings(encoder="hash"), HashEncoder()).recommender.retrieval.quotas
    assert [*quotas.items()] == [
        *(("knn", 40), ("mf", 25), ("content", 10)),
        *(("popular", 15), ("fresh", 5), ("explore", 5)),
    ]


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_keeps_the_columns_of_what_it_lacks_and_not_the_sources(name: str) -> None:
    arm = arm_loop(SETTINGS, HashEncoder(), ARMS[name], Loop).recommender.retrieval
    assert arm.names == USUAL
    lacks = {"knn", "mf"} - set(ARMS[name].parts)
    assert not lacks & {source.name for source in arm.sources}


@pytest.mark.parametrize("name", [*build.scorers(SETTINGS), "toy"])
@pytest.mark.usefixtures("with_row")
def test_each_row_gives_what_its_own_scorer_says(name: str) -> None:
    rows = build.scorers(SETTINGS)
    for n in range(200):
        for row in rows.values():
            row.scorer.learn(f"u{n % 9}", f"i{n * n % 31}", 1.0, seed=n)
    row, catalogue = rows[name], Catalogue(encoder="", dimensions=1)
    for n in range(31):
        catalogue.fold_item(n, Item(id=f"i{n}", at=0))
    memory = Memory(None, {name: row.scorer})
    sources = [row.source] if row.source else []
    reads = retrieval(memory, catalogue, features=row.features, sources=sources)
    found = reads(Request(id="r", user="u1", at=0))
    assert found.x.shape[1] > 0
    assert found.x.any(axis=0).all()
    assert [source.name in found.sources for source in sources] == [True] * len(sources)


def test_shares_of_more_than_one_together_are_scaled_down() -> None:
    wide = [replace(source, share=1.0) for source in SOURCES]
    assert sum(retrieval(Memory(None, {}), sources=wide).quotas.values()) == 100
    with pytest.raises(ValueError, match=r"toy: share must be in \(0, 1\], got 0"):
        top_of("toy", share=0)


def test_two_columns_or_sources_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="names of their own"):
        retrieval(Memory(None, {}), features=FEATURES * 2)
    with pytest.raises(ValueError, match="names of their own"):
        retrieval(Memory(None, {}), sources=SOURCES * 2)
