"""Items in, vectors out: the text model at work, in micro-batches, off the request path."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from faust.types import EventT
from msgspec import Struct, field

from agents.catalogue_records import EmbeddingRecord, ItemRecord, embedding_key
from models.base import Encoder, Vocabulary
from models.bert_encoder import MOST_UNKNOWN, NoVector, embed_each
from models.events import Embedding, Item, encode, text_of
from stream.kafka.producer import Producer, ProducerRecord, dead_letter
from stream.kafka.topics import Topics
from stream.worker.dead_letters import DeadLetterLog

log = logging.getLogger(__name__)
EVERY = 60.0  # seconds between two warnings
# A title in each of some scripts: what an encoder's vocabulary has of them.
SCRIPTS = {
    "Latin": "The best restaurant in town",
    "Greek": "Το καλύτερο εστιατόριο στην πόλη",
    "Cyrillic": "Лучший ресторан в городе",
    "Arabic": "أفضل مطعم في المدينة",
    "Hebrew": "המסעדה הטובה ביותר בעיר",
    "Devanagari": "शहर का सबसे अच्छा रेस्तरां",
    "Bengali": "শহরের সেরা রেস্টুরেন্ট",
    "Tamil": "நகரத்தின் சிறந்த உணவகம்",
    "Thai": "ร้านอาหารที่ดีที่สุดในเมือง",
    "Khmer": "ភោជនីយដ្ឋានល្អបំផុតនៅក្នុងទីក្រុង",
    "Chinese": "我们在北京最受欢迎的火锅店推荐",
    "Japanese": "街で一番おいしいレストラン",
    "Korean": "시내 최고의 식당",
}


class EmbeddingCounters(Struct):
    """How much the embedder has done: items per second is `items` by `seconds`."""

    items: int = 0
    without: Counter[str] = field(default_factory=Counter[str])  # items without a vector, by why
    dead_letters: Counter[str] = field(default_factory=Counter[str])  # of items, by reason
    wrong_vectors: Counter[str] = field(default_factory=Counter[str])  # of embeddings, by reason
    seconds: float = 0.0  # that the text model worked
    letters: DeadLetterLog = field(default_factory=DeadLetterLog)
    since: float | None = None  # when the batch under way began, if there is one

    def busy_seconds(self, now: float) -> float:
        """For how long it has had its present batch."""
        return 0.0 if self.since is None else now - self.since


class UnknownTexts:
    """Says, once a minute at most, how many texts the encoder mostly does not know."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said = float("-inf")
        self._texts = self._unknown = 0
        self._example = ""

    def add(self, items: Sequence[Item], made: Sequence[Embedding | NoVector], name: str) -> None:
        """Take a batch in: items, and what the encoder of this name made of each."""
        for item, one in zip(items, made, strict=True):
            empty = isinstance(one, NoVector) and one.reason == "empty"
            self._texts += not empty
            if isinstance(one, NoVector) and not empty:
                self._unknown += 1
                self._example = text_of(item)[:100]
        now = self._clock()
        if self._unknown and now >= self._said + EVERY:
            what = {"example": self._example, "of": self._texts, "encoder": name}
            log.warning(
                "%.0f%% of these titles are unknown to the text model: they get no vector; "
                "set RANKLOOP_ENCODER to one that reads them (docs/operations.md, Texts)",
                100 * self._unknown / self._texts,
                extra=what,
            )
            self._said, self._texts, self._unknown = now, 0, 0


