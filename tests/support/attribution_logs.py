"""Random logs with small windows: few ids that come again, early, late and orphaned events."""

from collections.abc import Iterable
from random import Random

from agents.attribution import AttributionRules, RankingTask
from models.events import (
    Click,
    Decision,
    Event,
    Impression,
    Request,
    Reward,
    Slot,
    Tick,
)
from models.fields import Flat


def rules(rng: Random) -> AttributionRules:
    return AttributionRules(
        horizon=rng.choice([2, 5, 20]),
        early=rng.choice([0, 3, 10]),
        lateness=rng.choice([0, 4, 20]),
        future=rng.choice([0, 3]),
        implied=rng.random() < 0.7,
        refresh=rng.random() < 0.7,
        refresh_k=2,
        most_closings=rng.choice([1, 2, 100]),
    )


def some_event(rng: Random, now: int, offset: int, ids: str) -> Event:
    """Few ids, so that they come again; what it is about may come later, or be long gone."""
    at = max(0, now + rng.choice([0, 0, 0, -1, -3, -9, -40, 2, 9]))
    id, user = rng.choice(ids), rng.choice(["ann", "ann", "ann", "bob"])
    before = offset - rng.randint(1, 6)
    about = rng.choice(["r", "s", f"refresh:{rng.choice(ids)}", f"refresh:c{before}", f"t{before}"])
    context: Flat = {"where": rng.choice("xy")}
    return rng.choice(
        [
            Request(id=id, user=user, at=at, k=rng.randint(1, 3), context=context),
            Request(id=f"t{offset}", user="ann", at=at, k=1, context=context),
            Request(id=f"refresh:{id}", user=user, at=at),
            Click(id=id, user=user, item=rng.choice("abc"), at=at, request=about),
            Click(id=f"c{offset}", user="ann", item="a", at=at, request=about),
            Click(id=id, user=user, item="a", at=at),
            Reward(id=id, user=user, at=at, value=-0.5, request=about),
            Impression(id=id, user=user, at=at, request=about, shown=("b", "z")),
            Tick(at=at),
        ]
    )


def decided(ask: RankingTask, items: Iterable[str] | None = None) -> Decision:
    """What some policy showed: these items, or some of a, b and c."""
    request = ask.request
    shown = "abc"[: request.k] if items is None else items
    return Decision(
        id=request.id,
        user=request.user,
        at=request.at,
        k=request.k,
        context=request.context,
        policy="p",
        model=0,
        items=0,
        embeddings=0,
        source=ask.source,
        slots=tuple(Slot(item=item, propensity=0.5) for item in shown),
    )
