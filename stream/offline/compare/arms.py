"""What `rankloop compare` compares: rankers that differ in the parts they have, and no more.

An arm knows, finds and pays for its own parts alone: what is measured of it is what a system would
earn and cost that had nothing else. Every arm may read the tags of
items; an arm with text has them in its vectors as well, since the text model reads title, tags and
text.
"""

from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct
from threadpoolctl import threadpool_limits

from agents.attribution import Attribution
from agents.learner import Learner
from agents.loop import Loop
from agents.recommender import DecisionMetadata, Recommender
from models.arrays.id_table import IdTable
from models.base import Encoder
from models.candidates import CandidateSource, Retrieval
from models.content import Content
from models.history import Exposure, Histories
from models.memory import Memory
from models.popularity import Popularity
from policies.base import Policy
from policies.exploration import Exploration
from stream import build
from stream.settings import Settings
from stream.simulation.random_items import random_source

L = TypeVar("L", bound=Loop)
TIE = 1e-3  # weight of what orders those that the part itself cannot tell apart


class Arm(Struct, frozen=True, kw_only=True):
    """A ranker; `parts` are what it learns from, among popularity, knn, mf and text."""

    says: str
    parts: tuple[str, ...]
    policy: Callable[[Settings, Exploration], Policy]
    tuned: bool = False  # reads with what `finetune` made

    @property
    def expects(self) -> bool:
        """Whether its scores are expected clicks of a slot."""
        return self.policy is BANDIT

    @property
    def text(self) -> bool:
        return "text" in self.parts


def _fixed(**weights: float) -> Callable[[Settings, Exploration], Policy]:
    return build.fixed("blend", weights)


BANDIT = build.POLICIES["bandit"]
ARMS: dict[str, Arm] = {
    "random": Arm(says="any of all items", parts=(), policy=build.POLICIES["uniform"]),
    "popular": Arm(says="liked by most lately", parts=("popularity",), policy=_fixed(popularity=1)),
    "popular-repeats": Arm(
        says="liked by most lately, less what this user did not click",
        parts=("popularity",),
        policy=_fixed(popularity=1, repeats=-1),
    ),
    "rate": Arm(
        says="clicked by most of those it was shown to",
        parts=("popularity",),  # which proposes candidates
        policy=_fixed(rate=1),
    ),
    "mf": Arm(
        says="matrix factorisation alone",
        parts=("popularity", "mf"),
        policy=_fixed(mf=1, popularity=TIE),
    ),
    "mf-repeats": Arm(
        says="matrix factorisation, less what this user did not click",
        parts=("popularity", "mf"),
        policy=_fixed(mf=1, popularity=TIE, repeats=-1),
    ),
    "knn": Arm(
        says="item neighbours alone",
        parts=("popularity", "knn"),
        policy=_fixed(knn=1, popularity=TIE),
    ),
    "knn-repeats": Arm(
        says="item neighbours, less what this user did not click",
        parts=("popularity", "knn"),
        policy=_fixed(knn=1, popularity=TIE, repeats=-1),
    ),
    "content": Arm(says="text alone", parts=("text",), policy=_fixed(content=1, age=-TIE)),
    "content-repeats": Arm(
        says="text, less what this user did not click",
        parts=("text",),
        policy=_fixed(content=1, age=-TIE, repeats=-1),
    ),
    "hybrid": Arm(
        says="a fixed blend of neighbours, text and popularity",
        parts=("popularity", "knn", "text"),
        policy=build.POLICIES["blend"],
    ),
    "hybrid-repeats": Arm(
        says="the fixed blend, less what this user did not click",
        parts=("popularity", "knn", "text"),
        policy=build.POLICIES["blend-repeats"],
    ),
    "bandit-no-text": Arm(
        says="learns weights of all but text", parts=("popularity", "knn", "mf"), policy=BANDIT
    ),
    "bandit-no-cf": Arm(
        says="learns weights of text and popularity", parts=("popularity", "text"), policy=BANDIT
    ),
    "full": Arm(
        says="learns weights of all", parts=("popularity", "knn", "mf", "text"), policy=BANDIT
    ),
    "deep": Arm(
        says="text alone, by BERT fine-tuned on likes",
        parts=("text",),
        policy=_fixed(content=1, age=-TIE),
        tuned=True,
    ),
    "full-deep": Arm(
        says="learns weights of all, by BERT fine-tuned on likes",
        parts=("popularity", "knn", "mf", "text"),
        policy=BANDIT,
        tuned=True,
    ),
}


def arm_loop(settings: Settings, text: Encoder, arm: Arm, kind: type[L]) -> L:
    """An arm's agents with nothing learned yet, in a loop of that kind.

    Who withholds vectors from the catalogue withholds text.
    """
    threadpool_limits(1, user_api="blas")  # small products: threads would wait for each other
    memory = _memory(settings, arm.parts)
    policy = arm.policy(settings, build.EXPLORATIONS[settings.exploration](settings))
    learner = Learner(memory, policy, settings.learn_corrections)
    items = build.catalogue(settings, text)
    retrieval = Retrieval(
        memory,
        items,
        Content(items, memory.histories),
        limit=settings.candidates,
        repeat_seen=not settings.exclude_seen,
        features=build.features(settings),  # all: 0 where the arm has no such scorer
        sources=_sources(settings, arm.parts),
    )
    recommender = Recommender(learner, items, retrieval, DecisionMetadata(seed=settings.seed))
    return kind(Attribution(0, settings.attribution_rules()), learner, recommender)


def _sources(settings: Settings, parts: tuple[str, ...]) -> list[CandidateSource]:
    """The usual sources of candidates, less those that the arm has not; all items without parts."""
    if not parts:
        return [random_source(settings.seed)]
    names = {"popularity": "popular", "text": "content"}
    own = {"fresh", "explore", *(names.get(part, part) for part in parts)}
    return [source for source in build.sources(settings) if source.name in own]


def _memory(settings: Settings, parts: tuple[str, ...]) -> Memory:
    users, items = IdTable(), IdTable()
    known = build.scorers(settings, users, items)
    kept = {name: row.scorer for name, row in known.items() if name.partition("_")[0] in parts}
    popular = Popularity(limit=settings.max_items, item_names=items)
    return Memory(
        popular if "popularity" in parts else None,
        kept,
        Histories(limit=settings.max_users, user_names=users, item_names=items),
        Exposure(limit=settings.max_items, item_names=items),
        users,
        items,
    )
