"""The worker: a Faust app around the engine, with the embedder agent and a status page."""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from errno import EDQUOT, ENOSPC
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import faust
import faust.web
import mode.loop
import msgspec
from aiokafka.errors import KafkaError

from models.base import Encoder
from stream import build
from stream.errors import LogError
from stream.kafka.authorization import Permission, check_permissions
from stream.kafka.consumer import commit_faust
from stream.kafka.health import BrokerMonitor, required_permissions, wait_for_broker
from stream.kafka.membership import claim, take_over
from stream.kafka.patches import bound_tls_close, limit_idle_fetches
from stream.kafka.topics import create
from stream.local.process import free_port
from stream.settings import Settings
from stream.settings_schema import SettingError
from stream.storage.latest_rankings import LatestRankings, MemoryRankings, RedisRankings
from stream.storage.vector_cache import RedisVectors
from stream.worker.checks import WorkerChecks
from stream.worker.embedder import Embedder, say_encoder
from stream.worker.engine import Engine
from stream.worker.logging_setup import configure
from stream.worker.prometheus import CONTENT_TYPE
from stream.worker.readiness import keep_saying
from stream.worker.shutdown import LIBRARY_SECONDS, SNAPSHOT_SECONDS, ShutdownDeadline

log = logging.getLogger(__name__)


