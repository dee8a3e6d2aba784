"""Write a policy of your own and compare it with `popular` on simulated news readers.

A policy gives every candidate a score, turns scores into probabilities, and learns from outcomes.
This one learns how often each user clicks each tag. Needs no Kafka; takes some ten seconds.
Run it with:  python examples/custom_policy.py
"""

import json
import tempfile

import numpy as np

from models.candidates import Candidates
from models.events import Outcome
from policies.evaluation.intervals import clustered
from policies.exploration import Epsilon
from stream.build import POLICIES
from stream.settings import Settings
from stream.simulation.closed_loop import Run, run
from stream.simulation.news import news_environment


class TagRates:
    """The mean click rate of a candidate's tags for this user, smoothed towards PRIOR."""

    name = "tag_rates"
    PRIOR, WEIGHT = 0.2, 2.0  # a tag that was never shown counts as 0.2 clicks a look
    LIMIT = 100_000  # (user, tag) pairs that are kept: everything that grows has a bound

    def __init__(self) -> None:
        self._seen: dict[str, list[float]] = {}  # "user\0tag" -> [looks, clicks]
        self._explore = Epsilon(0.1)

    def scores(self, user: str, context: object, candidates: Candidates) -> np.ndarray:
        """One score a candidate, higher is better. Reading changes nothing."""
        return np.array(
            [
                np.mean([self._rate(user, tag) for tag in tags]) if tags else self.PRIOR
                for tags in candidates.tags
            ]
        )

    def _rate(self, user: str, tag: str) -> float:
        looks, clicks = self._seen.get(f"{user}\0{tag}", (0.0, 0.0))
        return (clicks + self.WEIGHT * self.PRIOR) / (looks + self.WEIGHT)

    def pmf(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities of what remains for a slot; none may be 0, or nobody could evaluate it."""
        return self._explore(scores)

    def learn(self, outcome: Outcome, seed: int) -> None:
        """A ranking was closed: take in each shown slot from its logged tags and its reward."""
        for slot in outcome.slots:
            for tag in slot.features.tags:
                key = f"{outcome.user}\0{tag}"
                if len(self._seen) == self.LIMIT and key not in self._seen:
                    del self._seen[next(iter(self._seen))]  # the oldest pair
                seen = self._seen.setdefault(key, [0.0, 0.0])
                seen[0] += 1.0
                seen[1] += slot.reward

    def save(self) -> bytes:
        """Everything learned, as bytes: snapshots hold it. Equal states give equal bytes."""
        return json.dumps(self._seen).encode()

    def load(self, data: bytes) -> None:
        self._seen = json.loads(data)


# This row is what makes a policy known by its name. In a fork, write it into `POLICIES` itself:
# the policy then works in workers (`policy = "tag_rates"`, or as a challenger) and all commands.
POLICIES["tag_rates"] = lambda settings, exploration: TagRates()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(encoder="hash", data_dir=folder, horizon_seconds=10)
        # 60 readers of known taste, 300 articles in English and Chinese, 1,500 requests.
        environment = news_environment(settings, requests=1_500, articles=300, readers=60)
        results = {
            name: run(Run(settings=settings.alone(name), environment=environment))
            for name in ("uniform", "popular", "tag_rates")
        }
    popular = np.array(results["popular"].rewards)
    print("policy      clicks a ranking [95%]      minus popular, same requests [95%]")
    for name, result in results.items():
        rewards = np.array(result.rewards)
        mean = clustered(rewards, result.users)  # intervals by user: one user's clicks are alike
        gain = clustered(rewards - popular, result.users)
        print(f"{name:10}  {mean}  {gain if name != 'popular' else ''}")


if __name__ == "__main__":
    main()
