"""Regret where the truth is known: it is exact, and the bandit's bends."""

import numpy as np
import pytest

from agents.click_models import Drift, PositionBasedModel
from models.base import Floats
from models.events import Decision, Embedding, Item, Slot
from policies.evaluation.intervals import Interval
from stream.offline.regret import LEARNER, RegretCurve, RegretRun, course, regret_lines, run_regret
from stream.offline.regret import Regret as Result
from stream.settings import Settings
from stream.simulation.drifting_news import STOCK, drifting_news_environment


def decision(*items: str, at: int = 0) -> Decision:
    slots = tuple(Slot(item=item, propensity=0.5) for item in items)
    where = {"model": 0, "items": 0, "embeddings": 0, "source": 0, "slots": slots}
    return Decision(id="r", user="ann", at=at, k=len(slots), policy="uniform", **where)


def click_model(drift: Drift | None = None, late: int = 0) -> PositionBasedModel:
    items: dict[str, Floats | list[float]] = {"a": [1, 0], "b": [0, 1], "c": [0.6, 0.6]}
    return PositionBasedModel({"ann": [1, 0]}, items, drift=drift, late=late)


def test_no_ranking_earns_more_than_the_best_and_the_best_one_earns_it():
    truth = click_model()
    best = truth.best("ann", ["a", "b", "c"], k=2)
    for first in "abc":
        for second in set("abc") - {first}:
            assert truth.value(decision(first, second)) <= best + 1e-12
    assert truth.value(decision("a", "c")) == pytest.approx(best)


def test_a_taste_that_drifts_is_between_the_old_and_the_new():
    truth = click_model(Drift({"ann": np.array([0, 1], np.float32)}, 100, 200))
    before, between, after = (truth.probability("ann", "a", 0, at) for at in (0, 150, 999))
    assert before == click_model().probability("ann", "a", 0)
    assert before > between > after
    assert after == click_model().probability("ann", "b", 0)


def test_late_clicks_come_one_time_in_five_within_what_was_said():
    clicks = [
        one.at
        for i in range(2_000)
        for one in click_model(late=60_000).clicks(
            Decision(
                id=f"r{i}",
                user="ann",
                at=0,
                k=1,
                policy="p",
                model=0,
                items=0,
                embeddings=0,
                source=0,
                slots=(Slot(item="a", propensity=1.0),),
            )
        )
    ]
    late = [at for at in clicks if at > 2_500]
    assert 0.16 < len(late) / len(clicks) < 0.24
    assert max(late) <= 62_500


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(encoder="hash", data_dir=str(tmp_path_factory.mktemp("regret")))


def test_the_stock_says_what_the_catalogue_holds(settings: Settings):
    environment = drifting_news_environment(settings, requests=40, articles=STOCK + 20, readers=3)
    there: dict[str, Item] = {}
    for message in environment.messages():
        if isinstance(message, Item):
            there[message.id] = message
        elif not isinstance(message, Embedding):
            live = {one.id for one in there.values() if (one.expires_at or 0) > message.at}
            assert live == set(environment.available(message.at))
            assert len(live) in (STOCK - 1, STOCK)


def trial(settings: Settings, policy: str, seed: int, requests: int = 700) -> list[float]:
    changed = Settings(encoder="hash", data_dir=settings.data_dir, policy=policy, seed=seed)
    return run_regret(RegretRun(settings=changed, requests=requests, articles=180, readers=12))


def test_regret_is_never_below_zero_and_that_of_chance_stays(settings: Settings):
    regrets = trial(settings, "uniform", 1, 200)
    assert min(regrets) > -1e-9
    assert np.mean(regrets[-60:]) > 0.8 * np.mean(regrets[:60])


def test_the_bandits_regret_bends_and_ends_below_that_of_chance(settings: Settings):
    courses = [
        course(policy, np.array([trial(settings, policy, seed) for seed in (1, 2, 3)]), [700])
        for policy in ("uniform", LEARNER)
    ]
    found = regret_lines(Result(700, 180, 12, [1, 2, 3], "hash", [700], 0.0, courses))
    assert found[0].endswith(": it bends")
    assert found[1] == "in all it ends below every other policy, intervals apart"
    assert courses[0].bend.high > 0  # chance learns nothing


@pytest.mark.parametrize(
    ("last", "total", "bends", "ends"),
    [
        (1.0, 100.0, "it bends", "below every other policy, intervals apart"),
        (2.0, 100.0, "it does not surely bend", "below every other policy, intervals apart"),
        (1.0, 199.0, "it bends", "not surely below uniform over candidates"),
    ],
)
def test_what_is_said_of_regret_is_what_intervals_bear(
    last: float, total: float, bends: str, ends: str
):
    def made(policy: str, last: float, total: float) -> RegretCurve:
        first, end = Interval(2.0, 1.9, 2.1), Interval(last, last - 0.1, last + 0.1)
        bend = Interval(last - 2.0, last - 2.2, last - 1.8)
        whole = Interval(total, total - 5.0, total + 5.0)
        return RegretCurve(policy, [whole], whole, first, end, bend, [total, total])

    courses = [made("uniform", 2.0, 205.0), made(LEARNER, last, total)]
    lines = regret_lines(Result(100, 100, 9, [1, 2], "hash", [100], 0.0, courses))
    assert lines[0].endswith(bends)
    assert lines[1].endswith(ends)
