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


def test_what_is_no_item_is_a_dead_letter_and_a_deleted_one_is_nothing() -> None:
    deleted = encode(Item(id="gone", title="", at=0, deleted=True))
    [first, second] = published(None, deleted, b"rubbish")
    assert (first.value, second.value) == (b"", b"rubbish")
    assert dict(second.headers)["offset"] == b"12"
