"""Every ranking can be made again from the logs; what was changed is found and explained."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiokafka import OffsetAndMetadata, TopicPartition
from click.testing import CliRunner
from msgspec import Struct
from msgspec.structs import replace

from agents.attribution import Attribution, RankingTask
from agents.audit.audit import AuditReport
from agents.audit.catalogues import CatalogueHistory
from agents.audit.differences import difference_of, likely
from agents.bookmark import decode_bookmark
from agents.catalogue_records import EmbeddingRecord, ItemRecord
from agents.partition import Partition, ReceivedMessage
from agents.recommender import Recommender
from models.bert_encoder import embed
from models.events import (
    Begin,
    Click,
    Decision,
    Event,
    Interaction,
    Item,
    Request,
    Restart,
    Slot,
    Tick,
    decode_decision,
    decode_embedding,
    decode_event,
    decode_record,
    encode,
)
from models.hash_encoder import HashEncoder
from stream import build
from stream.cli.main import main
from stream.datasets.topic_logs import FileLogs, save_topic
from stream.kafka.topics import owner
from stream.offline.audit import audit_logs, report_lines
from stream.settings import Settings
from stream.worker.restore import Span, commit_that_counts
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, eventually, now

SETTINGS = Settings(encoder="hash", candidates=20, horizon_seconds=2, partitions=2)
ENCODER = HashEncoder()


class Logs(Struct):
    """Topics in memory: name -> partition -> messages."""

    topics: dict[str, list[list[ReceivedMessage]]]

    def partitions(self, name: str) -> int:
        return len(self.topics[name])

    def total(self, name: str) -> int | None:
        return sum(map(len, self.topics[name]))

    def read(self, name: str) -> Iterator[tuple[int, ReceivedMessage]]:
        for partition, messages in enumerate(self.topics[name]):
            yield from ((partition, message) for message in messages)

    def append(
        self, name: str, data: bytes, partition: int = 0, at: int = 0, key: bytes | None = None
    ) -> int:
        log = self.topics[name][partition]
        log.append(ReceivedMessage(len(log), at, data, key))
        return len(log)


class Worker:
    """Folds the shared logs at a pace of its own and answers for one partition."""

    def __init__(self, number: int, logs: Logs, settings: Settings) -> None:
        self.number = number
        self.logs = logs
        self.parts = build.parts(settings, ENCODER)
        self.attribution = Attribution(number, settings.attribution_rules())

    def follow(self, items: int, embeddings: int) -> None:
        """Take in some more of the catalogue's logs."""
        catalogue, topics = self.parts.catalogue, self.logs.topics
        for message in topics["items"][0][catalogue.items_version :][:items]:
            ItemRecord.of(message.key, message.data or None).fold(catalogue, message.offset)
        for message in topics["embeddings"][0][catalogue.embeddings_version :][:embeddings]:
            EmbeddingRecord.of(message.key, message.data or None).fold(catalogue, message.offset)

    def learn(self, most: int = 1_000_000) -> None:
        """Take in some more of the feedback."""
        for message in self.logs.topics["feedback"][0][self.parts.learner.version :][:most]:
            self.parts.learner(message.offset, message.data)

    def discard(self, data: bytes, at: int) -> None:
        """Publish to the partition what its owner does not fold."""
        self.attribution.next = self.logs.append("events", data, self.number, at)

    def __call__(self, event: Event) -> list[Decision]:
        """Publish an event and what it causes."""
        at = event.at
        offset = self.logs.append("events", encode(event), self.number, at) - 1
        caused = self.attribution(offset, at, event)
        for record in caused.records:
            self.logs.append("feedback", record.data)
        self.learn()
        decisions = [self.parts.recommender(ask) for ask in caused.tasks]
        for decision in decisions:
            self.logs.append("rankings", encode(decision), self.number)
            self.attribution.decided(decision)
        return decisions


def user_of(partition: int, n: int) -> str:
    users = (f"user:{i}" for i in range(1000))
    mine = [user for user in users if owner(user, 2) == partition]
    return mine[n % 7]


class AuditedHistory(Struct):
    logs: Logs
    workers: list[Worker]


