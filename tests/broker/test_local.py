"""The local stack starts, serves, and is gone afterwards, whatever ended it."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from stream.local.process import Server, StackError, free_port, redis_answers
from stream.local.servers import kafka_version, noida
from stream.local.stack import Stack

pytestmark = pytest.mark.kafka


@pytest.fixture(params=["apache", "local"])
def home(request: pytest.FixtureRequest) -> str:
    if request.param == "apache":
        return str(request.getfixturevalue("kafka_home"))
    pytest.importorskip("noida_db")
    return ""


async def round_trip(brokers: str) -> bytes | None:
    admin = AIOKafkaAdminClient(bootstrap_servers=brokers)
    await admin.start()
    await admin.create_topics([NewTopic("there", 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=brokers) as producer:
        await producer.send_and_wait("there", b"and back")
    return await read_first(brokers)


async def read_first(brokers: str) -> bytes | None:
    consumer = AIOKafkaConsumer(
        "there", bootstrap_servers=brokers, auto_offset_reset="earliest", group_id=None
    )
    async with consumer:
        message = await asyncio.wait_for(consumer.getone(), 30)
    return message.value


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def runs(pid: int) -> bool:
    """Alive and no zombie that waits for whoever inherited it."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_stack_serves_kafka_and_redis_and_leaves_nothing(home: str) -> None:
    with Stack(kafka_home=home) as stack:
        assert asyncio.run(round_trip(stack.brokers)) == b"and back"
        with redis.Redis.from_url(stack.redis_url) as client:
            client.set("there", "and back", ex=60)
            assert client.get("there") == b"and back"
        servers = [server for server in (stack.kafka, stack.redis) if server]
        pids = [server.pid for server in servers]
        assert all(alive(pid) for pid in pids)
    assert not any(alive(pid) for pid in pids)
    assert not any(listens(server.port) for server in servers)
    assert not stack.folder.exists()


def test_a_killed_kafka_comes_back_with_what_it_acknowledged(kafka_home: Path) -> None:
    with Stack(kafka_home=kafka_home, redis=False) as stack:
        asyncio.run(round_trip(stack.brokers))
        stack.kafka.kill()
        assert not listens(stack.kafka.port)
        stack.kafka.start()
        assert asyncio.run(read_first(stack.brokers)) == b"and back"


def start_parent(home: str) -> tuple[subprocess.Popen[str], list[int], Path]:
    """A process with a stack: it, the pids of Kafka and Redis, and the stack's folder."""
    program = f"""
        import signal, time
        from stream.local.stack import Stack
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have them ignored
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Stack(kafka_home={home!r}) as stack:
            print(stack.kafka.pid, stack.redis.pid, stack.folder, flush=True)
            time.sleep(600)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    with parent.stdout:
        kafka, redis, folder = parent.stdout.readline().split()
    return parent, [int(kafka), int(redis)], Path(folder)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_to_the_parent_ends_the_stack(ending: signal.Signals, home: str) -> None:
    parent, pids, folder = start_parent(home)
    parent.send_signal(ending)
    try:
        assert parent.wait(60) in (128 + ending, -ending)
    finally:
        parent.kill()
    assert not any(alive(pid) for pid in pids)
    assert not folder.exists()


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs Linux's setpriv (util-linux)")
def test_even_a_killed_parent_leaves_no_server(home: str) -> None:
    parent, pids, folder = start_parent(home)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 30
    while any(runs(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(runs(pid) for pid in pids)
    shutil.rmtree(folder)


def test_a_folder_of_the_users_own_is_kept(home: str, tmp_path: Path) -> None:
    with Stack(kafka_home=home, redis=False, folder=tmp_path / "mine") as stack:
        asyncio.run(round_trip(stack.brokers))
    with Stack(kafka_home=home, redis=False, folder=tmp_path / "mine") as again:
        assert asyncio.run(read_first(again.brokers)) == b"and back"


def test_a_server_that_fails_shows_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('the disk is full')"]
    server = Server("a server", command, free_port(), tmp_path, redis_answers)
    with pytest.raises(StackError, match=r"a server did not start.*\n.*the disk is full"):
        server.start()
    assert server.pid == 0


def test_a_missing_kafka_is_explained(tmp_path: Path) -> None:
    with pytest.raises(StackError, match=r"no Apache Kafka in .*; unpack a release"):
        kafka_version(tmp_path)


def test_a_missing_java_is_explained(monkeypatch: pytest.MonkeyPatch, kafka_home: Path) -> None:
    monkeypatch.setenv("PATH", "")
    with (
        pytest.raises(StackError, match="Java 17 or newer"),
        Stack(kafka_home=kafka_home, redis=False),
    ):
        pass


def test_a_missing_extra_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("stream.local.servers.find_spec", lambda _: None)
    with pytest.raises(StackError, match=r"pip install -e '\.\[local\]'"):
        noida("kafka", tmp_path)
