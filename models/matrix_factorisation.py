"""Incremental matrix factorisation of likes, as River rankers."""

from collections.abc import Hashable, Iterable, Sequence
from hashlib import shake_128
from typing import Any

import numpy as np
from numpy.typing import NDArray
from river import reco

from models.arrays.id_table import IdTable
from models.arrays.lru_index import LruIndex, best, grown, nested, part
from models.base import Arrays, Floats

BOUND = np.float32(8)
# The same as arrays: numpy takes those as they are, and makes one of a number at each call.
MOST, LEAST, NONE = np.array(BOUND), np.array(-BOUND), np.zeros((), np.float32)
PRIOR = -2.5  # the bias of an item not seen before
SCALE = 0.4  # the width of first vectors


class Ranker(reco.base.Ranker):
    """A Scorer as a River estimator: ids become strings, and `learn_one` takes River's chance."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed=seed)

    def scores(self, user: str, items: Sequence[str]) -> Floats:
        raise NotImplementedError

    def learn(self, user: str, item: str, value: float, seed: int) -> None:
        raise NotImplementedError

    def learn_one(self, user: Hashable, item: Hashable, y: Any, x: dict | None = None) -> None:
        self.learn(str(user), str(item), float(y), self._rng.getrandbits(64))

    def predict_one(self, user: Hashable, item: Hashable, x: dict | None = None) -> Any:
        return float(self.scores(str(user), [str(item)])[0])

    def rank(
        self, user: Hashable, items: Iterable[Hashable], x: dict | None = None
    ) -> list[Hashable]:
        """`items` in falling score, ties broken by id, whatever order they come in."""
        known = sorted(items, key=str)
        scores = self.scores(str(user), [str(item) for item in known]).tolist()
        return [known[i] for i in sorted(range(len(known)), key=lambda i: -scores[i])]


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)) within 5e-5, by additions and divisions alone: the same bits everywhere.

    Lambert's continued fraction of tanh(x / 2); the C library's exp differs between machines.

    >>> sigmoid(0.0), round(sigmoid(2.0), 6), sigmoid(-99.0), sigmoid(99.0)
    (0.5, 0.880797, 0.0, 1.0)
    """
    if not -9.9 < x < 9.9:
        return float(x > 0)
    y = 0.25 * x * x
    above = 0.5 * x * (135135.0 + y * (17325.0 + y * (378.0 + y)))
    below = 135135.0 + y * (62370.0 + y * (3150.0 + 28.0 * y))
    y = 0.5 + 0.5 * above / below
    return 0.0 if y < 0.0 else 1.0 if y > 1.0 else y


def logistic(scores: list[float]) -> list[float]:
    """Implicit matrix factorisation: the liked item is a 1, each sampled one a 0."""
    slopes = [-sigmoid(score) for score in scores]
    slopes[0] += 1.0
    return slopes


