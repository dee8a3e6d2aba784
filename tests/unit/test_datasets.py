"""Data sets become our event log without loss, and logs in files come back as they were."""

import gzip
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agents.click_models import PositionBasedModel
from models.events import (
    MAX_MESSAGE_BYTES,
    Click,
    Embedding,
    InvalidMessageError,
    Item,
    Message,
    Request,
    Reward,
    encode,
)
from stream.datasets.log_files import read_lines, read_log, write_log
from stream.datasets.movielens import find_movielens, movielens_messages
from stream.datasets.simulated_news import MINUTE, START, TOPICS, news
from tests.support.shared import movielens_folder

MESSAGES = [
    Item(id="a", at=5, title="标题 with\nlines", tags=("x",)),
    Request(id="r", user="ann", at=7),
    Embedding(id="a", encoder="hash", text_hash="0" * 16, vector=b"\x00\xff\x80\n"),
    Click(id="c", user="ann", item="a", at=8),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small MovieLens with its peculiarities: quotes, commas, no year, no genres, one second."""
    films = [
        "movieId,title,genres",
        "1,Toy Story (1995),Adventure|Sci-Fi",
        '2,"American President, The (1995)",Comedy',
        "3,Nosferatu (1922),Horror",
        "4,Moonlight,(no genres listed)",
    ]
    ratings = [
        "userId,movieId,rating,timestamp",
        "2,1,4.0,200",
        "1,2,3.5,100",
        "1,1,5.0,100",
        "1,3,0.5,300",
    ]
    tags = ["userId,movieId,tag,timestamp", "1,1,fun,1", "2,1,Fun,2", "1,1,pixar,3", '1,2,"a,b",4']
    for name, lines in {"movies": films, "ratings": ratings, "tags": tags}.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


@pytest.fixture(params=["log.jsonl", "log.jsonl.gz", "log.parquet"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / request.param


def test_films_come_first_with_year_genres_and_tags(folder: Path) -> None:
    toy, president, old, moonlight = list(movielens_messages(folder, user_tags=5))[:4]
    assert isinstance(toy, Item) and isinstance(old, Item) and isinstance(moonlight, Item)
    assert (toy.id, toy.title, toy.at) == ("film:1", "Toy Story (1995)", 788_918_400_000)
    assert (toy.tags, toy.text) == (("adventure", "sci-fi"), "fun, pixar")
    assert toy.attributes == {"year": 1995.0}
    assert isinstance(president, Item) and president.text == "a,b"
    assert president.title == "American President, The (1995)"
    assert (old.at, old.attributes) == (0, {"year": 1922.0})
    assert (moonlight.at, moonlight.tags, moonlight.attributes) == (0, (), {})


def test_tags_known_in_hindsight_are_left_out_unless_asked_for(folder: Path) -> None:
    assert {item.text for item in movielens_messages(folder) if isinstance(item, Item)} == {""}


def test_ratings_follow_in_time_order_as_clicks_and_rewards(folder: Path) -> None:
    assert list(movielens_messages(folder))[4:] == [
        Click(id="rating:1:1", user="user:1", item="film:1", at=100_000),
        Reward(id="rating:1:2", user="user:1", item="film:2", at=100_001, value=-0.5),
        Click(id="rating:2:1", user="user:2", item="film:1", at=200_000),
        Reward(id="rating:1:3", user="user:1", item="film:3", at=300_000, value=-3.5),
    ]


def test_a_missing_column_is_named(folder: Path) -> None:
    (folder / "movies.csv").write_text("movieId,title\n1,x\n")
    with pytest.raises(ValueError, match=r"movies\.csv lacks the columns genres"):
        list(movielens_messages(folder))


def test_a_short_line_is_named(folder: Path) -> None:
    (folder / "movies.csv").write_text("movieId,title,genres\n1,x\n")
    with pytest.raises(ValueError, match=r"movies\.csv:2: too few columns"):
        list(movielens_messages(folder))


def test_a_rating_that_is_no_number_is_an_error(folder: Path) -> None:
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,good,5\n")
    with pytest.raises(ValueError, match=r"ratings\.csv"):
        list(movielens_messages(folder))


def test_movielens_is_looked_for_where_it_was_said_and_beside_the_project(folder: Path) -> None:
    here = folder / "project"
    here.mkdir()
    assert find_movielens(here=here) is None
    beside = folder / "shared" / "data" / "movielens-latest-small"
    inside = here / "data" / "movielens-latest-small"
    for place in (beside, inside):
        place.mkdir(parents=True)
        (place / "ratings.csv").touch()
        found = find_movielens(here=here)
        assert found and found.resolve() == place.resolve()
    assert find_movielens(folder, here) == folder
    assert find_movielens(folder / "shared" / "data", here) == beside
    with pytest.raises(FileNotFoundError, match=r"no ratings\.csv or ratings\.dat or u\.data in"):
        find_movielens(folder / "elsewhere", here)


@pytest.mark.shared
def test_the_real_films_are_all_there_and_no_two_ratings_share_a_time() -> None:
    real = movielens_folder()
    if real is None:
        pytest.skip("MovieLens is not here: no ./data or ../shared/data/movielens-latest-small")
    events: list[Any] = list(movielens_messages(real))
    items, ratings = events[:9_742], events[9_742:]
    assert {type(item) for item in items} == {Item}
    assert (len(ratings), sum(isinstance(r, Click) for r in ratings)) == (100_836, 48_580)
    times = [rating.at for rating in ratings]
    assert all(a < b for a, b in pairwise(times))


def test_a_log_comes_back_as_it_was(path: Path) -> None:
    assert write_log(path, MESSAGES) == 4
    assert list(read_log(path)) == MESSAGES
    assert [data for _, data in read_lines(path)] == [encode(message) for message in MESSAGES]
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_an_empty_log_is_a_log(path: Path) -> None:
    assert write_log(path, []) == 0
    assert list(read_log(path)) == []


def test_a_log_is_written_whole_or_not_at_all(path: Path) -> None:
    def broken() -> Iterator[Message]:
        yield MESSAGES[0]
        raise RuntimeError("power cut")

    write_log(path, MESSAGES)
    with pytest.raises(RuntimeError, match="power cut"):
        write_log(path, broken())
    assert list(read_log(path)) == MESSAGES
    assert [child.name for child in path.parent.iterdir()] == [path.name]


def test_progress_counts_every_message(path: Path) -> None:
    messages = [Click(id=str(i), user="u", item="a", at=i) for i in range(2_500)]
    written: list[int] = []
    read: list[int] = []
    write_log(path, messages, written.append)
    assert len(list(read_log(path, read.append))) == 2_500
    assert written == read == [1_000, 2_000, 2_500]


def test_parquet_can_be_queried_by_type_and_time(tmp_path: Path) -> None:
    write_log(tmp_path / "log.parquet", MESSAGES)
    table = pq.read_table(tmp_path / "log.parquet", columns=["type", "at"])
    assert table.to_pydict() == {
        "type": ["item", "request", "embedding", "click"],
        "at": [5, 7, None, 8],
    }


@pytest.mark.parametrize("name", ["log.csv", "log", "log.parquet.gz"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"a log is a \.jsonl"):
        write_log(tmp_path / name, MESSAGES)
    with pytest.raises(ValueError, match=r"a log is a \.jsonl"):
        list(read_log(tmp_path / name))


def test_a_bad_line_is_named_after_the_good_ones_were_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(encode(MESSAGES[1]) + b'\r\n\n{"type":"click"}\n')
    log = read_log(path)
    assert next(log) == MESSAGES[1]
    with pytest.raises(InvalidMessageError, match=r"log\.jsonl:3: .*missing required field"):
        next(log)


def test_a_last_line_needs_no_end(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"\n".join(encode(message) for message in MESSAGES))
    assert list(read_log(path)) == MESSAGES


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(20):
            file.write(b"x" * MAX_MESSAGE_BYTES)
    with pytest.raises(
        InvalidMessageError, match=r"log\.jsonl\.gz:1: a line has at most 1,000,000 bytes"
    ):
        next(read_lines(path))


def test_a_line_of_the_greatest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"x" * MAX_MESSAGE_BYTES + b"\r\n" + b"y\n")
    assert [len(data) for _, data in read_lines(path)] == [MAX_MESSAGE_BYTES, 1]


def test_a_cut_off_gzip_file_is_an_error_not_an_end(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    write_log(path, MESSAGES * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidMessageError, match=r"log\.jsonl\.gz:\d+: "):
        list(read_log(path))


def test_what_is_no_parquet_of_messages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(InvalidMessageError, match=r"log\.parquet: "):
        list(read_log(path))
    pq.write_table(pa.table({"other": [1]}), path)
    with pytest.raises(InvalidMessageError, match="no column `message`"):
        list(read_log(path))
    pq.write_table(pa.table({"message": [encode(MESSAGES[0]), None]}), path)
    with pytest.raises(InvalidMessageError, match=r"log\.parquet:2: `message` is not bytes"):
        list(read_log(path))


def test_news_arrives_over_time_in_two_languages_on_all_topics() -> None:
    made = news(400, 20, seed=3)
    assert [item.at for item in made.items] == [START + i * MINUTE for i in range(400)]
    chinese = [item for item in made.items if item.language == "zh"]
    assert 140 < len(chinese) < 260
    assert all(any("\u4e00" <= c <= "\u9fff" for c in item.title) for item in chinese)
    assert all(item.title.isascii() for item in made.items if item.language == "en")
    assert {tag for item in made.items for tag in item.tags} >= set(TOPICS)


def test_news_is_the_same_for_the_same_seed_alone() -> None:
    assert news(50, 5, seed=1).items == news(50, 5, seed=1).items
    assert news(50, 5, seed=1).items != news(50, 5, seed=2).items


def test_readers_of_the_news_truly_like_some_articles_and_not_others() -> None:
    made = news(300, 30)
    click_model = PositionBasedModel(made.tastes, made.topics)
    chances = [[click_model.probability(u, i.id, 0) for i in made.items] for u in made.tastes]
    assert all(max(row) > 0.5 and min(row) < 0.1 for row in chances)
    assert all(sum(p > 0.5 for p in row) < 150 for row in chances), "nobody likes everything"
