"""The latest ranking of each user, in memory or in Redis.

Redis holds copies, never the truth: when it does not answer within `timeout` seconds, that is
logged once, callers go on, and it is tried again now and then (`circuit_breaker`). An address is
never logged: it may hold a password. Readers in any language: `HGET <prefix>:ranking:<user>
decision`.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Protocol

import redis
import redis.asyncio
import redis.asyncio.retry
import redis.retry
from msgspec import Struct
from redis.backoff import NoBackoff

from stream.storage.circuit_breaker import CircuitBreaker, Clock

log = logging.getLogger(__name__)
CHUNK = 500  # commands or keys in one round trip
LOST = (redis.RedisError, OSError, TimeoutError)
# Compare and set in one step: KEYS ranking; ARGV log, offset, ttl in ms, decision.
_PUT = """
local held = redis.call('HMGET', KEYS[1], 'log', 'offset')
if held[1] == ARGV[1] and tonumber(held[2]) > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'log', ARGV[1], 'offset', ARGV[2], 'decision', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""


class StoreCounts(Struct, frozen=True):
    """Rankings written where readers look, refused there, and lost for want of room here."""

    written: int
    refused: int
    lost: int
    held: int  # in this process; for Redis, those that it has not got yet
    limit: int


class LatestRanking(Struct, frozen=True):
    """An encoded decision and where it was read: the log's id and partition, and the offset."""

    user: str
    decision: bytes
    log: str
    offset: int


class LatestRankings(Protocol):
    """The latest ranking a user. A lower offset of the same log never replaces a higher one."""

    async def put(self, latest: LatestRanking) -> bool:
        """Keep it; False if a higher offset is held already."""
        ...

    async def put_many(self, latest: Iterable[LatestRanking]) -> int:
        """Keep these, in order; how many were not refused."""
        ...

    async def get(self, user: str) -> bytes | None:
        """The user's latest decision, encoded; None if there is none or it has expired."""
        ...

    @property
    def where(self) -> str:
        """For the status page: memory, or whether Redis answers."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...

    @property
    def counts(self) -> StoreCounts:
        """How many were kept and lost, and how many are held in this process."""
        ...


class MemoryRankings:
    """Rankings in this process: at most `limit` users, the longest unchanged go first.

    >>> import asyncio
    >>> rankings = MemoryRankings()
    >>> asyncio.run(rankings.put(LatestRanking("ann", b"new", "rankings-0", 7)))
    True
    >>> asyncio.run(rankings.put(LatestRanking("ann", b"old", "rankings-0", 6)))
    False
    """

    where = "memory"

    def __init__(
        self, *, ttl: float = 86_400, limit: int = 100_000, clock: Clock = time.monotonic
    ) -> None:
        check_ttl(ttl)
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        self._ttl, self._limit, self._clock = ttl, limit, clock
        self._held: OrderedDict[str, tuple[float, LatestRanking]] = (
            OrderedDict()
        )  # by time of putting
        self._put = self._lost = 0

    @property
    def counts(self) -> StoreCounts:
        """How many were put and lost, and how many are held."""
        return StoreCounts(self._put, 0, self._lost, len(self._held), self._limit)

    async def put(self, latest: LatestRanking) -> bool:
        """Keep it; False if a higher offset is held already."""
        now = self._clock()
        self._expire(now)
        _, held = self._held.get(latest.user, (now, None))
        if held and held.log == latest.log and held.offset > latest.offset:
            return False
        self._put += 1
        self._held[latest.user] = now + self._ttl, latest
        self._held.move_to_end(latest.user)
        if len(self._held) > self._limit:
            self._held.popitem(last=False)
            self._lost += 1
        return True

    async def put_many(self, latest: Iterable[LatestRanking]) -> int:
        """Keep these, in order; how many were not refused."""
        return sum([await self.put(one) for one in latest])

    async def get(self, user: str) -> bytes | None:
        """The user's latest decision, encoded; None if there is none or it has expired."""
        until, held = self._held.get(user, (0.0, None))
        return held.decision if held and until > self._clock() else None

    async def close(self) -> None:
        """Nothing to let go of."""

    def drain(self, n: int) -> list[LatestRanking]:
        """Take at most `n` out, the longest unchanged first."""
        self._expire(self._clock())
        return [self._held.popitem(last=False)[1][1] for _ in range(min(n, len(self._held)))]

    def _expire(self, now: float) -> None:
        while self._held and next(iter(self._held.values()))[0] <= now:
            self._held.popitem(last=False)


