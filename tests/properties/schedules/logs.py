"""The logs of a random schedule, which outlive every worker, and the events that come."""

from random import Random

from msgspec import Struct

from agents.attribution import Attribution, AttributionRules
from agents.attribution_state import AttributionState
from agents.learner import Learner, LearnerState
from agents.ledger import Ledger
from agents.partition import DAY, ReceivedMessage
from models.events import (
    Begin,
    Click,
    Event,
    Fold,
    Impression,
    Request,
    Reward,
    Tick,
    decode_event,
    encode,
)
from models.history import Exposure, Histories
from models.memory import Memory
from models.popularity import Popularity
from tests.properties.schedules.chance import Chance, Schedule
from tests.properties.schedules.tally import Tally

FOLDS = "old", "new"


class Terms(Struct, frozen=True):
    """What holds for a whole schedule."""

    rules: AttributionRules
    partitions: int
    faults: float  # how often something goes wrong at a step
    torn: float  # how often a record is refused by the broker
    bookmarks: bool  # commits keep their metadata


def terms(chance: Chance) -> Terms:
    return Terms(
        AttributionRules(
            horizon=chance.pick([5, 2, 20]),
            early=chance.pick([3, 0]),
            lateness=chance.pick([4, 0, 20]),
            future=chance.pick([0, 3]),
            implied=not chance.odds(0.3),
            refresh=chance.odds(0.5),
            refresh_k=2,
            most_closings=chance.pick([100, 1, 2]),
        ),
        partitions=chance.pick([1, 1, 2, 3, 4]),
        faults=chance.pick([0.05, 0.1, 0.0, 0.2]),
        torn=chance.pick([0.03, 0.0, 0.1]),
        bookmarks=not chance.odds(0.2),
    )


class Log:
    """One partition: its events, its rankings, what was committed and kept of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.events: list[ReceivedMessage] = []
        self.come = 0  # how many of the events are there yet
        self.rankings: list[bytes] = []
        self.letters: set[int] = set()
        self.committed = 0
        self.metadata = ""
        self.generation = 0
        self.kept: list[AttributionState] = []


class World:
    """The logs, and a story of what happened to them if somebody wants to hear it."""

    def __init__(
        self,
        seed: int,
        schedule: Schedule | None = None,
        *,
        attribution: type[Attribution] = Attribution,
        ledger: type[Ledger] = Ledger,
        telling: bool = False,
    ) -> None:
        if schedule is None:
            rng = Random(seed)
            size, length = rng.choice([8, 20, 40, 60]), rng.randint(20, 400)
            knobs, self.coming, self.chance = (Chance(rng=rng) for _ in range(3))
        else:
            size, length = len(schedule.events), len(schedule.steps)
            knobs, self.coming = Chance(frames=[schedule.knobs]), Chance(frames=schedule.events)
            self.chance = Chance(frames=schedule.steps)
        self.attribution = attribution
        self.ledger = ledger
        self.length = length
        knobs.frame()
        self.terms = terms(knobs)
        self.rules = self.terms.rules
        self.knobs = knobs
        self.logs = [Log(number) for number in range(self.terms.partitions)]
        self.feedback: list[bytes] = []
        self.fold = ""  # in force at the end of feedback
        self.saved: dict[str, list[LearnerState]] = {fold: [] for fold in FOLDS}
        self.workers = 0
        self.story: list[str] | None = [] if telling else None
        self._events(size)

    @property
    def schedule(self) -> Schedule:
        """What was drawn so far."""
        return Schedule(self.knobs.frames[0], self.coming.frames, self.chance.frames)

    def say(self, words: str, *what: object) -> None:
        if self.story is not None:
            self.story.append(words.format(*what))

    def owner(self, user: str) -> int:
        return int(user[-1])

    def learner(self, fold: str) -> Learner:
        """Small enough that everything is forgotten now and then; each fold learns otherwise."""
        memory = Memory(
            Popularity(half_life=1, limit=4, leaders=2),
            {},
            Histories(limit=2, length=2, shown_length=2),
            Exposure(),
        )
        learner = Learner(
            memory, Tally(), learn_corrections=fold == "new", fold=fold, marked=5, probed=3
        )
        learner.ledger = self.ledger()
        return learner

    def append(self, data: bytes, control: Begin | Fold | None = None) -> None:
        """Write to feedback."""
        self.feedback.append(data)
        if isinstance(control, Begin):
            self.fold = self.fold or control.fold
        elif control is not None and control.expects == self.fold:
            self.fold = control.fold

    def _events(self, size: int) -> None:
        now = 100
        for _ in range(size):
            self.coming.frame()
            now += self.coming.pick([1, 0, 0, 1, 2, 7])
            log = self.logs[self.coming.below(len(self.logs))]
            log.events.append(self._event(log, now))

    def _event(self, log: Log, now: int) -> ReceivedMessage:
        chance, offset = self.coming, len(log.events)
        at = max(0, now + chance.pick([0, 0, 0, 0, -1, -3, -9, -40, 2, 9]))
        kind = chance.below(9)
        id, about = chance.pick("rstuvw"), chance.pick("rstuvw")
        id = id if chance.odds(0.6) else f"{id}{offset}"
        elsewhere = (log.number + 1) % max(2, len(self.logs))
        user = chance.pick(["ann", "ann", "bob"]) + str(log.number)
        if chance.odds(0.1):
            user = f"cat{elsewhere}"
        item = chance.pick("abc")
        if kind <= 1:
            event: Event = Request(id=id, user=user, at=at, k=1 + chance.below(3))
        elif kind <= 3:
            event = Click(id=id, user=user, item=item, at=at, request=about)
        elif kind == 4:
            event = Click(id=id, user=user, item=item, at=at)
        elif kind == 5:
            event = Reward(id=id, user=user, at=at, value=-0.5, request=about)
        elif kind == 6:
            event = Impression(id=id, user=user, at=at, request=about, shown=("b", "z"))
        elif kind == 7:
            refreshed = f"refresh:{id}"
            event = Click(id=f"x{id}", user=user, item=item, at=at, request=refreshed)
        else:
            ahead = at + 2 * DAY
            later = Click(id=id, user=user, item=item, at=ahead)
            event = later if chance.odds(0.4) else Tick(at=at)
        return ReceivedMessage(offset, now, b"{" if chance.odds(0.05) else encode(event))


def usable(world: World, log: Log, message: ReceivedMessage) -> Event | None:
    """What is not a dead letter, told without the code under test."""
    if message.data == b"{":
        return None
    event = decode_event(message.data)
    if event.at > message.appended + DAY:
        return None
    mine = isinstance(event, Tick) or world.owner(event.user) == log.number
    return event if mine else None
