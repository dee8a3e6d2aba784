"""Items in, vectors out: one that fails costs nobody else anything."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec import Struct

from agents.catalogue_records import EmbeddingRecord, ItemRecord
from models.base import Floats
from models.bert_encoder import CachedEncoder, NoVector, embed
from models.catalogue import Catalogue
from models.events import Item, decode_embedding, encode
from models.hash_encoder import HashEncoder
from stream.kafka.producer import ProducerRecord
from stream.kafka.topics import Topics
from stream.worker.embedder import Embedder, EmbeddingCounters, UnknownTexts

TOPICS = Topics("here")
Keyed = tuple[bytes | None, bytes | None]


class Message(Struct):
    offset: int
    key: bytes | None
    timestamp: float = 1_760_000_000.0


class Event(Struct):
    value: bytes | None
    message: Message


class Picky(HashEncoder):
    """Fails on whatever holds "poison"; does not know a word with "unk" in it."""

    def encode(self, texts: Sequence[str]) -> Floats:
        if any("poison" in text for text in texts):
            raise RuntimeError("no such token")
        return super().encode(texts)

    def unknown(self, texts: Sequence[str]) -> list[float]:
        words = [text.split() for text in texts]
        return [sum("unk" in one for one in some) / max(1, len(some)) for some in words]


class EmbedderRun(Struct):
    letters: list[ProducerRecord]
    vectors: list[ProducerRecord]
    done: EmbeddingCounters

    @property
    def reasons(self) -> list[str]:
        return [dict(letter.headers)["reason"].decode() for letter in self.letters]


def ran(*messages: Keyed, embeddings: bool = False) -> EmbedderRun:
    """What the embedder publishes for keys and values at offsets 10, 11 ..."""
    out: list[ProducerRecord] = []

    class Publishes:
        async def until_done(self, messages: Sequence[ProducerRecord]) -> None:
            out.extend(messages)

    batch: Any = [Event(value, Message(10 + n, key)) for n, (key, value) in enumerate(messages)]
    publish: Any = Publishes()
    embedder = Embedder(CachedEncoder(Picky()), TOPICS, publish, EmbeddingCounters())
    asyncio.run(embedder.embeddings(batch) if embeddings else embedder.items(batch))
    letters = [one for one in out if one.topic == TOPICS.deadletters]
    return EmbedderRun(letters, [one for one in out if one not in letters], embedder.done)


def titled(id: str, title: str, **more: Any) -> Keyed:
    return id.encode(), encode(Item(id=id, title=title, at=0, **more))


def test_a_title_that_fails_costs_the_others_nothing() -> None:
    values = [titled(title, title) for title in ("a fox", "poison", "a law")]
    found = ran(*values)
    first, none, second = found.vectors
    assert [decode_embedding(one.value or b"").id for one in (first, second)] == ["a fox", "a law"]
    assert none.value is None
    [letter] = found.letters
    headers = dict(letter.headers)
    assert (letter.value, headers["key"]) == (values[1][1], b"poison")
    assert headers["offset"] == b"11"
    assert found.reasons == ["not embedded: RuntimeError: no such token"]


def test_an_item_in_another_unit_or_of_a_newer_schema_is_a_dead_letter() -> None:
    seconds = encode(Item(id="old", title="a fox", at=1_750_000_000))
    expires = encode(Item(id="sold", title="a fox", at=0, expires_at=1_790_000_000))
    newer = b'{"type":"item","id":"new","at":0,"title":"a fox","v":2}'
    says = ran((b"old", seconds), (b"sold", expires), (b"new", newer)).reasons
    assert says[0].startswith("invalid: at 1750000000 looks like seconds: multiply by 1000")
    assert says[1].startswith("invalid: expires_at 1790000000 looks like seconds: multiply by")
    assert says[2].startswith("invalid: v is 2, and this release reads messages up to v 1")


def test_what_is_no_item_is_a_dead_letter_and_a_deleted_one_is_nothing() -> None:
    found = ran((None, None), titled("gone", "", deleted=True), (b"a", b"rubbish"), (b"b", b""))
    assert [letter.value for letter in found.letters] == [b"", b"rubbish", b""]
    assert dict(found.letters[1].headers)["offset"] == b"12"
    assert found.done.dead_letters == {"wrong key": 1, "invalid": 2}
    assert [(one.key or b"")[-2:] for one in found.vectors if one.value is None] == [b" a", b" b"]


def test_a_tombstone_is_no_letter_and_takes_the_vector_away() -> None:
    found = ran((b"film:1", None))
    assert found.letters == []
    [gone] = found.vectors
    assert (gone.key, gone.value) == (f"{Picky().version} film:1".encode(), None)


@pytest.mark.parametrize("key", [None, b"", b"\xff", b"catalogue"])
def test_an_item_under_another_key_is_a_letter_and_no_vector(key: bytes | None) -> None:
    found = ran((key, titled("film:1", "a fox")[1]), titled("film:2", "a law"))
    assert found.reasons[0].startswith("wrong key: ")
    assert "'film:1'" in found.reasons[0]
    assert [one.key for one in found.vectors if one.value] == [f"{Picky().version} film:2".encode()]


def test_a_vector_under_another_key_is_a_letter() -> None:
    value = encode(embed([Item(id="a", title="a fox", at=0)], Picky())[0])
    right = f"{Picky().version} a".encode()
    found = ran((b"a", value), (right, value), (right, None), (None, None), embeddings=True)
    assert found.vectors == []
    assert [dict(one.headers)["offset"] for one in found.letters] == [b"10", b"13"]
    assert dict(found.letters[0].headers)["topic"] == TOPICS.embeddings.encode()
    assert found.done.wrong_vectors == {"wrong key": 2}


@pytest.mark.parametrize("said", ["", " \u200b", "unk unknown", "poison"])
def test_no_vector_of_an_older_text_stays(said: str) -> None:
    items = [titled("a", "a fox"), titled("a", said)]
    published = ran(*items).vectors
    catalogue = Catalogue(encoder=Picky().version, dimensions=64)
    for n, (key, value) in enumerate(items):
        ItemRecord.of(key, value).fold(catalogue, n)
    found: list[bool] = []
    for n, one in enumerate(published):
        EmbeddingRecord.of(one.key, one.value).fold(catalogue, n)
        found.append(catalogue.vector("a") is not None)
    assert found == [True, False]


def test_texts_without_a_vector_are_counted_by_reason() -> None:
    found = ran(titled("a", "unk unk x"), titled("b", ""), titled("c", "unk x"), titled("d", "fox"))
    assert (found.done.items, found.done.without) == (2, {"unknown": 1, "empty": 1})


def test_unknown_texts_are_said_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    clock = iter([0.0, 1.0, 59.0, 60.0]).__next__
    said = UnknownTexts(clock)
    items = [Item(id=str(n), title=f"title {n}", at=0) for n in range(4)]
    [vector] = embed(items[:1], HashEncoder())
    made = [NoVector("unknown"), vector, NoVector("empty"), NoVector("unknown")]
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            said.add(items, made, "tiny")
    assert [record.message[:51] for record in caplog.records] == [
        "67% of these titles are unknown to the text model: "
    ] * 2
    assert [vars(record)["of"] for record in caplog.records] == [3, 9]
    assert vars(caplog.records[0])["example"] == "title 3"
