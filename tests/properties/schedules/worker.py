"""A process of a random schedule: what it has learned, and which fold it decides by.

It does as stream/worker/engine.py does, with logs in memory.
"""

from zlib import crc32

from agents.attribution import RankingTask
from models.events import Begin, Decision, Mark, Slot, decode_record, encode
from tests.properties.schedules.life import Life, LostError, Pauses
from tests.properties.schedules.logs import Log, World

ITEMS = "abcdef"


class Worker:
    """A process: what it has learned outlives its lives as the owner of partitions.

    One that ranks only follows with a ledger of its own; what it knows is from others' snapshots.
    """

    life = Life

    def __init__(self, world: World, fold: str, *, role: str = "all", snapshot: int = 0) -> None:
        self.world, self.fold, self.role = world, fold, role
        world.workers += 1
        self.name = world.workers
        self.lives: dict[int, Life] = {}
        self.learner = world.learner(fold)
        saved = world.saved[fold]
        if snapshot and saved:
            state = saved[-min(snapshot, len(saved))]
            self.learner.load(state)
        self.ledger = self.learner.ledger
        if role == "rank":
            self.ledger = world.ledger(self.learner.ledger.state())
        version = self.learner.version
        world.say("worker {} ({}) starts with fold {}, at {}", self.name, role, fold, version)
        self.follow(len(world.feedback))
        if self.ledger.begin is None:
            begin = Begin(fold=fold, rules=world.rules.digest, partitions=len(world.logs))
            self.begin: Begin | None = begin
        else:
            self.begin = None

    def began(self) -> None:
        """The record that it found missing; another may have written one since."""
        if self.begin is not None:
            self.world.say("worker {} writes Begin(fold={})", self.name, self.fold)
            self.world.append(encode(self.begin), self.begin)
            self.begin = None
            self.follow(len(self.world.feedback))

    @property
    def stands_by(self) -> bool:
        """True while workers of another fold decide, as far as it has read (L12)."""
        learned = self.learner.ledger
        newest = learned if learned.version > self.ledger.version else self.ledger
        return newest.fold != self.fold

    def follow(self, upto: int) -> None:
        """Read feedback."""
        feedback = self.world.feedback
        ledger = self.ledger
        while ledger.version < min(upto, len(feedback)):
            before, data = ledger.fold, feedback[ledger.version]
            if ledger is self.learner.ledger:
                verdict = self.learner(ledger.version, data)
            else:
                verdict, _ = ledger(ledger.version, data)
            if verdict == "refused":
                life = self.lives.get(decode_record(data).source.partition)
                if life is not None and life.ready:
                    life.lost = True
            elif ledger.fold != before:
                self.turned()

    def turned(self) -> None:
        """Another fold is in force: batches under way end, and no other one begins."""
        if self.lives:
            self.world.say("worker {} reads that fold {} decides", self.name, self.ledger.fold)
        for life in self.lives.values():
            life.stopping = True

    def renew(self) -> None:
        """One that ranks takes the newest of what others learned."""
        saved = self.world.saved[self.fold]
        newest = max(saved, key=lambda state: state.version, default=None)
        if newest is not None and newest.version > self.learner.version:
            self.learner.load(newest)
            self.world.say("worker {} takes what was learned at {}", self.name, newest.version)

    def save(self) -> None:
        """Write a snapshot of what was learned."""
        self.world.saved[self.fold].append(self.learner.state())
        self.world.say("worker {} keeps what it learned at {}", self.name, self.learner.version)

    def mark(self) -> None:
        """Say in feedback what was learned at some version."""
        if self.learner.probes:
            version, digest = max(self.learner.probes.items())
            self.world.append(encode(Mark(fold=self.fold, version=version, digest=digest)))
            self.world.say("worker {} marks version {}", self.name, version)

    def decide(self, ask: RankingTask) -> Decision:
        """A function of the request and the model that differs between workers."""
        if self.stands_by:
            raise LostError("another fold is in force")
        request, version = ask.request, self.learner.version
        chosen = crc32(f"{request.id} {version} {self.name}".encode())
        count = request.k if chosen % 10 else 0
        return Decision(
            id=request.id,
            user=request.user,
            at=request.at,
            k=request.k,
            policy=f"{self.role} {self.name}",
            model=version,
            items=0,
            embeddings=0,
            source=ask.source,
            settings=self.fold,
            slots=tuple(
                Slot(item=ITEMS[(chosen + n) % len(ITEMS)], propensity=0.5) for n in range(count)
            ),
        )

    def live(self, log: Log) -> Pauses:
        """Own a partition until killed, told to stop, or sure that another one does."""
        generation = log.generation
        while True:
            life = self.lives[log.number] = self.life(self, log, generation)
            try:
                yield from life.run()
                return
            except LostError as lost:
                said = self.world.say
                said("worker {} abandons its batch of {}: {}", self.name, log.number, lost)
                if generation != log.generation or self.stands_by:
                    return