def asked_by(owned: AuditedHistory, id: str) -> str:
    """Whose request it is."""
    rankings = (decode_decision(message.data) for _, message in owned.logs.read("rankings"))
    return next(decision.user for decision in rankings if decision.id == id)


def lived(settings: Settings = SETTINGS, rounds: int = 30, seed: int = 1) -> AuditedHistory:
    """Two workers, a partition each, apart in their catalogues; requests, clicks, outcomes."""
    return continued(no_logs(), settings, rounds, seed)


def no_logs() -> Logs:
    counts = {"items": 1, "embeddings": 1, "feedback": 1, "events": 2, "rankings": 2}
    return Logs({name: [[] for _ in range(count)] for name, count in counts.items()})


def continued(
    logs: Logs, settings: Settings = SETTINGS, rounds: int = 30, seed: int = 1
) -> AuditedHistory:
    """What happens on logs that hold perhaps some items and embeddings."""
    workers = [Worker(number, logs, settings) for number in range(2)]
    rng = random.Random(seed)
    shown: dict[int, list[Decision]] = {0: [], 1: []}
    for n in range(rounds):
        at = 1_000 * n
        item = Item(id=f"item:{n % 20}", title=f"title {n} {n % 5}", tags=(f"t{n % 3}",), at=at)
        logs.append("items", encode(item))
        for embedding in embed([item], ENCODER):
            logs.append("embeddings", encode(embedding))
        for worker in rng.sample(workers, 2):
            worker.follow(rng.randrange(4), rng.randrange(4))
            worker.learn(rng.randrange(3))
            user = user_of(worker.number, rng.randrange(7))
            request = Request(id=f"r{n}-{worker.number}", user=user, at=at, k=3)
            shown[worker.number] += worker(request)
            decision = rng.choice(shown[worker.number])
            if decision.slots and rng.random() < 0.5:
                item_id = decision.slots[0].item
                worker(
                    Click(
                        id=f"c{n}-{worker.number}",
                        user=decision.user,
                        item=item_id,
                        at=at + 10,
                        request=decision.id,
                    )
                )
            worker(Tick(at=at + 20))
    return AuditedHistory(logs, workers)


@pytest.fixture(scope="module")
def owned() -> Logs:
    return lived().logs


@pytest.fixture
def logs(owned: Logs) -> Logs:
    """The same life for each test, to be tampered with."""
    return Logs({name: [list(log) for log in logs] for name, logs in owned.topics.items()})


def audited(logs: Logs, settings: Settings = SETTINGS) -> AuditReport:
    return audit_logs(settings, logs, quiet=True)[0]


def tamper(
    logs: Logs, change: Callable[[Decision], Decision], fits: Callable[[Decision], object]
) -> Decision:
    """Change the last ranking of partition 1 that fits; what it was before."""
    log = logs.topics["rankings"][1]
    n, decision = next(
        (n, decision)
        for n in reversed(range(len(log)))
        if fits(decision := decode_decision(log[n].data))
    )
    log[n] = replace(log[n], data=encode(change(decision)))
    return decision


def full(decision: Decision) -> bool:
    return len(decision.slots) == 3


def test_all_rankings_of_two_workers_reproduce_though_their_catalogues_differ(logs: Logs) -> None:
    found = audited(logs)
    assert found.ok
    assert found.same == found.rankings == sum(map(len, logs.topics["rankings"]))
    assert 0 < found.refused < found.same
    versions = [
        (decision.model, decision.items)
        for log in logs.topics["rankings"]
        for decision in (decode_decision(message.data) for message in log)
    ]
    ordered = [items for _, items in sorted(versions)]
    assert ordered != sorted(ordered), "the workers' catalogues were never apart"
    assert 2 <= found.catalogues <= 8
    assert found.asked == found.rankings
    learned = len(logs.topics["feedback"][0])
    assert found.feedback == {"learned": learned}
    assert (found.implied, found.strange, found.unlearned) == (learned, 0, 0)
    assert any(b"outcome" in message.data for message in logs.topics["feedback"][0])


def test_refreshed_rankings_are_audited_with_the_rest(logs: Logs) -> None:
    ids = [decode_decision(m.data).id for log in logs.topics["rankings"] for m in log]
    refreshes = [id for id in ids if id.startswith("refresh:")]
    assert refreshes
    assert audited(logs).same == len(ids)


