"""Topics read up to their present end: from Kafka, or from a folder of files, one a partition."""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import OffsetOutOfRangeError

from agents.partition import ReceivedMessage
from models.events import InvalidMessageError
from stream.datasets.log_files import read_lines
from stream.kafka import authorization as access
from stream.kafka.consumer import committed_consumer
from stream.kafka.reader import LogTruncatedError, received_messages
from stream.kafka.topics import Topics
from stream.settings import Settings

# Their ends are taken in this order, so that what a message rests on is never beyond the end.
NAMES = ("events", "rankings", "feedback", "items", "embeddings")
CHUNK = 1_000
SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz")

_SCHEMA = pa.schema(
    [
        ("offset", pa.int64()),
        ("appended", pa.int64()),
        ("message", pa.binary()),
        ("key", pa.binary()),
    ]
)
_NEEDED = ("offset", "appended", "message")  # files of older releases have no keys


class Logs(Protocol):
    """Topics by the last part of their names (`NAMES`), as they were when this was opened."""

    def partitions(self, name: str) -> int:
        """How many partitions a topic has."""
        ...

    def total(self, name: str) -> int | None:
        """About how many messages a topic has, if that is known."""
        ...

    def read(self, name: str) -> Iterator[tuple[int, ReceivedMessage]]:
        """A topic's messages with their partitions, each partition in order."""
        ...


