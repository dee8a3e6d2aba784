"""A child process that serves one loopback port: started, awaited, killed, started again."""

import random
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from stream.errors import UserError

READY_SECONDS = 180.0  # a loaded machine takes its time
STOP_SECONDS = 15.0
# A client that retries a closed port of the ephemeral range can connect to itself and hold it:
# a server on such a port may be unable to come back. Linux starts that range at 32768.
PORTS = range(20_000, 30_000)
API_VERSIONS = bytes.fromhex("0000000a 0012 0000 00000001 ffff")


class StackError(UserError):
    """Something the local stack needs is missing or did not start; says how to get it."""


class Server:
    """`command`, run in `folder`; it is ready once `answers(port)`.

    >>> Server("a page", ["python3", "-m", "http.server"], 20_001, Path(), redis_answers).address
    '127.0.0.1:20001'
    """

    def __init__(
        self,
        describes: str,
        command: Sequence[str],
        port: int,
        folder: Path,
        answers: Callable[[int], bool],
    ) -> None:
        self.describes = describes
        self.command = command
        self.port = port
        self.folder = folder
        self.answers = answers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the server itself, not of a wrapper; 0 when it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else 0

    def start(self) -> None:
        """Start, and return once it answers."""
        log_path = self.folder / "log"
        with log_path.open("ab") as log:
            # A session of its own: Ctrl-C reaches the parent alone, which stops us in order.
            self._process = process = subprocess.Popen(
                [*dies_with_parent(), *self.command],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + READY_SECONDS
        while not self.answers(self.port):
            if process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                tail = "\n".join(log_path.read_text(errors="replace").splitlines()[-15:])
                raise StackError(f"{self.describes} did not start; its last words:\n{tail}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL for the deaf."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """As kill -9; the folder stays, `start` goes on with it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A loopback port that nobody listens on."""
    for port in random.sample(PORTS, 100):
        with suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise StackError(f"no free port from {PORTS.start} to {PORTS.stop}; stop what holds them")


def kafka_answers(port: int, *, tls: bool = False) -> bool:
    """A broker says which API versions it speaks, even before anyone logs in."""
    patience = 15 if tls else 2  # the first handshakes of a new Java are slow
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), patience) as link:
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(link) as wrapped:
                wrapped.sendall(API_VERSIONS)
                return len(wrapped.recv(8)) > 0
        link.sendall(API_VERSIONS)
        return len(link.recv(8)) > 0
    return False


def redis_answers(port: int) -> bool:
    """Redis answers a ping."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 2) as link:
        link.sendall(b"PING\r\n")
        return link.recv(8).startswith(b"+PONG")
    return False


def dies_with_parent() -> list[str]:
    """A prefix, on Linux, that has the kernel stop a child whose parent was killed.

    The signal comes when the *thread* that forked ends, so only for the main one.
    """
    setpriv = shutil.which("setpriv")
    main = threading.current_thread() is threading.main_thread()
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv and main else []