class MatrixFactorisation(Ranker):
    """Users and items as vectors whose product says who likes what, by logistic loss.

    Each like draws the user towards the item and away from `negatives` known items, drawn from the
    call's seed. At most `limit` users and `limit` items, of 20 + 4 `factors` bytes each and their
    names. The defaults of `rate`, `decay` and `negatives` served best on a film log.

    >>> model = MatrixFactorisation()
    >>> for seed in range(50):
    ...     model.learn("ann", "toy", 1.0, seed)
    ...     model.learn("bob", "saw", 1.0, seed)
    >>> model.top("ann", 1), model.top("bob", 1), model.scores("ann", ["new"]).tolist()
    (['toy'], ['saw'], [-2.5])
    """

    def __init__(
        self,
        *,
        factors: int = 16,
        rate: float = 0.2,
        decay: float = 0.002,
        negatives: int = 8,
        limit: int = 100_000,
        seed: int = 0,
        user_names: IdTable | None = None,
        item_names: IdTable | None = None,
    ) -> None:
        super().__init__(seed=seed)
        if not 0 < rate < 1:
            raise ValueError(f"rate must be in (0, 1), got {rate}; larger steps overshoot")
        self.name = "mf"
        self.factors, self.rate, self.decay = factors, rate, decay
        self.negatives, self.limit = negatives, limit
        self._rate, self._decay = np.array(rate, np.float32), np.array(decay, np.float32)
        self.user_names, self.item_names = user_names, item_names
        self._users, self._items = LruIndex(limit, user_names), LruIndex(limit, item_names)
        # The last column is the item's bias, met by a constant 1 in every user. Items lie column
        # by column: `top` reads them all, nine times faster so.
        self._p: Floats = np.zeros((0, factors + 1), np.float32)
        self._q: Floats = np.zeros((0, factors + 1), np.float32, order="F")
        self._stranger: Floats = np.eye(1, factors + 1, factors, np.float32)[0]

    def scores(self, user: str, items: Sequence[str]) -> Floats:
        rows = self._items.rows(items)
        scores = np.full(len(rows), PRIOR, np.float32)
        known = rows >= 0
        vectors = self._q[rows[known]]
        # One column after another, as in `top`: an item's score is the same bits alone.
        scores[known] = (vectors * self._taste(user)).cumsum(axis=1)[:, -1]
        return scores

    def top(self, user: str, n: int) -> list[str]:
        vectors = self._q[: len(self._items)]
        return best((vectors * self._taste(user)).sum(axis=1), self._items, n)

    def learn(self, user: str, item: str, value: float, seed: int) -> None:
        liked = value > 0
        self._p, u = self._row(self._users, self._p, user, bias=1.0)
        q, i = self._row(self._items, self._q, item, bias=PRIOR)
        self._q = np.asfortranarray(q)
        # A dislike does not decay: shrinking vectors would raise a score below 0.
        negatives, decay = (self.negatives, self._decay) if liked else (0, NONE)
        rows = np.array([i, *others(i, len(self._items), negatives, seed)])
        vectors = np.empty((len(rows) + 1, self.factors + 1), np.float32)  # the items', the user's
        q, p = vectors[:-1], vectors[-1]
        q[:], p[:] = self._q[rows], self._p[u]
        scores = np.add.reduce(q * p, axis=1).tolist()
        slopes = logistic(scores) if liked else [-sigmoid(scores[0])]
        pull = np.array(slopes, np.float32)[:, None]
        steps = np.empty_like(vectors)
        np.multiply(pull, p, out=steps[:-1])
        np.add.reduce(pull * q, axis=0, out=steps[-1])
        steps -= decay * vectors
        steps *= self._rate
        steps += vectors
        steps = clamped(steps)
        self._q[rows] = steps[:-1]
        self._p[u, :-1] = steps[-1, :-1]

    def state(self) -> Arrays:
        return {
            "p": self._p[: len(self._users)].copy(),
            "q": self._q[: len(self._items)].copy(),
            **nested(users=self._users.state(), items=self._items.state()),
        }

    def load(self, state: Arrays) -> None:
        self._users.load(part(state, "users"))
        self._items.load(part(state, "items"))
        p, q = state["p"], state["q"]
        if (len(p), len(q)) != (len(self._users), len(self._items)):
            raise ValueError(f"{len(p)} and {len(q)} vectors are not those of all users and items")
        if not all(-BOUND <= v.min(initial=0) <= v.max(initial=0) <= BOUND for v in (p, q)):
            raise ValueError(f"vectors lie within -{BOUND} and {BOUND}")
        self._p, self._q = p.copy(), q.copy(order="F")

    def _taste(self, user: str) -> Floats:
        row = self._users.row(user)
        return self._p[row] if row >= 0 else self._stranger

    def _row(
        self, index: LruIndex, vectors: Floats, id: str, bias: float
    ) -> tuple[NDArray[np.float32], int]:
        """The vectors, and the row of `id`: a fresh one is drawn from a hash of seed and id."""
        row, fresh = index.touch(id)
        if fresh:
            vectors = grown(vectors, len(index))
            bits = shake_128(f"{self.seed} {id}".encode()).digest(4 * self.factors)
            uniform = np.frombuffer(bits, "<u4") * 2.0**-32 - 0.5
            vectors[row, :-1] = SCALE * uniform
            vectors[row, -1] = bias
        return vectors, row


def clamped(vectors: Floats) -> Floats:
    """Entries within -8 and 8: whatever the log and the settings, no score overflows."""
    return np.maximum(np.minimum(vectors, MOST), LEAST)


def others(row: int, rows: int, n: int, seed: int) -> list[int]:
    """Up to `n` distinct rows below `rows`, none of them `row`, from the bits of `seed` alone.

    The generator is splitmix64 (Steele et al. 2014).

    >>> others(1, 3, 2, seed=7), others(0, 1, 2, seed=7)
    ([2, 0], [])
    """
    if rows < 2:
        return []
    drawn: dict[int, None] = {}
    for _ in range(n):
        seed = (seed + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        other = (z ^ (z >> 31)) % (rows - 1)
        drawn[other + (other >= row)] = None
    return list(drawn)
