"""Simulated readers: tastes show in what they read, texts come all day, hits are for all."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest
from click.testing import CliRunner

from models.events import Click, Item
from stream.cli.main import main
from stream.datasets.simulated_readers import simulated_readings


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.csv"
    rows = (f'"topic{i % 20}, question {i}",topic{i % 20}' for i in range(2_000))
    path.write_text("text,category\n" + "\n".join(rows) + "\n")
    return path


def test_a_reader_keeps_to_few_categories_but_for_hits_and_chance(texts: Path):
    log = list(simulated_readings(texts, texts=1_000, readers=20, hits=0.01, seed=3))
    about = {one.id: one.title.split(",")[0] for one in log if isinstance(one, Item)}
    clicks = [one for one in log if isinstance(one, Click)]
    read = Counter(one.item for one in clicks)
    by_reader = defaultdict[str, list[str]](list)
    for one in clicks:
        if read[one.item] <= 8:  # no hit
            by_reader[one.user].append(about[one.item])
    assert len(by_reader) == 20
    for topics in by_reader.values():
        three = sum(n for _, n in Counter(topics).most_common(3))
        assert three / len(topics) > 0.6  # of 20; by chance about a third


def test_hits_are_read_by_many_and_most_texts_by_few(texts: Path):
    log = simulated_readings(texts, texts=1_000, readers=40, hits=0.01, seed=3)
    times = sorted(Counter(one.item for one in log if isinstance(one, Click)).values())
    assert times[-10] > 15
    assert times[len(times) // 2] < 10


def test_nothing_is_read_before_it_is_there_nor_twice_by_one(texts: Path):
    log = list(simulated_readings(texts, texts=300, readers=10))
    there = {one.id: one.at for one in log if isinstance(one, Item)}
    clicks = [one for one in log if isinstance(one, Click)]
    assert all(one.at >= there[one.item] for one in clicks)
    assert len({(one.user, one.item) for one in clicks}) == len(clicks)
    assert clicks == sorted(clicks, key=lambda one: one.at)


def test_equal_seeds_give_equal_logs_and_others_others(texts: Path):
    logs = [list(simulated_readings(texts, texts=100, readers=5, seed=seed)) for seed in (1, 1, 2)]
    assert logs[0] == logs[1] != logs[2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("question,category\na,b\n", "lacks the columns text"),
        ("text,category\na\n", ":2: too few columns"),
        ("text,category\na,\n", ":2: a text and its category are needed"),
        ("text,category\n", "holds no row"),
    ],
)
def test_a_file_that_is_no_table_of_texts_is_refused_in_a_line(
    tmp_path: Path, content: str, says: str
):
    (tmp_path / "bad.csv").write_text(content)
    done = CliRunner().invoke(
        main, ["import", "readers", str(tmp_path / "bad.csv"), str(tmp_path / "out.jsonl")]
    )
    assert done.exit_code == 1
    assert says in done.output
    assert not (tmp_path / "out.jsonl").exists()
