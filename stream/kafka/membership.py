"""This worker as a member of Kafka's groups: its name there, and how members leave that are dead.

Kafka takes out a member that it has not heard of for a session timeout, and until then gives its
partitions to nobody; noida-db never does, and who joins waits for ever. A worker that was killed
leaves when it is started again, since the kernel let go of the lock on its name. Who else is waited
for in vain is taken out by the one that waits. Members are dynamic, not static (KIP-345): a static
one does not leave at a clean stop, and two processes of one name would throw each other out for
ever, because aiokafka 0.14 does not tell a broker whose heartbeat it is. Here the worst mistake
costs one rebalance: a living member that is taken out joins again by itself.
"""

import logging
import os
import re
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from aiokafka.errors import KafkaError, UnknownMemberIdError, for_code
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.group import LeaveGroupRequest
from msgspec import Struct, field

from stream.kafka.authorization import (
    AuthorizationDeniedError,
    BrokerUnavailableError,
    ask,
    connected,
)
from stream.kafka.protocol import Group, Member
from stream.settings import Settings

try:
    import fcntl
except ImportError:  # Windows: a killed worker leaves after its session timeout
    fcntl = None

log = logging.getLogger(__name__)
CLIENT_ID = re.compile(r"rankloop-[0-9a-f]{12}")
REBALANCING = ("PreparingRebalance", "CompletingRebalance")
PATIENCE = 5.0  # seconds: living members let a group rebalance sooner
AGAIN = 10.0  # seconds between two lines about the same wait


def claim(folder: Path) -> str:
    """A client id that no other living process has: its file in `folder` stays locked until we end.

    Who starts after a kill gets the same; who starts beside us, or beside one that is stopped
    (SIGSTOP), another. Two of one id (a folder copied, or shared without locks) cost a rebalance
    when one starts.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     claim(Path(folder)) == claim(Path(folder))
    False
    """
    new = f"rankloop-{uuid.uuid4().hex[:12]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _claimed(folder, new)
    except OSError as error:
        log.warning("client id not kept: if killed, we leave late", extra={"reason": str(error)})
        return new


def _claimed(folder: Path, new: str) -> str:
    """What the first file of `folder` holds that no living process has locked, else `new`."""
    if fcntl is None:
        raise OSError("no file locks on this system")
    number = 0
    while True:
        file = os.open(folder / f"client-id-{number}", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if not isinstance(error, BlockingIOError):
                raise
            number += 1
            continue
        kept = os.pread(file, 100, 0).decode(errors="replace")
        if CLIENT_ID.fullmatch(kept):
            return kept
        os.ftruncate(file, 0)  # cut short by a kill
        os.pwrite(file, new.encode(), 0)
        return new


async def remove(settings: Settings, group: str, members: Sequence[Member]) -> None:
    """Have members leave a group, as they would have by themselves; failing is only logged."""
    if not members:
        return
    names = {"group": group, "members": ", ".join(member.id for member in members)}
    try:
        async with connected(settings) as connection:
            found = await ask(connection, FindCoordinatorRequest(group, 0))
        _raise_for(found.error_code)
        async with connected(settings, f"{found.host}:{found.port}") as coordinator:
            for member in members:
                answer = await ask(coordinator, LeaveGroupRequest(group, member.id))
                if answer.error_code != UnknownMemberIdError.errno:  # gone already
                    _raise_for(answer.error_code)
    except (
        KafkaError,
        OSError,
        TimeoutError,
        AuthorizationDeniedError,
        BrokerUnavailableError,
    ) as error:
        log.warning("dead members not removed", extra=names | {"reason": str(error)})
    else:
        log.warning("dead members removed", extra=names)


def _raise_for(code: int) -> None:
    """Raise what a broker's error code stands for."""
    if code:
        raise for_code(code)()


async def take_over(settings: Settings, groups: Iterable[Group], client_id: str) -> None:
    """Have the process leave that had this name before us: it was killed and could not."""
    for group in groups:
        await remove(settings, group.name, [m for m in group.members if m.client_id == client_id])


class Wait(Struct):
    """For a group to let us in."""

    since: float
    said: float | None = None
    members: dict[str, float] = field(default_factory=dict[str, float])  # id: since when waited for


class JoinMonitor:
    """Says when a group does not let us in, and names the members that it waits for in vain.

    They are those that are still there after a session timeout: Kafka has none such. The clients
    behind them are dead in all groups, so that one wait is enough.

    >>> monitor = JoinMonitor("us", session_timeout=30)
    >>> group = Group("g", "PreparingRebalance", (Member("us-1", "us"), Member("a-1", "a")))
    >>> [monitor([group], now) for now in (0.0, 29.0, 30.0)]
    [{}, {}, {'g': [Member(id='a-1', client_id='a')]}]
    """

    def __init__(self, client_id: str, session_timeout: float) -> None:
        self.client_id = client_id
        self.session_timeout = session_timeout
        self._waits: dict[str, Wait] = {}

    @property
    def waits(self) -> bool:
        """Whether a group did not let us in when last looked at."""
        return bool(self._waits)

    def __call__(self, groups: Sequence[Group], now: float) -> dict[str, list[Member]]:
        """Look at our groups; by group, the members to be removed."""
        dead = {client for group in groups for client in self._dead(group, now)}
        found = {g.name: [m for m in g.members if m.client_id in dead] for g in groups}
        return {name: members for name, members in found.items() if members}

    def _dead(self, group: Group, now: float) -> set[str]:
        """Clients that a group waits for in vain."""
        joins = any(member.client_id == self.client_id for member in group.members)
        if not joins or group.state not in REBALANCING:
            wait = self._waits.pop(group.name, None)
            if wait is not None and wait.said is not None:
                seconds = {"group": group.name, "seconds": round(now - wait.since, 1)}
                log.warning("joined the group", extra=seconds)
            return set()
        wait = self._waits.setdefault(group.name, Wait(since=now))
        others = [member for member in group.members if member.client_id != self.client_id]
        wait.members = {member.id: wait.members.get(member.id, now) for member in others}
        self._say(group.name, wait, now)
        late = now - self.session_timeout
        return {member.client_id for member in others if wait.members[member.id] <= late}

    def _say(self, group: str, wait: Wait, now: float) -> None:
        seconds = now - wait.since
        if seconds >= PATIENCE and (wait.said is None or now - wait.said >= AGAIN):
            wait.said = now
            how = {
                "group": group,
                "seconds": round(seconds, 1),
                "others": len(wait.members),
                "removed_after": self.session_timeout,
            }
            log.warning("waiting until others join the group again or count as dead", extra=how)
