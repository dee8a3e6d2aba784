"""What every scorer promises, over the table of all of them."""

import os
import random
import subprocess
import sys
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pytest

from models.arrays.lru_index import LruIndex, best
from models.base import Arrays, Scorer
from models.item_knn import ItemKNN
from models.matrix_factorisation import MatrixFactorisation
from models.popularity import Popularity

Make = Callable[[], Scorer]

SCORERS: dict[str, Make] = {
    "popularity": lambda: Popularity(half_life=50, limit=40, leaders=5),
    "neighbours": lambda: ItemKNN(users=20, items=40, history=10, neighbours=10),
    "mf": lambda: MatrixFactorisation(limit=40),
}
PERSONAL: dict[str, Make] = {
    "neighbours": ItemKNN,
    "mf": MatrixFactorisation,
}


@pytest.fixture(params=SCORERS)
def make(request: pytest.FixtureRequest) -> Make:
    return SCORERS[request.param]


@pytest.fixture(params=PERSONAL)
def make_personal(request: pytest.FixtureRequest) -> Make:
    return PERSONAL[request.param]


def two_tastes(users: int = 200, likes: int = 30) -> list[tuple[str, str, float]]:
    """Users of two groups; each likes an item at most once, nine in ten of their own group's 40."""
    rng = random.Random(1)
    log, liked = [], set()
    while len(log) < users * likes:
        user = rng.randrange(users)
        group = user % 2 if rng.random() < 0.9 else 1 - user % 2
        like = (f"user-{user}", f"item-{group}-{int(40 * rng.random() ** 1.5)}", 1.0)
        if like not in liked:
            liked.add(like)
            log.append(like)
    return log


def churn(events: int, seed: int = 2) -> list[tuple[str, str, float]]:
    """More users and items than fit, some disliked."""
    rng = random.Random(seed)
    return [
        (
            f"user-{int(30 * rng.random() ** 2)}",
            f"film-{int(90 * rng.random() ** 2)}é",
            rng.choice((1.0, 1.0, 1.0, 2.5, 0.0, -1.0)),
        )
        for _ in range(events)
    ]


def fold(scorer: Scorer, log: list[tuple[str, str, float]], start: int = 0) -> Scorer:
    for seed, (user, item, value) in enumerate(log[start:], start):
        scorer.learn(user, item, value, seed)
    return scorer


def digest(state: Arrays) -> str:
    hashed = blake2b()
    for key in sorted(state):
        hashed.update(f"{key} {state[key].dtype} {state[key].shape}".encode())
        hashed.update(np.ascontiguousarray(state[key]).tobytes())
    return hashed.hexdigest()


def test_reading_never_writes(make: Make) -> None:
    scorer = fold(make(), churn(500))
    before = digest(scorer.state())
    for user in ("user-1", "nobody"):
        scorer.scores(user, ["film-1é", "nothing", "film-2é"])
        scorer.top(user, 10)
        scorer.top(user, 1_000)
    repr(scorer)
    assert digest(scorer.state()) == before


def test_what_was_read_changes_nothing_when_it_is_written_to(make: Make) -> None:
    scorer = fold(make(), churn(300))
    before = digest(scorer.state())
    scorer.scores("user-1", ["film-1é"])[:] = 9.0
    for array in scorer.state().values():
        if array.flags.writeable:
            array[:] = 1
    assert digest(scorer.state()) == before


def test_unknown_ids_score_a_default(make: Make) -> None:
    default = make().scores("ann", ["a"])[0]
    assert make().scores("ann", ["a", "b"]).tolist() == [default, default]
    assert make().top("ann", 10) == []
    scorer = fold(make(), churn(300))
    scores = scorer.scores("nobody", ["nothing", "nowhere", "film-0é"])
    assert scores.dtype == np.float32
    assert scores.shape == (3,)
    assert scores[0] == scores[1] == default
    assert np.isfinite(scores).all()
    assert scorer.scores("user-1", []).shape == (0,)


def test_top_is_the_order_of_the_scores_with_ties_by_id(make: Make) -> None:
    scorer = fold(make(), churn(800))
    ids = sorted({item for _, item, _ in churn(800)})
    for user in ("user-0", "user-7", "nobody"):
        everything = scorer.top(user, 1_000)
        scores = scorer.scores(user, everything).tolist()
        order = sorted(zip((-score for score in scores), everything, strict=True))
        assert everything == [id for _, id in order]
        assert all(scorer.top(user, n) == everything[:n] for n in range(45))
        left_out = [id for id in ids if id not in everything]
        assert set(scorer.scores(user, left_out).tolist()) <= {make().scores("ann", ["a"])[0]}


def test_a_score_does_not_depend_on_what_is_scored_beside_it(make: Make) -> None:
    scorer = fold(make(), churn(800))
    ids = [f"film-{n}é" for n in range(90)]
    together = scorer.scores("user-0", ids).tolist()
    assert together == [scorer.scores("user-0", [id]).tolist()[0] for id in ids]


def test_saved_and_loaded_it_learns_on_bit_for_bit(make: Make) -> None:
    log = churn(1_200)
    uninterrupted = fold(make(), log)
    for cut in (0, 1, 13, 700):
        resumed = make()
        fold(resumed, churn(50, seed=9))  # load replaces whatever was there
        resumed.load(fold(make(), log[:cut]).state())
        assert digest(resumed.state()) == digest(fold(make(), log[:cut]).state())
        fold(resumed, log, start=cut)
        assert digest(resumed.state()) == digest(uninterrupted.state())
        for user in ("user-0", "user-3", "nobody"):
            assert resumed.top(user, 25) == uninterrupted.top(user, 25)


