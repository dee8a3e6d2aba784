"""Retrieval: a request's candidates with the features they are judged on."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import islice

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.base import Doubles, Scorer
from models.catalogue import TAG_BUCKETS, Catalogue
from models.content import Content
from models.events import Features, Request
from models.memory import Memory

MILLIS_A_DAY = 86_400_000

FEATURES = (
    "popularity",  # log(1 + decayed count)
    "knn",  # the memory's scorers of these names, 0 where there is none
    "knn_long",
    "mf",
    "content",  # cosine of the text with the mean of the user's last likes,
    "nearest",  # with the nearest of them,
    "latest",  # with the latest of them
    "rate",  # smoothed reward a look
    "shown",  # log(1 + times shown to anybody)
    "repeats",  # log(1 + times shown to this user without a click)
    "age",  # log(1 + days since the item's `at`)
    "tags",  # mean share of the item's tags in the user's last likes
    "text",  # 1 with an embedding, else 0
)

# A source's share of the candidates; what one can't fill goes to the others, in this order.
# On the film log (2,907 likes, hashed titles, items without dates) a place given to knn held the
# next like three times as often as one given to popular, seven times as often as content. The
# places of fresh and explore are for what nobody has shown yet; that log can't judge them.
SHARES = {"knn": 0.4, "mf": 0.25, "content": 0.1, "popular": 0.15, "fresh": 0.05, "explore": 0.05}


class Candidates(Struct, frozen=True):
    """What may be chosen for one request, in falling order of nothing: sorted by item id.

    `x` is z-scored within the request and rounded to 4 decimals, shape (n, len(names));
    `text` is the projected embedding, shape (n, d), zeros where there is none. `places` are those
    in the request's own list, if it has one.
    """

    names: tuple[str, ...]
    items: tuple[str, ...]
    sources: tuple[str, ...]
    x: Doubles
    tags: tuple[tuple[str, ...], ...]
    text: Doubles
    places: tuple[int, ...] = ()

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


class Retrieval:
    """Finds what could be recommended, and says what is known about it.

    The request's own candidates (all of them; unknown ids keep default features), or up to `limit`
    items from several sources; never what is excluded, deleted, expired or, unless `repeat_seen`,
    already in the user's history. Reads the memory and the catalogue, and changes neither.

    >>> from models.events import Item
    >>> catalogue, memory = Catalogue(encoder="", dimensions=1), Memory(None, {})
    >>> catalogue.fold_item(0, Item(id="film", at=0))
    >>> retrieval = Retrieval(memory, catalogue, Content(catalogue, memory.histories))
    >>> found = retrieval(Request(id="r", user="ann", at=9))
    >>> found.items, found.sources, found.x.shape
    (('film',), ('fresh',), (1, 13))
    """

    def __init__(
        self,
        memory: Memory,
        catalogue: Catalogue,
        content: Content,
        limit: int = 100,
        repeat_seen: bool = False,
        shares: Mapping[str, float] = SHARES,
        recent: int = 20,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}; 100 is usual")
        self.memory = memory
        self.catalogue = catalogue
        self.content = content
        self.limit = limit
        self.repeat_seen = repeat_seen
        self.quotas = {source: round(share * limit) for source, share in shares.items()}
        self.recent = recent

    def __call__(self, request: Request) -> Candidates:
        """The candidates of a request, possibly none."""
        found = self._own(request) if request.candidates is not None else self._found(request)
        items = sorted(found)
        rows = self.catalogue.find(items)
        places = {item: n for n, item in enumerate(dict.fromkeys(request.candidates or ()))}
        return Candidates(
            names=FEATURES,
            items=tuple(items),
            sources=tuple(found[item] for item in items),
            x=standardised(self._features(request, items, rows)),
            tags=tuple(self.catalogue.tags[row] for row in rows.tolist()),
            text=self.catalogue.text[rows],
            places=tuple(places[item] for item in items) if places else (),
        )

    def _own(self, request: Request) -> dict[str, str]:
        seen, exclude = self._seen(request.user), set(request.exclude)
        return {
            item: "request"
            for item in request.candidates or ()
            if item not in seen
            and item not in exclude
            and not self.catalogue.withdrawn(item, request.at)
        }

    def _seen(self, user: str) -> Container[str]:
        return () if self.repeat_seen else self.memory.histories.seen(user)

    def _found(self, request: Request) -> dict[str, str]:
        """Items and which source proposed them first: each up to its quota, then what is left."""
        catalogue, at = self.catalogue, request.at
        live, ends = catalogue.live, catalogue.ends
        seen, exclude = self._seen(request.user), set(request.exclude)
        sources = {source: iter(proposed) for source, proposed in self._sources(request)}
        found: dict[str, str] = {}

        def take(source: str, proposed: Iterator[str], quota: int) -> None:
            room = min(quota, self.limit - len(found))
            while room > 0 and (item := next(proposed, None)) is not None:
                row = live.get(item, 0)
                if not row or ends[row] <= at or item in seen or item in exclude:
                    continue
                if item not in found:
                    found[item] = source
                    room -= 1

        for source, proposed in sources.items():
            take(source, proposed, self.quotas[source])
        sources.pop("explore", None)  # no more than its quota
        for source, proposed in sources.items():
            take(source, proposed, self.limit)
        take("fresh", catalogue.newest(at), self.limit)
        return found

    def _sources(self, request: Request) -> Iterator[tuple[str, Iterable[str]]]:
        user = request.user
        for source in self.quotas:
            if source == "content":
                yield source, self.content.nearest(user)
            elif source == "popular":
                yield source, self._ranked(self.memory.popularity, user)
            elif source == "fresh":
                yield source, self._fresh(request)
            elif source == "explore":
                yield source, self._explore(request)
            else:
                yield source, self._ranked(self.memory.scorers.get(source), user)

    def _ranked(self, scorer: Scorer | None, user: str) -> Iterator[str]:
        """A scorer's items in falling score; more are asked for only when they are needed."""
        given, n = 0, self.limit
        while scorer is not None:
            items = scorer.top(user, n)
            yield from items[given:]
            if len(items) < n:
                return
            given, n = n, 4 * n

    def _fresh(self, request: Request) -> list[str]:
        """Of the newest items, those shown least."""
        newest = list(islice(self.catalogue.newest(request.at), 5 * self.quotas["fresh"]))
        times, _ = self.memory.exposure.read(newest)
        return [item for _, item in sorted(zip(times.tolist(), newest, strict=True))]

    def _explore(self, request: Request) -> Iterator[str]:
        """Any items, so that none is out of reach: chosen by a hash of the request's id."""
        count = self.catalogue.size
        drawn = blake2b(request.id.encode(), digest_size=64).digest()
        if count:
            for i in range(0, len(drawn), 4):
                yield self.catalogue.aged(int.from_bytes(drawn[i : i + 4], "little") % count)

    def _features(self, request: Request, items: Sequence[str], rows: NDArray[np.intp]) -> Doubles:
        """What is known about each item, shape (n, len(FEATURES)), before standardising."""
        user, memory, catalogue = request.user, self.memory, self.catalogue
        x = np.zeros((len(FEATURES), len(items)), np.float64)
        if not items:
            return x.T
        repeats = memory.histories.repeats(user)
        shown, rate = memory.exposure.read(items)
        age = (request.at - catalogue.at[rows]) / MILLIS_A_DAY
        x[0] = _log(self._scored(memory.popularity, user, items))
        for i, name in enumerate(("knn", "knn_long", "mf"), 1):
            x[i] = self._scored(memory.scorers.get(name), user, items)
        x[4], x[5], x[6] = self.content.cosines(user, rows)
        x[7] = rate
        x[8] = _log(shown)
        if repeats:
            x[9] = _log(np.array([repeats.get(item, 0) for item in items], np.float64))
        x[10] = _log(np.where(rows > 0, age, 0.0))
        x[11] = self._affinity(user, rows)
        x[12] = catalogue.lengths[rows] > 0
        return x.T

    def _scored(self, scorer: Scorer | None, user: str, items: Sequence[str]) -> Doubles:
        if scorer is None:
            return np.zeros(len(items), np.float64)
        return scorer.scores(user, items).astype(np.float64)

    def _affinity(self, user: str, rows: NDArray[np.intp]) -> Doubles:
        """For each item, the mean over its tags of the share of the last likes with that tag."""
        likes = self.catalogue.find(self.memory.histories.positives(user, self.recent))
        if not len(likes):
            return np.zeros(len(rows), np.float64)
        buckets = self.catalogue.tag_buckets
        profile = np.bincount(buckets[likes].ravel(), minlength=TAG_BUCKETS)
        profile[0] = 0
        tags = buckets[rows]
        count = np.maximum((tags > 0).sum(axis=1), 1)
        return profile[tags].sum(axis=1) / count / len(likes)


def _log(counts: Doubles) -> Doubles:
    return np.log1p(np.maximum(counts, 0.0))
