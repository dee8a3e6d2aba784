"""Neighbours in the order of liking: what its words promise, and what every scorer must hold."""

from random import Random
from typing import Any

import numpy as np

from models.sequential_knn import FADE, SequentialItemKNN


def taught(likes: list[tuple[str, str]], **options: Any) -> SequentialItemKNN:
    model = SequentialItemKNN(**options)
    for user, item in likes:
        model.learn(user, item, 1.0, seed=0)
    return model


def many(n: int = 600, seed: int = 3) -> list[tuple[str, str]]:
    rng = Random(seed)
    return [(f"u{rng.randrange(20)}", f"i{rng.randrange(60)}") for _ in range(n)]


def test_an_item_liked_just_before_is_nearer_than_one_liked_long_ago():
    model = taught([("ann", item) for item in "abcde"] + [("bob", "e")])
    scores = model.scores("bob", list("abcd")).tolist()
    assert scores == sorted(scores) and scores[0] < scores[3]
    assert scores[0] / scores[3] == np.float32(128 / 256)  # d = 4 against d = 1


def test_the_latest_like_weighs_most():
    pairs = [("ann", "a"), ("ann", "x"), ("bob", "b"), ("bob", "y")]
    x, y = taught([*pairs, ("cid", "a"), ("cid", "b")]).scores("cid", ["x", "y"]).tolist()
    assert 0 < x < y
    assert abs(x / y - FADE) < 1e-6


def test_what_many_like_is_held_against_it_less_than_by_a_cosine():
    crowd = [(f"fan{i}", "hit") for i in range(15)]
    pair = [("ann", "a"), ("ann", "hit"), ("bob", "a"), ("bob", "rare")]
    hit, rare = taught([*crowd, *pair, ("cid", "a")]).scores("cid", ["hit", "rare"]).tolist()
    assert 0.49 < hit / rare < 0.51  # (16 likes)^-1/4, where a cosine has 16^-1/2


def test_top_is_the_order_of_the_scores():
    model = taught(many())
    items = sorted({item for _, item in many()})
    for user in ("u1", "u7"):
        scores = dict(zip(items, model.scores(user, items).tolist(), strict=True))
        liked = [item for item in items if scores[item] > 0]
        assert model.top(user, 99) == sorted(liked, key=lambda item: (-scores[item], item))


def test_a_loaded_model_learns_on_bit_for_bit_within_its_bounds():
    options: dict[str, Any] = {
        "recent": 3,
        "history": 10,
        "neighbours": 12,
        "users": 15,
        "items": 40,
    }
    log = many()
    whole, half = taught(log, **options), taught(log[:300], **options)
    loaded = SequentialItemKNN(**options)
    loaded.load(half.state())
    for user, item in log[300:]:
        loaded.learn(user, item, 1.0, seed=0)
    one, other = whole.state(), loaded.state()
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) for key in one)
    assert len(one["likes"]) <= 40 and len(one["counts"]) <= 40 * 24


def test_reading_changes_nothing_and_the_unknown_score_zero():
    model = taught(many(100))
    before = {key: array.tobytes() for key, array in model.state().items()}
    assert model.scores("nobody", ["i1", "nothing"]).tolist() == [0.0, 0.0]
    assert model.top("nobody", 5) == [] == SequentialItemKNN().top("nobody", 5)
    assert model.scores("u1", ["nothing"]).tolist() == [0.0]
    assert SequentialItemKNN().scores("u1", ["a"]).tolist() == [0.0]
    model.learn("u1", "i1", -1.0, seed=0)
    assert before == {key: array.tobytes() for key, array in model.state().items()}
