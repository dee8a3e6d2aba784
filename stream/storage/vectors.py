"""Text vectors kept in a file: what a replay embedded once, the next one reads."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec
from msgspec import Struct

from models.base import Encoder, Floats
from models.bert_encoder import CachedEncoder, embed
from models.events import Embedding, Item


class FileVectors:
    """A store for one encoder's vectors in memory, read from a file and written by `save`.

    A file that cannot be read is as good as none. Holds what was put in, and is bounded by it.
    """

    def __init__(self, folder: Path, version: str) -> None:
        name = blake2b(version.encode(), digest_size=8).hexdigest()
        self._path = folder / "vectors" / f"{name}.msgpack"
        self._known: dict[str, bytes] = {}
        self._changed = False
        with suppress(OSError, msgspec.MsgspecError):
            self._known = msgspec.msgpack.decode(self._path.read_bytes(), type=dict[str, bytes])

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self._known.get(key) for key in keys]

    def set_many(self, vectors: Mapping[str, bytes]) -> None:
        self._known.update(vectors)
        self._changed = True

    def save(self) -> None:
        """Write the file whole or not at all, if anything is new."""
        if self._changed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_suffix(".part")
            part.write_bytes(msgspec.msgpack.encode(self._known))
            part.replace(self._path)
            self._changed = False


class Known(Struct):
    """An encoder that has done its work: what agents need to know of it, small to send about."""

    version: str
    dimensions: int

    def encode(self, texts: Sequence[str]) -> Floats:
        raise ValueError(f"{self.version} is gone; embed {len(texts)} texts before the replay")


def embedded(
    items: Sequence[Item], encoder: Encoder, folder: Path
) -> tuple[tuple[Embedding, ...], Known]:
    """The items' vectors as messages, from the file as far as it knows them."""
    store = FileVectors(folder, encoder.version)
    made = embed(items, CachedEncoder(encoder, store, limit=max(1, len(items))))
    store.save()
    return tuple(made), Known(encoder.version, encoder.dimensions)