def test_a_loaded_scorer_shares_nothing_with_its_state_or_the_saved_one(make: Make) -> None:
    first, second = fold(make(), churn(300)), make()
    state = first.state()
    before = digest(state)
    second.load(state)
    fold(second, churn(300, seed=5))
    assert digest(state) == before
    assert digest(first.state()) == before


def test_what_is_learned_is_bounded(make: Make) -> None:
    sizes = []
    for events in (3_000, 6_000):
        state = fold(make(), churn(events)).state()
        sizes.append(max(len(a) for key, a in state.items() if not key.endswith("ids")))
    assert sizes[1] <= 40 * 20  # items times twice their neighbours at the most


def test_two_processes_with_other_hash_seeds_learn_the_same() -> None:
    code = (
        "from test_scorers import SCORERS, churn, digest, fold\n"
        "for name in SCORERS: print(digest(fold(SCORERS[name](), churn(800)).state()))\n"
    )
    root = Path(__file__).parents[2]
    path = f"{root}{os.pathsep}{Path(__file__).parent}"
    here = [digest(fold(make(), churn(800)).state()) for make in SCORERS.values()]
    assert len(set(here)) == len(SCORERS)
    for hash_seed in ("1", "2"):
        there = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert there.split() == here


def test_a_like_raises_the_score(make: Make) -> None:
    scorer = fold(make(), two_tastes(20, 10))
    scorer.learn("user-0", "item-0-0", 1.0, 1)
    scorer.learn("user-2", "item-0-0", 1.0, 2)
    before = scorer.scores("user-0", ["item-0-14"])[0]
    for seed in range(3):
        for user in ("user-2", "user-0", "user-4"):
            scorer.learn(user, "item-0-0", 1.0, 10 + seed)
            scorer.learn(user, "item-0-14", 1.0, 20 + seed)
    assert scorer.scores("user-0", ["item-0-14"])[0] > before


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_dislike_raises_no_score_of_its_item(make: Make, value: float) -> None:
    scorer = fold(make(), churn(600))
    for user in ("user-0", "user-3"):
        for item in ("film-0é", "film-5é", "film-60é"):
            before = scorer.scores(user, [item])[0]
            scorer.learn(user, item, value, 7)
            known = scorer.scores(user, [item])[0]
            assert known <= before or before == make().scores("ann", ["a"])[0]
            scorer.learn(user, item, value, 8)
            assert scorer.scores(user, [item])[0] <= known


def hits(scorer: Scorer) -> float:
    """Prequential hit rate at 5, what the user liked before excluded, over a log's later half."""
    log = two_tastes()
    found: list[bool] = []
    liked: dict[str, set[str]] = {}
    for seed, (user, item, value) in enumerate(log):
        mine = liked.setdefault(user, set())
        if seed > len(log) // 2:
            found.append(item in [id for id in scorer.top(user, 80) if id not in mine][:5])
        scorer.learn(user, item, value, seed)
        mine.add(item)
    return float(np.mean(found))


def test_a_personal_model_beats_popularity_where_tastes_differ(make_personal: Make) -> None:
    assert hits(make_personal()) > 1.25 * hits(Popularity())


def test_the_least_recently_touched_id_makes_room() -> None:
    index = LruIndex(limit=3)
    for id in ("a", "b", "c", "a", "d", "e"):
        index.touch(id)
    assert index.rows(["a", "b", "c", "d", "e"]).tolist() == [0, -1, -1, 1, 2]
    assert len(index) == 3


def test_looking_up_an_id_does_not_keep_it() -> None:
    index = LruIndex(limit=2)
    index.touch("a")
    index.touch("b")
    index.row("a")
    index.rows(["a"])
    index.touch("c")
    assert index.row("a") == -1


def test_a_loaded_index_evicts_as_the_saved_one() -> None:
    index, loaded = LruIndex(limit=5), LruIndex(limit=5)
    for n in (1, 2, 3, 4, 5, 2, 1, 7, 7, 3):
        index.touch(f"é{n}")
    loaded.load(index.state())
    for n in (11, 1, 12, 13, 2, 14):
        assert index.touch(f"é{n}") == loaded.touch(f"é{n}")
    assert digest(index.state()) == digest(loaded.state())


def test_an_index_refuses_a_state_beyond_its_limit() -> None:
    index = LruIndex(limit=5)
    for n in range(5):
        index.touch(str(n))
    with pytest.raises(ValueError, match="5 ids does not fit a limit of 4"):
        LruIndex(limit=4).load(index.state())


def test_best_agrees_with_sorting_everything() -> None:
    rng = random.Random(3)
    for _ in range(50):
        scores = np.array([rng.randrange(6) for _ in range(40)], np.float32)
        ids = [str(n) for n in range(40)]
        rng.shuffle(ids)
        n = rng.randrange(45)
        wanted = sorted((-s, id) for s, id in zip(scores.tolist(), ids, strict=True) if s > 1)
        assert best(scores, ids, n, above=1.0) == [id for _, id in wanted[:n]]


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (lambda: LruIndex(limit=0), "limit must be at least 1, got 0"),
        (lambda: Popularity(half_life=0), "half_life must be from 1 to 1e12 likes, got 0"),
        (lambda: MatrixFactorisation(rate=2.0), r"rate must be in \(0, 1\), got 2.0"),
        (lambda: ItemKNN(recent=0), r"recent must be from 1 to history \(50\), got 0"),
        (lambda: ItemKNN(neighbours=9), r"neighbours must be at least history \(50\), got 9"),
    ],
)
def test_a_setting_out_of_range_is_refused(broken: Make, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        broken()
