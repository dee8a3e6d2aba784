"""The load producer's record: what the broker acknowledged, where, and whether it was bad."""

import struct
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

from msgspec import Struct

LINE = struct.Struct("<hq8s?")


class JournalEntry(Struct, frozen=True):
    """A message that lies at an offset, by the broker's own word."""

    partition: int
    offset: int
    digest: bytes
    bad: bool


class Journal:
    """Written as acknowledgements come; a line is 19 bytes.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     book = Journal(Path(folder, "book"))
    ...     book.note(3, 7, b"message", bad=False)
    ...     book.close()
    ...     [(line.partition, line.offset) for line in entries(Path(folder, "book"))]
    [(3, 7)]
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("wb")
        self.count = 0

    def note(self, partition: int, offset: int, value: bytes, bad: bool) -> None:
        """A message was acknowledged."""
        self._file.write(LINE.pack(partition, offset, digest(value), bad))
        self.count += 1

    def close(self) -> None:
        self._file.close()


def entries(path: Path) -> Iterator[JournalEntry]:
    """All lines of a book."""
    for line in LINE.iter_unpack(path.read_bytes()):
        yield JournalEntry(*line)


def digest(value: bytes) -> bytes:
    """64 bits over a message."""
    return blake2b(value, digest_size=8).digest()
