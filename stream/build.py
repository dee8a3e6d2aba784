"""The composition root: settings -> agents. A new policy, scorer or encoder is one row here."""

import os
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path

from msgspec import Struct
from threadpoolctl import threadpool_limits

from agents.attribution import Attribution
from agents.learner import Learner
from agents.loop import Loop
from agents.recommender import DecisionMetadata, Recommender
from models.arrays.id_table import IdTable
from models.base import Encoder, Scorer
from models.bert_encoder import BertEncoder, CachedEncoder, VectorStore, bundled
from models.candidates import (
    FEATURES,
    SOURCES,
    CandidateSource,
    Feature,
    Retrieval,
    scores_of,
    top_of,
)
from models.catalogue import Catalogue
from models.content import Content
from models.hash_encoder import HashEncoder
from models.history import Exposure, Histories
from models.item_knn import ItemKNNView
from models.matrix_factorisation import MatrixFactorisation
from models.memory import Memory
from models.popularity import Popularity
from models.sequential_knn import SequentialItemKNN
from policies.base import Policy
from policies.baseline import Baseline
from policies.blend import Blend
from policies.exploration import Epsilon, Exploration, InverseGap, Softmax
from policies.uniform import Uniform
from policies.vowpal import Vowpal
from policies.vowpal_explore import VowpalExplore
from stream.settings import Settings

EXPLORATIONS: dict[str, Callable[[Settings], Exploration]] = {
    "epsilon": lambda s: Epsilon(s.epsilon),
    "softmax": lambda s: Softmax(s.temperature),
    "squarecb": lambda s: InverseGap(s.gamma),
}

BLEND = {"knn": 1.0, "popularity": 0.3, "content": 0.3}
# What the bandit believes, in reward a deviation: much like the blend, at first.
PRIOR = {"knn": 0.06, "mf": 0.02, "popularity": 0.02}

# The same settings in the words of Vowpal Wabbit, whose lambda is the inverse of a temperature.
AMOUNTS: dict[str, Callable[[Settings], float]] = {
    "epsilon": lambda s: s.epsilon,
    "softmax": lambda s: 1 / s.temperature,
    "squarecb": lambda s: s.gamma,
}


def fixed(name: str, weights: Mapping[str, float]) -> Callable[[Settings, Exploration], Policy]:
    """A row of POLICIES that weighs columns and learns nothing."""
    return lambda s, explore: Blend(name, weights=weights, exploration=explore)


# A name on `-repeats` is the policy before it less what this user was shown without a click: with
# that column at hand, so must a fixed policy have it that learned weights are compared with.
POLICIES: dict[str, Callable[[Settings, Exploration], Policy]] = {
    "uniform": lambda s, explore: Uniform(),
    "popular": fixed("popular", {"popularity": 1}),
    "popular-repeats": fixed("popular-repeats", {"popularity": 1, "repeats": -1}),
    "knn": fixed("knn", {"knn": 1}),
    "knn-repeats": fixed("knn-repeats", {"knn": 1, "repeats": -1}),
    "mf": fixed("mf", {"mf": 1}),
    "mf-repeats": fixed("mf-repeats", {"mf": 1, "repeats": -1}),
    "content": fixed("content", {"content": 1}),
    "content-repeats": fixed("content-repeats", {"content": 1, "repeats": -1}),
    "blend": fixed("blend", BLEND),
    "blend-repeats": fixed("blend-repeats", BLEND | {"repeats": -1}),
    "rate": fixed("rate", {"rate": 1}),
    "bandit": lambda s, explore: Vowpal(
        exploration=explore,
        prior=PRIOR,
        rate=s.learning_rate,
        largest_reward=s.bandit_max_reward,
    ),
    "baseline": lambda s, explore: Baseline(),
    # Vowpal Wabbit's own exploration: for rankings of one item.
    "vw_explore": lambda s, explore: VowpalExplore(
        "vw_explore", explore=s.exploration, amount=AMOUNTS[s.exploration](s), rate=s.learning_rate
    ),
}

# Before 0.1.0 it was called so.
RENAMED_POLICIES = {"producer": "baseline"}

# One core is left to the event loop: threads that wait for each other crawl.
THREADS = max(1, (os.cpu_count() or 1) - 1)

ENCODERS: dict[str, Callable[[Settings], Encoder]] = {
    "hash": lambda s: HashEncoder(),
    "minilm": lambda s: BertEncoder(
        bundled() or "sentence-transformers/all-MiniLM-L6-v2", threads=THREADS
    ),
}


class ScorerRow(Struct, frozen=True):
    """A scorer with the columns of features that it fills, and the source of candidates it is.

    >>> row = ScorerRow(Popularity(), (scores_of("liked"),), top_of("liked", share=0.1))
    >>> row.features[0].name, row.source.name
    ('liked', 'liked')
    """

    scorer: Scorer
    features: tuple[Feature, ...] = ()
    source: CandidateSource | None = None


class Parts(Struct, frozen=True):
    """What one worker holds: learned state, catalogue, and what reads them."""

    learner: Learner
    catalogue: Catalogue
    recommender: Recommender


