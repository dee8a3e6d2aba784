"""Latest rankings and remembered vectors: what every store promises, and what an outage costs."""

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import pytest

from models.bert_encoder import CachedEncoder
from models.hash_encoder import HashEncoder
from stream.storage.latest_rankings import (
    LatestRanking,
    LatestRankings,
    MemoryRankings,
    RedisRankings,
)
from stream.storage.vector_cache import RedisVectors

Make = Callable[..., LatestRankings]
PATIENCE = 60.0  # seconds: a busy machine is not an outage


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest) -> Make:
    """How to make one kind of store; all made in a test share their contents in Redis."""
    if request.param == "memory":
        return MemoryRankings
    url, prefix = request.getfixturevalue("redis_url"), uuid4().hex
    return lambda **settings: RedisRankings(url, prefix=prefix, timeout=PATIENCE, **settings)


@pytest.fixture
def nowhere() -> str:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"redis://127.0.0.1:{free.getsockname()[1]}/0"


def latest(
    offset: int, user: str = "ann", log: str = "rankings-0", decision: bytes = b""
) -> LatestRanking:
    return LatestRanking(user, decision or f"{log}@{offset}".encode(), log, offset)


def run(main: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(main)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_highest_offset_wins_in_whatever_order_they_come(make: Make) -> None:
    async def main() -> None:
        rankings = make()
        assert [await rankings.put(latest(offset)) for offset in (3, 9, 7, 8)] == [1, 1, 0, 0]
        assert await rankings.get("ann") == b"rankings-0@9"
        await rankings.close()

    run(main())


def test_writing_the_same_offset_again_changes_nothing(make: Make) -> None:
    async def main() -> None:
        rankings = make()
        assert await rankings.put(latest(5)) and await rankings.put(latest(5))
        assert await rankings.get("ann") == b"rankings-0@5"
        await rankings.close()

    run(main())


def test_another_log_starts_anew(make: Make) -> None:
    async def main() -> None:
        rankings = make()
        await rankings.put(latest(900, log="old-0"))
        assert await rankings.put(latest(1, log="new-0"))
        assert await rankings.get("ann") == b"new-0@1"
        await rankings.close()

    run(main())


def test_users_do_not_share_and_unknown_users_have_nothing(make: Make) -> None:
    async def main() -> None:
        rankings = make()
        await rankings.put(latest(9, user="ann"))
        await rankings.put(latest(2, user="bo:b 用户"))
        assert await rankings.get("bo:b 用户") == b"rankings-0@2"
        assert await rankings.get("cy") is None
        await rankings.close()

    run(main())


def test_bytes_come_back_as_they_were(make: Make) -> None:
    async def main() -> None:
        rankings, odd = make(), bytes(range(256)) * 40
        await rankings.put(latest(1, decision=odd))
        assert await rankings.get("ann") == odd
        await rankings.close()

    run(main())


def test_many_are_kept_in_order_and_the_refused_are_counted(make: Make) -> None:
    async def main() -> None:
        rankings = make()
        many = [latest(offset, user=f"u{offset % 400}") for offset in range(1_300)]
        assert await rankings.put_many(many) == 1_300
        assert await rankings.put_many([latest(1_000, user="u0"), latest(1_200, user="u0")]) == 1
        assert await rankings.put_many([]) == 0
        assert await rankings.get("u399") == b"rankings-0@1199"
        await rankings.close()

    run(main())


def test_racing_writers_leave_the_highest_offset(make: Make) -> None:
    async def main() -> None:
        writers = [make() for _ in range(8)] if make is not MemoryRankings else [make()] * 8
        offsets = [(offset * 37) % 200 for offset in range(200)]
        await asyncio.gather(*(writers[o % 8].put(latest(o)) for o in offsets))
        assert await writers[0].get("ann") == b"rankings-0@199"
        for writer in writers:
            await writer.close()

    run(main())


@pytest.mark.parametrize("ttl", [0, -1, 1e12, float("nan")])
def test_a_senseless_ttl_is_refused(make: Make, ttl: float) -> None:
    with pytest.raises(ValueError, match="ttl must be"):
        make(ttl=ttl)


def test_memory_forgets_after_the_ttl_and_then_takes_any_offset() -> None:
    async def main() -> None:
        clock = Clock()
        rankings = MemoryRankings(ttl=10, clock=clock)
        await rankings.put(latest(5))
        clock.now = 9.9
        assert await rankings.get("ann") == b"rankings-0@5"
        clock.now = 10.0
        assert await rankings.get("ann") is None
        assert await rankings.put(latest(4))

    run(main())


def test_memory_is_bounded_and_the_longest_unchanged_goes_first() -> None:
    async def main() -> None:
        rankings = MemoryRankings(limit=2)
        for user in ("ann", "bob", "ann", "cy"):
            await rankings.put(latest(1, user=user))
        assert [await rankings.get(user) is None for user in ("ann", "bob", "cy")] == [0, 1, 0]

    run(main())


def test_redis_expires_by_itself(redis_url: str) -> None:
    async def main() -> None:
        rankings = RedisRankings(redis_url, timeout=PATIENCE, prefix=uuid4().hex, ttl=90)
        await rankings.put(latest(1))
        key = rankings._key("ann")  # a ttl of its own, whatever becomes of the worker
        assert 0 < await rankings._redis.pttl(key) <= 90_000
        await rankings.close()

    run(main())


def test_without_redis_callers_go_on_and_read_what_they_wrote(
    nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        rankings = RedisRankings(nowhere.replace("//", "//:secret@"))
        assert await rankings.put(latest(5))
        assert not await rankings.put(latest(4))
        assert await rankings.put_many([latest(6), latest(7)]) == 2
        assert await rankings.get("ann") == b"rankings-0@7"
        await rankings.close()

    with caplog.at_level(logging.INFO):
        run(main())
    assert [record.message for record in caplog.records] == ["store lost"]
    assert "secret" not in str([record.__dict__ for record in caplog.records])


def test_an_outage_is_tried_more_and_more_seldom_and_then_made_good(
    redis_url: str, nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        clock, prefix = Clock(), uuid4().hex
        rankings = RedisRankings(nowhere, prefix=prefix, clock=clock)
        other = RedisRankings(redis_url, timeout=PATIENCE, prefix=prefix)
        await rankings.put(latest(5, user="ann"))
        await rankings.put(latest(6, user="bob"))
        await other.put(latest(8, user="bob"))
        dead, rankings._redis = rankings._redis, other._redis  # it is back
        clock.now = 0.9
        await rankings.put(latest(7, user="cy"))
        assert await other.get("ann") is None, "it was tried again too early"
        clock.now = 1.0
        assert await rankings.put(latest(9, user="dan"))
        assert [await other.get(user) for user in ("ann", "bob", "cy", "dan")] == [
            b"rankings-0@5",
            b"rankings-0@8",
            b"rankings-0@7",
            b"rankings-0@9",
        ]
        await dead.aclose()
        await other.close()

    with caplog.at_level(logging.INFO):
        run(main())
    assert [record.message for record in caplog.records] == ["store lost", "store back"]


def test_one_key_of_another_kind_does_not_hold_up_the_rest(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        rankings = RedisRankings(redis_url, timeout=PATIENCE, prefix=uuid4().hex)
        await rankings._redis.set(rankings._key("bob"), "a string")
        assert await rankings.put_many([latest(1, "ann"), latest(2, "bob"), latest(3, "cy")]) == 2
        assert await rankings.get("cy") == b"rankings-0@3"
        await rankings.close()

    with caplog.at_level(logging.INFO):
        run(main())
    assert [record.message for record in caplog.records] == ["ranking refused by redis"]


def test_a_redis_that_accepts_and_never_answers_is_left_after_the_timeout() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    silent = f"redis://127.0.0.1:{listening.getsockname()[1]}/0"

    async def main() -> None:
        rankings = RedisRankings(silent, timeout=0.05, clock=Clock())
        for offset in range(50):  # one timeout, not fifty
            assert await rankings.put(latest(offset))
        await rankings.close()

    try:
        run(asyncio.wait_for(main(), 20))
    finally:
        listening.close()


def test_vectors_outlive_the_encoder_in_redis(redis_url: str) -> None:
    prefix, texts = uuid4().hex, [f"title {i}" for i in range(1_100)]
    store = RedisVectors(redis_url, timeout=PATIENCE, prefix=prefix)
    vectors = CachedEncoder(HashEncoder(), store).encode(texts)
    store.close()
    store = RedisVectors(redis_url, timeout=PATIENCE, prefix=prefix)
    second = CachedEncoder(HashEncoder(), store)
    assert second.encode(texts).tobytes() == vectors.tobytes()
    assert (second.hits, second.misses) == (1_100, 0)
    assert store.get_many(["never", "heard"]) == [None, None]
    store.close()


def test_without_redis_texts_are_encoded_all_the_same(
    nowhere: str, caplog: pytest.LogCaptureFixture
) -> None:
    cached = CachedEncoder(HashEncoder(), RedisVectors(nowhere))
    with caplog.at_level(logging.INFO):
        vectors = cached.encode(["a", "b"])
    assert vectors.tobytes() == HashEncoder().encode(["a", "b"]).tobytes()
    assert [record.message for record in caplog.records] == ["store lost"]


def test_vectors_can_be_asked_for_from_another_thread(redis_url: str) -> None:
    store, answers = RedisVectors(redis_url, timeout=PATIENCE, prefix=uuid4().hex), []
    store.set_many({"k": b"\x00\xff"})
    thread = threading.Thread(target=lambda: answers.append(store.get_many(["k"])))
    thread.start()
    thread.join(10)
    assert answers == [[b"\x00\xff"]]
    store.close()
