"""The collaborative models: as River estimators, and what is particular to each."""

import copy
import math
import random
import warnings
from collections.abc import Callable

import numpy as np
import pytest
from river import checks, reco

from models.item_knn import ItemKNN, ItemKNNView
from models.matrix_factorisation import MatrixFactorisation, Ranker, logistic, others, sigmoid
from models.popularity import Popularity

RANKERS: dict[str, Callable[[], MatrixFactorisation | ItemKNN]] = {
    "mf": lambda: MatrixFactorisation(),
    "neighbours": lambda: ItemKNN(),
}


@pytest.fixture(params=RANKERS)
def ranker(request: pytest.FixtureRequest) -> MatrixFactorisation | ItemKNN:
    return RANKERS[request.param]()


def taught(ranker: Ranker, likes: int = 300, items: int = 60) -> None:
    rng = random.Random(4)
    for seed in range(likes):
        ranker.learn(f"user-{rng.randrange(9)}", f"item-{rng.randrange(items)}", 1.0, seed)


def test_it_passes_rivers_own_checks(ranker: MatrixFactorisation | ItemKNN) -> None:
    assert isinstance(ranker, reco.base.Ranker)
    passed = [check.__name__ for check in checks.yield_checks(ranker)]
    assert "check_reco_routine" in passed
    assert "check_pickling_supports_roundtrip" in passed
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checks.check_estimator(ranker)


def test_a_deep_copy_learns_on_alike_and_apart(ranker: MatrixFactorisation | ItemKNN) -> None:
    taught(ranker)
    other = copy.deepcopy(ranker)
    for model in (ranker, other):
        model.learn_one("user-1", "item-2", True)
    items = [f"item-{n}" for n in range(60)]
    assert ranker.scores("user-1", items).tolist() == other.scores("user-1", items).tolist()
    before = ranker.scores("user-1", items).tolist()
    taught(other)
    assert ranker.scores("user-1", items).tolist() == before


def test_a_rank_does_not_depend_on_the_order_of_its_items(
    ranker: MatrixFactorisation | ItemKNN,
) -> None:
    taught(ranker)
    items = [f"item-{n}" for n in range(60)] + ["unknown-2", "unknown-1"]
    wanted = ranker.rank("user-1", items)
    for seed in range(5):
        random.Random(seed).shuffle(items)
        assert ranker.rank("user-1", items) == wanted
    assert wanted.index("unknown-1") < wanted.index("unknown-2")
    assert [ranker.predict_one("user-1", item) for item in wanted] == sorted(
        (ranker.predict_one("user-1", item) for item in items), reverse=True
    )


def test_predicting_for_strangers_makes_no_rows(ranker: MatrixFactorisation | ItemKNN) -> None:
    taught(ranker)
    sizes = {key: len(array) for key, array in ranker.state().items()}
    for n in range(100):
        ranker.predict_one(f"stranger-{n}", f"strange-{n}")
        ranker.rank(f"stranger-{n}", {f"strange-{n}", "item-1"})
    assert {key: len(array) for key, array in ranker.state().items()} == sizes


def test_the_sigmoid_is_the_logistic_function() -> None:
    for x in np.linspace(-30, 30, 2_001).tolist():
        assert abs(sigmoid(x) - 1 / (1 + math.exp(-x))) < 1e-4


def test_the_sigmoid_never_falls() -> None:
    values = [sigmoid(x) for x in np.linspace(-12, 12, 20_001).tolist()]
    assert values == sorted(values)


def test_slopes_are_the_gradient_of_the_loss() -> None:
    def likelihood(scores: list[float]) -> float:
        def log_sigmoid(x: float) -> float:
            return -math.log1p(math.exp(-x))

        return log_sigmoid(scores[0]) + sum(log_sigmoid(-score) for score in scores[1:])

    scores = [0.4, -1.2, 2.0]
    for i, slope in enumerate(logistic(scores)):
        higher, lower = list(scores), list(scores)
        higher[i] += 1e-5
        lower[i] -= 1e-5
        measured = (likelihood(higher) - likelihood(lower)) / 2e-5
        assert abs(slope - measured) < 2e-4


def test_sampled_items_are_uniform_over_the_others() -> None:
    counts = np.bincount([row for seed in range(9_000) for row in others(3, 10, 1, seed)])
    assert counts[3] == 0
    expected = 9_000 / 9
    chi_square = ((np.delete(counts, 3) - expected) ** 2 / expected).sum()
    assert chi_square < 26.1  # 8 degrees of freedom, 1 in 1,000


def test_sampled_items_are_distinct_and_known() -> None:
    for seed in range(500):
        drawn = others(seed % 5, 5, 8, seed)
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= set(range(5)) - {seed % 5}


