"""Which Kafka and Redis the tests talk to, and how Hypothesis draws."""

import os
import shutil
import uuid
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest
from msgspec import Struct

from stream.local.process import Server, free_port, kafka_answers
from stream.local.servers import kafka_version, noida, redis_server
from stream.local.stack import Stack
from tests.support import shared

hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

collect_ignore = ["properties/fuzz"]  # it needs atheris, and runs by `make fuzz`
IMAGE = "apache/kafka:4.1.1"


class Kafka(Struct, frozen=True):
    """A broker for tests; `kind` is given, docker, apache or local."""

    brokers: str
    kind: str
    describes: str


class Choice(Struct, frozen=True):
    kind: str
    describes: str
    where: str = ""


@cache
def choice() -> Choice:
    """Given > Docker > Apache Kafka with Java > the extra `local`."""
    if given := os.environ.get("RANKLOOP_TEST_KAFKA"):
        return Choice("given", f"the Kafka of RANKLOOP_TEST_KAFKA, {given}", given)
    if docker_answers():
        return Choice("docker", f"{IMAGE} in Docker")
    if (home := apache_home()) is not None:
        return Choice("apache", f"Apache Kafka {kafka_version(home)} from {home}", str(home))
    if find_spec("noida_db"):
        return Choice("local", "noida-db's kafka (one worker only; set KAFKA_HOME for all tests)")
    return Choice("none", "none: set RANKLOOP_TEST_KAFKA or KAFKA_HOME, or install extra `local`")


def docker_answers() -> bool:
    """Whether an engine answers within two seconds."""
    if not os.environ.get("DOCKER_HOST") and not Path("/var/run/docker.sock").exists():
        return False
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env(timeout=2)
        try:
            return client.ping()
        finally:
            client.close()
    except (DockerException, OSError):
        return False


def apache_home() -> Path | None:
    """KAFKA_HOME, or ../shared/kafka, if there is a Kafka in it and Java on PATH."""
    homes = [os.environ.get("KAFKA_HOME"), shared.KAFKA]
    if shutil.which("java"):
        for home in (Path(home).resolve() for home in homes if home):
            if any((home / "libs").glob("kafka-clients-*.jar")):
                return home
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `shared` what needs an Apache Kafka."""
    for item in items:
        if {"apache_kafka", "kafka_home"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("shared")


def pytest_report_header() -> str:
    return f"kafka: {choice().describes}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"kafka: {choice().describes}")


def start_container() -> Iterator[str]:
    from testcontainers.core.container import DockerContainer

    port = free_port()
    listeners = "PLAINTEXT://:9092,CONTROLLER://:9093"
    container = DockerContainer(IMAGE).with_bind_ports(9092, port)
    for name, value in {
        "NODE_ID": "1",
        "PROCESS_ROLES": "broker,controller",
        "LISTENERS": listeners,
        "ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{port}",
        "CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "LISTENER_SECURITY_PROTOCOL_MAP": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "AUTO_CREATE_TOPICS_ENABLE": "false",
    }.items():
        container = container.with_env(f"KAFKA_{name}", value)
    with container:
        await_answer(port)
        yield f"127.0.0.1:{port}"


def await_answer(port: int) -> None:
    import time

    deadline = time.monotonic() + 60
    while not kafka_answers(port):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{IMAGE} did not answer within 60 s")
        time.sleep(0.1)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    """A running broker, shared by all tests: use `topic_prefix` for names of your own."""
    chosen = choice()
    if chosen.kind == "none":
        pytest.skip(f"no Kafka to test with; {chosen.describes}")
    elif chosen.kind == "given":
        yield Kafka(chosen.where, chosen.kind, chosen.describes)
    elif chosen.kind == "docker":
        for brokers in start_container():
            yield Kafka(brokers, chosen.kind, chosen.describes)
    else:
        with Stack(kafka_home=chosen.where, redis=False) as stack:
            yield Kafka(stack.brokers, chosen.kind, chosen.describes)


@pytest.fixture(scope="session")
def apache_kafka(kafka: Kafka) -> Kafka:
    """The same, for tests of several workers or of failing over, which noida-db cannot do."""
    if kafka.kind == "local":
        pytest.skip("needs a real Apache Kafka: set KAFKA_HOME (and have Java), or run Docker")
    return kafka


@pytest.fixture(scope="session")
def kafka_home() -> Path:
    """An unpacked Apache Kafka, for tests that start, kill and restart a broker of their own."""
    home = apache_home()
    if home is None:
        pytest.skip("needs an unpacked Apache Kafka: set KAFKA_HOME and have Java on PATH")
    return home


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running Redis, RANKLOOP_TEST_REDIS or one of our own."""
    if given := os.environ.get("RANKLOOP_TEST_REDIS"):
        yield given
        return
    folder = tmp_path_factory.mktemp("redis")
    server: Server = redis_server(folder) or noida("redis", folder)
    server.start()
    yield f"redis://{server.address}/0"
    server.stop()


@pytest.fixture
def topic_prefix() -> str:
    """A first part of topic names, and so of groups, that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}"