def test_a_changed_propensity_is_found(logs: Logs) -> None:
    def change(decision: Decision) -> Decision:
        first, second, third = decision.slots
        return replace(decision, slots=(first, replace(second, propensity=0.123), third))

    before = tamper(logs, change, full)
    found = audited(logs)
    assert not found.ok
    assert (found.same, found.different) == (found.rankings - 1, 1)
    [difference] = found.differences
    assert (difference.id, difference.field) == (before.id, "slots[1].propensity")
    assert difference.logged == "0.123"
    assert float(difference.made) == before.slots[1].propensity
    assert (difference.model, difference.items) == (before.model, before.items)
    assert found.causes == {"other propensity": 1}


FORGED: dict[str, Callable[[Decision], Decision]] = {
    "k": lambda d: replace(d, k=d.k - 1, slots=d.slots[:-1]),
    "context": lambda d: replace(d, context={"device": "forged"}),
}


@pytest.mark.parametrize("field", FORGED)
def test_a_refresh_of_another_length_or_context_than_asked_is_found(field: str, logs: Logs) -> None:
    """The ranking is made for what it claims: only the request before the click gives it away."""
    tamper(logs, FORGED[field], lambda d: full(d) and d.id.startswith("refresh:"))
    found = audited(logs)
    assert not found.ok
    [difference] = found.differences
    assert (difference.field.partition(".")[0], difference.cause) == (field, "other request")


def first_slot(decision: Decision, **changes: object) -> Decision:
    return replace(decision, slots=(replace(decision.slots[0], **changes), *decision.slots[1:]))


def first_features(decision: Decision, **changes: object) -> Decision:
    return first_slot(decision, features=replace(decision.slots[0].features, **changes))


def without_text(slot: Slot) -> Slot:
    assert slot.features.text
    return replace(slot, features=replace(slot.features, text=slot.features.text[:-1]))


NUDGED = 1 + 1e-9
ALTERED: dict[str, Callable[[Decision], Decision]] = {
    "slots[0].source": lambda d: first_slot(d, source="forged"),
    "slots[0].features[1]": lambda d: first_features(d, tags=("forged",)),
    "slots[0].features[0]": lambda d: first_features(d, x=d.slots[0].features.x[:-1]),
    "slots[2]": lambda d: replace(d, slots=(*d.slots[:2], without_text(d.slots[2]))),
    "refused": lambda d: replace(d, refused="forged"),
    "slots[0].score": lambda d: first_slot(
        d, score=d.slots[0].score * NUDGED + 1e-9, source="forged"
    ),
}


@pytest.mark.parametrize("field", ALTERED)
def test_what_no_processor_changes_is_never_excused_by_one(field: str, logs: Logs) -> None:
    tamper(logs, ALTERED[field], full)
    [difference] = audited(logs).differences
    assert difference.field.startswith(field)
    assert difference.cause == "altered"


def test_another_model_with_the_same_numbers_is_altered(logs: Logs) -> None:
    decisions = (decode_decision(message.data) for message in logs.topics["rankings"][1])
    decision = next(filter(full, decisions))
    other = replace(decision, model=decision.model + 1)
    field, _, _ = difference_of(other, decision)
    assert (field, likely(field, other, decision, {}).cause) == ("model", "altered")


def test_numbers_that_differ_in_their_last_digits_may_be_another_processor(logs: Logs) -> None:
    tamper(logs, lambda d: first_slot(d, propensity=d.slots[0].propensity * (1 - 1e-9)), full)
    assert audited(logs).causes == {"other CPU": 1}


def test_a_first_embedding_of_another_size_changes_no_ranking(owned: Logs) -> None:
    good = decode_embedding(owned.topics["embeddings"][0][0].data)
    for version, size in (("hash/384", 384), ("hash/7/none", 300), ("hash/0", 300), ("new/8", 8)):
        sizes: list[int] = []

        def make(encoder: str, dimensions: int, made: list[int] = sizes) -> Recommender:
            made.append(dimensions)
            return build.parts(SETTINGS, ENCODER).recommender

        catalogues = CatalogueHistory(make)
        for offset, length in enumerate((2, 600, 600) if version != "new/8" else ()):
            wrong = replace(good, encoder=version, vector=bytes(length))
            catalogues.add_embedding(offset, EmbeddingRecord(embedding=wrong))
        catalogues.at(version, 0, 0)
        assert sizes == [size]


