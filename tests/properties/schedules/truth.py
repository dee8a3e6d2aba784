"""What the logs must say after a schedule, told by one event at a time, never interrupted."""

from collections import Counter
from typing import Literal

from agents.attribution import Attribution
from agents.ledger import Ledger
from agents.partition import Commit, Partition, PublishDeadLetters
from models.events import (
    Decision,
    Interaction,
    Outcome,
    decode_decision,
)
from tests.properties.schedules.life import NOT_FATES
from tests.properties.schedules.logs import Log, World, usable
from tests.properties.schedules.play import Play

Kind = Literal["lost", "twice", "decision", "wrong"]


class BrokenPromiseError(AssertionError):
    """A promise that was not kept, and of which kind it is."""

    def __init__(self, kind: Kind, what: str) -> None:
        super().__init__(what)
        self.kind: Kind = kind


def judge(play: Play) -> None:
    """Raises BrokenPromiseError."""
    world = play.world
    learned = taken(world)
    for log in world.logs:
        records = uninterrupted(world, log)
        compare(log, learned.get(log.number, []), records)
        accounted(world, log, records)
    for life in play.lives():
        came, ended = life.accounted()
        if came != ended:
            raise BrokenPromiseError(
                "wrong", f"{came} events came to the last owner, {ended} were counted"
            )
    folds(world)
    digests(play)


def uninterrupted(world: World, log: Log) -> list[bytes]:
    """With the first decision of each request: what must be learned."""
    first: dict[tuple[int, str], Decision] = {}
    for data in log.rankings:
        decision = decode_decision(data)
        first.setdefault((decision.source, decision.id), decision)
    fold = Attribution(log.number, world.rules)
    records: list[bytes] = []
    for message in log.events:
        event = usable(world, log, message)
        if event is None:
            if message.offset not in log.letters:
                raise BrokenPromiseError("lost", f"no dead letter for {message}")
            continue
        caused = fold(message.offset, message.appended, event)
        records += [record.data for record in caused.records]
        for ask in caused.tasks:
            key = ask.source, ask.request.id
            if key not in first:
                raise BrokenPromiseError(
                    "lost", f"request {key} in {log.number} was never answered"
                )
            fold.decided(first[key])
    return records


def taken(world: World) -> dict[int, list[bytes]]:
    """By partition, the records that a fresh ledger takes from feedback."""
    ledger, taken = world.ledger(), dict[int, list[bytes]]()
    for n, data in enumerate(world.feedback):
        verdict, record = ledger(n, data)
        if verdict == "learned" and isinstance(record, Interaction | Outcome):
            taken.setdefault(record.source.partition, []).append(data)
    return taken


def compare(log: Log, got: list[bytes], wanted: list[bytes]) -> None:
    if got == wanted:
        return
    times = Counter(got)
    where = f"partition {log.number} learned {len(got)} records, not these {len(wanted)}: "
    if twice := [data for data in wanted if times[data] > 1]:
        raise BrokenPromiseError("twice", where + f"twice {twice[0].decode()}")
    if gone := [data for data in wanted if not times[data]]:
        raise BrokenPromiseError("lost", where + f"without {gone[0].decode()}")
    strange = [data for data in got if data not in wanted]
    raise BrokenPromiseError(
        "wrong", where + (strange[0].decode() if strange else "in another order")
    )


def accounted(world: World, log: Log, records: list[bytes]) -> None:
    """Who begins at 0 when all is done publishes nothing, and counts every event once."""
    ledger = Ledger()
    for n, data in enumerate(world.feedback):
        ledger(n, data)

    def decide(_: object) -> Decision:
        raise BrokenPromiseError("lost", f"a request in {log.number} is answered only now")

    attribution = Attribution(log.number, world.rules)
    for n, data in enumerate(log.rankings):
        attribution.decided(decode_decision(data), n)
    partition = Partition(attribution, ledger, decide, world.owner)
    letters: set[int] = set()
    for command in partition.batch(log.events):
        if isinstance(command, PublishDeadLetters):
            letters = {message.offset for message, _ in command.letters}
        elif not isinstance(command, Commit):
            raise BrokenPromiseError("lost", f"only now {command}")
    fates = {fate: n for fate, n in attribution.counts.items() if fate not in NOT_FATES}
    counted = sum(fates.values()) + sum(partition.counts.values())
    if counted != len(log.events) or letters != log.letters:
        raise BrokenPromiseError("wrong", f"{len(log.events)} events, {counted} counted in {fates}")
    outcomes = sum(b'"type":"outcome"' in data for data in records)
    closed = sum(attribution.counts[status] for status in ("complete", "expired", "corrected"))
    if outcomes != closed:
        raise BrokenPromiseError("wrong", f"{outcomes} outcomes, {closed} counted")


def folds(world: World) -> None:
    """A decision is of the fold in force at its version; one from a snapshot, of that or a later.

    So no decision of a model above a switch is of the fold before.
    """
    ledger, force = Ledger(), [""]
    for n, data in enumerate(world.feedback):
        ledger(n, data)
        force.append(ledger.fold)
    for log in world.logs:
        for offset, data in enumerate(log.rankings):
            decision = decode_decision(data)
            since = force[decision.model :]
            due = since if decision.policy.startswith("rank") else since[:1]
            if decision.settings not in due:
                raise BrokenPromiseError(
                    "decision",
                    f"ranking {offset} of {log.number}, by fold {decision.settings} with a model "
                    f"of {decision.model}, where {due[0]} decides",
                )


def digests(play: Play) -> None:
    """All that folded the log hold the same bits, however they came to them (L7, L11)."""
    world, alone = play.world, dict[str, str]()
    for worker in play.workers:
        if worker.learner.differs is not None:
            raise BrokenPromiseError(
                "wrong", f"worker {worker.name} disagrees with {worker.learner.differs}"
            )
        if worker.role == "rank":
            continue
        if worker.fold not in alone:
            fresh = world.learner(worker.fold)
            for n, data in enumerate(world.feedback):
                fresh(n, data)
            alone[worker.fold] = fresh.digest()
        if worker.learner.digest() != alone[worker.fold]:
            raise BrokenPromiseError(
                "wrong", f"worker {worker.name} learned otherwise than a fresh one"
            )
