"""Off-policy evaluation: what would another policy have earned, judged from a log of this one?

The log is simulated, so that the true answer is known and can be compared with the estimates.
Needs no Kafka; takes a second. For a log of rankloop's own, use the command `rankloop evaluate`.
Run it with:  python examples/off_policy_evaluation.py
"""

import numpy as np

from policies.evaluation.diagnostics import estimate, support
from policies.evaluation.estimators import BanditLog, doubly_robust, ips, snips
from policies.evaluation.reward_model import cross_fitted

rng = np.random.default_rng(1)
ROWS, ITEMS = 20_000, 5

# The truth, which a real log does not tell: how likely users of two groups click each item.
clicks = np.array([[0.02, 0.05, 0.08, 0.10, 0.03], [0.10, 0.06, 0.02, 0.03, 0.04]])
user = rng.integers(5_000, size=ROWS)  # of each row
group = rng.integers(2, size=5_000)[user]
users = tuple(f"user:{n}" for n in user)

# The policy that logged shows item 0 most often, whoever asks. A target: the best item of each
# group with 90%, any item with 10%. Both never have a probability of 0.
logging = np.tile([0.6, 0.1, 0.1, 0.1, 0.1], (ROWS, 1))
target = np.full((ROWS, ITEMS), 0.1 / ITEMS)
target[np.arange(ROWS), clicks.argmax(axis=1)[group]] += 0.9

# What the log holds of each row: the item shown, its probability (propensity), and the reward.
shown = (rng.random((ROWS, 1)) > logging.cumsum(axis=1)).sum(axis=1)
row = np.arange(ROWS)
rewards = (rng.random(ROWS) < clicks[group, shown]).astype(float)


# Doubly robust needs a model of rewards as well. It is cross-fitted: the rows of a user are
# predicted by a fit on other users. Features: one column a (group, item).
def features(item: int | np.ndarray) -> np.ndarray:
    return np.eye(2 * ITEMS)[group * ITEMS + item]


modelled, every = cross_fitted(features(shown), rewards, users, ITEMS, features)

log = BanditLog(
    rewards=rewards,
    propensities=logging[row, shown],
    chances=target[row, shown],  # the target's probability of what was shown
    users=users,
    shown=modelled,  # the model's reward of what was shown
    chosen=(target * every).sum(axis=1),  # and of what the target would show, on average
)

truth = (target * clicks[group]).sum(axis=1).mean()
print(f"measured on the log, for the policy that wrote it: {rewards.mean():.4f}")
print(f"true value of the target:                          {truth:.4f}")
terms = {"IPS": ips(log), "SNIPS": snips(log), "DR": doubly_robust(log)}
bears = support(log.weights, log.rewards, log.users)
for found in estimate(terms, log.users, dict.fromkeys(terms, bears), what="clicks"):
    print(f"{found.estimator:6} {found.value}", *found.warnings, sep="  ")
print(f"effective decisions: {bears.effective:,.0f} of {bears.rows:,}; mean weight {bears.control}")
