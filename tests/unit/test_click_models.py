"""Simulated visitors: what they click is what is known to be liked, and nothing else decides."""

import math

import numpy as np
import pytest

from agents.click_models import LoggedClickModel, PositionBasedModel
from models.events import Click, Decision, Reward, Slot, decode_event, encode


def decision(*items: str, user: str = "ann", at: int = 0, id: str = "r1") -> Decision:
    return Decision(
        id=id,
        user=user,
        at=at,
        k=max(1, len(items)),
        policy="uniform",
        model=0,
        items=0,
        embeddings=0,
        source=0,
        slots=tuple(Slot(item=item, propensity=0.5) for item in items),
    )


def liked(item: str, at: int, user: str = "ann") -> Click:
    return Click(id=f"{user}:{item}", user=user, item=item, at=at)


def rated(item: str, at: int, value: float, user: str = "ann") -> Reward:
    return Reward(id=f"{user}:{item}", user=user, item=item, at=at, value=value)


def clicked(clicks: list[Click]) -> list[str]:
    return [click.item for click in clicks]


def test_what_a_user_liked_later_is_clicked_from_the_top_down() -> None:
    click_model = LoggedClickModel(
        [liked("a", 10), liked("b", 20), rated("c", 30, -1), rated("d", 40, 2)]
    )
    assert clicked(click_model.clicks(decision("d", "x", "c", "a"))) == ["d", "a"]


def test_what_lies_before_the_decision_is_not_clicked() -> None:
    click_model = LoggedClickModel([liked("a", 10), liked("b", 20)])
    assert clicked(click_model.clicks(decision("a", "b", at=11))) == ["b"]
    assert clicked(LoggedClickModel([liked("a", 10)]).clicks(decision("a", at=10))) == ["a"]


def test_the_window_counts_interactions_of_this_user_liked_or_not() -> None:
    log = [rated("bad", 1, -2), liked("near", 2), liked("far", 3)]
    noise = [liked(f"n{i}", 1, user="bob") for i in range(50)]
    assert clicked(LoggedClickModel(log + noise, window=2).clicks(decision("near", "far"))) == [
        "near"
    ]


def test_an_item_is_clicked_once_ever() -> None:
    click_model = LoggedClickModel([liked("a", 10), liked("b", 20)])
    assert clicked(click_model.clicks(decision("a", id="r1"))) == ["a"]
    assert clicked(click_model.clicks(decision("a", "b", id="r2"))) == ["b"]


def test_the_same_decision_is_clicked_alike_however_often_it_comes() -> None:
    click_model = LoggedClickModel([liked("a", 10), liked("b", 20)])
    first = click_model.clicks(decision("a", "b"))
    click_model.clicks(decision("a", "b", id="r2"))
    assert click_model.clicks(decision("a", "b")) == first


def test_users_do_not_click_for_each_other() -> None:
    click_model = LoggedClickModel([liked("a", 10, user="bob")])
    assert click_model.clicks(decision("a")) == []
    assert click_model.clicks(decision("a", user="nobody")) == []
    assert clicked(click_model.clicks(decision("a", user="bob"))) == ["a"]


def test_the_order_of_the_log_is_its_times() -> None:
    log = [liked("late", 30), liked("soon", 10)]
    assert clicked(LoggedClickModel(log, window=1).clicks(decision("late", "soon"))) == ["soon"]


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 1, got 0"):
        LoggedClickModel([], window=0)


def test_a_click_says_which_decision_where_and_shortly_after() -> None:
    shown = decision("x", "a", at=1_000, id="r" * 256)
    [click] = LoggedClickModel([liked("a", 1_000)]).clicks(shown)
    assert (click.request, click.position, click.user) == (shown.id, 1, "ann")
    assert 1_500 <= click.at < 3_500
    assert decode_event(encode(click)) == click, "its id is within bounds"


def test_an_empty_decision_earns_nothing() -> None:
    assert LoggedClickModel([liked("a", 10)]).clicks(decision()) == []
    assert PositionBasedModel({"ann": [1.0]}, {"a": [1.0]}).clicks(decision()) == []


TASTES = {"ann": [1.0, 0.1], "bob": [0.1, 1.0]}
ITEMS = {"news": [1.0, 0.0], "sport": [0.0, 1.0]}


def test_tastes_seed_and_decision_decide_and_nothing_else() -> None:
    def all_clicks(seed: int, order: range) -> dict[int, list[str]]:
        click_model = PositionBasedModel(TASTES, ITEMS, seed=seed)
        seen = {i: click_model.clicks(decision("news", "sport", id=f"r{i}")) for i in order}
        return {i: clicked(seen[i]) for i in range(200)}

    assert all_clicks(0, range(200)) == all_clicks(0, range(199, -1, -1))
    assert all_clicks(0, range(200)) != all_clicks(1, range(200))


@pytest.mark.parametrize("position", [0, 3])
def test_clicks_come_as_often_as_the_stated_probability(position: int) -> None:
    click_model = PositionBasedModel({"ann": [0.7]}, {"a": [1.0]}, seed=4)
    fillers = [f"x{i}" for i in range(position)]
    n = 4_000
    hits = sum(bool(click_model.clicks(decision(*fillers, "a", id=f"r{i}"))) for i in range(n))
    p = click_model.probability("ann", "a", position)
    assert abs(hits / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_lower_places_are_clicked_less_by_the_patience() -> None:
    click_model = PositionBasedModel(TASTES, ITEMS, patience=0.5)
    top = click_model.probability("ann", "news", 0)
    assert click_model.probability("ann", "news", 2) == pytest.approx(top / 4)


def test_the_value_of_a_decision_is_its_expected_clicks() -> None:
    click_model = PositionBasedModel(TASTES, ITEMS)
    shown = [decision("sport", "news", "unknown", id=f"r{i}") for i in range(4_000)]
    earned = [len(click_model.clicks(one)) for one in shown]
    error = 4 * float(np.std(earned)) / math.sqrt(len(earned))
    assert abs(float(np.mean(earned)) - click_model.value(shown[0])) < error


def test_who_or_what_is_unknown_is_not_clicked() -> None:
    click_model = PositionBasedModel(TASTES, ITEMS)
    assert click_model.probability("nobody", "news", 0) == 0
    assert click_model.probability("ann", "unheard of", 0) == 0


def test_impatience_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match=r"patience must be in \(0, 1\], got 0"):
        PositionBasedModel({}, {}, patience=0)
