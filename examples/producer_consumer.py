"""A producer and a consumer in one script, with aiokafka: publish items, ask for a ranking, click.

Needs a running worker: `rankloop up` in one terminal, `rankloop worker` in another.
Run it with:  RANKLOOP_BROKERS=127.0.0.1:9092 python examples/producer_consumer.py
"""

import asyncio
import json
import os
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

BROKERS = os.environ.get("RANKLOOP_BROKERS", "127.0.0.1:9092")
PREFIX = os.environ.get("RANKLOOP_TOPIC_PREFIX", "rankloop")
ITEMS, EVENTS, RANKINGS = f"{PREFIX}.items", f"{PREFIX}.events", f"{PREFIX}.rankings"


def now() -> int:
    """All times in messages are milliseconds since 1970."""
    return int(time.time() * 1000)


async def main() -> None:
    consumer = AIOKafkaConsumer(RANKINGS, bootstrap_servers=BROKERS)
    # aiokafka's default partitioner is the one that rankloop expects: murmur2 of the key.
    producer = AIOKafkaProducer(bootstrap_servers=BROKERS)
    await consumer.start()
    await producer.start()
    await consumer.seek_to_end()  # read only the rankings that come from now on

    async def send(topic: str, key: str, **message: object) -> None:
        await producer.send_and_wait(topic, json.dumps(message).encode(), key=key.encode())

    async def ranking(id: str) -> dict:
        """Read rankings until the one with this id comes."""
        async for message in consumer:
            decision = json.loads(message.value or b"")
            if decision["id"] == id:
                return decision
        raise RuntimeError("the consumer was stopped")

    # 1. Items. The key is the item's id.
    for id, title in ("n1", "Rain over Lisbon"), ("n2", "The home team won"), ("n3", "里斯本的雨"):
        await send(ITEMS, id, type="item", id=id, title=title, at=now())

    # 2. A request. The key of every event is the user's id. Ids must be new each time: a message
    #    with an id that was seen before is a duplicate and does nothing.
    decision: dict = {"slots": []}
    while len(decision["slots"]) < 2:
        await asyncio.sleep(0.5)  # workers know new items after about a second
        id = f"request-{now()}"
        await send(EVENTS, "ann", type="request", id=id, user="ann", at=now(), k=2)
        decision = await ranking(id)
    shown = [slot["item"] for slot in decision["slots"]]
    print("ann sees", shown)

    # 3. A click on the first item. `request` says which ranking earned it.
    click = {"id": f"click-{now()}", "item": shown[0], "request": decision["id"], "position": 0}
    await send(EVENTS, "ann", type="click", user="ann", at=now(), **click)

    # 4. The click refreshes ann's ranking; what she clicked is left out from now on.
    refreshed = await ranking(f"refresh:{click['id']}")
    print("after her click on", shown[0], "ann sees", [slot["item"] for slot in refreshed["slots"]])

    await producer.stop()
    await consumer.stop()


try:
    asyncio.run(asyncio.wait_for(main(), timeout=60))
except TimeoutError:
    raise SystemExit("no ranking within 60 s: is a `rankloop worker` running?") from None
