"""A producer with confluent-kafka (librdkafka): items, then a request and a click of each user.

Needs `pip install confluent-kafka`, and the topics (a worker or `rankloop topics` creates them).
Run it with:  python examples/producer_librdkafka.py [USER ...]
"""

import json
import os
import sys
import time

from confluent_kafka import Producer

BROKERS = os.environ.get("RANKLOOP_BROKERS", "127.0.0.1:9092")
PREFIX = os.environ.get("RANKLOOP_TOPIC_PREFIX", "rankloop")
ITEMS, EVENTS = f"{PREFIX}.items", f"{PREFIX}.events"
users = sys.argv[1:] or ["ann", "bob", "小明"]

producer = Producer(
    {
        "bootstrap.servers": BROKERS,
        # librdkafka's default partitioner hashes keys differently from Java and aiokafka. Without
        # this line most users land on a partition where their events are refused (`misrouted`).
        "partitioner": "murmur2_random",
        "enable.idempotence": True,  # a message that is sent again is written once, in order
    }
)
failures: list[str] = []


def delivered(error: object, message) -> None:
    """Called for every message once the broker has acknowledged or refused it."""
    if error is not None:
        failures.append(str(error))
    elif message.topic() == EVENTS:
        print(message.key().decode(), "is on partition", message.partition())


def send(topic: str, key: str, **message: object) -> None:
    producer.produce(topic, json.dumps(message).encode(), key.encode(), on_delivery=delivered)
    producer.poll(0)  # runs `delivered` for what was acknowledged so far


def now() -> int:
    """All times in messages are milliseconds since 1970."""
    return int(time.time() * 1000)


for id, title in ("n1", "Rain over Lisbon"), ("n2", "The home team won"), ("n3", "里斯本的雨"):
    send(ITEMS, id, type="item", id=id, title=title, at=now())

run = now()  # part of every id: an id that was seen before is a duplicate and does nothing
for user in users:
    send(EVENTS, user, type="request", id=f"request-{run}-{user}", user=user, at=now(), k=2)
    # Without `request` the click belongs to no ranking; it still teaches what the user likes.
    send(EVENTS, user, type="click", id=f"click-{run}-{user}", user=user, item="n1", at=now())

left = producer.flush(30)
if left or failures:
    raise SystemExit(f"{left} messages not acknowledged within 30 s; failed: {failures[:3]}")