class RedisRankings:
    """Rankings in Redis, a hash a user, for any number of workers and readers.

    While Redis is away the newest are kept in memory (bounded), read from there, and sent when it
    is back, at most `CHUNK` a call; the offset then still decides, so nothing newer is lost.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl: float = 86_400,
        limit: int = 100_000,
        prefix: str = "rankloop",
        timeout: float = 2.0,
        clock: Clock = time.monotonic,
    ) -> None:
        check_ttl(ttl)
        self._redis: Any = redis.asyncio.from_url(
            url,
            retry=redis.asyncio.retry.Retry(NoBackoff(), 1, (redis.ConnectionError,)),
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
        )
        self._turn = asyncio.Lock()  # one connection, and writes in the order of their calls
        self._ttl, self._prefix = round(ttl * 1000), prefix
        self._unsent = MemoryRankings(ttl=ttl, limit=limit, clock=clock)
        self._line = CircuitBreaker("rankings", clock)
        self._written = self._refused = 0

    @property
    def counts(self) -> StoreCounts:
        """What Redis took and refused, and what waits for it."""
        unsent = self._unsent.counts
        return StoreCounts(self._written, self._refused, unsent.lost, unsent.held, unsent.limit)

    async def put(self, latest: LatestRanking) -> bool:
        """Keep it; False if a higher offset is held already."""
        return await self.put_many([latest]) == 1

    async def put_many(self, latest: Iterable[LatestRanking]) -> int:
        """Keep these in a few round trips, in order; how many were not refused."""
        queue, kept = list(latest), 0
        async with self._turn:
            late = self._unsent.drain(CHUNK) if self._line.open() else []
            for chunk in [late, *(queue[i : i + CHUNK] for i in range(0, len(queue), CHUNK))]:
                sent = await self._send(chunk)
                kept += 0 if chunk is late else sent
        return kept

    async def _send(self, latest: list[LatestRanking]) -> int:
        if not self._line.open() or not latest:
            return await self._unsent.put_many(latest)
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for one in latest:
                    pipe.eval(_PUT, 1, self._key(one.user), *self._arguments(one))
                answers = await pipe.execute(raise_on_error=False)
            refused = [answer for answer in answers if isinstance(answer, Exception)]
            if len(refused) == len(latest):
                raise refused[0]
        except LOST as error:
            self._line.failed(error)
            return await self._unsent.put_many(latest)
        self._line.succeeded()
        self._written += len(latest) - len(refused)
        self._refused += len(refused)
        for error in refused:  # one bad key must not hold up the others for ever
            log.warning("ranking refused by redis", extra={"error": str(error)[:200]})
        return sum(answer for answer in answers if answer == 1)

    async def get(self, user: str) -> bytes | None:
        """The user's latest decision, encoded; None if there is none or it has expired."""
        await self.put_many([])  # what waits may be newer than what is there
        async with self._turn:
            if self._line.open():
                try:
                    found = await self._redis.hget(self._key(user), "decision")
                    self._line.succeeded()
                    return found
                except LOST as error:
                    self._line.failed(error)
            return await self._unsent.get(user)

    @property
    def where(self) -> str:
        """For the status page: whether Redis answers."""
        return "answers" if self._line.answers else "away"

    async def close(self) -> None:
        """Let go of connections."""
        await self._redis.aclose()

    def _key(self, user: str) -> str:
        return f"{self._prefix}:ranking:{user}"

    def _arguments(self, latest: LatestRanking) -> tuple[str | int | bytes, ...]:
        return latest.log, latest.offset, self._ttl, latest.decision


def check_ttl(ttl: float) -> None:
    if not 0.001 <= ttl <= 10 * 365 * 86_400:
        raise ValueError(f"ttl must be in 0.001 seconds to ten years, got {ttl}")
