"""The policy `random`: any items that there are, each as likely as another; what chance earns.

No worker serves it: `uniform` draws from the candidates that were retrieved, and these are chosen.
"""

from collections.abc import Iterator
from hashlib import blake2b

import numpy as np

from agents.attribution import Attribution
from agents.learner import Learner
from agents.loop import Loop
from models.base import Encoder
from models.candidates import CandidateSource, Retrieval
from models.events import Request
from policies.uniform import Uniform
from stream import build
from stream.settings import Settings

RANDOM = "random"


def random_source(seed: int) -> CandidateSource:
    """All items of the catalogue as candidates, in an order of each request's own."""

    def items(retrieval: Retrieval, request: Request) -> Iterator[str]:
        drawn = blake2b(f"{seed} {request.user} {request.id}".encode(), digest_size=16).digest()
        rng = np.random.default_rng(int.from_bytes(drawn, "little"))
        catalogue = retrieval.catalogue
        return map(catalogue.aged, rng.permutation(catalogue.size).tolist())

    return CandidateSource(RANDOM, items, share=1.0)


def policy_loop(settings: Settings, text: Encoder) -> Loop:
    """The agents of the settings' policy, in memory; it may be `random`."""
    if settings.policy != RANDOM:
        return build.loop(settings, text)
    learner = Learner(build.memory(settings), Uniform(RANDOM))
    items = build.catalogue(settings, text)
    _, recommender = build.deciding(settings, learner, items, (random_source(settings.seed),))
    return Loop(Attribution(0, settings.attribution_rules()), learner, recommender)
