"""Retrieval: a request's candidates with the features they are judged on."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from math import fsum
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.base import Doubles, Floats
from models.catalogue import TAG_BUCKETS, Catalogue
from models.content import Content
from models.events import Features, Request
from models.memory import Memory

MILLIS_A_DAY = 86_400_000


class Candidates(Struct, frozen=True):
    """What may be chosen for one request, in falling order of nothing: sorted by item id.

    `x` is z-scored within the request and rounded to 4 decimals, shape (n, len(names));
    `text` is the projected embedding, shape (n, d), zeros where there is none. `places` are those
    in the request's own list, if it has one. `left_out` says how many items were no candidates, by
    why: of the request's own list; without one, of the catalogue, and only if none are left.
    """

    names: tuple[str, ...]
    items: tuple[str, ...]
    sources: tuple[str, ...]
    x: Doubles
    tags: tuple[tuple[str, ...], ...]
    text: Doubles
    places: tuple[int, ...] = ()
    left_out: Mapping[str, int] = {}

    def features(self, i: int) -> Features:
        """Candidate `i` as it is logged."""
        return Features(tuple(self.x[i].tolist()), self.tags[i], tuple(self.text[i].tolist()))


def standardised(x: Doubles) -> Doubles:
    """Each column with mean 0 and deviation 1, to 4 decimals; a constant one is 0.

    >>> standardised(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    if not len(x):
        return x
    centred = x - x.mean(axis=0)
    deviation = np.sqrt((centred * centred).mean(axis=0))
    varies = (x.max(axis=0) > x.min(axis=0)) & (deviation > 0)
    centred /= np.where(varies, deviation, 1.0)
    centred[:, ~varies] = 0.0
    return centred.round(4) + 0.0  # no -0.0


class FeatureInputs(Struct, frozen=True):
    """What features are computed from: a request, its candidates, and what is known of them.

    `rows` are the candidates' in the catalogue, 0 for unknown ones.
    """

    request: Request
    items: Sequence[str]
    rows: NDArray[np.intp]
    retrieval: "Retrieval"
    cosines: tuple[Doubles, Doubles, Doubles]  # with the mean of the last likes, nearest, latest
    exposure: tuple[Doubles, Doubles]  # times shown to anybody, smoothed reward a look

    def scores(self, scorer: str) -> Floats:
        """What the memory's scorer of this name says of each candidate, 0 where there is none."""
        learned = self.retrieval.memory.scorer(scorer)
        if learned is None:
            return np.zeros(len(self.items), np.float32)
        return learned.scores(self.request.user, self.items)


class Feature(Struct, frozen=True):
    """A column by its name: `values` gives one number a candidate, shape (n,), n at least 1.

    >>> Feature("rare", lambda inputs: -inputs.scores("popularity")).name
    'rare'
    """

    name: str
    values: Callable[[FeatureInputs], NDArray[Any]]


def scores_of(scorer: str) -> Feature:
    """The column of what the memory's scorer of this name says, 0 where there is none."""
    return Feature(scorer, lambda inputs: inputs.scores(scorer))


def _log(counts: Doubles) -> Doubles:
    """log(1 + counts), of 0 where they are below."""
    return np.log1p(np.maximum(counts, 0.0))


def _popularity(inputs: FeatureInputs) -> Doubles:
    """log(1 + decayed count)."""
    return _log(inputs.scores("popularity").astype(np.float64))


def _repeats(inputs: FeatureInputs) -> Doubles:
    """log(1 + times shown to this user without a click)."""
    repeats = inputs.retrieval.memory.histories.repeats(inputs.request.user)
    if not repeats:
        return np.zeros(len(inputs.items), np.float64)
    return _log(np.array([repeats.get(item, 0) for item in inputs.items], np.float64))


def _age(inputs: FeatureInputs) -> Doubles:
    """log(1 + days since the item's `at`)."""
    age = (inputs.request.at - inputs.retrieval.catalogue.at[inputs.rows]) / MILLIS_A_DAY
    return _log(np.where(inputs.rows > 0, age, 0.0))


def _tags(inputs: FeatureInputs) -> Doubles:
    """The mean over the item's tags of the share of the user's last likes with that tag."""
    user, retrieval = inputs.request.user, inputs.retrieval
    catalogue = retrieval.catalogue
    likes = catalogue.find(retrieval.memory.histories.positives(user, retrieval.recent))
    if not len(likes):
        return np.zeros(len(inputs.items), np.float64)
    buckets = catalogue.tag_buckets
    profile = np.bincount(buckets[likes].ravel(), minlength=TAG_BUCKETS)
    profile[0] = 0
    tags = buckets[inputs.rows]
    count = np.maximum((tags > 0).sum(axis=1), 1)
    return profile[tags].sum(axis=1) / count / len(likes)


def _text(inputs: FeatureInputs) -> NDArray[np.bool_]:
    """1 with an embedding, else 0."""
    return inputs.retrieval.catalogue.lengths[inputs.rows] > 0


# The columns that are always there; those of scorers are rows of `stream/build.py`.
FEATURES = (
    Feature("popularity", _popularity),
    Feature("content", lambda inputs: inputs.cosines[0]),
    Feature("nearest", lambda inputs: inputs.cosines[1]),
    Feature("latest", lambda inputs: inputs.cosines[2]),
    Feature("rate", lambda inputs: inputs.exposure[1]),
    Feature("shown", lambda inputs: _log(inputs.exposure[0])),
    Feature("repeats", _repeats),
    Feature("age", _age),
    Feature("tags", _tags),
    Feature("text", _text),
)


class CandidateSource(Struct, frozen=True):
    """Proposes items for a request, the best first; slots name it.

    `share` is its part of the candidates. What one can't fill goes to the others, in the order of
    the table, unless `fills` is false. Shares of more than 1 together are scaled down to 1.

    >>> CandidateSource("pinned", lambda retrieval, request: ["film:1"], share=0.1).share
    0.1
    """

    name: str
    items: Callable[["Retrieval", Request], Iterable[str]]
    share: float
    fills: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(
                f"{self.name}: share must be in (0, 1], got {self.share}; without candidates of "
                "its own a scorer needs no source"
            )


def top_of(scorer: str, *, share: float, name: str = "") -> CandidateSource:
    """The source of what the memory's scorer of this name puts first; named like it, or `name`."""
    return CandidateSource(
        name or scorer, lambda retrieval, request: retrieval.top(scorer, request.user), share
    )


def _nearest(retrieval: "Retrieval", request: Request) -> Iterator[str]:
    """Those nearest by text to the last likes."""
    return retrieval.content.nearest(request.user)


def _fresh(retrieval: "Retrieval", request: Request) -> list[str]:
    """Of the newest items, those shown least."""
    newest = list(islice(retrieval.catalogue.newest(request.at), 5 * retrieval.quotas["fresh"]))
    times, _ = retrieval.memory.exposure.read(newest)
    return [item for _, item in sorted(zip(times.tolist(), newest, strict=True))]


def _explore(retrieval: "Retrieval", request: Request) -> Iterator[str]:
    """Any items, so that none is out of reach: chosen by a hash of user and request id."""
    catalogue = retrieval.catalogue
    count = catalogue.size
    name = f"{len(request.user)}:{request.user}:{request.id}"  # another user may ask by the same id
    drawn = blake2b(name.encode(), digest_size=64).digest()
    if count:
        for i in range(0, len(drawn), 4):
            yield catalogue.aged(int.from_bytes(drawn[i : i + 4], "little") % count)


# The sources that are always there; those of scorers are rows of `stream/build.py`. Of the shares:
# On the film log (2,907 likes, hashed titles, items without dates) a place given to knn held the
# next like three times as often as one given to popular, seven times as often as content. The
# places of fresh and explore are for what nobody has shown yet; that log can't judge them.
SOURCES = (
    CandidateSource("content", _nearest, 0.1),
    top_of("popularity", share=0.15, name="popular"),
    CandidateSource("fresh", _fresh, 0.05),
    CandidateSource("explore", _explore, 0.05, fills=False),
)


class Retrieval:
    """Finds what could be recommended, and says what is known about it.

    The request's own candidates (all of them; unknown ids keep default features), or up to `limit`
    items from several sources; never what is excluded, deleted or expired. What is in the user's
    history is left out of what the sources find, unless `repeat_seen`, and of a list only if the
    request asks so. Reads the memory and the catalogue, and changes neither.

    >>> from models.events import Item
    >>> catalogue, memory = Catalogue(encoder="", dimensions=1), Memory(None, {})
    >>> catalogue.fold_item(0, Item(id="film", at=0))
    >>> retrieval = Retrieval(memory, catalogue, Content(catalogue, memory.histories))
    >>> found = retrieval(Request(id="r", user="ann", at=9))
    >>> found.items, found.sources, found.x.shape
    (('film',), ('fresh',), (1, 10))
    """

    def __init__(
        self,
        memory: Memory,
        catalogue: Catalogue,
        content: Content,
        limit: int = 100,
        repeat_seen: bool = False,
        features: Sequence[Feature] = FEATURES,
        sources: Sequence[CandidateSource] = SOURCES,
        recent: int = 20,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}; 100 is usual")
        self.memory = memory
        self.catalogue = catalogue
        self.content = content
        self.limit = limit
        self.repeat_seen = repeat_seen
        self.features, self.sources = tuple(features), tuple(sources)
        self.names = tuple(feature.name for feature in features)
        total = max(1.0, fsum(source.share for source in sources))
        self.quotas = {one.name: round(one.share / total * limit) for one in sources}
        if len(set(self.names)) < len(features) or len(self.quotas) < len(sources):
            raise ValueError(
                f"features and sources need names of their own, got {self.names} and "
                f"{tuple(one.name for one in sources)}; rename one"
            )
        self.recent = recent

    def __call__(self, request: Request) -> Candidates:
        """The candidates of a request, possibly none."""
        if request.candidates is not None:
            found, left_out = self._own(request)
        else:
            found = self._found(request)
            left_out = {} if found else self._left_out(request, self.catalogue.live)
        items = sorted(found)
        rows = self.catalogue.find(items)
        places = {item: n for n, item in enumerate(dict.fromkeys(request.candidates or ()))}
        return Candidates(
            names=self.names,
            items=tuple(items),
            sources=tuple(found[item] for item in items),
            x=standardised(self._features(request, items, rows)),
            tags=tuple(self.catalogue.tags[row] for row in rows.tolist()),
            text=self.catalogue.text[rows],
            places=tuple(places[item] for item in items) if places else (),
            left_out=left_out,
        )

    def _own(self, request: Request) -> tuple[dict[str, str], dict[str, int]]:
        """The request's own list without what must not be shown, and how much was left out."""
        own = dict.fromkeys(request.candidates or (), "request")
        barred = self._barred(request)
        return (
            {item: source for item, source in own.items() if not barred(item)},
            self._left_out(request, own),
        )

    def _left_out(self, request: Request, items: Iterable[str]) -> dict[str, int]:
        found = Counter(filter(None, map(self._barred(request), items)))
        return {why: found[why] for why in ("withdrawn", "excluded", "seen") if found[why]}

    def _barred(self, request: Request) -> Callable[[str], str]:
        """Why an item must not be shown, "" if it may be."""
        seen, exclude = self._seen(request), set(request.exclude)

        def why(item: str) -> str:
            if self.catalogue.withdrawn(item, request.at):
                return "withdrawn"
            return "excluded" if item in exclude else "seen" if item in seen else ""

        return why

    def _seen(self, request: Request) -> Container[str]:
        """What the user has clicked, where it is left out: of what others list only if they ask."""
        asked = request.exclude_seen
        if asked is None:
            asked = not self.repeat_seen and request.candidates is None
        return self.memory.histories.seen(request.user) if asked else ()

    def _found(self, request: Request) -> dict[str, str]:
        """Items and which source proposed them first: each up to its quota, then what is left."""
        catalogue, at = self.catalogue, request.at
        live, ends = catalogue.live, catalogue.ends
        seen, exclude = self._seen(request), set(request.exclude)
        proposed = [(source, iter(source.items(self, request))) for source in self.sources]
        found: dict[str, str] = {}

        def take(source: str, items: Iterator[str], quota: int) -> None:
            room = min(quota, self.limit - len(found))
            while room > 0 and (item := next(items, None)) is not None:
                row = live.get(item, 0)
                if not row or ends[row] <= at or item in seen or item in exclude:
                    continue
                if item not in found:
                    found[item] = source
                    room -= 1

        for source, items in proposed:
            take(source.name, items, self.quotas[source.name])
        for source, items in proposed:
            if source.fills:
                take(source.name, items, self.limit)
        take("fresh", catalogue.newest(at), self.limit)
        return found

    def top(self, scorer: str, user: str) -> Iterator[str]:
        """A scorer's items in falling score; more are asked for only when they are needed."""
        learned = self.memory.scorer(scorer)
        given, n = 0, self.limit
        while learned is not None:
            items = learned.top(user, n)
            yield from items[given:]
            if len(items) < n:
                return
            given, n = n, 4 * n

    def _features(self, request: Request, items: Sequence[str], rows: NDArray[np.intp]) -> Doubles:
        """What is known about each item, shape (n, len(features)), before standardising."""
        x = np.empty((len(self.features), len(items)), np.float64)
        if items:
            cosines = self.content.cosines(request.user, rows)
            exposure = self.memory.exposure.read(items)
            inputs = FeatureInputs(request, items, rows, self, cosines, exposure)
            for i, feature in enumerate(self.features):
                x[i] = feature.values(inputs)
        return x.T
