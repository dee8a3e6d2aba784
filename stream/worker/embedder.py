"""Items in, vectors out: the text model at work, in micro-batches, off the request path."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence

from faust.types import EventT
from msgspec import Struct, field

from models.base import Encoder
from models.bert_encoder import embed
from models.events import Embedding, InvalidMessageError, Item, encode, read_item
from stream.kafka.producer import Producer, ProducerRecord, dead_letter
from stream.kafka.topics import Topics
from stream.worker.dead_letters import DeadLetterLog

log = logging.getLogger(__name__)


class EmbeddingCounters(Struct):
    """How much the embedder has done: items per second is `items` by `seconds`."""

    items: int = 0
    dead_letters: Counter[str] = field(default_factory=Counter[str])  # dead letters by reason
    seconds: float = 0.0  # that the text model worked
    letters: DeadLetterLog = field(default_factory=DeadLetterLog)
    since: float | None = None  # when the batch under way began, if there is one

    def busy_seconds(self, now: float) -> float:
        """For how long it has had its present batch."""
        return 0.0 if self.since is None else now - self.since


async def embed_items(
    batch: Sequence[EventT],
    encoder: Encoder,
    topics: Topics,
    publish: Producer,
    done: EmbeddingCounters,
) -> None:
    """Embed a batch of items and publish the vectors; what cannot be used is a dead letter.

    Counted in `done` once published.

    Faust acknowledges the batch even if this raises, so it must not: it tries until it is done.
    """
    letters: list[ProducerRecord] = []
    refused: list[tuple[int, str]] = []

    def refuse(event: EventT, reason: str) -> None:
        value, offset = event.value or b"", event.message.offset
        letters.append(dead_letter(topics, topics.items, 0, offset, value, reason))
        refused.append((offset, reason))

    usable: list[tuple[EventT, Item]] = []
    for event in batch:
        try:
            appended = round(event.message.timestamp * 1000)  # Faust divides it
            item = read_item(event.value or b"", appended)
        except InvalidMessageError as invalid:
            refuse(event, f"invalid: {invalid}")
        else:
            if not item.deleted:
                usable.append((event, item))
    made: list[Embedding] = []
    began = done.since = time.monotonic()
    try:
        made = await asyncio.to_thread(embed, [item for _, item in usable], encoder)
    except Exception as error:  # of the text model: one title must not cost the others theirs
        log.warning("embedding one by one", extra={"reason": f"{type(error).__name__}: {error}"})
        for event, item in usable:
            try:
                made += await asyncio.to_thread(embed, [item], encoder)
            except Exception as error:
                log.exception("item not embedded", extra={"item": item.id})
                refuse(event, f"not embedded: {type(error).__name__}: {error}")
    done.seconds += time.monotonic() - began
    vectors = [ProducerRecord(topics.embeddings, encode(e), key(e)) for e in made]
    await publish.until_done(letters + vectors)
    done.since = None
    done.items += len(made)
    for offset, reason in refused:
        done.dead_letters[reason.partition(":")[0]] += 1
        done.letters.add(topics.items, 0, offset, reason, time.monotonic())


def key(embedding: Embedding) -> bytes:
    """Compaction keeps the last vector of each encoder: one encoder's never removes another's.

    >>> key(Embedding(id="film:1", encoder="hash1/8", text_hash="0" * 16, vector=b"00"))
    b'hash1/8 film:1'
    """
    return f"{embedding.encoder} {embedding.id}".encode()
