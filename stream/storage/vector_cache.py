"""Text vectors by text: in Redis, shared by workers, or in a file."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import redis
import redis.retry
from msgspec import Struct
from redis.backoff import NoBackoff

from models.base import Encoder, Floats
from models.bert_encoder import CachedEncoder, embed
from models.events import Embedding, Item
from stream.storage.circuit_breaker import CircuitBreaker, Clock
from stream.storage.latest_rankings import CHUNK, LOST, check_ttl


class RedisVectors:
    """Vectors in Redis for `models.bert_encoder.CachedEncoder`, shared by workers, with a TTL.

    It blocks, as the encoder it serves does: call both in a thread. While Redis is away it knows
    nothing and forgets what it is told.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl: float = 30 * 86_400,
        prefix: str = "rankloop",
        timeout: float = 2.0,
        clock: Clock = time.monotonic,
    ) -> None:
        check_ttl(ttl)
        self._redis: Any = redis.from_url(
            url,
            retry=redis.retry.Retry(NoBackoff(), 1, (redis.ConnectionError,)),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
        )
        self._ttl, self._prefix = round(ttl * 1000), prefix
        self._line = CircuitBreaker("vectors", clock)

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """What is known under each key, in order."""
        found: list[bytes | None] = []
        for start in range(0, len(keys), CHUNK):
            names = [self._name(key) for key in keys[start : start + CHUNK]]
            found += self._try(lambda names=names: self._redis.mget(names)) or [None] * len(names)
        return found

    def set_many(self, vectors: Mapping[str, bytes]) -> None:
        """Remember these."""
        pairs = list(vectors.items())
        for start in range(0, len(pairs), CHUNK):
            pipe = self._redis.pipeline(transaction=False)
            for key, vector in pairs[start : start + CHUNK]:
                pipe.set(self._name(key), vector, px=self._ttl)
            self._try(pipe.execute)

    def close(self) -> None:
        """Let go of connections."""
        self._redis.close()

    def _name(self, key: str) -> str:
        return f"{self._prefix}:vector:{key}"

    def _try(self, call: Callable[[], Any]) -> Any:
        if not self._line.open():
            return None
        try:
            answer = call()
        except LOST as error:
            return self._line.failed(error)
        self._line.succeeded()
        return answer


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


class EncoderIdentity(Struct):
    """An encoder that has done its work: what agents need to know of it, small to send about."""

    version: str
    dimensions: int

    def encode(self, texts: Sequence[str]) -> Floats:
        raise ValueError(f"{self.version} is gone; embed {len(texts)} texts before the replay")


def embedded(
    items: Sequence[Item], encoder: Encoder, folder: Path
) -> tuple[tuple[Embedding, ...], EncoderIdentity]:
    """The items' vectors as messages, from the file as far as it knows them."""
    store = FileVectors(folder, encoder.version)
    made = embed(items, CachedEncoder(encoder, store, limit=max(1, len(items))))
    store.save()
    return tuple(made), EncoderIdentity(encoder.version, encoder.dimensions)
