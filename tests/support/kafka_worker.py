"""A worker as a process of its own, asked by its status page and stopped by its pid."""

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stream.local.process import free_port

ROOT = Path(__file__).parents[2]
PATIENCE = 90.0  # seconds until a condition counts as never coming true
T = TypeVar("T")


def eventually(condition: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """What `condition` gives once it is true; fails, naming `what`, if that never happens."""
    deadline = time.monotonic() + seconds
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what}; at last {found!r}")
        time.sleep(0.02)


class Worker:
    """`python -m stream worker`, or another command for `... worker`, in a process of its own.

    `data` is its data_dir, by default one of its own in `folder`.
    """

    def __init__(
        self,
        environ: dict[str, str],
        folder: Path,
        command: Sequence[str] = (),
        data: Path | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self.log = folder / f"worker-{self.port}.log"
        self.data = data or folder / f"worker-{self.port}"
        environ = environ | {
            "RANKLOOP_WEB_PORT": str(self.port),
            "RANKLOOP_DATA_DIR": str(self.data),
        }
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [*(command or (sys.executable, "-m", "stream")), "worker", *arguments],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def asleep(self) -> bool:
        """Whether a SIGSTOP holds it (Linux says so)."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def wake(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def status(self, digest: bool = False) -> dict[str, Any]:
        """Its status page; {} while nothing answers there."""
        url = f"http://127.0.0.1:{self.port}/status{'?digest=1' if digest else ''}"
        try:
            with urllib.request.urlopen(url, timeout=20) as page:
                return json.load(page)
        except OSError:
            if not self.runs:
                raise AssertionError(f"the worker ended:\n{self.words()}") from None
            return {}

    def page(self, path: str) -> tuple[int, str]:
        """The code and the text of one of its pages; (0, "") while nothing answers."""
        try:
            url = f"http://127.0.0.1:{self.port}{path}"
            with urllib.request.urlopen(url, timeout=20) as page:
                return page.status, page.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def reasons(self) -> dict[str, str]:
        """Why it is not ready, as `/readyz` has it; {"unreachable": ""} while nothing answers."""
        code, text = self.page("/readyz")
        reasons = json.loads(text)["reasons"] if text else {"unreachable": ""}
        assert (code == 200) == (not reasons), (code, text)
        return reasons

    def metric(self, name: str) -> float | None:
        """The value of the one sample of a metric, with its labels in the name; None without."""
        lines = self.page("/metrics")[1].splitlines()
        found = [line.rpartition(" ") for line in lines]
        return next((float(value) for said, _, value in found if said == f"rankloop_{name}"), None)

    def partitions(self) -> dict[int, dict[str, Any]]:
        """What it says of each partition it owns and has restored."""
        assigned = self.status().get("partitions", {})
        return {int(number): owned for number, owned in assigned.items() if owned["ready"]}

    def owns(self, count: int) -> bool:
        return len(self.partitions()) == count

    def words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-6000:]

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        if self.runs:
            self._process.send_signal(signal.SIGTERM)
        return self._exit(60, "SIGTERM did not stop the worker")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def ended(self, seconds: float = PATIENCE) -> int:
        """Its exit code, once it has ended by itself."""
        return self._exit(seconds, f"the worker did not end within {seconds:.0f} s")

    def _exit(self, seconds: float, otherwise: str) -> int:
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGUSR1)  # Faust then says where every task is
            time.sleep(3)
            self.kill()
            words = self.log.read_text(errors="replace")[-30_000:]
            raise AssertionError(f"{otherwise}:\n{words}") from None