def test_a_first_vector_depends_on_the_id_and_not_on_its_order() -> None:
    first, second, seeded = (
        MatrixFactorisation(),
        MatrixFactorisation(),
        MatrixFactorisation(seed=1),
    )
    first._row(first._items, first._q, "other", 0.0)
    a, row = first._row(first._items, first._q, "film", 0.0)
    b, _ = second._row(second._items, second._q, "film", 0.0)
    c, _ = seeded._row(seeded._items, seeded._q, "film", 0.0)
    assert a[row].tolist() == b[0].tolist() != c[0].tolist()


def test_a_factorisation_stays_finite_under_the_largest_steps() -> None:
    model = MatrixFactorisation(rate=0.99, decay=0.0, negatives=32)
    for seed in range(3_000):
        model.learn(f"user-{seed % 3}", f"item-{seed % 50}", 1.0, seed)
    assert np.isfinite(model.scores("user-1", [f"item-{n}" for n in range(50)])).all()


def test_neighbours_are_the_cosine_counted_by_hand() -> None:
    rng = random.Random(5)
    log = [(f"u{rng.randrange(12)}", f"i{rng.randrange(8)}") for _ in range(60)]
    model = ItemKNN(recent=2)
    liked: dict[str, list[str]] = {}
    for user, item in log:
        model.learn(user, item, 1.0, 0)
        mine = liked.setdefault(user, [])
        if item in mine:
            mine.remove(item)
        mine.append(item)
    items = [f"i{n}" for n in range(8)]
    has = {item: {user for user in liked if item in liked[user]} for item in items}
    for user, mine in liked.items():
        for item, score in zip(items, model.scores(user, items).tolist(), strict=True):
            by_hand = sum(
                len(has[item] & has[j]) / math.sqrt(len(has[item]) * len(has[j]))
                for j in mine[-2:]
                if j != item
            )
            assert score == pytest.approx(by_hand, rel=1e-6)


def test_only_likes_within_the_history_are_counted_together() -> None:
    model = ItemKNN(history=2, recent=1)
    for item in ("a", "b", "c", "d"):
        model.learn("ann", item, 1.0, 0)
    model.learn("bob", "d", 1.0, 0)
    assert sorted(model.top("bob", 9)) == ["b", "c"]


def test_top_is_the_order_of_scores_and_a_score_is_the_same_alone() -> None:
    rng = random.Random(8)
    model, loaded = MatrixFactorisation(), MatrixFactorisation()
    for n in range(600):
        model.learn(f"u{rng.randrange(20)}", f"i{int(200 * rng.random() ** 2)}", 1.0, n)
    loaded.load(model.state())
    items = sorted(model._items.ids())
    for user in (f"u{n}" for n in range(21)):
        scores = model.scores(user, items).tolist()
        order = sorted(range(len(items)), key=lambda i: -scores[i])
        assert model.top(user, 30) == loaded.top(user, 30) == [items[i] for i in order[:30]]
        assert [float(model.scores(user, [item])[0]) for item in items] == scores


def test_a_dislike_does_not_decay_a_low_score_upwards() -> None:
    model = MatrixFactorisation(decay=0.5)
    model.learn("ann", "film", -1.0, 0)
    before = model.scores("ann", ["film"])[0]
    model.learn("ann", "film", -1.0, 0)
    assert model.scores("ann", ["film"])[0] < before


def test_a_like_repeated_is_one_users_like() -> None:
    model = ItemKNN()
    for item in ("a", "b", "a", "b", "b"):
        model.learn("ann", item, 1.0, 0)
    model.learn("bob", "a", 1.0, 0)
    assert model.scores("bob", ["b"])[0] == np.float32(1 / math.sqrt(2))


def test_an_evicted_items_neighbours_are_not_its_successors() -> None:
    model = ItemKNN(items=3)
    model.learn("eve", "old", 1.0, 0)
    for user in ("ann", "bob", "cid"):
        model.learn(user, "old", 1.0, 0)
        model.learn(user, "kept", 1.0, 0)
        model.learn(user, "also", 1.0, 0)
    model.learn("dan", "new", 1.0, 0)  # takes the row of "old"
    assert model._items.row("old") == -1
    assert model.scores("ann", ["new"]).tolist() == [0.0]
    assert model.top("ann", 10) == ["also", "kept"]
    assert model.scores("dan", ["kept", "also"]).tolist() == [0.0, 0.0]
    model.learn("eve", "also", 1.0, 0)  # eve liked "old", not the item in its row
    assert model.scores("eve", ["new"]).tolist() == [0.0]
    assert model.scores("dan", ["also"]).tolist() == [0.0]


