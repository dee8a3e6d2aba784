"""MovieLens as our event log: films, tags and ratings as items, clicks and rewards."""

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.events import Click, Item, Reward
from stream.datasets.log_files import encode_checked
from stream.datasets.source_files import Row, csv_rows, find_folder, separated_rows

LIKED = 4.0  # a rating from which a film counts as clicked
LEAST, MOST = 0.5, 5.0  # stars
LAST = 4_102_444_800  # seconds to the year 2100; later times have another unit
EVERY = 10_000  # ratings that are messages at once
_YEAR = re.compile(r"\(([12][0-9]{3})\)\s*$")

Ints = NDArray[np.int64]

_RATINGS = ("userId", "movieId", "rating", "timestamp")
_FILMS = ("movieId", "title", "genres")
_TAGS = ("userId", "movieId", "tag", "timestamp")
# Flags in u.item, in the order of u.genre, after that of an unknown one.
_GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary"),
    *("Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi"),
    *("Thriller", "War", "Western"),
)
_FLAGGED = ("movieId", "title", "released", "video", "url", "unknown", *_GENRES)
_SEPARATORS = {".dat": "::", ".data": "\t", ".item": "|"}  # of files without a header


class Layout(Struct, frozen=True):
    """The files of one way in which MovieLens was published."""

    ratings: str
    films: str
    tags: str


LAYOUTS = (
    Layout("ratings.csv", "movies.csv", "tags.csv"),  # latest, latest-small, 20M, 25M, 32M
    Layout("ratings.dat", "movies.dat", "tags.dat"),  # 1M (which has no tags), 10M
    Layout("u.data", "u.item", ""),  # 100K
)


def find_movielens(given: Path | None = None, here: Path = Path()) -> Path | None:
    """A folder of MovieLens: `given`, or one in it; else the small one in ./data or ../shared/data.

    >>> find_movielens(here=Path("/nowhere")) is None
    True
    """
    name = "movielens-latest-small"
    if given is not None:
        wanted = " or ".join(layout.ratings for layout in LAYOUTS)
        return find_folder(given, lambda one: _layout(one) is not None, wanted, "MovieLens")
    for folder in (here / "data" / name, here / ".." / "shared" / "data" / name):
        if (folder / "ratings.csv").is_file():
            return folder
    return None


def movielens_messages(folder: Path, *, user_tags: int = 0) -> Iterator[Item | Click | Reward]:
    """All films as items, then all ratings in the order of (time, user, film).

    Four stars or more are a `Click`, fewer a `Reward` of stars - 4; neither has a request. Ratings
    have whole seconds: those of one second follow each other by a millisecond, so that times are
    distinct. A film's `at` is its year, and genres are its tags. Its `user_tags` most given tags
    are its text: none, unless asked for, as they are known in hindsight only. A ValueError names
    the file and line of what cannot be one.
    """
    layout = _layout(folder) or LAYOUTS[0]
    yield from _films(folder, layout, user_tags)
    yield from _ratings(folder / layout.ratings)


def _layout(folder: Path) -> Layout | None:
    return next((one for one in LAYOUTS if (folder / one.ratings).is_file()), None)


def _films(folder: Path, layout: Layout, user_tags: int) -> Iterator[Item]:
    """Every film as an item, in the file's order."""
    given: dict[int, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for row in _tags(folder, layout) if user_tags else ():
        tag = row.text("tag").lower()
        given[row.whole("movieId")][tag] += 1
        overall[tag] += 1
    seen: set[int] = set()
    path = folder / layout.films
    for row in _rows(path, _FLAGGED if path.suffix == ".item" else _FILMS):
        film = row.whole("movieId")
        if film in seen:
            raise row.error(f"movieId {film} is there twice; keep one")
        seen.add(film)
        tags = given.get(film, Counter())
        best = sorted(tags, key=lambda tag: (-tags[tag], -overall[tag], tag))[:user_tags]
        year = _YEAR.search(row.text("title"))
        start = datetime(int(year[1]), 1, 1, tzinfo=UTC).timestamp() if year else 0
        item = Item(
            id=f"film:{film}",
            at=max(0, int(start * 1000)),
            title=row.text("title"),
            text=", ".join(best),
            language="en",
            tags=_genres(row),
            attributes={"year": float(year[1])} if year else {},
        )
        with row.naming():
            encode_checked(item)
        yield item


def _tags(folder: Path, layout: Layout) -> Iterator[Row]:
    path = folder / layout.tags
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {layout.tags or 'tags'}; leave --user-tags out, or unpack it there"
        )
    return _rows(path, _TAGS)


def _genres(row: Row) -> tuple[str, ...]:
    if "genres" in row.columns:
        names = row.text("genres").replace("(no genres listed)", "").split("|")
    else:
        names = [name for name in _GENRES if row.text(name) == "1"]
    return tuple(name.strip().lower() for name in names if name.strip())


def _ratings(path: Path) -> Iterator[Click | Reward]:
    """Every rating as a click or a reward, in the order of (time, user, film).

    Ratings are held as five numbers each until all are read, and sorted: about 60 bytes a rating.
    """
    users, films, seconds, lines = (array("q") for _ in range(4))
    stars = array("d")
    hint = "; it counts seconds since 1970: divide milliseconds by 1,000"
    for row in _rows(path, _RATINGS):
        users.append(row.whole("userId"))
        films.append(row.whole("movieId"))
        stars.append(row.number("rating", LEAST, MOST))
        seconds.append(row.whole("timestamp", most=LAST, hint=hint))
        lines.append(row.line)
    columns = [np.frombuffer(one, np.int64) for one in (users, films, seconds)]
    _check_distinct(path, columns[0], columns[1], np.frombuffer(lines, np.int64))
    order = np.lexsort((columns[1], columns[0], columns[2]))
    before, same = -1, 0
    for start in range(0, len(order), EVERY):
        some = order[start : start + EVERY]
        parts = [one[some].tolist() for one in (*columns, np.frombuffer(stars, np.float64))]
        for user, film, second, rating in zip(*parts, strict=True):
            same = min(same + 1, 999) if second == before else 0
            before = second
            at, name = second * 1000 + same, f"rating:{user}:{film}"
            who, what = f"user:{user}", f"film:{film}"
            if rating >= LIKED:
                yield Click(id=name, user=who, item=what, at=at)
            else:
                yield Reward(id=name, user=who, item=what, at=at, value=rating - LIKED)


def _check_distinct(path: Path, users: Ints, films: Ints, lines: Ints) -> None:
    """Refuse a second rating of a film by a user: both would have one id."""
    order = np.lexsort((films, users))
    first, second = order[:-1], order[1:]
    again = (users[first] == users[second]) & (films[first] == films[second])
    if again.any():
        row = second[again][lines[second[again]].argmin()]
        raise ValueError(
            f"{path}:{lines[row]}: user {users[row]} has rated film {films[row]} on a line before; "
            "keep one of them"
        )


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    separator = _SEPARATORS.get(path.suffix)
    return separated_rows(path, separator, columns) if separator else csv_rows(path, *columns)
