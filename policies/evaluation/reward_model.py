# pyright: standard
"""Models of rewards for off-policy evaluation, each row predicted by a fit that never saw its user.

Cross-fitting: Chernozhukov et al. 2018, "Double/debiased machine learning" (The Econometrics
Journal 21(1)), definition 3.2 (DML2). scikit-learn is known here alone, and only when asked.
"""

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from models.base import Doubles
from policies.evaluation.intervals import numbered

FOLDS = 3  # of users
Features = Callable[[int], Any]  # an action's features in every row: (n, d), dense or sparse


def _ridge(seed: int) -> Any:
    from sklearn.linear_model import Ridge

    return Ridge(alpha=1.0, random_state=seed)


def _logistic(seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=1.0, max_iter=1_000, random_state=seed)


def _boosting(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(max_iter=100, max_leaf_nodes=15, random_state=seed)


def _forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(n_estimators=100, min_samples_leaf=10, random_state=seed)


class RidgeModel:
    """Ridge regression in numpy, for dense features: what needs no scikit-learn.

    >>> model = RidgeModel(penalty=1e-9).fit(np.array([[0.0], [1.0]]), np.array([0.5, 1.0]))
    >>> model.predict(np.array([[2.0]])).round(3).tolist()
    [1.5]
    """

    def __init__(self, penalty: float = 1.0) -> None:
        self.penalty = penalty
        self.slopes = np.zeros(0)
        self.base = 0.0

    def fit(self, x: Doubles, rewards: Doubles) -> Self:
        means = x.mean(axis=0)
        centred = x - means
        gram = centred.T @ centred + self.penalty * np.eye(x.shape[1])
        self.slopes = np.linalg.solve(gram, centred.T @ (rewards - rewards.mean()))
        self.base = float(rewards.mean() - means @ self.slopes)
        return self

    def predict(self, x: Doubles) -> Doubles:
        return x @ self.slopes + self.base


# logistic is for rewards of 0 and 1; linear and boosting take dense features alone.
REGRESSORS: dict[str, Callable[[int], Any]] = {
    "linear": lambda seed: RidgeModel(),
    "ridge": _ridge,
    "logistic": _logistic,
    "boosting": _boosting,
    "forest": _forest,
}


class ConstantModel:
    """The model of rewards that are all alike.

    >>> ConstantModel(0.5).predict(np.zeros((2, 3))).tolist()
    [0.5, 0.5]
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, x: Any) -> Doubles:
        return np.full(x.shape[0], self.value)


def fitted(name: str, x: Any, rewards: Doubles, seed: int = 0) -> Any:
    """A regressor by its name, fitted. Raises ValueError if scikit-learn is missing."""
    if name not in REGRESSORS:
        raise ValueError(f"a reward model is one of {', '.join(REGRESSORS)}, got {name!r}")
    if (rewards == rewards[0]).all():
        return ConstantModel(float(rewards[0]))
    if name == "logistic" and not np.isin(rewards, (0.0, 1.0)).all():
        raise ValueError("logistic is for rewards of 0 and 1 alone; take linear or boosting")
    try:
        return REGRESSORS[name](seed).fit(x, rewards)
    except ImportError:
        raise ValueError(
            f"the reward model {name} needs scikit-learn, which is not installed; "
            "run pip install -e '.[evaluate]' in rankloop's checkout, or take linear"
        ) from None


def predicted(model: Any, x: Any) -> Doubles:
    """Expected rewards, shape (n,)."""
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(x)[:, 1], np.float64)
    return np.asarray(model.predict(x), np.float64)


def folded(users: Sequence[str], folds: int, seed: int = 0) -> Any:
    """Each row's fold; all rows of a user are in one.

    >>> sorted(folded(["ann", "bob", "ann"], 2).tolist()) in ([0, 0, 1], [0, 1, 1])
    True
    """
    cluster = numbered(users)
    count = int(cluster.max()) + 1
    if not 2 <= folds <= count:
        raise ValueError(f"folds must be in 2..{count}, the number of users, got {folds}")
    return np.random.default_rng(seed).permutation(np.arange(count) % folds)[cluster]


def cross_fitted(
    x: Any,
    rewards: Doubles,
    users: Sequence[str],
    actions: int,
    features: Features,
    *,
    model: str = "linear",
    folds: int = FOLDS,
    seed: int = 0,
) -> tuple[Doubles, Doubles]:
    """Expected rewards of what was shown, shape (n,), and of each action, shape (n, actions).

    `x` holds the features of what was shown; `features(a)` those of action a in the same rows.
    """
    fold = folded(users, folds, seed)
    fits = [fitted(model, x[fold != i], rewards[fold != i], seed) for i in range(folds)]
    shown, every = np.empty(len(rewards)), np.empty((len(rewards), actions))
    for i, fit in enumerate(fits):
        shown[fold == i] = predicted(fit, x[fold == i])
    for action in range(actions):
        columns = features(action)
        for i, fit in enumerate(fits):
            every[fold == i, action] = predicted(fit, columns[fold == i])
    return shown, every


def cascaded(
    shown: Doubles,
    chosen: Doubles,
    rewards: Doubles,
    given: Doubles,
    users: Sequence[str],
    *,
    folds: int = FOLDS,
    seed: int = 0,
) -> tuple[Doubles, Doubles]:
    """Expected rewards of each slot and all below it, as cascade_dr needs them, both (n, k).

    `shown` holds the features of each slot's item, shape (n, k, d), and `chosen` their means over
    what the target would put there; a linear model's reward of a mean is the mean of its rewards.
    `given` is 1 where a ranking has a slot, else 0. From the last slot up, each place has a model
    of its own reward and of what the one below expects: Kiyohara et al. 2022, section 3.1.
    """
    fold = folded(users, folds, seed)
    models = np.zeros_like(rewards), np.zeros_like(rewards)
    for i in range(folds):
        below = np.zeros(len(rewards))
        for place in reversed(range(rewards.shape[1])):
            there = given[:, place] > 0.0
            rows = there & (fold != i)
            fit = RidgeModel()
            if rows.any():
                fit.fit(shown[rows, place], rewards[rows, place] + below[rows])
                below = np.where(there, fit.predict(chosen[:, place]), 0.0)
                held = there & (fold == i)
                models[0][held, place] = fit.predict(shown[held, place])
                models[1][held, place] = below[held]
    return models
