"""A key and its last message say what there is: compaction changes nothing, wherever it strikes."""

from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agents.catalogue_records import EmbeddingRecord, ItemRecord, embedding_key
from models.catalogue import Catalogue
from models.events import Embedding, Item, encode

ENCODER = "tiny"
IDS = ("a", "b", "c", "a b", "目录", "tiny a")
Log = list[tuple[bytes, bytes]]  # keys and values, b"" for none


def item(id: str, at: int = 0, deleted: bool = False) -> bytes:
    return encode(Item(id=id, title=id, at=at, deleted=deleted))


def vector(id: str, *numbers: float, encoder: str = ENCODER) -> bytes:
    data = np.array(numbers or (1, 2), "<f2").tobytes()
    return encode(Embedding(id=id, encoder=encoder, text_hash="0" * 16, vector=data))


def view(catalogue: Catalogue) -> dict[str, Any]:
    """All that decides, by id."""
    rows = {id: catalogue.find([id]) for id in IDS}
    found = {
        id: (
            catalogue.item(id),
            catalogue.withdrawn(id, 5),
            str(catalogue.vector(id)),
            bool(catalogue.embedded(id)),
            catalogue.text[row].tolist(),
            catalogue.active[row].tolist(),
        )
        for id, row in rows.items()
    }
    return found | {"newest": list(catalogue.newest(5)), "size": catalogue.size}


def folded(
    items: list[tuple[int, bytes, bytes]],
    embeddings: list[tuple[int, bytes, bytes]],
    limit: int = 100,
) -> Catalogue:
    catalogue = Catalogue(encoder=ENCODER, dimensions=2, limit=limit)
    for offset, key, value in items:
        ItemRecord.of(key, value or None).fold(catalogue, offset)
    for offset, key, value in embeddings:
        EmbeddingRecord.of(key, value or None).fold(catalogue, offset)
    return catalogue


def numbered(log: Log) -> list[tuple[int, bytes, bytes]]:
    return [(n, key, value) for n, (key, value) in enumerate(log)]


def compacted(log: Log, seed: int) -> list[tuple[int, bytes, bytes]]:
    """The log after some cleanings, each of what is before a point of its own.

    One keeps the last message of a key before its point; a message without a value that an earlier
    cleaning kept may go for good.
    """
    rng, left = Random(seed), numbered(log)
    cleaned = 0
    for _ in range(rng.randrange(4)):
        point = rng.randint(cleaned, len(log))
        last = {key: n for n, key, _ in left if n < point}
        left = [
            (n, key, value)
            for n, key, value in left
            if n >= point or (last[key] == n and (value or n >= cleaned or rng.random() < 0.5))
        ]
        cleaned = point
    return left


ids = st.sampled_from(IDS)
bad = st.sampled_from([b"rubbish", b"{}", item("c"), vector("c"), item("")])
items = st.one_of(
    st.tuples(ids, st.integers(0, 3), st.booleans()).map(lambda t: (t[0].encode(), item(*t))),
    st.tuples(ids.map(str.encode), st.just(b"") | bad),
    st.tuples(st.sampled_from([b"", b"\xff", b"other"]), st.just(b"") | bad),
)
keys = st.tuples(st.sampled_from([ENCODER, "other", "tiny tiny"]), ids)
embeddings = st.one_of(
    st.tuples(keys, st.integers(-2, 2), st.integers(-2, 2)).map(
        lambda t: (embedding_key(*t[0]), vector(t[0][1], t[1], t[2], encoder=t[0][0]))
    ),
    st.tuples(keys.map(lambda k: embedding_key(*k)), st.just(b"") | bad),
    st.tuples(keys.map(lambda k: embedding_key(*k)), st.just(vector("a", 1, 2, 3))),
    st.tuples(st.sampled_from([b"", b"\xff", b"tiny", b"tiny "]), st.just(b"") | bad),
)
logs = st.tuples(st.lists(items, max_size=14), st.lists(embeddings, max_size=14))


@settings(deadline=None, max_examples=300)
@example(([(b"a", item("a")), (b"a", b"")], []), 3)
@example(([(b"a", item("a")), (b"a", b"rubbish")], []), 3)
@example(([(b"a", item("a")), (b"a", item("c"))], []), 3)
@example(([], [(b"tiny a", vector("a")), (b"tiny a", vector("a", 0, 0))]), 3)
@given(logs, st.integers(0, 1_000))
def test_whatever_was_compacted_the_catalogue_is_the_same(two: tuple[Log, Log], seed: int) -> None:
    whole = folded(numbered(two[0]), numbered(two[1]))
    left = folded(compacted(two[0], seed), compacted(two[1], seed))
    assert view(left) == view(whole)


@settings(deadline=None)
@given(st.lists(items, max_size=20), st.integers(1, 3), st.integers(0, 1_000))
def test_beyond_its_limit_it_shows_nothing_that_compaction_does_not(
    log: Log, limit: int, seed: int
) -> None:
    whole = folded(numbered(log), [], limit)
    left = folded(compacted(log, seed), [], limit)
    assert set(whole.live) <= set(left.live)
    assert whole.evicted or view(whole) == view(left)


def test_a_tombstone_forgets_and_a_deletion_is_remembered() -> None:
    one = [(0, b"a", item("a"))]
    gone, deleted = (
        folded([*one, (1, b"a", b"")], []),
        folded([*one, (1, b"a", item("a", 0, True))], []),
    )
    assert [c.available("a", 5) for c in (gone, deleted)] == [False, False]
    assert [c.withdrawn("a", 5) for c in (gone, deleted)] == [False, True]
    assert gone.items_version == 2


@pytest.mark.parametrize("key", [b"", b"\xff", b"catalogue", b"a\n", "ａ".encode()])
def test_an_item_under_another_key_is_a_letter_that_names_both(key: bytes) -> None:
    record = ItemRecord.of(key, item("a"))
    assert record.item is None
    shown = (
        repr(key.decode()) if key not in (b"", b"\xff") else {b"": "missing"}.get(key, repr(key))
    )
    assert record.invalid.startswith(f"wrong key: the key is {shown}, the item's id 'a'; ")


@pytest.mark.parametrize("key", [b"", b"\xff", b"a", b"tiny  a", b"other a"])
def test_an_embedding_under_another_key_is_a_letter_too(key: bytes) -> None:
    record = EmbeddingRecord.of(key, vector("a"))
    assert record.embedding is None
    assert record.invalid.startswith("wrong key: the key is ")
    assert EmbeddingRecord.of(b"tiny a", vector("a")).invalid == ""


@pytest.mark.parametrize("key", [b"", b"\xff"])
def test_a_message_with_neither_key_nor_value_is_a_letter(key: bytes) -> None:
    for kind in (ItemRecord, EmbeddingRecord):
        assert kind.of(key, None).invalid.startswith(
            "wrong key: the key of a message without a value"
        )
