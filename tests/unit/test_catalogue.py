"""The catalogue is a function of its two versions, and its vectors are exact."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from models.catalogue import Catalogue, on_grid, projection
from models.events import Embedding, Item

IDS = ("a", "b", "c", "d", "e", "f")
Records = list[Item | Embedding]


def embedding(id: str, *vector: float, encoder: str = "tiny") -> Embedding:
    data = np.array(vector or (1, 2, 3), "<f2").tobytes()
    return Embedding(id=id, encoder=encoder, text_hash="0" * 16, vector=data)


def folded(records: Iterable[Item | Embedding], limit: int = 100) -> Catalogue:
    catalogue = Catalogue(encoder="tiny", dimensions=3, limit=limit)
    for record in records:
        if isinstance(record, Item):
            catalogue.fold_item(catalogue.items_version, record)
        else:
            catalogue.fold_embedding(catalogue.embeddings_version, record)
    return catalogue


def view(catalogue: Catalogue, at: int = 5) -> dict[str, Any]:
    """All that can be read, by id."""
    found = {
        id: (
            catalogue.item(id),
            catalogue.available(id, at),
            catalogue.withdrawn(id, at),
            None if (vector := catalogue.vector(id)) is None else vector.tolist(),
            catalogue.text[catalogue.find([id])].tolist(),
            catalogue.at[catalogue.find([id])].tolist(),
            catalogue.tag_buckets[catalogue.find([id])].tolist(),
            catalogue.tags[catalogue.find([id])[0]],
        )
        for id in IDS
    }
    aged = [catalogue.aged(i) for i in range(catalogue.size)]
    return found | {"newest": list(catalogue.newest(at)), "aged": aged}


ids = st.sampled_from(IDS)
items = st.builds(
    Item,
    id=ids,
    at=st.integers(0, 4),
    tags=st.lists(st.sampled_from(["x", "y"]), unique=True).map(tuple),
    expires_at=st.sampled_from([None, 4, 6]),
    deleted=st.booleans(),
)
embeddings = st.builds(
    embedding,
    ids,
    st.integers(0, 2),
    st.integers(-2, 2),
    st.integers(-2, 2),
    encoder=st.sampled_from(["tiny", "tiny", "other"]),
)


@st.composite
def interleaved(draw: st.DrawFn) -> tuple[Records, Records]:
    """Two orders of the same two logs."""
    logs = draw(st.lists(items, max_size=12)), draw(st.lists(embeddings, max_size=12))
    orders = []
    for _ in range(2):
        turns = draw(st.permutations([0] * len(logs[0]) + [1] * len(logs[1])))
        rest = iter(logs[0]), iter(logs[1])
        orders.append([next(rest[turn]) for turn in turns])
    return orders[0], orders[1]


@settings(deadline=None)
@given(interleaved(), st.sampled_from([2, 3, 100]))
def test_how_the_logs_interleave_makes_no_difference(
    orders: tuple[Records, Records], limit: int
) -> None:
    one, other = (folded(order, limit) for order in orders)
    assert view(one) == view(other)
    assert one.ignored == other.ignored


own = embeddings.filter(lambda e: e.encoder == "tiny")
logs = st.lists(items, max_size=15) | st.lists(own, max_size=15)


@settings(deadline=None)
@example([embedding(id) for id in "abac"], 2)
@example([Item(id=id, at=0) for id in "abac"], 2)
@given(logs, st.sampled_from([2, 3, 100]))
def test_a_compacted_log_gives_the_same_catalogue(log: Records, limit: int) -> None:
    last = {record.id: i for i, record in enumerate(log)}
    compacted = [record for i, record in enumerate(log) if last[record.id] == i]
    assert view(folded(log, limit)) == view(folded(compacted, limit))


def test_an_embedding_may_come_before_its_item() -> None:
    catalogue = folded([embedding("a", 0, 0, 7)])
    assert catalogue.find(["a"]).tolist() == [0]
    catalogue.fold_item(0, Item(id="a", at=1))
    assert catalogue.find(["a"]).tolist() != [0]
    assert catalogue.active.sum() == 1


def test_embeddings_of_another_encoder_are_counted_and_change_nothing() -> None:
    catalogue = folded([Item(id="a", at=1), embedding("a", 1, 0, 0)])
    before = view(catalogue)
    catalogue.fold_embedding(1, embedding("a", 0, 1, 0, encoder="other"))
    assert view(catalogue) == before
    assert catalogue.ignored == {"encoder": 1, "size": 0, "vector": 0}
    assert catalogue.embeddings_version == 2


@pytest.mark.parametrize("useless", [(1, 2), (0, 0, 0), (np.inf, 0, 0), (np.nan, 0, 0)])
def test_a_useless_embedding_leaves_no_vector(useless: tuple[float, ...]) -> None:
    catalogue = folded([Item(id="a", at=1), embedding("a", 1, 0, 0), embedding("a", *useless)])
    assert view(catalogue) == view(folded([Item(id="a", at=1)]))
    assert sum(catalogue.ignored.values()) == 1
    assert catalogue.embeddings_version == 2


def test_deleted_and_expired_items_are_withdrawn() -> None:
    catalogue = folded([Item(id="a", at=1, expires_at=5), Item(id="b", at=2, deleted=True)])
    assert catalogue.available("a", 4)
    assert not catalogue.available("a", 5)
    assert catalogue.withdrawn("a", 5)
    assert catalogue.withdrawn("b", 0)
    assert not catalogue.withdrawn("c", 0)
    assert (list(catalogue.newest(4)), list(catalogue.newest(5))) == (["a"], [])


def test_a_deleted_item_can_come_back() -> None:
    records = [Item(id="a", at=1), embedding("a"), Item(id="a", at=1, deleted=True)]
    assert view(folded([*records, Item(id="a", at=1)])) == view(folded(records[:2]))


def test_the_newest_come_first_and_ties_go_by_id() -> None:
    ats = {"a": 1, "b": 3, "c": 3, "d": 2}
    catalogue = folded(Item(id=id, at=at) for id, at in sorted(ats.items(), reverse=True))
    assert list(catalogue.newest(9)) == ["b", "c", "d", "a"]


def test_a_new_version_of_an_item_replaces_the_old_one() -> None:
    old, new = Item(id="a", at=1, tags=("x", "y")), Item(id="a", at=2, tags=("z",))
    assert view(folded([old, new])) == view(folded([new]))


def test_memory_is_bounded_whatever_arrives() -> None:
    limit = 10
    catalogue = Catalogue(encoder="tiny", dimensions=3, limit=limit)
    for i in range(200):
        catalogue.fold_item(i, Item(id=f"item-{i}", at=i))
        catalogue.fold_embedding(i, embedding(f"item-{999 - i}"))
    assert len(catalogue.ids) <= 2 * limit + 1
    assert list(catalogue.newest(0)) == [f"item-{i}" for i in range(199, 189, -1)]


def test_a_row_used_again_keeps_nothing_of_its_last_item() -> None:
    catalogue = folded([Item(id="a", at=1, tags=("x",)), embedding("a", 9, 9, 9)], limit=1)
    catalogue.fold_item(1, Item(id="b", at=2))
    catalogue.fold_embedding(1, embedding("c", 1, 0, 0))
    fresh = folded([Item(id="b", at=2), embedding("c", 1, 0, 0)], limit=1)
    assert view(catalogue) == view(fresh)


def test_an_offset_that_runs_back_is_refused() -> None:
    catalogue = folded([Item(id="a", at=1)])
    with pytest.raises(ValueError, match="rising offsets; 0 came after 0"):
        catalogue.fold_item(0, Item(id="a", at=1))


def test_holes_left_by_compaction_are_fine() -> None:
    catalogue = folded([])
    catalogue.fold_item(7, Item(id="a", at=1))
    assert catalogue.items_version == 8


def test_vectors_have_length_one_and_keep_their_direction() -> None:
    rng = np.random.default_rng(1)
    for dimensions in (1, 3, 384, 1024):
        vector = rng.normal(size=dimensions)
        catalogue = Catalogue(encoder="tiny", dimensions=dimensions)
        catalogue.fold_embedding(0, embedding("a", *vector))
        unit = catalogue.vector("a")
        assert unit is not None
        assert unit.dtype == np.float32
        assert abs(np.linalg.norm(unit) - 1) < 1e-6
        assert unit @ vector / np.linalg.norm(vector) > 1 - 1e-5


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 600))
def test_products_of_vectors_are_exact_in_any_order(seed: int, dimensions: int) -> None:
    rng = np.random.default_rng(seed)
    some = np.array([on_grid(rng.normal(size=dimensions) ** 3) for _ in range(5)])
    some[1] = some[0]  # the largest product there is
    exact = some.astype(np.int64) @ some.astype(np.int64).T
    order = rng.permutation(dimensions)
    assert np.array_equal(some @ some.T, exact)
    assert np.array_equal(some[:, order] @ some[3, order], exact[:, 3])
    assert exact.max() <= 2**24


def test_a_vector_that_rounding_makes_too_long_is_cut() -> None:
    cut = on_grid(np.ones(1030)).astype(np.int64)
    assert 4_000**2 < cut @ cut <= 2**24


def test_the_projection_is_orthogonal_and_always_the_same() -> None:
    directions = projection(384, 16)
    assert np.allclose(directions @ directions.T, np.eye(16) * 384 / 16, atol=1e-9)
    assert directions[:2, :2].round(6).tolist() == [[-0.360838, 0.130394], [0.287513, -0.209237]]


def test_projected_texts_keep_their_cosines_roughly() -> None:
    rng = np.random.default_rng(0)
    catalogue = Catalogue(encoder="tiny", dimensions=384, text_dims=64)
    vectors = rng.normal(size=(60, 384)) + 2 * rng.normal(size=384)
    for i, vector in enumerate(vectors):
        catalogue.fold_embedding(i, embedding(str(i), *vector))
        catalogue.fold_item(i, Item(id=str(i), at=0))
    text = catalogue.text[catalogue.find([str(i) for i in range(60)])]
    assert np.abs(np.linalg.norm(text, axis=1) - 1).mean() < 0.15
