"""A memory of many users, made sooner than by learning: all is learned but the vectors' steps."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from models.arrays.id_table import IdTable
from models.arrays.lru_index import nested
from models.base import Arrays
from models.events import Interaction, Source
from models.matrix_factorisation import MatrixFactorisation
from models.memory import Memory

Numbers = NDArray[np.int64]
NOWHERE = Source(0, 0, 0)


def likes(users: int, items: int, each: int) -> tuple[Numbers, Numbers]:
    """Who likes what, in order: everybody once, then at random; few items are liked by many."""
    rng = np.random.default_rng(0)
    more = rng.integers(users, size=users * (each - 1))
    who = np.concatenate([rng.permutation(users), more])
    return who, (items * rng.random(users * each) ** 3).astype(np.int64)


def interactions(who: Numbers, what: Numbers) -> Iterator[Interaction]:
    """The same as records."""
    for start in range(0, len(who), 10_000):
        part = slice(start, start + 10_000)
        for user, item in zip(who[part].tolist(), what[part].tolist(), strict=True):
            yield Interaction("i", f"user:{user}", f"item:{item}", 0, 1.0, NOWHERE)


def fill(memory: Memory, who: Numbers, what: Numbers) -> None:
    """Teach these likes to an empty memory of the default scorers.

    What `memory.learn` would leave, but for the numbers in the vectors of "mf": rows, ids and order
    are right, the numbers are drawn at random. Its steps are two thirds of the cost of learning.
    """
    popularity, knn, mf = memory.popularity, memory.scorers["knn"], memory.scorers["mf"]
    assert popularity is not None and isinstance(mf, MatrixFactorisation)
    assert mf.user_names is not None and mf.item_names is not None
    for n, liked in enumerate(interactions(who, what)):
        popularity.learn(liked.user, liked.item, liked.value, n)
        knn.learn(liked.user, liked.item, liked.value, n)
        memory.histories.learn(liked)
    users = touched(mf.user_names, "user", who)
    items = touched(mf.item_names, "item", what)
    rng = np.random.default_rng(1)
    p, q = (
        rng.uniform(-0.2, 0.2, (len(one["numbers"]), mf.factors + 1)).astype(np.float32)
        for one in (users, items)
    )
    p[:, -1] = 1.0
    mf.load({"p": p, "q": q, **nested(users=users, items=items)})


def touched(names: IdTable, kind: str, numbers: Numbers) -> Arrays:
    """The state of an index that met these numbers as ids, one after the other."""
    met, first = np.unique(numbers, return_index=True)
    last = len(numbers) - 1 - np.unique(numbers[::-1], return_index=True)[1]
    order = np.argsort(first)
    ids = [f"{kind}:{n}" for n in met[order].tolist()]
    return {"numbers": names.find(ids).astype(np.int32), "touched": last[order].astype(np.int64)}
