"""Items in, vectors out: the text model at work, in micro-batches, off the request path."""

import asyncio
import logging
from collections.abc import Sequence

from faust.types import EventT

from models.base import Encoder
from models.embedding import embed
from models.events import Invalid, Item, decode_item, encode
from stream.publisher import Outgoing, Publisher, deadletter
from stream.topics import Topics

log = logging.getLogger(__name__)


async def embed_items(
    batch: Sequence[EventT], encoder: Encoder, topics: Topics, publish: Publisher
) -> None:
    """Embed a batch of items and publish the vectors; what cannot be used is a dead letter.

    Faust acknowledges the batch even if this raises, so it must not: it tries until it is done.
    """
    items: list[Item] = []
    letters: list[Outgoing] = []
    for event in batch:
        value, offset = event.value or b"", event.message.offset
        try:
            item = decode_item(value)
        except Invalid as invalid:
            letters.append(
                deadletter(topics, topics.items, 0, offset, value, f"invalid: {invalid}")
            )
        else:
            if not item.deleted:
                items.append(item)
    try:
        made = await asyncio.to_thread(embed, items, encoder)
    except Exception as error:  # of the text model: its items stay without a vector
        log.exception("items not embedded", extra={"items": [item.id for item in items]})
        reason = f"not embedded: {type(error).__name__}: {error}"
        letters += [deadletter(topics, topics.items, 0, -1, encode(i), reason) for i in items]
        made = []
    vectors = [Outgoing(topics.embeddings, encode(e), e.id.encode()) for e in made]
    await publish.until_done(letters + vectors)
