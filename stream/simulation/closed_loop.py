"""A run: one policy in a closed loop of its own, on requests that others answer, too.

Every so many liked items, their user asks for a ranking just before; a click model clicks; clicks
go back with their request, in event time, and the logged event itself follows as one without.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from heapq import heappop, heappush
from pathlib import Path
from statistics import median
from time import perf_counter

from msgspec import Struct, structs

from agents.loop import Loop
from models.events import Click, Decision, Embedding, Event, Item, encode
from stream.datasets.accounting import FATES
from stream.settings import Settings
from stream.simulation.environment import ClickModel, Environment, Messages
from stream.simulation.random_items import policy_loop

NEVER = 1 << 62


class RunResult(Struct, frozen=True):
    """What one policy did; one entry a decision in `users`, `rewards` and `micros`."""

    policy: str
    seed: int
    users: list[str]
    rewards: list[float]
    slots: int
    different: int  # items shown at least once
    items: int  # that could be shown at some time
    micros: float  # median of a decision
    seconds: float
    digest: str
    fates: dict[str, int]  # of all events, by attribution's counters


def play(
    loop: Loop, messages: Messages, click_model: ClickModel
) -> Iterator[tuple[Decision, list[Click], float]]:
    """Each decision, the clicks that follow, and its microseconds; clicks enter when due."""
    waiting: list[tuple[int, int, Click]] = []
    count = 0

    def due(at: int) -> Iterator[Click]:
        while waiting and waiting[0][0] <= at:
            yield heappop(waiting)[2]

    for message in messages:
        if not isinstance(message, Item | Embedding):
            for click in due(message.at):
                loop(click)
        started = perf_counter()
        decisions = loop(message)
        micros = (perf_counter() - started) * 1e6
        for decision in decisions:
            clicks = click_model.clicks(decision)
            for click in clicks:
                count += 1
                heappush(waiting, (click.at, count, click))
            yield decision, clicks, micros
    for click in due(NEVER):
        loop(click)


class Run(Struct, frozen=True, kw_only=True):
    """One run: a policy (in `settings`) and where its requests and its clicks come from."""

    settings: Settings
    environment: Environment
    decisions: Path | None = None


def run(planned: Run, progress: Callable[[int], None] | None = None) -> RunResult:
    """Play one policy through; equal runs give equal decisions and an equal digest."""
    started = perf_counter()
    settings = structs.replace(planned.settings, refresh_on_click=False)
    loop = policy_loop(settings, planned.environment.encoder)
    users, rewards, micros = list[str](), list[float](), list[float]()
    shown: dict[tuple[str, str], tuple[int, frozenset[str]]] = {}  # by user and id
    different: set[str] = set()
    entered: set[str] = set()

    def logged() -> Iterator[Item | Embedding | Event]:
        for message in planned.environment.messages():
            if isinstance(message, Item) and not message.deleted:
                entered.add(message.id)
            yield message
            if isinstance(message, Click):
                i, items = shown.get((message.user, message.request or ""), (-1, frozenset[str]()))
                if message.item in items:
                    rewards[i] += 1.0

    out = planned.decisions.open("wb") if planned.decisions else None
    slots = 0
    with out or nullcontext():
        for decision, clicks, spent in play(loop, logged(), planned.environment.click_model()):
            items = [slot.item for slot in decision.slots]
            shown[decision.user, decision.id] = len(users), frozenset(items)
            users.append(decision.user)
            rewards.append(float(len(clicks)))
            micros.append(spent)
            different.update(items)
            slots += len(items)
            if out:
                out.write(encode(decision) + b"\n")
            if progress and len(users) % 50 == 0:
                progress(50)
    return RunResult(
        policy=settings.policy,
        seed=settings.seed,
        users=users,
        rewards=rewards,
        slots=slots,
        different=len(different),
        items=len(entered),
        micros=median(micros) if micros else 0.0,
        seconds=perf_counter() - started,
        digest=loop.learner.digest(),
        fates={name: n for name in FATES if (n := loop.attribution.counts[name])},
    )