class Embedder:
    """Embeds items and publishes the vectors; what cannot be used is a dead letter."""

    def __init__(
        self, encoder: Encoder, topics: Topics, publish: Producer, done: EmbeddingCounters
    ) -> None:
        self.encoder = encoder
        self.topics = topics
        self.publish = publish
        self.done = done
        self.unknown = UnknownTexts()

    async def items(self, batch: Sequence[EventT]) -> None:
        """Publish the vectors of a batch of items; counted in `done` once published.

        An item without a vector gets a message without a value: none of an older text stays.
        Faust acknowledges the batch even if this raises, so it must not: it tries until it is done.
        """
        records = [ItemRecord.of(*_message(event), _appended(event)) for event in batch]
        invalid = {n: record.invalid for n, record in enumerate(records) if record.invalid}
        usable = {n: r.item for n, r in enumerate(records) if r.item and not r.item.deleted}
        made = dict(zip(usable, await self._embedded(list(usable.values())), strict=True))
        vectors: list[ProducerRecord] = []
        for n, record in enumerate(records):
            one = made.get(n)
            if isinstance(one, str):
                invalid[n] = one
            if record.id is not None and not (record.item and record.item.deleted):
                value = encode(one) if isinstance(one, Embedding) else None
                key = embedding_key(self.encoder.version, record.id)
                vectors.append(ProducerRecord(self.topics.embeddings, value, key, 0))
        letters = [self._letter(self.topics.items, batch[n], why) for n, why in invalid.items()]
        await self.publish.until_done(letters + vectors)
        self.done.since = None
        self.done.items += sum(isinstance(one, Embedding) for one in made.values())
        self.done.without.update(o.reason for o in made.values() if isinstance(o, NoVector))
        refused = [(batch[n], why) for n, why in invalid.items()]
        self._count(self.topics.items, refused, self.done.dead_letters)

    async def embeddings(self, batch: Sequence[EventT]) -> None:
        """Only look: vectors may come from elsewhere, and what no worker can fold is a letter."""
        found = [(event, EmbeddingRecord.of(*_message(event)).invalid) for event in batch]
        wrong = [(event, why) for event, why in found if why]
        topic = self.topics.embeddings
        await self.publish.until_done([self._letter(topic, event, why) for event, why in wrong])
        self._count(topic, wrong, self.done.wrong_vectors)

    def _count(self, topic: str, refused: list[tuple[EventT, str]], counts: Counter[str]) -> None:
        for event, why in refused:
            counts[why.partition(":")[0]] += 1
            self.done.letters.add(topic, 0, event.message.offset, why, time.monotonic())

    async def _embedded(self, items: list[Item]) -> list[Embedding | NoVector | str]:
        """What became of each item; text: why the model failed. One costs no other its vector."""
        began = self.done.since = time.monotonic()
        made: list[Embedding | NoVector | str] = []
        try:
            known = await asyncio.to_thread(embed_each, items, self.encoder)
            self.unknown.add(items, known, self.encoder.version)
            made += known
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            log.warning("embedding one by one", extra={"reason": reason})
            for item in items:
                try:
                    made += await asyncio.to_thread(embed_each, [item], self.encoder)
                except Exception as error:
                    log.exception("item not embedded", extra={"item": item.id})
                    made.append(f"not embedded: {type(error).__name__}: {error}")
        self.done.seconds += time.monotonic() - began
        return made

    def _letter(self, topic: str, event: EventT, why: str) -> ProducerRecord:
        message = event.message
        value = event.value or b""
        return dead_letter(self.topics, topic, 0, message.offset, value, why, message.key)


def _message(event: EventT) -> tuple[bytes, bytes | None]:
    """Its key, empty for none, and its value."""
    return event.message.key or b"", event.value


def _appended(event: EventT) -> int:
    return round(event.message.timestamp * 1000)  # Faust divides it


def unread_scripts(encoder: Encoder) -> Iterator[tuple[str, float]]:
    """The scripts of which an encoder knows less than half of a title, and how much it does not.

    >>> from models.hash_encoder import HashEncoder
    >>> list(unread_scripts(HashEncoder()))
    []
    """
    if isinstance(encoder, Vocabulary):
        shares = zip(SCRIPTS, encoder.unknown(list(SCRIPTS.values())), strict=True)
        yield from ((script, share) for script, share in shares if share > MOST_UNKNOWN)


def say_encoder(encoder: Encoder) -> None:
    """Log which encoder this is, and which scripts it reads."""
    unread = dict(unread_scripts(encoder))
    reads = ", ".join(script for script in SCRIPTS if script not in unread)
    extra = {"encoder": encoder.version, "reads": reads}
    if unread:
        extra["not"] = ", ".join(
            f"{script} ({share:.0%} unknown)" for script, share in unread.items()
        )
    log.info("text model", extra=extra)
