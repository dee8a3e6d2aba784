"""A Kafka broker and Redis on this machine's loopback, started and stopped for you."""

import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Self

from stream.local.process import Server
from stream.local.servers import apache_kafka, noida, redis_server

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Stack:
    """`with Stack() as stack:` runs Kafka at `stack.brokers` and Redis at `stack.redis_url`.

    With `kafka_home` it is that Apache Kafka, else the broker of the extra `local`; Redis is
    `redis-server` where there is one, else that of the same extra. On leaving, on SIGTERM and
    SIGHUP, both are stopped by pid and the temporary folder is removed; a `folder` is kept.
    `protocol`, `properties` (server.properties) and `scram` (user: password) are Apache's alone.
    """

    def __init__(
        self,
        *,
        kafka_home: str | Path = "",
        redis: bool = True,
        folder: str | Path | None = None,
        protocol: str = "PLAINTEXT",
        properties: Mapping[str, str] | None = None,
        scram: Mapping[str, str] | None = None,
    ) -> None:
        self._kafka_home = Path(kafka_home) if kafka_home else None
        self._with_redis = redis
        self._folder = folder
        self._protocol = protocol
        self._properties = properties or {}
        self._scram = scram or {}
        self._exit = ExitStack()

    def __enter__(self) -> Self:
        self._exit.enter_context(LeaveOnSignal())
        try:
            self._start()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _start(self) -> None:
        if self._folder:
            self.folder = Path(self._folder).absolute()
            self.folder.mkdir(parents=True, exist_ok=True)
        else:
            self.folder = Path(tempfile.mkdtemp(prefix="rankloop-"))
            self._exit.callback(shutil.rmtree, self.folder, ignore_errors=True)
        if self._kafka_home:
            self.kafka = apache_kafka(
                self._kafka_home, self.folder, self._protocol, self._properties, self._scram
            )
        else:
            self.kafka = noida("kafka", self.folder)
        self._run(self.kafka)
        self.redis = None
        if self._with_redis:
            self.redis = redis_server(self.folder) or noida("redis", self.folder)
            self._run(self.redis)

    def _run(self, server: Server) -> None:
        self._exit.callback(server.stop)
        server.start()

    @property
    def brokers(self) -> str:
        """Kafka's bootstrap servers."""
        return self.kafka.address

    @property
    def redis_url(self) -> str:
        """Redis, or "" where none was asked for."""
        return f"redis://{self.redis.address}/0" if self.redis else ""

    @property
    def describes(self) -> str:
        """What was started, for people."""
        return " and ".join(s.describes for s in (self.kafka, self.redis) if s)


class LeaveOnSignal:
    """SIGTERM and SIGHUP leave the block as Ctrl-C does, unless somebody handles them already."""

    def __enter__(self) -> None:
        self.ours: list[signal.Signals] = []
        if threading.current_thread() is threading.main_thread():
            self.ours = [s for s in SIGNALS if signal.getsignal(s) == signal.SIG_DFL]
        for number in self.ours:
            signal.signal(number, self._leave)

    def __exit__(self, *_: object) -> None:
        for number in self.ours:
            if signal.getsignal(number) in (self._leave, signal.SIG_IGN):
                signal.signal(number, signal.SIG_DFL)

    def _leave(self, number: int, _: FrameType | None) -> None:
        for other in self.ours:
            signal.signal(other, signal.SIG_IGN)  # once is enough: what follows is bounded
        sys.exit(128 + number)
