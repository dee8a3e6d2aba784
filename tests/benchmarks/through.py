"""Through Kafka: feedback folded, rankings at full and at half load, a click's next ranking."""

import asyncio
import time
from collections import deque
from itertools import pairwise

import numpy as np
import uvloop
import world
from measure import Row, Rows, amount, percentiles, watch
from msgspec import structs
from stand import PATIENCE, Answer, BenchClient, Stand, gathered, paced, publish

from models.events import Click, Reward
from stream.settings import Settings
from tests.support.kafka_worker import Worker, eventually

CLICKS_A_SECOND = 50.0
SPAN = 12_500  # milliseconds of event time in the burst: two in three of its rankings close in it
LEAD = 8  # seconds of load before the first that count: by then rankings close as fast as they come


def feedback(seconds: float) -> Rows:
    """A backlog of clicks into a worker that starts; then rankings from the same worker."""
    with Stand.running() as stand:
        settings = stand.log("bench-feedback", world.SETTINGS)
        stock(stand, settings)
        count = amount(100_000, seconds)
        publish(settings, world.clicks(count, start=now() - count - 60_000))
        with stand.worker(settings) as worker:
            yield backlog(worker, count, stand.says)
            yield from uvloop.run(rankings(settings, worker, seconds, stand.says))


def stock(stand: Stand, settings: Settings) -> None:
    """Publish the articles and have a worker embed them."""
    publish(settings, world.items())
    with stand.worker(settings) as worker:
        eventually(lambda: status(worker, "embeddings") >= world.ARTICLES, "embedded", PATIENCE)


def status(worker: Worker, name: str) -> int:
    return int(worker.status().get(name, 0))


def now() -> int:
    return time.time_ns() // 1_000_000


def backlog(worker: Worker, count: int, says: str) -> Row:
    """From the first of the learned clicks seen on the status page to the last."""
    first = eventually(lambda: status(worker, "model"), "it learns", PATIENCE)
    with watch(worker.pid) as spent:
        while status(worker, "model") < count:
            time.sleep(0.05)
    rate = (count - first) / spent.wall if first < count else float("nan")
    how = f"{count:,} clicks waiting in events when a worker starts; through attribution, feedback "
    how += f"and the fold; {world.SAYS}; {says}; worker {spent.cores}"
    return Row("feedback through Kafka, a worker", rate, "events/s", how)


async def rankings(settings: Settings, worker: Worker, seconds: float, says: str) -> list[Row]:
    """All at once for the highest rate, then an open loop at half of it."""
    count = amount(5_000, seconds)
    async with BenchClient.connected(settings) as client:
        start = now() - SPAN  # time never runs back: what is asked in the past is closed at once
        await gathered([ask(client, one, start) for one in world.requests("hot", 500)])
        with watch(worker.pid) as spent:
            answers = await gathered(
                [
                    ask(client, one, start + n * SPAN // count)
                    for n, one in enumerate(world.requests("burst", count))
                ]
            )
        rate = count / (max(a.read for a in answers) - min(a.asked for a in answers))
        how = f"{count:,} requests at once, 100 candidates, 10 slots, bandit, hash vectors, "
        how += f"each learned once it closes; {says}; worker {spent.cores}"
        made = [Row("rankings through Kafka, at most", rate, "rankings/s", how)]

        half, late, asking = rate / 2, list[float](), list[asyncio.Task[Answer]]()
        lead = round(half * LEAD)
        turns = world.requests("half", lead + round(half * seconds), seed=4)
        with watch(worker.pid) as spent:
            async for lag in paced(half, lead + round(half * seconds)):
                late.append(lag)
                asking.append(ask(client, next(turns), now()))
            answers = await gathered(asking)
        how = (
            f"open loop, {half:,.0f} requests/s at random for {seconds:g} s after {LEAD} s that do "
        )
        how += f"not count, sent to read by a consumer; {lagged(late[lead:])}; {says}; worker "
        millis = [one.millis for one in answers[lead:]]
        made += percentiles("request to ranking at half load", millis, how + spent.cores)
    return made


def ask(client: BenchClient, one: tuple[str, str], at: int) -> asyncio.Task[Answer]:
    return asyncio.create_task(client.ask(world.request(*one, at=at), one[0]))


def lagged(late: list[float]) -> str:
    """How far the producer was from an open loop."""
    return f"producer late by {1000 * float(np.percentile(late, 99)):.1f} ms (p99)"


def refreshed(seconds: float) -> Rows:
    """Readers click the first of their ranking; each click asks for the next one."""
    with Stand.running() as stand:
        settings = stand.log(
            "bench-refresh", structs.replace(world.SETTINGS, refresh_on_click=True)
        )
        stock(stand, settings)
        known = world.clicks(amount(20_000, seconds), start=now() - amount(20_000, seconds))
        publish(settings, [liked(one) for one in known])  # rewards teach and do not ask
        with stand.worker(settings) as worker:
            eventually(lambda: status(worker, "model") >= len(known), "it learned", PATIENCE)
            yield from uvloop.run(clicked(settings, worker, seconds, stand.says))


def liked(click: Click) -> Reward:
    return Reward(id=click.id, user=click.user, item=click.item, at=click.at, value=1.0)


async def clicked(settings: Settings, worker: Worker, seconds: float, says: str) -> list[Row]:
    """A few hundred readers, whoever waited longest clicks next."""
    async with BenchClient.connected(settings) as client:
        first = {user: id for id, user in world.requests("first", 1_000)}
        asked = [ask(client, (id, user), now()) for user, id in first.items()]
        free = deque(await gathered(asked))
        rankings = {one.user: [one] for one in free}
        late, asking = list[float](), list[asyncio.Task[None]]()
        count = round(CLICKS_A_SECOND * seconds)

        async def click(before: Answer, id: str) -> None:
            item = before.items[0]
            message = Click(
                id=id, user=before.user, item=item, at=now(), request=before.id, position=0
            )
            after = await client.ask(message, f"refresh:{id}")
            if item in after.items:
                raise AssertionError(f"{before.user} clicked {item} and is shown it again")
            rankings[before.user].append(after)
            free.append(after)

        with watch(worker.pid) as spent:
            async for lag in paced(CLICKS_A_SECOND, count):
                late.append(lag)
                asking.append(asyncio.create_task(click(free.popleft(), f"again-{len(late)}")))
            await asyncio.gather(*asking)
    pairs = [two for one in rankings.values() for two in pairwise(one)]
    changed = sum(a.items != b.items for a, b in pairs)
    how = f"open loop, {CLICKS_A_SECOND:.0f} clicks/s at random for {seconds:g} s, each on the "
    how += f"first of the reader's ranking; {changed:,} of {len(pairs):,} rankings changed, none "
    how += f"shows the clicked again; {lagged(late)}; {says}; worker {spent.cores}"
    return list(percentiles("click to changed ranking", [b.millis for _, b in pairs], how))
