"""`rankloop publish` sends what producers write, and nothing of a file that holds anything else."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from models.events import (
    Begin,
    Champion,
    Click,
    Decision,
    Embedding,
    Fold,
    Impression,
    Item,
    Mark,
    Message,
    Outcome,
    Request,
    Reward,
    Source,
    Tick,
)
from stream.cli.main import main
from stream.datasets.log_files import write_log
from stream.datasets.publish import producer_record, publish_file
from stream.settings import Settings
from tests.support.shared import SHARED

BY_WORKERS: list[Message] = [
    Decision(
        id="r", user="ann", at=1, k=1, policy="p", model=0, items=0, embeddings=0, source=0
    ),
    Outcome(
        id="o", user="ann", at=1, status="expired", policy="p", model=0, slots=(),
        source=Source(0, 0, 0),
    ),
    Embedding(id="a", encoder="hash", text_hash="0" * 16, vector=b"\x00\x3c"),
    Begin(fold="f", rules="r", partitions=1),
    Fold(fold="f", expects="g"),
    Champion(policy="p", expects="q"),
    Mark(fold="f", version=1, digest="d"),
    Tick(at=1),
]  # fmt: skip
BY_PRODUCERS: list[Message] = [
    Item(id="a", at=0),
    Request(id="r", user="ann", at=1),
    Impression(id="i", request="r", user="ann", at=2, shown=("a",)),
    Click(id="c", user="ann", item="a", at=3),
    Reward(id="w", user="ann", item="a", at=4, value=1.0),
    Item(id="b", at=0),
]


@pytest.mark.parametrize("message", BY_WORKERS, ids=lambda one: type(one).__name__)
def test_what_workers_write_is_not_published_nor_anything_beside_it(
    tmp_path: Path, message: Message, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: object) -> None:
        raise AssertionError("nothing may be sent, no topic made")

    monkeypatch.setattr("stream.datasets.publish.create", unreachable)
    monkeypatch.setattr("stream.datasets.publish.Producer", unreachable)
    path = tmp_path / "log.jsonl"
    write_log(path, [*BY_PRODUCERS * 400, message])
    with pytest.raises(ValueError, match=rf"jsonl:2401: {type(message).__name__} messages are wri"):
        publish_file(Settings(), path)


@pytest.mark.parametrize("message", BY_PRODUCERS, ids=lambda one: type(one).__name__)
def test_what_producers_write_has_a_topic(message: Message) -> None:
    record = producer_record(Settings(), message)
    assert record.topic.endswith("items" if isinstance(message, Item) else "events")


@pytest.mark.shared
def test_a_log_of_outcomes_is_not_published() -> None:
    log = SHARED / "cases" / "hand" / "files" / "outcomes_to_publish.jsonl"
    if not log.is_file():
        pytest.skip("needs the inputs in ../shared/cases")
    done = CliRunner().invoke(main, ["publish", str(log)])
    assert done.exit_code == 1
    assert "outcomes_to_publish.jsonl:1: Outcome messages are written by workers" in done.stderr
