"""Workers on a real Kafka: killed, restarted, fed with rubbish, they keep their promises."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from models.events import Click, Request
from tests.conftest import Kafka
from tests.kafka_helpers import World, now

pytestmark = pytest.mark.kafka

Make = Callable[..., World]


@pytest.fixture
def world(kafka: Kafka, topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Makes a rankloop of its own on the broker; all are stopped in the end."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(
            World(kafka.brokers, topic_prefix, tmp_path, **settings)
        )


def test_a_ranking_knows_the_click_before_it(world: Make) -> None:
    loop = world(partitions=1)
    loop.ready()
    loop.stock()
    at = now()
    loop.publish(
        Click(id="c", user="ann", item="item:3", at=at), Request(id="r", user="ann", at=at + 1)
    )
    decision = loop.decision("r")
    [click] = [n for n, record in enumerate(loop.records()) if record.id == "c"]
    assert decision.model > click
    assert "item:3" not in {slot.item for slot in decision.slots}