def test_stamps_that_begin_again_change_no_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    def fold() -> tuple[ItemKNN, list[list[str]]]:
        rng, tops = random.Random(9), []
        model = ItemKNN(recent=2, history=3, neighbours=9, items=6, users=5)
        for n in range(900):
            model.learn(f"u{rng.randrange(9)}", f"i{int(12 * rng.random() ** 2)}", 1.0, n)
            tops.append(model.top(f"u{rng.randrange(9)}", 9))
        return model, tops

    straight, wanted = fold()
    monkeypatch.setattr("models.item_knn.LAST", 40)
    renewed, tops = fold()
    assert tops == wanted
    assert max(straight._stamps) > 40 >= max(renewed._stamps)
    loaded = ItemKNN(recent=2, history=3, neighbours=9, items=6, users=5)
    loaded.load(renewed.state())
    assert [loaded.top(f"u{n}", 9) for n in range(9)] == [renewed.top(f"u{n}", 9) for n in range(9)]


def test_an_item_that_everybody_likes_no_longer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.item_knn.MOST", 3.0)
    model = ItemKNN()
    for n in range(6):
        for item in (f"i{n}", "hit"):
            model.learn(f"u{n}", item, 1.0, 0)
    assert max(model._likes) == 3.0
    assert sorted(model.top("u5", 9)) == ["i0", "i1", "i2"]


def test_neighbours_refuse_a_state_of_another_limit() -> None:
    with pytest.raises(ValueError, match="items must be 3 as in the state, got 4"):
        ItemKNN(items=4).load(ItemKNN(items=3).state())


def test_a_view_reads_as_a_model_of_that_recent_that_learned_the_same() -> None:
    rng = random.Random(7)
    model, longer = ItemKNN(items=30, recent=2), ItemKNN(items=30, recent=9)
    view = ItemKNNView(model, recent=9)
    for n in range(2_000):
        user, item = f"u{rng.randrange(40)}", f"i{rng.randrange(40)}"
        for scorer in (model, longer, view):
            scorer.learn(user, item, 1.0, n)
    items = [f"i{n}" for n in range(40)]
    for user in (f"u{n}" for n in range(41)):
        assert view.scores(user, items).tolist() == longer.scores(user, items).tolist()
        assert view.top(user, 12) == longer.top(user, 12)
    assert view.scores("u1", items).tolist() != model.scores("u1", items).tolist()


def test_a_views_state_is_its_recent_and_no_other_is_loaded() -> None:
    view = ItemKNNView(ItemKNN(), recent=9)
    view.load(view.state())
    with pytest.raises(ValueError, match="recent must be 9 as in the state, got 8"):
        ItemKNNView(ItemKNN(), recent=8).load(view.state())
    with pytest.raises(ValueError, match=r"history \(50\), got 51"):
        ItemKNNView(ItemKNN(), recent=51)


def test_an_items_neighbours_are_bounded_and_the_largest_stay() -> None:
    model = ItemKNN(history=2, neighbours=4, recent=1)
    for n in range(100):
        model.learn(f"u{n}", "hub", 1.0, 0)
        model.learn(f"u{n}", "friend" if n % 2 else f"item-{n}", 1.0, 0)
    assert max(len(table) for table in model._others) <= 8
    model.learn("ann", "hub", 1.0, 0)
    assert model.top("ann", 1) == ["friend"]
    assert model.scores("ann", ["friend"])[0] == np.float32(50 / math.sqrt(50 * 101))


@pytest.mark.parametrize("half_life", [1, 100, 1e12])
def test_the_popular_list_is_exact_through_rescaling_and_eviction(half_life: float) -> None:
    rng = random.Random(6)
    model = Popularity(half_life=half_life, limit=30, leaders=3)
    for n in range(4_000):  # with a half-life of 1 rescaled every 500 likes
        centre = n // 50 % 4 * 10  # fashions: leaders are forgotten, and their rows taken
        item = f"item-{centre + int(30 * rng.random() ** 2)}"
        model.learn("ann", item, 1.0, 0)
        assert model.top("ann", 6) == [id for _, id in model._ranked()][:6]
        assert model.scores("ann", [item])[0] >= 1.0
        if half_life == 1:
            assert model.scores("ann", [item])[0] <= 2.0


def test_a_count_halves_after_its_half_life() -> None:
    model = Popularity(half_life=100)
    model.learn("ann", "old", 1.0, 0)
    for n in range(100):
        model.learn("ann", f"item-{n}", 1.0, 0)
    assert model.scores("ann", ["old"])[0] == pytest.approx(0.5, rel=1e-6)
