"""MovieLens as our event log: films, tags and ratings as items, clicks and rewards."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from models.events import Click, Item, Reward

LIKED = 4.0  # a rating from which a film counts as clicked
_YEAR = re.compile(r"\((\d{4})\)\s*$")


def find_movielens(given: Path | None = None, here: Path = Path()) -> Path | None:
    """The folder of MovieLens' small data set: `given`, else ./data, else ../shared/data.

    >>> find_movielens(here=Path("/nowhere")) is None
    True
    """
    name = "movielens-latest-small"
    if given is not None:
        for folder in (given, given / name):
            if (folder / "ratings.csv").is_file():
                return folder
        raise FileNotFoundError(
            f"no ratings.csv in {given} or {given / name}; unpack MovieLens there"
        )
    for folder in (here / "data" / name, here / ".." / "shared" / "data" / name):
        if (folder / "ratings.csv").is_file():
            return folder
    return None


def movielens_messages(folder: Path, *, user_tags: int = 0) -> Iterator[Item | Click | Reward]:
    """All films as items, then all ratings in the order of (time, user, film).

    Four stars or more are a `Click`, fewer a `Reward` of stars - 4; neither has a request. Ratings
    have whole seconds: those of one second follow each other by a millisecond, so that times are
    distinct. A film's `at` is its year, and genres are its tags. Its `user_tags` most given tags
    are its text: none, unless asked for, as they are known in hindsight only.
    """
    yield from films(folder, user_tags=user_tags)
    yield from ratings(folder)


def films(folder: Path, *, user_tags: int = 0) -> Iterator[Item]:
    """Every film as an item, in the file's order."""
    given: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for row in _rows(folder / "tags.csv", "movieId", "tag") if user_tags else ():
        tag = row["tag"].strip().lower()
        given[row["movieId"]][tag] += 1
        overall[tag] += 1
    for row in _rows(folder / "movies.csv", "movieId", "title", "genres"):
        tags = given.get(row["movieId"], Counter())
        best = sorted(tags, key=lambda tag: (-tags[tag], -overall[tag], tag))[:user_tags]
        year = _YEAR.search(row["title"])
        start = datetime(int(year[1]), 1, 1, tzinfo=UTC).timestamp() if year else 0
        genres = row["genres"] if row["genres"] != "(no genres listed)" else ""
        yield Item(
            id=f"film:{row['movieId']}",
            at=max(0, int(start * 1000)),
            title=row["title"].strip(),
            text=", ".join(best),
            language="en",
            tags=tuple(genre.lower() for genre in genres.split("|") if genre),
            attributes={"year": float(year[1])} if year else {},
        )


def ratings(folder: Path) -> Iterator[Click | Reward]:
    """Every rating as a click or a reward, in the order of (time, user, film)."""
    path = folder / "ratings.csv"
    types = {"userId": pa.int64(), "movieId": pa.int64(), "rating": pa.float64()}
    options = pyarrow.csv.ConvertOptions(
        column_types={**types, "timestamp": pa.int64()}, include_columns=[*types, "timestamp"]
    )
    try:
        table = pyarrow.csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise ValueError(f"{path}: {error}") from None
    order = [(name, "ascending") for name in ("timestamp", "userId", "movieId")]
    second, same = -1, 0
    for batch in table.sort_by(order).to_batches(1_000):
        for row in batch.to_pylist():
            same = min(same + 1, 999) if row["timestamp"] == second else 0
            second = row["timestamp"]
            user, film = f"user:{row['userId']}", f"film:{row['movieId']}"
            at, name = second * 1000 + same, f"rating:{row['userId']}:{row['movieId']}"
            if row["rating"] >= LIKED:
                yield Click(id=name, user=user, item=film, at=at)
            else:
                yield Reward(id=name, user=user, item=film, at=at, value=row["rating"] - LIKED)


def _rows(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = sorted(set(columns) - set(reader.fieldnames or ()))
        if missing:
            raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
        for row in reader:
            if any(row[column] is None for column in columns):
                raise ValueError(f"{path}:{reader.line_num}: too few columns")
            yield row
