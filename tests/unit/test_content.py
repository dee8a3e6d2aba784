"""Content's kept neighbour lists are exact, bounded, and cannot be told from computing anew."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.catalogue import Catalogue
from models.content import Content
from models.events import Embedding, Interaction, Item, Source
from models.history import Histories

IDS = ("a", "b", "c", "d", "e", "f", "g")


def embedded(id: str, vector: Sequence[float]) -> Embedding:
    data = np.array(vector, "<f2").tobytes()
    return Embedding(id=id, encoder="tiny", text_hash="0" * 16, vector=data)


def fold(catalogue: Catalogue, change: Item | Embedding) -> None:
    if isinstance(change, Item):
        catalogue.fold_item(catalogue.items_version, change)
    else:
        catalogue.fold_embedding(catalogue.embeddings_version, change)


def content(likes: str = "", dislikes: str = "", **vectors: Sequence[float]) -> Content:
    """Ann's taste, over items with these vectors."""
    catalogue, histories = Catalogue(encoder="tiny", dimensions=4), Histories()
    for id, vector in vectors.items():
        fold(catalogue, Item(id=id, at=0))
        fold(catalogue, embedded(id, vector))
    for item in likes + dislikes:
        value = 1.0 if item in likes else 0.0
        histories.learn(Interaction("i", "ann", item, 0, value, Source(0, 0, 0)))
    return Content(catalogue, histories)


items = st.builds(
    Item,
    id=st.sampled_from(IDS),
    at=st.just(0),
    tags=st.sampled_from([(), ("x",)]),
    deleted=st.sampled_from([False, False, True]),
)
embeddings = st.builds(embedded, st.sampled_from(IDS), st.tuples(*[st.integers(-2, 2)] * 4))


@settings(deadline=None, max_examples=200)
@given(
    st.lists(embeddings, min_size=7, max_size=14),
    st.lists(items | embeddings | st.just(None), max_size=20),
    st.sampled_from([3, 9]),
    st.sampled_from([3, 9]),
)
def test_kept_neighbour_lists_equal_those_computed_anew(
    start: list[Embedding], events: list[Item | Embedding | None], limit: int, kept_limit: int
) -> None:
    catalogue, histories = Catalogue(encoder="tiny", dimensions=4, limit=limit), Histories()
    for change in [*(Item(id=id, at=0) for id in IDS), *start]:
        fold(catalogue, change)
    kept = Content(catalogue, histories, neighbours=2, limit=kept_limit)
    for event in [None, *events, None]:
        if event is not None:
            fold(catalogue, event)
            continue
        for id in filter(catalogue.embedded, IDS):
            anew = Content(catalogue, histories, neighbours=2)
            assert kept.near(id).ids == anew.near(id).ids == nearest(catalogue, id)[:2]


def nearest(catalogue: Catalogue, anchor: str) -> tuple[str, ...]:
    """By the book: in float64, over all pairs, from the published vectors."""
    one = catalogue.vectors[catalogue.embedded(anchor)].astype(np.int64)
    found = []
    for id in IDS:
        if id != anchor and id in catalogue.live and catalogue.embedded(id):
            other = catalogue.vectors[catalogue.embedded(id)].astype(np.int64)
            found.append((-int(one @ other) / float(np.sqrt(int(other @ other))), id))
    return tuple(id for _, id in sorted(found))


def test_kept_lists_are_extended_without_computing_all_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taste = content(a=(1, 0, 0, 0), b=(1, 1, 0, 0), c=(0, 1, 0, 0), d=(0, 0, 1, 0))
    assert taste.near("a").ids == ("b", "c", "d")
    monkeypatch.setattr(taste, "_computed", None)
    fold(taste.catalogue, Item(id="e", at=0))
    fold(taste.catalogue, embedded("e", (2, 1, 0, 0)))
    assert taste.near("a").ids == ("e", "b", "c", "d")
    for id in "ab":
        fold(taste.catalogue, Item(id=id, at=0, tags=("new",)))
    assert taste.near("a").ids == ("e", "b", "c", "d")


def test_kept_lists_are_bounded_and_what_fell_out_is_computed_again() -> None:
    taste = content()
    for i, id in enumerate(IDS):
        fold(taste.catalogue, Item(id=id, at=0))
        fold(taste.catalogue, embedded(id, (1, i, 0, 0)))
    small = Content(taste.catalogue, taste.histories, limit=3)
    assert [small.near(id).ids for id in IDS * 2] == [taste.near(id).ids for id in IDS * 2]
    assert taste.near("c").ids[:2] == ("d", "e")
    assert len(small._lists) == 3


def test_the_nearest_of_each_like_come_first() -> None:
    taste = content("ab", a=(9, 0, 0, 1), b=(0, 9, 0, 1), c=(9, 1, 0, 0), d=(2, 9, 0, 0))
    assert list(taste.nearest("ann")) == ["d", "c", "a", "b"]
    assert list(taste.nearest("nobody")) == []


def test_content_is_a_ranking_of_its_own() -> None:
    taste = content("a", a=(1, 0, 0, 0), b=(1, 1, 0, 0), c=(3, 1, 0, 0), d=(-1, 0, 0, 0))
    assert taste.top("ann", 2) == ["c", "b"]
    assert taste.top("nobody", 2) == []
    cosines = [1, 0.70711, 0.94868, -1, 0]
    assert np.allclose(taste.scores("ann", [*"abcd", "ghost"]), cosines, atol=1e-3)


def test_taste_is_the_mean_of_the_last_likes() -> None:
    vectors = {"a": (1, 0, 0, 0), "b": (0, 2, 0, 0), "c": (1, 1, 0, 0), "d": (0, 0, 1, 0)}
    all_of_it = content("dab", "c", **vectors)
    taste = Content(all_of_it.catalogue, all_of_it.histories, recent=2)
    expected = [0.5**0.5, 0.5**0.5, 1, 0]
    assert np.allclose(taste.scores("ann", [*"abcd"]), expected, atol=1e-3)
