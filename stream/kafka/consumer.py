"""Opens consumers: what a transaction did not commit is never seen, what cannot be read is named.

Every consumer of this process comes from here, but Faust's, which `commit_faust` makes alike.
"""

import json
from collections.abc import Generator
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import UnsupportedCodecError

from stream.errors import LogError
from stream.settings import Settings

COMMITTED = "read_committed"


class UnreadableBatchError(LogError):
    """A batch of a log cannot be opened: it is corrupt, or compressed by a codec unknown here."""


def committed_consumer(settings: Settings, **options: Any) -> AIOKafkaConsumer:
    """A consumer of what was committed; it is not started.

    Reading raises UnreadableBatchError at a batch that cannot be opened, once what lies before it
    was read.
    """
    name_unreadable_batches()
    return AIOKafkaConsumer(**settings.aiokafka_options(), isolation_level=COMMITTED, **options)


class _Batches:
    """A fetch's batches; `end` is the offset after the last one that was begun."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self.end = 0

    def has_next(self) -> bool:
        return self._batches.has_next()

    def next_batch(self) -> Any:
        batch = self._batches.next_batch()
        self.end = batch.next_offset
        return batch


def name_unreadable_batches() -> None:
    """Let every consumer in this process say where a batch lies that it cannot open.

    aiokafka raises what the codec does, without a place, and forgets the records before it: a
    `getmany` after that would go on behind them.
    """
    if hasattr(PartitionRecords, "names"):
        return
    unpack = PartitionRecords._unpack_records

    def named(self: Any) -> Generator[ConsumerRecord, Any, None]:
        batches = self._records = _Batches(self._records)
        found = False
        try:
            for record in unpack(self):
                found = True
                yield record
        except Exception as error:  # of a codec's, or of whatever reads rubbish as a record
            if found:  # they come first: the next fetch begins at the batch and raises at once
                return
            at = self.next_fetch_offset
            raise UnreadableBatchError(
                unreadable(self._tp.topic, self._tp.partition, at, max(batches.end, at + 1), error)
            ) from error

    PartitionRecords.names = True  # pyright: ignore[reportAttributeAccessIssue]
    PartitionRecords._unpack_records = named


def unreadable(topic: str, partition: int, offset: int, end: int, error: Exception) -> str:
    """Where a batch lies that cannot be opened, and how to go on.

    >>> print(unreadable("rankloop.events", 2, 17, 20, EOFError("cut")))
    rankloop.events-2 cannot be read from offset 17 to 19: EOFError: cut. If another replica ...
    """
    where = f"{topic}-{partition} cannot be read from offset {offset} to {end - 1}"
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, UnsupportedCodecError) and "not found" in str(error):
        return (
            f"{where}: {reason}. Install the codecs here: pip install 'aiokafka[lz4,snappy,zstd]'"
        )
    place = {"topic": topic, "partition": partition, "offset": end}
    file = json.dumps({"partitions": [place], "version": 1}, separators=(",", ":"))
    return (
        f"{where}: {reason}. If another replica holds it whole, make that one the leader; else "
        f"give up what lies below offset {end}: kafka-delete-records.sh --offset-json-file FILE "
        f'with {file} in FILE, and see docs/operations.md, "A batch that cannot be read"'
    )


def commit_faust() -> None:
    """Let Faust's consumer read what was committed alone, as ours do; Faust has no setting for it.

    It takes `read_committed` only together with `exactly_once`, which is of no use here.
    """
    from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread

    if hasattr(AIOKafkaConsumerThread, "commits"):
        return
    create = AIOKafkaConsumerThread._create_worker_consumer

    def committed(self: Any, transport: Any) -> AIOKafkaConsumer:
        name_unreadable_batches()
        made = create(self, transport)
        made._isolation_level = COMMITTED  # read when it starts
        return made

    AIOKafkaConsumerThread.commits = True  # pyright: ignore[reportAttributeAccessIssue]
    AIOKafkaConsumerThread._create_worker_consumer = committed
