"""A killed worker's place in its groups is free soon, whether the broker watches members or not."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.events import Request
from stream.kafka.membership import JoinMonitor, claim
from stream.kafka.protocol import Group, Member
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import ROOT, eventually

CLAIM = "import sys; from pathlib import Path; from stream.kafka.membership import claim; "
CLAIM += "print(claim(Path(sys.argv[1])), flush=True); sys.stdin.read()"
US = Member("us-1", "us")
OTHER = Member("other-1", "other")


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that lives until it is killed, and the client id it has claimed."""
    command = [sys.executable, "-c", CLAIM, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_who_starts_after_a_kill_has_the_name_of_the_killed(
    process: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    killed, name = process
    killed.kill()
    killed.wait()
    assert claim(tmp_path) == name


def test_who_starts_beside_a_living_process_has_another_name(
    process: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    assert claim(tmp_path) != process[1]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_name_that_a_kill_cut_short_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "client-id-0").write_text("rankloop-12")
    name = claim(tmp_path)
    assert (tmp_path / "client-id-0").read_text() == name != "rankloop-12"


def test_without_a_folder_to_write_a_worker_has_a_name_for_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    assert claim(tmp_path / "file" / "folder").startswith("rankloop-")
    assert "client id not kept" in caplog.text


def rebalancing(*members: Member, name: str = "g") -> Group:
    return Group(name, "PreparingRebalance", members)


def stable(*members: Member, name: str = "g") -> Group:
    return Group(name, "Stable", members)


def test_a_wait_is_said_every_ten_seconds_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    monitor = JoinMonitor("us", session_timeout=60)
    for second in range(27):
        assert monitor([rebalancing(US, OTHER)], second) == {}
    said = [vars(record)["seconds"] for record in caplog.records]
    assert (said, monitor.waits) == ([5, 15, 25], True)
    monitor([stable(US, OTHER)], 27)
    assert (caplog.messages[-1], monitor.waits) == ("joined the group", False)


def test_a_rebalance_that_others_let_end_is_not_worth_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    monitor = JoinMonitor("us", session_timeout=6)
    for second in range(0, 60, 4):
        monitor([rebalancing(US, OTHER)], second)
        assert monitor([stable(US, OTHER)], second + 3) == {}
    assert caplog.messages == []


def test_who_does_not_join_within_a_session_timeout_is_to_be_removed_from_all_groups() -> None:
    monitor = JoinMonitor("us", session_timeout=6)
    late = Member("late-1", "late")
    elsewhere = stable(Member("other-2", "other"), name="h")
    assert monitor([rebalancing(US, OTHER), elsewhere], 0) == {}
    assert monitor([rebalancing(US, OTHER, late), elsewhere], 3) == {}
    assert monitor([rebalancing(US, OTHER, late), elsewhere], 6) == {
        "g": [OTHER],
        "h": [Member("other-2", "other")],
    }


def test_who_joins_again_under_a_new_id_lives() -> None:
    monitor = JoinMonitor("us", session_timeout=6)
    assert monitor([rebalancing(US, OTHER)], 0) == {}
    assert monitor([rebalancing(US, Member("other-2", "other"))], 6) == {}


def test_nobody_is_removed_from_a_group_that_we_do_not_join() -> None:
    monitor = JoinMonitor("us", session_timeout=6)
    for second in (0, 60):
        assert monitor([rebalancing(OTHER)], second) == {}


# On Kafka


@pytest.mark.kafka
def test_a_killed_worker_that_is_started_again_does_not_wait_for_its_session_to_end(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    with Deployment(
        kafka.brokers, topic_prefix, tmp_path, session_timeout_seconds=80
    ) as deployment:
        [first] = deployment.ready()
        deployment.stock(10)
        first.kill()
        second = deployment.worker(data=first.data)
        eventually(lambda: second.owns(4), "it has its partitions again", seconds=60)
        assert "dead members removed" in second.log.read_text()
        deployment.publish(Request(id="r", user="ann", at=now(), k=3))
        assert deployment.decision("r").slots
        assert second.stop() == 0


@pytest.mark.kafka
def test_a_killed_worker_is_replaced_by_one_elsewhere_which_says_that_it_waits(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    with Deployment(
        kafka.brokers, topic_prefix, tmp_path, session_timeout_seconds=20
    ) as deployment:
        [first] = deployment.ready()
        deployment.stock(10)
        first.kill()
        second = deployment.worker()
        eventually(lambda: second.owns(4), "it has the partitions of the other", seconds=60)
        assert "waiting until others join the group again" in second.log.read_text()
        deployment.publish(Request(id="r", user="ann", at=now(), k=3))
        assert deployment.decision("r").slots
        assert second.stop() == 0
