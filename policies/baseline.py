"""The order of the request's own candidates, served until another policy is promoted.

Nothing is explored, so its log says little of others. What can be known of a challenger: how often
it would have shown the same (the mean weight), and what was earned then, which is less than all it
would earn. So it is never ahead for sure, and no rule promotes it; a person does, who sees that it
agrees, or by experience elsewhere. It learns from all outcomes meanwhile.
"""

from collections.abc import Mapping

import numpy as np

from models.base import Doubles
from models.candidates import Candidates
from policies.uniform import Uniform

UNLIKELY = 1e-300  # no probability is 0; this one is never drawn


class Baseline(Uniform):
    """Prefers what stands first in the request's own list; without one, what is popular.

    >>> Baseline().pmf(np.array([-1.0, 0.0])).tolist()
    [1e-300, 1.0]
    """

    def __init__(self, name: str = "baseline") -> None:
        super().__init__(name)

    def scores(
        self, user: str, context: Mapping[str, str | float | bool], candidates: Candidates
    ) -> Doubles:
        if candidates.places:
            return -np.array(candidates.places, np.float64)
        return candidates.x[:, candidates.names.index("popularity")]

    def pmf(self, scores: Doubles) -> Doubles:
        pmf = np.full(len(scores), UNLIKELY)
        pmf[scores.argmax()] = 1.0
        return pmf
