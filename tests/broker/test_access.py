"""TLS, passwords and access rules on a real Apache Kafka: the rights of docs/security.md alone."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from models.events import Click, Request
from models.hash_encoder import HashEncoder
from stream.kafka.authorization import AuthorizationDeniedError, Permission, check_permissions
from stream.kafka.health import required_permissions
from stream.kafka.topics import create
from stream.local.process import free_port
from stream.settings import Settings, others_environ
from stream.worker import app as workers
from tests.support import kafka_secured
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_secured import PASSWORD, Secured
from tests.support.kafka_worker import PATIENCE, ROOT, Worker, eventually

pytestmark = pytest.mark.kafka

Make = Callable[..., Deployment]
SAFE = "sasl_username", "security_protocol", "sasl_mechanism", "ssl_cafile"
WORD = "[A-Z]{4,}"
FAST = {"partitions": 1, "horizon_seconds": 1, "idle_tick_seconds": 0.5, "early_reward_seconds": 1}


@pytest.fixture(scope="module")
def kafka_with_rules(
    kafka_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    with kafka_secured.secured(kafka_home, tmp_path_factory.mktemp("rules"), rules=True) as kafka:
        yield kafka


@pytest.fixture
def deployment(kafka_with_rules: Secured, topic_prefix: str, tmp_path: Path) -> Iterator[Make]:
    """Makes a rankloop whose topics the administrator made and whose workers are the user."""
    with ExitStack() as stack:
        admin, user = kafka_with_rules.admin, kafka_with_rules.user
        logins = {name: getattr(admin, name) for name in (*SAFE, "sasl_password")}

        def make(**settings: object) -> Deployment:
            one = Deployment(admin.brokers, topic_prefix, tmp_path, **(FAST | logins | settings))
            stack.enter_context(one)
            one.environ["RANKLOOP_SASL_USERNAME"] = user.sasl_username
            one.environ["RANKLOOP_SASL_PASSWORD"] = user.sasl_password
            return one

        yield make


def permissions(settings: Settings) -> list[Permission]:
    return required_permissions(settings, workers.name(settings, HashEncoder()))


def ended(worker: Worker, *says: str) -> str:
    """The one line a worker ended with; nothing else was as loud, and no secret was said."""
    assert worker.ended(PATIENCE * 2) > 0
    words = worker.log.read_text()
    assert "Traceback" not in words, words
    assert PASSWORD not in words
    [line] = [x for x in words.splitlines() if x.startswith("Error: ") or " CRITICAL " in x]
    assert line == words.splitlines()[-1], words
    for one in says:
        assert one in line, line
    return line


def test_a_worker_runs_with_the_rights_that_are_listed(
    deployment: Make, kafka_with_rules: Secured
) -> None:
    loop = deployment()
    kafka_with_rules.grant(permissions(loop.settings))
    [worker] = loop.ready()
    loop.stock(5)
    loop.send(b"rubbish")
    loop.publish(Request(id="r1", user="ann", at=now(), k=2))
    shown = loop.decision("r1").slots[0].item
    loop.publish(Click(id="c1", user="ann", item=shown, at=now(), request="r1"))
    eventually(lambda: loop.outcomes("r1"), "what was shown is learned, told by ticks alone")
    eventually(loop.letters, "rubbish is a dead letter")
    assert loop.agreed()[0] >= 2
    assert worker.stop() == 0
    assert "denied" not in worker.words().lower()


def test_a_worker_may_not_make_topics_and_says_who_can(
    kafka_with_rules: Secured, topic_prefix: str
) -> None:
    settings = msgspec.structs.replace(kafka_with_rules.user, topic_prefix=topic_prefix)
    with pytest.raises(AuthorizationDeniedError) as hidden:
        asyncio.run(create(settings))
    assert f"DESCRIBE on topic {topic_prefix}." in str(hidden.value)
    kafka_with_rules.grant(permissions(settings))
    with pytest.raises(AuthorizationDeniedError) as denied:
        asyncio.run(create(settings))
    assert f"there is no topic {topic_prefix}.items" in str(denied.value)
    assert "--operation CREATE" in str(denied.value) and "rankloop topics" in str(denied.value)
    admin = msgspec.structs.replace(kafka_with_rules.admin, topic_prefix=topic_prefix)
    assert set(asyncio.run(create(admin)).values()) == {"created"}
    assert set(asyncio.run(create(settings)).values()) == {"exists"}


def test_each_right_that_is_missing_is_named_with_its_remedy(
    kafka_with_rules: Secured, topic_prefix: str
) -> None:
    names = {"topic_prefix": topic_prefix, "group": topic_prefix}
    settings = msgspec.structs.replace(kafka_with_rules.user, **names)
    asyncio.run(create(msgspec.structs.replace(kafka_with_rules.admin, **names)))
    every = permissions(settings)
    kafka_with_rules.grant(every)

    def denied() -> str:
        try:
            asyncio.run(check_permissions(settings, every))
        except AuthorizationDeniedError as denied:
            return str(denied)
        return ""

    for right in every:  # rules take effect a moment after they were acknowledged
        eventually(lambda: not denied(), "all rights are there")
        kafka_with_rules.revoke([right])
        words = eventually(denied, f"{right} is missing")
        assert f"'rankloop': {right.operation} on {right.kind} {right.name}. " in words
        assert words.endswith(right.command("rankloop"))
        kafka_with_rules.grant([right])


@pytest.mark.parametrize("kind", ["topic", "group"])
def test_a_worker_without_a_right_ends_in_one_line(
    deployment: Make, kafka_with_rules: Secured, kind: str
) -> None:
    loop = deployment()
    missing = [right for right in permissions(loop.settings) if right.kind == kind][-2]
    kafka_with_rules.grant(set(permissions(loop.settings)) - {missing})
    worker = loop.worker()
    ended(worker, missing.operation, missing.name, missing.command("rankloop"))


LOST = {
    "the text model's items": ("group", -1),
    "the partitions": ("group", 0),
    "answering": ("topic", 6),
}


@pytest.mark.parametrize("case", LOST)
def test_a_right_lost_while_it_runs_ends_in_one_line(
    deployment: Make, kafka_with_rules: Secured, case: str
) -> None:
    kind, index = LOST[case]
    loop = deployment()
    kafka_with_rules.grant(permissions(loop.settings))
    [worker] = loop.ready()
    loop.stock(3)
    lost = [right for right in permissions(loop.settings) if right.kind == kind][index]
    kafka_with_rules.revoke([lost])
    loop.publish(Request(id="r1", user="ann", at=now(), k=2))
    ended(worker, f"{lost.operation} on {kind} {lost.name}")


def test_a_wrong_password_ends_in_one_line(deployment: Make, kafka_with_rules: Secured) -> None:
    loop = deployment()
    loop.environ["RANKLOOP_SASL_PASSWORD"] = f"{PASSWORD}!"
    ended(loop.worker(), "refuses the user or the password of 'rankloop'", "RANKLOOP_SASL_PASSWORD")


def test_a_certificate_that_is_not_trusted_ends_in_one_line(deployment: Make) -> None:
    loop = deployment()
    loop.environ["RANKLOOP_SSL_CAFILE"] = ""
    ended(loop.worker(), "is not trusted", "RANKLOOP_SSL_CAFILE (now: the system's)")


def test_a_broker_that_is_not_there_is_awaited_and_then_ends_in_one_line(tmp_path: Path) -> None:
    ours = {"BROKERS": f"127.0.0.1:{free_port()}", "CONNECT_SECONDS": "3", "ENCODER": "hash"}
    environ = others_environ() | {f"RANKLOOP_{name}": value for name, value in ours.items()}
    worker = Worker(environ, tmp_path)
    line = ended(worker, "no Kafka answers at 127.0.0.1:", "RANKLOOP_BROKERS")
    assert "Connect call failed" in line or "refused" in line
    assert worker.log.read_text().count("waiting for kafka at_most_seconds=3") == 1


def test_readme_lists_what_is_asked_for() -> None:
    text = (ROOT / "docs" / "security.md").read_text().split("### Rights")[1]
    rows = re.findall(r"\| (topic|group) `([^`]+)`( and a hash [^|]+)? \| ([^|]+) \|", text)
    listed = [
        (kind, name, one) for kind, name, _, all_ in rows for one in re.findall("[A-Z]{4,}", all_)
    ]
    asked = [(r.kind, r.name, r.operation) for r in required_permissions(Settings(), "rankloop-")]
    assert sorted(listed) == sorted(asked)
