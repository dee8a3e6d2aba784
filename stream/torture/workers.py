"""Workers as processes of their own: started, asked, stopped, paused and killed, by pid."""

import json
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from stream.local.process import free_port
from stream.settings import Settings, others_environ

STOP_SECONDS = 120.0  # a loaded machine takes its time
TEST_WORKER = "RANKLOOP_TEST_WORKER"  # our own tests start broken ones
ROOT = Path(__file__).parents[2]


class Worker:
    """`rankloop worker` with a data folder of its own, started again and again in one place."""

    def __init__(self, settings: Settings, folder: Path, number: int) -> None:
        self.number = number
        self.data = folder / f"worker-{number}"
        self.log = folder / f"worker-{number}.log"
        self.config = folder / f"worker-{number}.toml"
        self.port = free_port()
        self.wanted = False  # it should run
        self.paused = False
        self.starts = 0
        self.exits: list[int] = []  # exit codes after SIGTERM
        self.ended: list[int] = []  # exit codes of those that ended by themselves
        own = structs.replace(settings, web_port=self.port, data_dir=str(self.data))
        self.config.write_text(own.toml())
        self._process: subprocess.Popen[bytes] | None = None
        self._begins = 0  # of its log

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def busy(self) -> bool:
        """It runs and nobody paused it."""
        return self.runs and not self.paused

    def start(self) -> None:
        """Start it; it is not awaited."""
        if self.runs:
            return
        self.wanted, self.paused = True, False
        self.starts += 1
        environ = others_environ() | {"PYTHONPATH": str(ROOT)}
        command = shlex.split(environ.get(TEST_WORKER, "")) or [sys.executable, "-m", "stream"]
        with self.log.open("ab") as out:
            self._begins = out.tell()
            self._process = subprocess.Popen(
                [*command, "--config", str(self.config), "worker"],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # Ctrl-C is for the harness, which stops all in order
            )

    def look(self) -> bool:
        """Whether it ended by itself since the last look."""
        if not self.wanted or self._process is None or self._process.poll() is None:
            return False
        self.ended.append(self._process.returncode)
        self._process = None
        return True

    def kill(self) -> None:
        """SIGKILL."""
        self.wanted = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.paused = False

    def stop(self) -> None:
        """SIGTERM; its exit code is noted by `reap`."""
        self.wanted = False
        if self.runs and self._process is not None:
            self.resume()
            self._process.terminate()

    def reap(self, seconds: float = 0.0) -> bool:
        """Whether a stopped worker is gone."""
        if self._process is None:
            return True
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if code == -signal.SIGTERM and self.log.stat().st_size == self._begins:
            code = 0  # Python had not even begun to run it
        self.exits.append(code)
        self._process = None
        return True

    def pause(self) -> None:
        """SIGSTOP."""
        if self.runs and self._process is not None:
            self.paused = True
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.paused = False
        if self.runs and self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def status(self, digest: bool = False) -> dict[str, Any]:
        """Its status page; {} while nothing answers there."""
        url = f"http://127.0.0.1:{self.port}/status{'?digest=1' if digest else ''}"
        try:
            with urllib.request.urlopen(url, timeout=60 if digest else 2) as page:
                return json.load(page)
        except (OSError, ValueError):
            return {}

    def partitions(self) -> list[int]:
        """Those it owns and has restored."""
        partitions: dict[str, Any] = self.status().get("partitions", {})
        return [int(number) for number, state in partitions.items() if state["ready"]]

    def snapshots(self) -> list[Path]:
        """Its snapshots, the oldest first."""
        return sorted(self.data.glob("snapshots/*.safetensors"))

    def parts(self) -> list[Path]:
        """Snapshots that it is writing, or was when it was killed."""
        return sorted(self.data.glob("snapshots/.*.part"))

    def words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""


def all_gone(workers: Sequence[Worker]) -> None:
    """Stop all, in order: SIGTERM, then SIGKILL for the deaf."""
    for worker in workers:
        worker.stop()
    for worker in workers:
        if not worker.reap(STOP_SECONDS):
            worker.kill()
            worker.exits.append(-9)
