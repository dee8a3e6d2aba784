"""One log through one arm, in a closed loop: what each ranking earned, and what all of it cost."""

from collections import Counter
from collections.abc import Callable, Iterator
from math import ceil, log1p, log2, log10
from statistics import median
from time import thread_time

import numpy as np
from msgspec import Struct, structs

from agents.attribution import Attribution, RankingTask
from agents.click_models import LoggedClickModel
from agents.learner import Learner
from agents.loop import Loop
from agents.recommender import Recommender
from models.events import Click, Decision, Embedding, Event, Item, Reward
from stream.offline.compare import arms
from stream.settings import Settings
from stream.simulation.closed_loop import play
from stream.simulation.environment import LogEnvironment
from stream.simulation.event_log import liked

COLD = 20  # an item liked at most so often before is cold
BINS = 24  # of propensities: three to a factor of ten, the last one up to 1


class ArmRun(Struct, frozen=True, kw_only=True):
    """An arm by its name, the settings with the seed, and the log with its requests.

    What is answered up to `after` (milliseconds) is learned from, and does not count.
    """

    arm: str
    settings: Settings
    environment: LogEnvironment
    after: int = 0


class Cost(Struct, frozen=True):
    """What an arm took; text vectors are counted apart, as they are made once for all arms."""

    decision_micros: float  # median
    event_micros: float  # mean over all that was learned: interactions and outcomes
    learning_seconds: float
    state_mb: float  # what was learned, and the vectors of items


class ExposureStatistics(Struct, frozen=True):
    """What an arm put before people."""

    coverage: float  # share of all items shown at least once
    popularity: float  # mean log(1 + likes before) of what was shown
    propensities: tuple[int, ...]  # slots by propensity: see `BINS`


class ArmResult(Struct, frozen=True):
    """One arm with one seed; lists have one entry a request, in the order of asking."""

    arm: str
    seed: int
    users: list[str]
    history: list[int]  # items the user had liked before, by the log
    clicks: list[float]
    cold: list[float]  # clicks on cold items
    ndcg: list[float]
    reciprocal: list[float]
    scores: list[float]  # of every slot
    earned: list[bool]
    shown: ExposureStatistics
    cost: Cost


class TimedLoop(Loop):
    """A loop that knows what learning and deciding took, in seconds of its own CPU time."""

    learning = 0.0
    learned = 0

    def __init__(self, attribution: Attribution, learner: Learner, recommender: Recommender):
        super().__init__(attribution, learner, recommender)
        self.deciding: list[float] = []

    def learn(self, record: bytes) -> None:
        started = thread_time()
        super().learn(record)
        self.learning += thread_time() - started
        self.learned += 1

    def decide(self, task: RankingTask) -> Decision:
        started = thread_time()
        decision = super().decide(task)
        self.deciding.append(thread_time() - started)
        return decision

    @property
    def cost(self) -> Cost:
        state = self.learner.state()
        size = sum(array.nbytes for array in state.memory.values()) + len(state.policy)
        catalogue = self.recommender.catalogue
        vectors = int(catalogue.active.sum()) * catalogue.vectors.strides[0]
        return Cost(
            decision_micros=1e6 * median(self.deciding) if self.deciding else 0.0,
            event_micros=1e6 * self.learning / max(1, self.learned),
            learning_seconds=self.learning,
            state_mb=(size + vectors) / 1e6,
        )


class LogStatistics:
    """What the log has told so far: how often items were liked, and how much users liked."""

    def __init__(self, trial: ArmRun) -> None:
        self._environment, self._arm = trial.environment, arms.ARMS[trial.arm]
        self.entered: set[str] = set()  # items that could be shown at some time
        self.likes = Counter[str]()  # by item
        self.history = Counter[str]()  # by user

    def messages(self) -> Iterator[Item | Embedding | Event]:
        """The environment's messages as the arm gets them; each counts once it was taken in."""
        for message in self._environment.messages():
            if isinstance(message, Embedding) and not self._arm.text:
                continue
            if isinstance(message, Item) and not message.deleted:
                self.entered.add(message.id)
            yield message
            item = liked(message)
            if item is not None and isinstance(message, Click | Reward):
                self.likes[item] += 1
                self.history[message.user] += 1


def wanted(environment: LogEnvironment) -> Callable[[Decision], frozenset[str]]:
    """What each request's user clicked or, if the log has no requests, was to like next."""
    if not environment.has_requests:
        click_model = LoggedClickModel(environment.log.events, window=environment.window)
        return lambda decision: click_model.wanted(decision.user, decision.at)
    found: dict[tuple[str, str], set[str]] = {}
    for event in environment.log.events:
        if isinstance(event, Click) and event.request is not None:
            found.setdefault((event.user, event.request), set()).add(event.item)
    return lambda decision: frozenset(found.get((decision.user, decision.id), ()))


def run_arm(trial: ArmRun, progress: Callable[[int], None] | None = None) -> ArmResult:
    """Play one arm through."""
    settings = structs.replace(trial.settings, refresh_on_click=False)
    loop = arms.arm_loop(settings, trial.environment.encoder, arms.ARMS[trial.arm], TimedLoop)
    told, wants = LogStatistics(trial), wanted(trial.environment)
    users, history = list[str](), list[int]()
    clicks, cold, ndcg, reciprocal = list[float](), list[float](), list[float](), list[float]()
    scores, earned, heat = list[float](), list[bool](), list[float]()
    different, bins = set[str](), np.zeros(BINS, np.int64)
    click_model = trial.environment.click_model()
    for n, (decision, made, _) in enumerate(play(loop, told.messages(), click_model), 1):
        if progress and n % 50 == 0:
            progress(50)
        if decision.at <= trial.after:
            continue
        wish, items = wants(decision), [slot.item for slot in decision.slots]
        clicked = {one.item for one in made} or (
            wish if trial.environment.has_requests else set[str]()
        )
        hits = [place for place, item in enumerate(items) if item in clicked]
        most = min(decision.k, len(wish))
        users.append(decision.user)
        history.append(told.history[decision.user])
        clicks.append(float(len(hits)))
        cold.append(float(sum(told.likes[items[place]] <= COLD for place in hits)))
        ndcg.append(sum(map(gain, hits)) / sum(map(gain, range(most))) if most else 0.0)
        reciprocal.append(1.0 / (1 + hits[0]) if hits else 0.0)
        scores += [slot.score for slot in decision.slots]
        earned += [place in hits for place in range(len(items))]
        heat += [log1p(told.likes[item]) for item in items]
        different.update(items)
        for slot in decision.slots:
            bins[max(0, BINS - 1 + ceil(3 * log10(slot.propensity)))] += 1
    return ArmResult(
        arm=trial.arm,
        seed=settings.seed,
        users=users,
        history=history,
        clicks=clicks,
        cold=cold,
        ndcg=ndcg,
        reciprocal=reciprocal,
        scores=scores,
        earned=earned,
        shown=ExposureStatistics(
            coverage=len(different) / max(1, len(told.entered)),
            popularity=sum(heat) / max(1, len(heat)),
            propensities=tuple(bins.tolist()),
        ),
        cost=loop.cost,
    )


def gain(place: int) -> float:
    """What a hit at a place is worth in DCG; places begin at 0."""
    return 1.0 / log2(2 + place)