def test_a_wrong_first_embedding_lets_the_audit_go_on(owned: Logs) -> None:
    logs = no_logs()
    good = decode_embedding(owned.topics["embeddings"][0][0].data)
    logs.append("embeddings", encode(replace(good, vector=bytes(2))))
    found = audited(continued(logs, rounds=8).logs)
    assert found.ok
    assert found.same == found.rankings


def test_swapped_slots_are_found(logs: Logs) -> None:
    before = tamper(logs, lambda d: replace(d, slots=(d.slots[1], d.slots[0], d.slots[2])), full)
    [difference] = audited(logs).differences
    assert difference.field == "slots[0].item"
    assert json.loads(difference.logged) == before.slots[1].item
    assert json.loads(difference.made) == before.slots[0].item
    assert difference.cause == "other order"


def test_a_model_version_it_was_not_made_with_is_found(logs: Logs) -> None:
    tamper(logs, lambda d: replace(d, model=d.model // 2), full)
    found = audited(logs)
    [difference] = found.differences
    assert difference.field.startswith("slots[")
    assert difference.cause == "altered"


def test_a_model_version_that_never_was_is_a_missing_record(logs: Logs) -> None:
    end = len(logs.topics["feedback"][0])
    tamper(logs, lambda d: replace(d, model=end + 5), full)
    [difference] = audited(logs).differences
    assert (difference.field, difference.logged, difference.made) == (
        "model",
        str(end + 5),
        str(end),
    )
    assert difference.cause == "missing record"
    assert f"feedback has none at offset {end}" in difference.because


def test_a_missing_feedback_record_is_named(logs: Logs) -> None:
    log = logs.topics["feedback"][0]
    hole = len(log) // 2
    del log[hole]
    found = audited(logs)
    assert not found.ok
    assert found.feedback["refused"] > 0
    assert found.feedback_missing == (hole, 1)
    assert 0 < found.different == found.causes["missing record"]
    assert found.same > 0
    assert f"feedback has none at offset {hole}" in found.differences[0].because
    assert found.differences[0].model > hole


def test_an_item_that_was_compacted_away_is_named(logs: Logs) -> None:
    log = logs.topics["items"][0]
    del log[7]
    found = audited(logs)
    assert 0 < found.different == found.causes["missing record"]
    assert "items has none at offset 7" in found.differences[0].because


def test_another_seed_is_named() -> None:
    logs = lived(rounds=8).logs
    parts = build.parts(SETTINGS, ENCODER)
    other = replace(parts.recommender.terms, seed=5)
    for log in logs.topics["rankings"]:
        for n, message in enumerate(log):
            decision = replace(decode_decision(message.data), seed=other.seed)
            log[n] = replace(message, data=encode(decision))
    found = audited(logs)
    assert found.same == 0
    assert found.causes == {"other seed": found.different}
    assert {d.field for d in found.differences} == {"seed"}


def test_other_settings_are_counted_apart_and_are_no_success(logs: Logs) -> None:
    found = audited(logs, replace(SETTINGS, epsilon=0.2))
    assert not found.ok
    assert found.different == found.same == 0
    [(what, count)] = found.apart.items()
    assert count == found.rankings
    assert what.startswith(f"settings {SETTINGS.settings_hash()}, not ")


def test_another_build_is_counted_apart(logs: Logs) -> None:
    tamper(logs, lambda d: replace(d, build="0.0.1"), full)
    found = audited(logs)
    assert not found.ok
    assert [what.split(",")[0] for what in found.apart] == ["build 0.0.1"]
    assert found.same == found.rankings - 1


def test_vectors_of_an_encoder_the_log_does_not_have_are_a_difference(logs: Logs) -> None:
    tamper(logs, lambda d: replace(d, encoder="bert"), full)
    found = audited(logs)
    assert found.causes == {"other encoder": 1}


def test_a_repeat_is_reported_and_harmless(logs: Logs) -> None:
    log = logs.topics["rankings"][0]
    again = replace(decode_decision(log[-1].data), model=0, slots=())
    logs.append("rankings", encode(again), 0)
    found = audited(logs)
    assert found.ok
    assert (found.repeated, found.unlike) == (1, ())
    assert found.same == found.rankings - 1


def test_a_repeat_that_answers_something_else_is_named(logs: Logs) -> None:
    log = logs.topics["rankings"][0]
    again = replace(decode_decision(log[-1].data), user="somebody else")
    logs.append("rankings", encode(again), 0)
    found = audited(logs)
    assert found.ok
    assert found.unlike == (again.id,)
    assert any("answers something else" in line for line in report_lines(found))


def test_an_id_asked_again_after_the_window_is_a_ranking_of_its_own() -> None:
    owned = lived(rounds=8)
    late = 1_000_000
    owned.workers[1](Tick(at=late))
    owned.workers[1](Request(id="r0-1", user=asked_by(owned, "r0-1"), at=late, k=3))
    found = audited(owned.logs)
    assert found.ok
    assert (found.repeated, found.reused) == (0, ("r0-1",))
    assert found.same == found.rankings == found.asked


def test_a_ranking_for_a_request_sent_twice_is_one_too_many() -> None:
    owned = lived(rounds=8)
    worker = owned.workers[1]
    again = Request(id="r0-1", user=asked_by(owned, "r0-1"), at=9_000, k=3)
    assert worker(again) == []
    source = len(owned.logs.topics["events"][1]) - 1
    assert audited(owned.logs).ok
    owned.logs.append("rankings", encode(worker.parts.recommender(RankingTask(again, source))), 1)
    found = audited(owned.logs)
    assert not found.ok
    assert found.unasked_ids == ("r0-1",)
    assert found.different == 0


def test_an_unanswered_request_is_named(logs: Logs) -> None:
    request = Request(id="forgotten", user=user_of(1, 0), at=60_000)
    logs.append("events", encode(request), 1, 60_000)
    found = audited(logs)
    assert not found.ok
    assert found.different == 0
    assert found.unanswered_ids == ("forgotten",)


def test_what_rightly_got_no_ranking_is_counted_by_its_reason() -> None:
    owned = lived(rounds=8)
    worker = owned.workers[1]
    here, elsewhere = user_of(1, 0), user_of(0, 0)
    worker.discard(encode(Request(id="lost", user=elsewhere, at=9_000)), 9_000)
    worker.discard(encode(Request(id="seconds?", user=here, at=10**12)), 9_000)
    worker.discard(b"{", 9_000)
    worker(Request(id="r0-1", user=asked_by(owned, "r0-1"), at=9_000))
    worker(Tick(at=10**6))
    worker(Request(id="old", user=here, at=1))
    found = audited(owned.logs)
    assert found.ok
    assert found.discarded == {"misrouted": 1, "future": 1, "duplicate": 1, "too_late": 1}
    assert found.unreadable["events"] == 1


def test_a_record_that_its_event_does_not_imply_is_named(logs: Logs) -> None:
    log = logs.topics["feedback"][0]
    n, record = next(
        (n, record)
        for n in reversed(range(len(log)))
        if isinstance(record := decode_record(log[n].data), Interaction)
    )
    later = [decode_record(m.data) for m in log[n + 1 :]]
    log[n] = replace(log[n], data=encode(replace(record, value=0.5)))
    found = audited(logs)
    assert not found.ok
    assert found.strange == 1
    assert found.strange_first == (record.source,)
    refused = [r for r in later if r.source.partition == record.source.partition]
    assert found.feedback.get("refused", 0) == len(refused) == found.unlearned


def test_events_that_begin_late_leave_records_unchecked(logs: Logs) -> None:
    log = logs.topics["events"][0]
    del log[:5]
    found = audited(logs)
    assert found.cut == {0: 5}
    assert found.strange == found.unlearned == 0
    assert 0 < found.unchecked < found.implied + found.unchecked
    assert found.ok
    rankings = [decode_decision(message.data) for message in logs.topics["rankings"][0]]
    assert found.unchecked_rankings == sum(decision.source < 5 for decision in rankings) > 0
    assert found.same == found.rankings - found.unchecked_rankings
    assert f"  {found.unchecked_rankings} not checked" in "\n".join(report_lines(found))


def test_a_repeat_of_a_request_that_was_cut_is_not_unanswered() -> None:
    owned = lived(rounds=8)
    worker = owned.workers[1]
    assert worker(Request(id="r0-1", user=asked_by(owned, "r0-1"), at=9_000, k=3)) == []
    del owned.logs.topics["events"][1][:1]
    found = audited(owned.logs)
    assert found.ok
    assert (found.unanswered, found.unsure, found.unchecked_rankings) == (0, 1, 1)
    assert any(line.startswith("  1 more are not, and not checked") for line in report_lines(found))


def test_a_ranking_that_nobody_asked_for_is_found(logs: Logs) -> None:
    log = logs.topics["events"][1]
    asked = tamper(logs, lambda d: replace(d, source=len(log)), full)
    [difference] = audited(logs).differences
    assert (difference.id, difference.field, difference.made) == (asked.id, "source", '"no event"')
    assert difference.cause == "other request"


def test_a_ranking_for_another_user_than_asked_is_found(logs: Logs) -> None:
    tamper(logs, lambda d: replace(d, user="somebody else"), full)
    [difference] = audited(logs).differences
    assert (difference.field, difference.cause) == ("user", "other request")


def test_garbage_among_the_rankings_is_no_success(logs: Logs) -> None:
    logs.append("rankings", b'{"type":"decision"}', 0)
    found = audited(logs)
    assert not found.ok
    assert found.unreadable["rankings"] == 1


def test_the_same_values_in_other_bytes_are_found(logs: Logs) -> None:
    log = logs.topics["rankings"][1]
    log[-1] = replace(log[-1], data=log[-1].data.replace(b'":', b'": ', 1))
    [difference] = audited(logs).differences
    assert (difference.field, difference.cause) == ("bytes", "other bytes")


def test_nothing_to_audit_is_no_success(logs: Logs) -> None:
    logs.topics["rankings"] = [[], []]
    logs.topics["events"] = [[], []]
    assert not audited(logs).ok


def test_saved_logs_are_audited_alike(logs: Logs, tmp_path: Path) -> None:
    first, _ = audit_logs(SETTINGS, logs, tmp_path / "saved", quiet=True)
    again = audited_files(tmp_path / "saved")
    assert again == first == audited(logs)


def test_json_lines_are_audited_alike(logs: Logs, tmp_path: Path) -> None:
    for name, partitions in logs.topics.items():
        for number, log in enumerate(partitions):
            data = b"".join(message.data + b"\n" for message in log)
            (tmp_path / f"{name}-{number}.jsonl").write_bytes(data)
    assert audited_files(tmp_path) == audited(logs)


def test_a_decision_after_a_tombstone_is_audited_alike_whether_compaction_left_it() -> None:
    logs = no_logs()
    for n in range(6):
        item = Item(id=f"item:{n}", title=f"title {n} of things", at=n)
        logs.append("items", encode(item))
        logs.append("embeddings", encode(embed([item], ENCODER)[0]))
    logs.append("items", b"", key=b"item:5")
    logs.append("embeddings", b"", key=f"{ENCODER.version} item:5".encode())
    asked = continued(logs, rounds=0)
    for worker in asked.workers:
        worker.follow(99, 99)
    for n in range(4):
        mine = Request(id=f"r{n}", user=user_of(n % 2, 0), at=9 + n, k=9)
        [decision] = asked.workers[n % 2](mine)
        assert {slot.item for slot in decision.slots} == {f"item:{n}" for n in range(5)}
        assert (decision.items, decision.embeddings) == (7, 7)
    asked.workers[0].logs.append("items", encode(Item(id="item:6", at=99)))
    asked.workers[0].logs.append("embeddings", b"", key=f"{ENCODER.version} item:6".encode())
    whole = audited(logs)
    for name in ("items", "embeddings"):
        log = logs.topics[name][0]
        logs.topics[name] = [[*log[:5], log[7]]]  # neither the item nor its tombstone
    compacted = audited(logs)
    assert (whole.ok, whole.same) == (compacted.ok, compacted.same) == (True, 4)
    assert whole.unreadable["items"] == compacted.unreadable["items"] == 0


def test_keys_are_saved_and_decide_what_is_audited(logs: Logs, tmp_path: Path) -> None:
    wrong = encode(Item(id="item:1", title="under another key", at=0))
    logs.append("items", wrong, key=b"catalogue")
    logs.append("items", b"", key=b"item:2")
    first, _ = audit_logs(SETTINGS, logs, tmp_path / "saved", quiet=True)
    assert first.ok
    assert first.unreadable["items"] == 1
    assert audited_files(tmp_path / "saved") == first
    saved = [m for _, m in FileLogs(tmp_path / "saved").read("items")]
    assert [(m.data, m.key) for m in saved[-2:]] == [(wrong, b"catalogue"), (b"", b"item:2")]


def audited_files(folder: Path) -> AuditReport:
    return audit_logs(SETTINGS, FileLogs(folder), quiet=True)[0]


def test_a_folder_without_a_topic_says_which(logs: Logs, tmp_path: Path) -> None:
    list(save_topic(logs, tmp_path, "events"))
    with pytest.raises(FileNotFoundError, match="has no rankings"):
        FileLogs(tmp_path)


def test_a_catalogue_at_any_versions_is_what_a_fresh_fold_gives(owned: Logs) -> None:
    def all_of(catalogues: CatalogueHistory) -> CatalogueHistory:
        for message in owned.topics["items"][0]:
            catalogues.add_item(message.offset, ItemRecord.of(None, message.data))
        for message in owned.topics["embeddings"][0]:
            catalogues.add_embedding(message.offset, EmbeddingRecord.of(None, message.data))
        return catalogues

    def make(encoder: str, dimensions: int) -> Recommender:
        assert (encoder, dimensions) == (ENCODER.version, ENCODER.dimensions)
        return build.parts(SETTINGS, ENCODER).recommender

    kept = all_of(CatalogueHistory(make, most=2))
    rng = random.Random(3)
    for _ in range(20):
        versions = rng.randrange(31), rng.randrange(31)
        one = kept.at(ENCODER.version, *versions).catalogue
        fresh = all_of(CatalogueHistory(make)).at(ENCODER.version, *versions).catalogue
        assert (one.items_version, one.embeddings_version) == versions
        assert list(one.newest(0)) == list(fresh.newest(0))
        for item in fresh.live:
            assert one.item(item) == fresh.item(item)
            assert str(one.vector(item)) == str(fresh.vector(item))


def command(folder: Path, *more: str) -> tuple[int, str]:
    environ = {
        "RANKLOOP_ENCODER": "hash",
        "RANKLOOP_CANDIDATES": "20",
        "RANKLOOP_HORIZON_SECONDS": "2",
    }
    done = CliRunner().invoke(main, ["audit", "--from", str(folder), *more], env=environ)
    return done.exit_code, done.stdout


def test_the_command_says_so_and_exits_with_0(logs: Logs, tmp_path: Path) -> None:
    count = sum(map(len, logs.topics["rankings"]))
    audit_logs(SETTINGS, logs, tmp_path, quiet=True)
    code, said = command(tmp_path)
    assert (code, said.splitlines()[0]) == (
        0,
        f"{count} of {count} rankings came out bit for bit the same",
    )


def test_the_command_exits_with_1_and_explains_a_difference(logs: Logs, tmp_path: Path) -> None:
    tamper(logs, lambda d: replace(d, slots=d.slots[::-1]), full)
    audit_logs(SETTINGS, logs, tmp_path, quiet=True)
    code, said = command(tmp_path)
    assert code == 1
    assert "1 differ: other order" in said
    code, said = command(tmp_path, "--json")
    assert code == 1
    assert json.loads(said)["differences"][0]["field"] == "slots[0].item"


@pytest.mark.kafka
def test_what_a_worker_published_to_kafka_reproduces(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    with Deployment(kafka.brokers, topic_prefix, tmp_path, partitions=2) as deployment:
        deployment.ready()
        deployment.stock(12)
        at = now()
        deployment.publish(*(Request(id=f"r{n}", user=f"u{n % 5}", at=at + n) for n in range(20)))
        shown = eventually(
            lambda: d if len(d := deployment.decisions()) == 20 else {}, "20 rankings"
        )
        deployment.publish(
            *(
                Click(id=f"c:{id}", user=d.user, item=d.slots[0].item, at=at + 100, request=id)
                for id, d in sorted(shown.items())
            )
        )
        eventually(lambda: len(deployment.decisions()) == 40, "a ranking for each click")
        done = CliRunner().invoke(
            main, ["audit", "--save", str(tmp_path / "kept")], env=deployment.environ
        )
        assert done.exit_code == 0, f"{done.output}{done.exc_info}"
        assert done.stdout.startswith("40 of 40 rankings came out bit for bit the same")
        _, digest = deployment.agreed()
        assert digest in done.stdout
        again = audit_logs(deployment.settings, FileLogs(tmp_path / "kept"), quiet=True)[0]
        assert (again.ok, again.same, again.digest) == (True, 40, digest)


def restarted(owned: AuditedHistory, number: int) -> Request:
    """A partition whose group lost its offsets: one request unanswered, then a Restart."""
    settings = SETTINGS.attribution_rules()
    begins = Begin(fold=SETTINGS.fold_hash(), rules=settings.digest, partitions=2)
    owned.logs.append("feedback", encode(begins))
    worker, user = owned.workers[number], user_of(number, 0)
    lost = Request(id="lost", user=user, at=9_000, k=3)
    offset = owned.logs.append("events", encode(lost), number, 9_000)
    worker.learn()
    head = worker.parts.learner.ledger.places[number]
    record = Restart(partition=number, offset=offset, prev=head.chain)
    owned.logs.append("feedback", encode(record))
    worker.learn()
    head = worker.parts.learner.ledger.restarts[number]
    at = OffsetAndMetadata(0, "")
    events, rankings = (
        Span(TopicPartition(name, number), 0, len(owned.logs.topics[name][number]))
        for name in ("events", "rankings")
    )
    partition = Partition(Attribution(number, settings), worker.parts.learner.ledger, None, None)  # pyright: ignore[reportArgumentType]
    commit = commit_that_counts(partition, at, [events, rankings])
    bookmark = decode_bookmark(commit.metadata, settings.digest)
    assert bookmark is not None and bookmark.last == head.source
    worker.attribution = Attribution(number, settings)
    worker.attribution.resume(bookmark)
    for message in owned.logs.topics["events"][number][:offset]:
        worker.attribution(message.offset, message.appended, decode_event(message.data))
    for message in owned.logs.topics["rankings"][number]:
        worker.attribution.decided(decode_decision(message.data), message.offset)
    assert worker.attribution.resumed(offset) == []
    return lost


def test_what_a_restart_left_out_is_counted_and_what_follows_it_is_checked() -> None:
    owned = lived(rounds=8)
    lost = restarted(owned, 1)
    [again] = owned.workers[1](Request(id="again", user=lost.user, at=9_100, k=3))
    owned.workers[1](
        Click(id="c", user=lost.user, item=again.slots[0].item, at=9_101, request="again")
    )
    owned.workers[1](Tick(at=10**6))
    found = audited(owned.logs)
    assert found.ok, found
    assert (found.skipped, found.unanswered) == (1, 0)
    assert found.unlearned_skipped > 0  # what was open before it
    assert found.implied > 0 and not found.strange


def test_a_record_after_a_restart_that_its_events_do_not_imply_is_found() -> None:
    owned = lived(rounds=8)
    lost = restarted(owned, 1)
    worker = owned.workers[1]
    [record] = worker.attribution(
        worker.attribution.next, 9_100, Click(id="c", user=lost.user, item="item:1", at=9_100)
    ).records[:1]
    owned.logs.append("feedback", record.data)
    owned.logs.append(
        "events", encode(Click(id="c", user=lost.user, item="item:2", at=9_100)), 1, 9_100
    )
    assert audited(owned.logs).strange == 1
