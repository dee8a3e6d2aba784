"""Logs in files: JSON lines, plain or gzipped, and Parquet; read in bounded memory."""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from models.events import (
    MAX_MESSAGE_BYTES,
    InvalidMessageError,
    Item,
    Message,
    check_unit,
    decode_any,
    encode,
)
from stream.datasets.source_files import BOM, foreign_signature

Progress = Callable[[int], None]  # messages done so far
YEAR_2100 = 4_102_444_800_000
EVERY = 1_000  # messages between calls of Progress; rows read from Parquet at once

_SCHEMA = pa.schema([("type", pa.string()), ("at", pa.int64()), ("message", pa.binary())])


def write_log(path: Path, messages: Iterable[Message], progress: Progress | None = None) -> int:
    """Write messages to .jsonl, .jsonl.gz or .parquet, whole or not at all; how many there were.

    A message that no reader would take is an InvalidMessageError, and nothing is written.
    """
    part = path.with_name(f"{path.name}.part")
    messages = _counted(_readable(messages), progress)
    try:
        if _kind(path) == "parquet":
            count = _write_rows(part, messages)
        else:
            count = _write_lines(part, messages, zipped=path.suffix == ".gz")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return count


def ready(*files: Path | None) -> None:
    """Refuse files that could not be written in the end, before the work and not after it."""
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise FileNotFoundError(f"{file.parent} is no folder; make it, or write elsewhere")


def encode_checked(message: Message) -> bytes:
    """The message as bytes that `read_log` takes, or an InvalidMessageError."""
    try:
        data = encode(message)
        decode_any(data)
    except (ValueError, OverflowError) as error:
        name = getattr(message, "id", "")
        raise InvalidMessageError(
            f"no valid {kind_of(message)}{f' {name!r}' if name else ''}: {error}"
        ) from None
    return data


def _readable(messages: Iterable[Message]) -> Iterator[Message]:
    """The messages, each checked as `read_log` will check it."""
    check_times = _TimeUnits()
    for message in messages:
        encode_checked(message)
        check_times(message)
        yield message


def kind_of(message: Message) -> str:
    """A message's type, as its field `type` has it."""
    return str(message.__struct_config__.tag)


def by_type(counts: Mapping[str, int]) -> str:
    """How many messages there were of each type, in words.

    >>> by_type({"item": 2, "click": 1, "outcome": 1_000})
    '2 items, 1 click, 1,000 outcomes'
    """
    return ", ".join(f"{n:,} {kind}{'' if n == 1 else 's'}" for kind, n in counts.items())


def read_log(path: Path, progress: Progress | None = None) -> Iterator[Any]:
    """The messages of a file, one by one; an InvalidMessageError names the line (or row).

    A file has no append time: it is refused where its first event is in seconds, or where it says
    some times in seconds and others in milliseconds.
    """
    for _, message in numbered(path, progress):
        yield message


def numbered(path: Path, progress: Progress | None = None) -> Iterator[tuple[int, Any]]:
    """The messages of a file as `read_log` gives them, each with its line's (or row's) number."""
    check_times = _TimeUnits()
    for number, data in _counted(read_lines(path), progress):
        try:
            message = decode_any(data)
            check_times(message)
        except InvalidMessageError as error:
            raise InvalidMessageError(f"{path}:{number}: {error}") from None
        yield number, message


class _TimeUnits:
    """Refuses the message after which a log has times in more than one unit, or not in ours."""

    def __init__(self) -> None:
        self._items, self._events = 0, -1  # the newest so far

    def __call__(self, message: Message) -> None:
        at: int | None = getattr(message, "at", None)
        if isinstance(message, Item):
            check_unit("at", message.at, self._items)
            check_unit("an earlier at", self._items, message.at)
            self._items = max(self._items, message.at)
        elif at is not None:
            check_unit("at", at, YEAR_2100 if self._events < 0 else self._events)
            check_unit("an earlier at", self._items, at)
            check_unit("an earlier at", self._events, at)
            self._events = max(self._events, at)


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered raw messages of a file, not decoded; memory is bounded.

    Blank lines and byte order marks (also where files were joined) are left out.
    """
    yield from _rows(path) if _kind(path) == "parquet" else _lines(path)


def _rows(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with pq.ParquetFile(path) as file:
            if "message" not in file.schema_arrow.names:
                raise InvalidMessageError(f"{path} has no column `message` of encoded messages")
            batches = file.iter_batches(EVERY, columns=["message"])
            values = (value for batch in batches for value in batch.column(0).to_pylist())
            for number, value in enumerate(values, 1):
                if not isinstance(value, bytes):
                    raise InvalidMessageError(f"{path}:{number}: `message` is not bytes")
                yield number, value
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidMessageError(f"{path}: {error}") from None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        number = 0
        while True:
            number += 1
            try:
                line = file.readline(MAX_MESSAGE_BYTES + 2 + len(BOM)).removeprefix(BOM)
            except (EOFError, OSError, zlib.error) as error:
                raise InvalidMessageError(f"{path}:{number}: {error}") from None
            if not line:
                return
            if number == 1 and (says := foreign_signature(line[:4])):
                raise InvalidMessageError(f"{path} {says}")
            if len(line.rstrip(b"\r\n")) > MAX_MESSAGE_BYTES:
                raise InvalidMessageError(
                    f"{path}:{number}: a line has at most {MAX_MESSAGE_BYTES:,} bytes"
                )
            if line.strip():
                yield number, line.strip()


def _kind(path: Path) -> str:
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return "jsonl"
    if path.name.endswith(".parquet"):
        return "parquet"
    raise ValueError(f"a log is a .jsonl, .jsonl.gz or .parquet file, not {path.name!r}")


def _counted(things: Iterable[Any], progress: Progress | None) -> Iterator[Any]:
    count = 0
    for count, thing in enumerate(things, 1):
        yield thing
        if progress and count % EVERY == 0:
            progress(count)
    if progress and (count % EVERY or not count):
        progress(count)


def _write_lines(path: Path, messages: Iterator[Message], *, zipped: bool) -> int:
    count = 0
    with gzip.open(path, "wb") if zipped else path.open("wb") as file:
        for message in messages:
            file.write(encode(message) + b"\n")
            count += 1
    return count


def _write_rows(path: Path, messages: Iterator[Message]) -> int:
    count = 0
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        while batch := list(islice(messages, 10 * EVERY)):
            rows = [
                {
                    "type": kind_of(message),
                    "at": getattr(message, "at", None),
                    "message": encode(message),
                }
                for message in batch
            ]
            writer.write_table(pa.Table.from_pylist(rows, _SCHEMA))
            count += len(batch)
    return count
