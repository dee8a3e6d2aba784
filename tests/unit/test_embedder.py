"""Items in, vectors out: one that fails costs nobody else anything."""

import asyncio
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from models.base import Floats
from models.events import Item, decode_embedding, encode
from models.hash_encoder import HashEncoder
from stream.kafka.producer import ProducerRecord
from stream.kafka.topics import Topics
from stream.worker.embedder import EmbeddingCounters, embed_items

TOPICS = Topics("here")


class Message(Struct):
    offset: int
    timestamp: float = 1_760_000_000.0


class Event(Struct):
    value: bytes | None
    message: Message


class Picky(HashEncoder):
    """Fails on whatever holds "poison"."""

    def encode(self, texts: Sequence[str]) -> Floats:
        if any("poison" in text for text in texts):
            raise RuntimeError("no such token")
        return super().encode(texts)


def published(*values: bytes | None) -> list[ProducerRecord]:
    """What the embedder publishes for values at offsets 10, 11 ..."""
    out: list[ProducerRecord] = []

    class Publishes:
        async def until_done(self, messages: Sequence[ProducerRecord]) -> None:
            out.extend(messages)

    batch: Any = [Event(value, Message(10 + n)) for n, value in enumerate(values)]
    publish: Any = Publishes()
    asyncio.run(embed_items(batch, Picky(), TOPICS, publish, EmbeddingCounters()))
    return out


def test_a_title_that_fails_costs_the_others_nothing() -> None:
    titles = ("a fox", "poison", "a law")
    values = [encode(Item(id=title, title=title, at=0)) + b"  " for title in titles]
    letter, *vectors = published(*values)
    assert [decode_embedding(vector.value).id for vector in vectors] == ["a fox", "a law"]
    assert letter.value == values[1]
    headers = dict(letter.headers)
    assert headers["offset"] == b"11"
    assert headers["reason"] == b"not embedded: RuntimeError: no such token"


def test_an_item_in_another_unit_or_of_a_newer_schema_is_a_dead_letter() -> None:
    seconds = encode(Item(id="old", title="a fox", at=1_750_000_000))
    expires = encode(Item(id="sold", title="a fox", at=0, expires_at=1_790_000_000))
    newer = b'{"type":"item","id":"new","at":0,"title":"a fox","v":2}'
    letters = published(seconds, expires, newer)
    says = [dict(letter.headers)["reason"] for letter in letters]
    assert says[0].startswith(b"invalid: at 1750000000 looks like seconds: multiply by 1000")
    assert says[1].startswith(b"invalid: expires_at 1790000000 looks like seconds: multiply by")
    assert says[2].startswith(b"invalid: v is 2, and this release reads messages up to v 1")


def test_what_is_no_item_is_a_dead_letter_and_a_deleted_one_is_nothing() -> None:
    deleted = encode(Item(id="gone", title="", at=0, deleted=True))
    [first, second] = published(None, deleted, b"rubbish")
    assert (first.value, second.value) == (b"", b"rubbish")
    assert dict(second.headers)["offset"] == b"12"