class KafkaLogs:
    """The topics of a running rankloop, read without a group; nothing is committed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        topics = Topics(settings.topic_prefix)
        self._names = {name: getattr(topics, name) for name in NAMES}
        self._ranges = asyncio.run(self._bounds())

    def partitions(self, name: str) -> int:
        return len(self._ranges[name])

    def total(self, name: str) -> int | None:
        return sum(end - start for start, end in self._ranges[name].values())

    def read(self, name: str) -> Iterator[tuple[int, ReceivedMessage]]:
        left = {tp: end for tp, (start, end) in self._ranges[name].items() if start < end}
        if not left:
            return
        with asyncio.Runner() as runner:
            reader = runner.run(self._open(name, list(left)))
            try:
                while left:
                    yield from runner.run(_more(reader, left))
            except OffsetOutOfRangeError as error:
                raise LogTruncatedError(
                    f"{self._names[name]} was cut while it was read: {error}"
                ) from error
            finally:
                runner.run(reader.stop())

    async def _open(self, name: str, partitions: list[TopicPartition]) -> AIOKafkaConsumer:
        reader = committed_consumer(
            self._settings,
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="none",
            max_partition_fetch_bytes=4 << 20,
        )
        await reader.start()
        reader.assign(partitions)
        for tp in partitions:
            reader.seek(tp, self._ranges[name][tp][0])
        return reader

    async def _bounds(self) -> dict[str, dict[TopicPartition, tuple[int, int]]]:
        found = await access.partitions(self._settings, self._names.values())
        counts = {name: count for name, count in found.items() if count}
        if missing := [name for name in self._names.values() if name not in counts]:
            raise FileNotFoundError(
                f"no topic {', '.join(missing)}; set RANKLOOP_BROKERS and RANKLOOP_TOPIC_PREFIX"
            )
        reader = committed_consumer(self._settings, group_id=None)
        await reader.start()
        try:
            bounds: dict[str, dict[TopicPartition, tuple[int, int]]] = {}
            for name, topic in self._names.items():
                partitions = [TopicPartition(topic, n) for n in range(counts[topic])]
                starts = await reader.beginning_offsets(partitions)
                ends = await reader.end_offsets(partitions)
                bounds[name] = {tp: (starts[tp], ends[tp]) for tp in partitions}
            return bounds
        finally:
            await reader.stop()


async def _more(
    reader: AIOKafkaConsumer, left: dict[TopicPartition, int]
) -> list[tuple[int, ReceivedMessage]]:
    """What has come of the partitions in `left` below their ends; takes out those at their end."""
    found: list[tuple[int, ReceivedMessage]] = []
    for tp, messages in (await reader.getmany(*left, timeout_ms=1000)).items():
        found += [(tp.partition, m) for m in received_messages(messages) if m.offset < left[tp]]
    for tp in list(left):
        if await reader.position(tp) >= left[tp]:
            del left[tp]
            reader.pause(tp)
    return found


class FileLogs:
    """A folder with a file a partition: `events-0.parquet`, `events-1.jsonl.gz`, `items.jsonl`.

    In JSON lines, a message's offset is its line's number, counted from 0, blank lines included.
    In Parquet, offsets, the times of appending and keys are columns, as `save_topic` writes them.
    """

    def __init__(self, folder: Path) -> None:
        self._files: dict[str, dict[int, Path]] = {name: {} for name in NAMES}
        for path in sorted(folder.iterdir()):
            stem = next((path.name.removesuffix(s) for s in SUFFIXES if path.name.endswith(s)), "")
            name, _, number = stem.partition("-")
            if name in self._files and (number or "0").isdecimal():
                before = self._files[name].setdefault(int(number or 0), path)
                if before != path:
                    raise InvalidMessageError(
                        f"{before} and {path} are the same partition; remove one"
                    )
        for name, files in self._files.items():
            if sorted(files) != list(range(len(files))):
                raise InvalidMessageError(
                    f"{folder} has only partitions {sorted(files)} of {name}; add the rest"
                )
            if not files:
                raise FileNotFoundError(
                    f"{folder} has no {name}; it needs a file {name}-N with one of the endings "
                    f"{', '.join(SUFFIXES)} for each partition: see `rankloop audit --save`"
                )

    def partitions(self, name: str) -> int:
        return len(self._files[name])

    def total(self, name: str) -> int | None:
        paths = self._files[name].values()
        if all(path.suffix == ".parquet" for path in paths):
            return sum(pq.read_metadata(path).num_rows for path in paths)
        return None

    def read(self, name: str) -> Iterator[tuple[int, ReceivedMessage]]:
        for partition, path in sorted(self._files[name].items()):
            messages = _rows(path) if path.suffix == ".parquet" else _lines(path)
            yield from ((partition, message) for message in messages)


def save_topic(logs: Logs, folder: Path, name: str) -> Iterator[tuple[int, ReceivedMessage]]:
    """Write a topic to `folder`, a Parquet file a partition, and pass its messages on."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}-{n}.parquet" for n in range(logs.partitions(name))]
    writers = [pq.ParquetWriter(path, _SCHEMA, compression="zstd") for path in paths]
    try:
        messages = logs.read(name)
        while chunk := list(islice(messages, CHUNK)):
            for partition, writer in enumerate(writers):
                _write(writer, (message for number, message in chunk if number == partition))
            yield from chunk
    finally:
        for writer in writers:
            writer.close()


def _write(writer: pq.ParquetWriter, messages: Iterable[ReceivedMessage]) -> None:
    rows = [
        {"offset": m.offset, "appended": m.appended, "message": m.data, "key": m.key}
        for m in messages
    ]
    if rows:
        writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))


def _rows(path: Path) -> Iterator[ReceivedMessage]:
    try:
        with pq.ParquetFile(path) as file:
            if not set(_NEEDED) <= set(file.schema_arrow.names):
                yield from _lines(path)
                return
            names = [name for name in _SCHEMA.names if name in file.schema_arrow.names]
            for batch in file.iter_batches(CHUNK, columns=names):
                columns = (batch.column(name).to_pylist() for name in names)
                for row in zip(*columns, strict=True):
                    yield ReceivedMessage(*row)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidMessageError(f"{path}: {error}") from None


def _lines(path: Path) -> Iterator[ReceivedMessage]:
    for number, data in read_lines(path):
        yield ReceivedMessage(number - 1, 0, data)