def policy(settings: Settings, name: str = "") -> Policy:
    """A policy by its name; the one of the settings if none is given."""
    name = name or settings.policy
    if name not in POLICIES:
        near = RENAMED_POLICIES.get(name) or next(iter(get_close_matches(name, POLICIES)), "")
        remedy = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"policy must be one of {', '.join(POLICIES)}, got {name!r}{remedy}")
    return POLICIES[name](settings, EXPLORATIONS[settings.exploration](settings))


def encoder(settings: Settings, vectors: VectorStore | None = None) -> CachedEncoder:
    """The text encoder of the settings; it encodes a text once."""
    return CachedEncoder(plain_encoder(settings), vectors)


def plain_encoder(settings: Settings) -> Encoder:
    """The text encoder by its name: a row of ENCODERS, else a Hugging Face name or path."""
    name = settings.encoder_name
    where = Path(name) if Path(name).is_dir() else name
    return ENCODERS.get(name, lambda s: BertEncoder(where, threads=THREADS))(settings)


def catalogue(settings: Settings, text: Encoder) -> Catalogue:
    """An empty catalogue for one encoder's vectors."""
    return Catalogue(
        text.version, text.dimensions, limit=settings.max_items, text_dims=settings.text_dims
    )


def scorers(
    settings: Settings, user_names: IdTable | None = None, item_names: IdTable | None = None
) -> dict[str, ScorerRow]:
    """What learns who likes what, by name; a new one is one row here.

    The order of rows is that of columns, and of who proposes first.
    """
    users, items = settings.max_users, settings.max_items
    knn = SequentialItemKNN(
        recent=10, users=users, items=items, user_names=user_names, item_names=item_names
    )
    mf = MatrixFactorisation(
        limit=max(users, items), seed=settings.seed, user_names=user_names, item_names=item_names
    )
    return {
        "knn": ScorerRow(knn, (scores_of("knn"),), top_of("knn", share=0.4)),
        "knn_long": ScorerRow(ItemKNNView(knn, recent=20), (scores_of("knn_long"),)),
        "mf": ScorerRow(mf, (scores_of("mf"),), top_of("mf", share=0.25)),
    }


def features(settings: Settings) -> tuple[Feature, ...]:
    """All columns in their order: those of scorers after the popularity.

    >>> [feature.name for feature in features(Settings())][:5]
    ['popularity', 'knn', 'knn_long', 'mf', 'content']
    """
    popularity, *rest = FEATURES
    scored = [feature for row in scorers(settings).values() for feature in row.features]
    return (popularity, *scored, *rest)


def sources(settings: Settings) -> tuple[CandidateSource, ...]:
    """Who proposes candidates, in their order: scorers before the rest.

    >>> [source.name for source in sources(Settings())]
    ['knn', 'mf', 'content', 'popular', 'fresh', 'explore']
    """
    proposing = [row.source for row in scorers(settings).values()]
    return (*filter(None, proposing), *SOURCES)


def memory(settings: Settings) -> Memory:
    """Nothing known yet; each id will be kept once, whichever parts know it."""
    user_names, item_names = IdTable(), IdTable()
    return Memory(
        Popularity(limit=settings.max_items, item_names=item_names),
        {name: row.scorer for name, row in scorers(settings, user_names, item_names).items()},
        Histories(limit=settings.max_users, user_names=user_names, item_names=item_names),
        Exposure(limit=settings.max_items, item_names=item_names),
        user_names,
        item_names,
    )


def parts(settings: Settings, text: Encoder) -> Parts:
    """A worker's agents with nothing learned yet."""
    learned = learner(settings)
    return Parts(learned, *deciding(settings, learned, catalogue(settings, text)))


def learner(settings: Settings) -> Learner:
    """What learns, with nothing learned yet."""
    threadpool_limits(1, user_api="blas")  # small products: threads would wait for each other
    champion, *challengers = [policy(settings, name) for name in settings.policies]
    return Learner(
        memory(settings),
        champion,
        settings.learn_corrections,
        settings.fold_hash(),
        challengers=challengers,
        reward=settings.scoreboard_max_reward,
    )


def deciding(
    settings: Settings,
    learner: Learner,
    items: Catalogue,
    proposing: Sequence[CandidateSource] = (),
) -> tuple[Catalogue, Recommender]:
    """What answers from a learner and a catalogue; candidates by the usual sources, or others."""
    memory = learner.memory
    retrieval = Retrieval(
        memory,
        items,
        Content(items, memory.histories),
        limit=settings.candidates,
        repeat_seen=not settings.exclude_seen,
        features=features(settings),
        sources=proposing or sources(settings),
    )
    terms = DecisionMetadata(
        seed=settings.seed,
        build=version("rankloop"),
        settings=settings.settings_hash(),
        log_candidates=settings.log_candidates,
    )
    return items, Recommender(learner, items, retrieval, terms)


def loop(settings: Settings, text: Encoder) -> Loop:
    """Everything in memory, without Kafka."""
    made = parts(settings, text)
    return Loop(Attribution(0, settings.attribution_rules()), made.learner, made.recommender)