class Guard(faust.Service):
    """Watches Kafka from before the app starts: it waits for its group before all else.

    If the worker stops because it must not go on, the reason is in `why`.
    """

    def __init__(self, monitor: BrokerMonitor, why: list[str]) -> None:
        super().__init__()
        self.monitor, self.why = monitor, why

    @faust.Service.task
    async def _watch(self) -> None:
        await self.doing(self.monitor.run())

    async def doing(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it; stop the worker if it finds that it must not go on."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(work)
        except* (LogError, KafkaError) as stopped:  # said in one line, then a clean stop
            stops = bool(self.why)
            self.why.extend([await self.monitor.explain(error) for error in causes(stopped)])
            if not stops:
                signal.raise_signal(signal.SIGTERM)


def run_worker(settings: Settings, switch: bool = False) -> None:
    """Run a worker until it is told to stop. Leaves by SystemExit, as Faust's worker does.

    `switch`: its learning configuration decides once it has caught up.
    """
    signal.signal(signal.SIGTERM, _leave)  # until Faust takes it over
    configure(settings.log_level, settings.log_json)
    if find_spec("uvloop"):  # not on Windows
        mode.loop.use("uvloop")
    limit_idle_fetches()
    bound_tls_close()
    commit_faust()
    port = settings.web_port or free_port()
    settings = msgspec.structs.replace(settings, web_port=port)
    check_folder(Path(settings.data_dir))
    client_id = claim(Path(settings.data_dir))
    asyncio.run(_opened(settings, client_id))
    url, options = settings.redis_url, settings.redis_options()
    options |= {"prefix": settings.topic_prefix}  # one Redis may serve several rankloops
    encoder = build.encoder(settings, RedisVectors(url, **options) if url else None)
    permissions = required_permissions(settings, name(settings, encoder))
    asyncio.run(_let_in(settings, permissions, client_id))
    ttl = settings.ranking_ttl_seconds
    rankings = RedisRankings(url, ttl=ttl, **options) if url else MemoryRankings(ttl=ttl)
    log.info("starting", extra={"status": f"http://{settings.web_host}:{port}/status"})
    why: list[str] = []
    monitor = BrokerMonitor(settings, permissions, client_id)

    def finish() -> int:
        crash = process.crash_reason or unstarted  # of Faust's consumer
        if not why and isinstance(crash, (KafkaError, LogError)):
            why.append(asyncio.run(monitor.explain(crash)))
        if why:
            log.critical("stopped: %s", "; ".join(why))
        return 1 if why or process.crash_reason else 0

    deadline = ShutdownDeadline(finish)
    guard = Guard(monitor, why)
    made = app(settings, encoder, rankings, guard, deadline, client_id, switch)
    process = faust.Worker(made, guard, override_logging=False, quiet=True)
    process.spinner = None  # it writes escape sequences between the lines of the log
    unstarted: BaseException | None = None
    try:
        process.execute_from_commandline()
    except SystemExit as left:
        unstarted = left.__context__  # Kafka went away before Faust had reached it
        raise
    finally:
        deadline.cancel()
        finish()
        if why:
            sys.exit(1)


def check_folder(folder: Path) -> None:
    """Raises SettingError for a data folder that nothing can ever be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):  # room may come: till then a worker goes on
            raise SettingError(
                f"data_dir must be a folder that this worker may write to, got {folder} "
                f"({error.strerror}): snapshots are kept in it; set RANKLOOP_DATA_DIR"
            ) from None


def _leave(*_: object) -> None:
    log.info("stopped before it had started")
    sys.exit(0)


async def _opened(settings: Settings, client_id: str) -> None:
    await wait_for_broker(settings)
    await _let_in(settings, required_permissions(settings), client_id)
    await create(settings)


async def _let_in(settings: Settings, permissions: list[Permission], client_id: str) -> None:
    await take_over(settings, await check_permissions(settings, permissions), client_id)


def app(
    settings: Settings,
    encoder: Encoder,
    rankings: LatestRankings,
    guard: Guard,
    deadline: ShutdownDeadline,
    client_id: str,
    switch: bool = False,
) -> faust.App:
    """The Faust app: the embedder agent, the engine as a service, the status page."""
    made = faust.App(
        name(settings, encoder),
        **settings.faust_options(),
        broker_client_id=client_id,
        store="memory://",
        topic_disable_leader=True,
        topic_allow_declare=False,
        web_host=settings.web_host,
        web_port=settings.web_port,
        web_bind=settings.web_host,
        datadir=settings.data_dir,
        broker_session_timeout=settings.session_timeout_seconds,
        broker_heartbeat_interval=max(0.1, settings.session_timeout_seconds / 10),
        consumer_auto_offset_reset="earliest",
    )
    engine = Engine(settings, encoder, rankings, client_id, switch)
    checks = WorkerChecks(engine, guard.monitor)

    @made.service
    class EngineService(faust.Service):  # pyright: ignore[reportUnusedClass]
        """The engine, for as long as the app runs."""

        async def on_stop(self) -> None:
            deadline.within(SNAPSHOT_SECONDS)
            await engine.stop()
            deadline.within(LIBRARY_SECONDS)

        @faust.Service.task
        async def _live(self) -> None:
            await guard.doing(engine.run())

        @faust.Service.task
        async def _ready(self) -> None:
            await guard.doing(keep_saying(engine.readiness, checks.look, checks.facts))

    if settings.worker_role.embeds:
        _add_embedder(made, engine)
    else:
        made.producer_only = True  # Faust's consumer must not be there without a topic

    _add_pages(made, engine, guard.monitor, checks)
    return made


def _add_embedder(made: faust.App, engine: Engine) -> None:
    """The agents that embed items, and that look at embeddings."""
    embedder = Embedder(engine.encoder, engine.topics, engine.publish, engine.embedded)

    def reads(topic: str, takes: Callable[[Any], Awaitable[None]], name: str) -> None:
        async def agent(stream: Any) -> None:
            async for batch in stream.take_events(engine.settings.encoder_batch, within=0.05):
                await takes(batch)

        channel = made.topic(topic, value_type=bytes, value_serializer="raw")
        made.agent(channel, name=name)(agent)

    reads(engine.topics.items, embedder.items, "embedder")
    reads(engine.topics.embeddings, embedder.embeddings, "embeddings")
    say_encoder(engine.encoder)


def name(settings: Settings, encoder: Encoder) -> str:
    """The Faust app's, and so its group's: a new encoder reads all items again, from the start.

    >>> from models.hash_encoder import HashEncoder
    >>> name(Settings(), HashEncoder(64)), name(Settings(), HashEncoder(128))
    ('rankloop-30e814e8', 'rankloop-39dd51e0')
    """
    version = blake2b(encoder.version.encode(), digest_size=4).hexdigest()
    return f"{settings.group}-{version}"


def _add_pages(
    made: faust.App, engine: Engine, monitor: BrokerMonitor, checks: WorkerChecks
) -> None:
    """The pages for people, health checks and Prometheus."""

    @made.page("/status")
    async def status(web: faust.web.View, request: faust.web.Request) -> faust.web.Response:  # pyright: ignore[reportUnusedFunction]
        found = engine.status(digest="digest" in request.query)
        return web.json(found | {"kafka": monitor.status()} | checks.page())

    @made.page("/livez")
    async def livez(web: faust.web.View, request: faust.web.Request) -> faust.web.Response:  # pyright: ignore[reportUnusedFunction]
        return web.json({"alive": True})  # the loop runs, or this would not come

    @made.page("/readyz")
    async def readyz(web: faust.web.View, request: faust.web.Request) -> faust.web.Response:  # pyright: ignore[reportUnusedFunction]
        found = checks.page()
        return web.json(found, status=200 if found["ready"] else 503)

    page = engine.metrics()
    page.add(checks)

    @made.page("/metrics")
    async def metrics(web: faust.web.View, request: faust.web.Request) -> faust.web.Response:  # pyright: ignore[reportUnusedFunction]
        return web.bytes(page(), headers={"Content-Type": CONTENT_TYPE})


def causes(errors: BaseExceptionGroup) -> Iterator[Any]:
    """The errors in a group, and in the groups in it.

    >>> list(causes(ExceptionGroup("", [ExceptionGroup("", [KeyError(1)]), KeyError(2)])))
    [KeyError(1), KeyError(2)]
    """
    for error in errors.exceptions:
        yield from causes(error) if isinstance(error, BaseExceptionGroup) else [error]
