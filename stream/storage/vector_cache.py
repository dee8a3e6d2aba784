"""Text vectors remembered in Redis, shared by workers."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import redis
import redis.retry
from redis.backoff import NoBackoff

from stream.storage.circuit_breaker import Clock, Line
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
        self._line = Line("vectors", clock)

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
        self._line.mended()
        return answer
