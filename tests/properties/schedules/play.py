"""One random schedule: what happens to workers at each step, and then peace until all is done."""

from collections.abc import Iterator

from msgspec import Struct

from agents.attribution import Attribution
from agents.ledger import Ledger
from models.events import Fold, encode
from tests.properties.schedules.life import Life
from tests.properties.schedules.logs import FOLDS, Log, World
from tests.properties.schedules.worker import Worker

MOST = 4  # workers at a time


class Parts(Struct, frozen=True):
    """What workers are made of."""

    attribution: type[Attribution] = Attribution
    ledger: type[Ledger] = Ledger
    worker: type[Worker] = Worker


class Held(Struct):
    """A partition in a worker's hands, or in those of one that believes so."""

    worker: Worker
    pauses: Iterator[None]


class Play:
    """Workers that come, own partitions, sleep, are killed and replaced."""

    def __init__(self, world: World, parts: Parts) -> None:
        self.world, self.parts, self.chance = world, parts, world.chance
        self.workers: list[Worker] = []
        self.held: list[list[Held]] = [[] for _ in world.logs]  # the present owner comes last

    def run(self) -> None:
        for _ in range(self.world.length):
            self.chance.frame()
            self._step()
        self.chance.peace()
        self._finish()

    def _step(self) -> None:
        chance, world, faults = self.chance, self.world, self.world.terms.faults
        log = world.logs[chance.below(len(world.logs))]
        if chance.odds(faults):
            self._fault(log)
        if not self.workers:
            self._start(chance.pick(FOLDS))
        log.come = min(len(log.events), log.come + chance.pick([1, 0, 0, 3]))
        held = self.held[log.number]
        if not held:
            self._move(log)
        if held:
            n = 0
            while n < len(held) - 1 and chance.odds(0.6):
                n += 1
            self._go_on(log, held[-1 - n])

    def _go_on(self, log: Log, one: Held) -> None:
        if next(one.pauses, "ended") == "ended":
            self.held[log.number].remove(one)
            one.worker.lives.pop(log.number, None)

    def _fault(self, log: Log) -> None:
        chance, world = self.chance, self.world
        kind = chance.below(12)
        one = chance.pick(self.workers) if self.workers else None
        if kind <= 4:
            self._move(log, told=chance.odds(0.1))
        elif kind == 5:
            self._start(chance.pick(FOLDS))
        elif one is None:
            return
        elif kind <= 7:
            self._kill(one)
        elif kind == 8:
            one.follow(chance.some(len(world.feedback)))
            one.began()
        elif kind == 9:
            if one.role == "rank":
                one.renew()
            else:
                one.save()
        elif kind == 10:
            one.mark()
        else:
            fold = Fold(fold=chance.pick(FOLDS), expects=chance.pick(FOLDS))
            world.say(
                "Fold(fold={}, expects={}) at {}", fold.fold, fold.expects, len(world.feedback)
            )
            world.append(encode(fold), fold)

    def _start(self, fold: str) -> Worker | None:
        if len(self.workers) >= MOST:
            return None
        role = "rank" if self.chance.odds(0.2) else "all"
        worker = self.parts.worker(
            self.world, fold, role=role, snapshot=self.chance.pick([0, 1, 2, 3])
        )
        self.workers.append(worker)
        return worker

    def _kill(self, worker: Worker) -> None:
        """Wherever it is."""
        self.world.say("worker {} is killed", worker.name)
        self.workers.remove(worker)
        for number, held in enumerate(self.held):
            self.held[number] = [one for one in held if one.worker is not worker]

    def _move(self, log: Log, told: bool = False) -> None:
        """The group gives a partition to another member, or again to the same."""
        for worker in self.workers:
            worker.began()
        members = [worker for worker in self.workers if not worker.stands_by]
        if not members:
            started = self._start(self.world.fold or FOLDS[0])
            if started is None:
                self._kill(self.chance.pick(self.workers))
                return
            started.began()
            members = [] if started.stands_by else [started]
        if members:
            self._give(log, self.chance.pick(members), told)

    def _give(self, log: Log, worker: Worker, told: bool = False) -> None:
        held = self.held[log.number]
        for one in list(held):
            last = one is held[-1]
            if one.worker is worker or (told and last):
                life = one.worker.lives.pop(log.number, None)
                if life is not None and life.ready and last:
                    life.commit()
                held.remove(one)
        log.generation += 1
        self.world.say("partition {} is given to worker {}", log.number, worker.name)
        held.append(Held(worker, worker.live(log)))

    def _finish(self) -> None:
        """Everybody reads all; the last worker of the fold in force takes all partitions."""
        world = self.world
        world.say("peace")
        for worker in self.workers:
            worker.began()
            worker.follow(len(world.feedback))
        snapshot = world.length % 4
        last = self.parts.worker(world, world.fold or FOLDS[0], snapshot=snapshot)
        last.began()
        self.workers.append(last)
        for log in world.logs:
            log.come = len(log.events)
            self._give(log, last)
            [*_, one] = self.held[log.number]
            for _ in range(3_000):
                self._go_on(log, one)
                last.follow(len(world.feedback))
                if last.lives[log.number].ready and log.committed == len(log.events):
                    break
            else:
                raise AssertionError(f"the last owner of {log.number} did not come to an end")
        for worker in self.workers:
            worker.follow(len(world.feedback))

    def lives(self) -> list[Life]:
        """Of all partitions, at the end."""
        return [self.workers[-1].lives[log.number] for log in self.world.logs]
