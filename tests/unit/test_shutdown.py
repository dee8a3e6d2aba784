"""A stop that does not end by itself is ended, says who held it up, and keeps its exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stream.local.process import free_port
from tests.support.kafka_worker import Worker, eventually

HELD_UP = """
import asyncio, logging, threading
from stream.worker.shutdown import ShutdownDeadline
logging.basicConfig(level="INFO")
async def held_up():
    leaving = ShutdownDeadline(lambda: 3)
    leaving.within(60)
    leaving.within(0.3)
    {then}
    await asyncio.sleep(30)
asyncio.run(held_up())
"""


def ended(then: str) -> tuple[int, str]:
    code = HELD_UP.format(then=then)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=25)
    return done.returncode, done.stderr


def test_who_is_held_up_leaves_with_the_code_and_says_what_did_not_end() -> None:
    code, said = ended("pass")
    assert code == 3
    assert "not let go in time" in said and "held_up" in said


def test_even_a_loop_that_does_not_turn_any_more_is_left() -> None:
    assert ended("threading.Event().wait(30)")[0] == 3


def test_a_stop_that_ends_by_itself_is_left_alone() -> None:
    assert ended("leaving.cancel(); return")[0] == 0


@pytest.mark.parametrize("folder", ["/proc/nope", "/dev/null", "/dev/null/below"])
def test_a_data_folder_that_cannot_be_written_ends_a_worker_in_one_line(folder: str) -> None:
    environ = os.environ | {"RANKLOOP_DATA_DIR": folder, "RANKLOOP_ENCODER": "hash"}
    command = [sys.executable, "-m", "stream", "worker"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("Error: data_dir must be a folder that this worker may write to, got /")
    assert "RANKLOOP_DATA_DIR" in line


def test_a_worker_that_waits_for_kafka_stops_at_once(tmp_path: Path) -> None:
    """Before Faust listens to signals, too: it has nothing to finish, and that is no failure."""
    ours = {"RANKLOOP_BROKERS": f"127.0.0.1:{free_port()}", "RANKLOOP_ENCODER": "hash"}
    worker = Worker(
        {k: v for k, v in os.environ.items() if not k.startswith("RANKLOOP_")} | ours, tmp_path
    )
    eventually(lambda: "waiting for kafka" in worker.words(), "it waits")
    assert worker.stop() == 0
    assert "stopped before it had started" in worker.words()
