"""Data sets as people send them: imported as meant, or refused in a line that names the place."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.events import (
    Click,
    InvalidMessageError,
    Item,
    Message,
    Outcome,
    OutcomeSlot,
    Reward,
    Source,
    Tick,
    encode,
)
from stream.cli.main import main
from stream.datasets.log_files import read_log, write_log
from stream.datasets.movielens import movielens_messages
from stream.datasets.open_bandit import open_bandit_messages
from stream.settings import Settings
from tests.support.shared import SHARED

CASES = SHARED / "cases" / "hand" / "files"
BOM = b"\xef\xbb\xbf"
FILMS = "movieId,title,genres\n1,Toy Story (1995),Adventure\n2,Amélie (2001),Comedy|Romance\n"
RATINGS = "userId,movieId,rating,timestamp\n1,1,4.0,100\n2,2,3.5,200\n"
ROWS = "timestamp,item_id,position,click,propensity_score," + ",".join(
    f"user_feature_{i}" for i in range(4)
)
ROW = "2019-11-24 00:00:03.800821+00:00,{item},{position},{click},{propensity},a,b,c,d"
CONTEXT = ",item_id,item_feature_0,item_feature_1\n0,0,0.5,x\n1,1,-0.5,y\n"

given_files = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def rankloop(*arguments: object) -> Result:
    return CliRunner().invoke(
        main, [str(one) for one in arguments], env={"RANKLOOP_ENCODER": "hash"}
    )


def imported(kind: str, folder: Path, out: Path, *options: object) -> list[Any]:
    """The messages of an import that goes well."""
    done = rankloop("import", kind, folder, out, *options)
    assert done.exit_code == 0, done.output
    return list(read_log(out))


def refused(kind: str, folder: Path, out: Path, *options: object) -> str:
    """What an import says that ends in one line, and leaves nothing."""
    done = rankloop("import", kind, folder, out, *options)
    assert done.exit_code == 1, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert not out.exists() and not list(out.parent.glob("*.part"))
    (said,) = done.stderr.splitlines()
    return said


def movielens(folder: Path, films: str | bytes = FILMS, ratings: str | bytes = RATINGS) -> Path:
    return files(folder, {"movies.csv": films, "ratings.csv": ratings})


def open_bandit(
    folder: Path, *, context: str = CONTEXT, head: str = ROWS, at: str = "", **cells: object
) -> Path:
    """Two rows of each policy; the second has the given cells."""
    usual = {"item": 1, "position": 2, "click": 1, "propensity": 0.5}
    first, second = ROW.format(**usual), ROW.format(**{**usual, **cells})
    if at:
        second = at + second[second.index(",") :]
    for policy in ("random", "bts"):
        table = f"{head}\n{first}\n{second}\n"
        files(folder / policy, {"men.csv": table, "item_context.csv": context})
    return folder


def files(folder: Path, contents: Mapping[str, str | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def usual(tmp_path: Path) -> list[Any]:
    """What the usual small MovieLens holds."""
    return list(movielens_messages(movielens(tmp_path / "usual")))


# The files that were sent, one test each.


@pytest.fixture
def cases() -> Path:
    if not CASES.is_dir():
        pytest.skip("needs the inputs in ../shared/cases")
    return CASES


@pytest.mark.shared
@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("movielens_milliseconds", r"ratings.csv:2: timestamp must be a whole number"),
        ("movielens_latin1", r"movies.csv:3: byte 0xe9 is no UTF-8"),
        ("movielens_no_user", r"ratings.csv:4: userId must be a whole number"),
        ("movielens_nan_rating", r"ratings.csv:4: rating must be a number from 0.5 to 5"),
        ("open_bandit_propensity_0", r"men.csv:7: propensity_score must be above 0"),
        ("open_bandit_propensity_missing", r"men.csv:7: propensity_score must be a number"),
        ("open_bandit_positions_from_0", r"men.csv:2: position must be a whole number from 1"),
    ],
)
def test_a_case_is_refused_with_file_and_line(
    cases: Path, tmp_path: Path, case: str, says: str
) -> None:
    kind = "movielens" if case.startswith("movielens") else "open-bandit"
    assert says in refused(kind, cases / case, tmp_path / "log.jsonl")


@pytest.mark.shared
@pytest.mark.parametrize("case", ["movielens_bom", "open_bandit_as_published"])
def test_a_case_is_read_as_the_same_data_without_a_fault(
    cases: Path, tmp_path: Path, case: str
) -> None:
    kind, ok = (
        ("movielens", "movielens_ok")
        if case.startswith("movielens")
        else ("open-bandit", "open_bandit_ok")
    )
    expected = imported(kind, cases / ok, tmp_path / "ok.jsonl")
    assert imported(kind, cases / case, tmp_path / "log.jsonl") == expected


@pytest.mark.shared
def test_the_case_of_movielens_1m_has_the_films_of_the_others(cases: Path, tmp_path: Path) -> None:
    found = imported("movielens", cases / "movielens_1m", tmp_path / "log.jsonl")
    expected = imported("movielens", cases / "movielens_ok", tmp_path / "ok.jsonl")
    assert found[:6] == expected[:6] and found[1].title == "Amélie's Garden (2001)"
    assert [one.id for one in found] == [one.id for one in expected]


@pytest.mark.shared
def test_the_case_of_a_log_with_a_byte_order_mark_is_read(cases: Path) -> None:
    assert list(read_log(cases / "log_bom.jsonl")) == list(read_log(cases / "log_ok.jsonl"))


@pytest.mark.shared
def test_the_case_of_times_without_a_zone_gives_the_same_bytes_anywhere(
    cases: Path, tmp_path: Path
) -> None:
    folder, logs = cases / "open_bandit_times_without_zone", list[bytes]()
    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        out = tmp_path / f"{len(logs)}.jsonl"
        subprocess.run(
            [sys.executable, "-m", "stream", "import", "open-bandit", folder, out],
            env={**os.environ, "TZ": zone},
            check=True,
            capture_output=True,
        )
        logs.append(out.read_bytes())
    assert logs[0] == logs[1] == logs[2]
    assert json.loads(logs[0].splitlines()[6])["at"] == 1_574_553_603_000


# MovieLens: layouts, encodings, separators.

LATIN = "Amélie (2001)".encode("latin-1")
LAYOUTS: dict[str, dict[str, str | bytes]] = {
    "1m": {
        "movies.dat": b"1::Toy Story (1995)::Adventure\n2::" + LATIN + b"::Comedy|Romance\n",
        "ratings.dat": "1::1::4::100\n2::2::3.5::200\n",
        "users.dat": "1::F::1::10::00000\n",
    },
    "10m": {
        "movies.dat": "1::Toy Story (1995)::Adventure\r\n2::Amélie (2001)::Comedy|Romance\r\n\r\n",
        "ratings.dat": "1::1::4::100\r\n2::2::3.5::200\r\n",
        "tags.dat": "1::1::Pixar::5\n",
    },
    "100k": {
        "u.item": b"1|Toy Story (1995)|01-Jan-1995||http://a|0|0|1|" + b"|".join([b"0"] * 16)
        + b"\n2|" + LATIN + b"|01-Jan-2001||http://b|0|0|0|0|0|1|0|0|0|0|0|0|0|0|1|0|0|0|0\n",
        "u.data": "1\t1\t4\t100\n2\t2\t3.5\t200\n",
        "u.user": "1|24|M|technician|85711\n",
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_published_layout_of_movielens_is_read(
    tmp_path: Path, usual: list[Any], layout: str
) -> None:
    folder = files(tmp_path / layout, LAYOUTS[layout])
    assert imported("movielens", folder, tmp_path / "log.jsonl") == usual


def test_tags_are_read_where_there_are_any(tmp_path: Path) -> None:
    folder = files(tmp_path / "ml-10m", LAYOUTS["10m"])
    found = imported("movielens", folder, tmp_path / "log.jsonl", "--user-tags", 3)
    assert found[0].text == "pixar"
    folder = files(tmp_path / "ml-1m", LAYOUTS["1m"])
    said = refused("movielens", folder, tmp_path / "no.jsonl", "--user-tags", 3)
    assert "has no tags.dat; leave --user-tags out" in said


def marked(text: str) -> bytes:
    return BOM + text.encode()


def unchanged(text: str) -> str:
    return text


SPELLINGS: dict[str, tuple[Callable[[str], str | bytes], Callable[[str], str | bytes]]] = {
    "marks": (marked, marked),
    "line ends of Windows": (lambda t: t.replace("\n", "\r\n"), lambda t: t.replace("\n", "\r\n")),
    "line ends of old Macs": (lambda t: t.replace("\n", "\r"), lambda t: t.replace("\n", "\r")),
    "semicolons": (lambda t: t.replace(",", ";"), lambda t: t.replace(",", ";")),
    "tabs": (lambda t: t.replace(",", "\t"), unchanged),
    "blank lines": (lambda t: "\n" + t + "\n  \n", lambda t: t.replace("\n", "\n\n")),
    "no last line end": (str.rstrip, str.rstrip),
    "blanks": (lambda t: t.replace(",", " , "), lambda t: t.replace(",", ", ")),
    "quotation marks": (lambda t: t.replace("1,", '"1",'), lambda t: t.replace("4.0", '"4.0"')),
    "more columns": (
        lambda t: t.replace("\n", ",x\n"),
        lambda t: t.replace("\n", ",\n").replace("timestamp,", "timestamp,source"),
    ),
    "another order": (
        lambda t: "".join(",".join(x.split(",")[::-1]) + "\n" for x in t.splitlines()),
        lambda t: "".join(",".join(x.split(",")[::-1]) + "\n" for x in t.splitlines()),
    ),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_of_csv_mean_the_same(
    tmp_path: Path, usual: list[Any], spelling: str
) -> None:
    of_films, of_ratings = SPELLINGS[spelling]
    folder = movielens(tmp_path / "ml", of_films(FILMS), of_ratings(RATINGS))
    assert imported("movielens", folder, tmp_path / "log.jsonl") == usual


def test_lines_are_counted_as_an_editor_does(tmp_path: Path) -> None:
    films = 'movieId,title,genres\n\n1,"Toy\nStory, the ""first""",Adventure\n\nx,Y,Z\n'
    said = refused("movielens", movielens(tmp_path / "ml", films), tmp_path / "log.jsonl")
    assert "movies.csv:6: movieId must be a whole number" in said
    films = films.replace("x,Y", "2,Y")
    first, *_ = imported("movielens", movielens(tmp_path / "ml", films), tmp_path / "log.jsonl")
    assert first.title == 'Toy\nStory, the "first"'


@pytest.mark.parametrize("within", ["ml-25m", "deep/ml-25m"])
def test_a_folder_around_the_data_set_is_looked_into_once(
    tmp_path: Path, usual: list[Any], within: str
) -> None:
    given = movielens(tmp_path / "given" / within).parent
    assert imported("movielens", given, tmp_path / "log.jsonl") == usual
    files(given / "ml-1m", LAYOUTS["1m"])
    assert "name one of" in refused("movielens", given, tmp_path / "no.jsonl")


FAULTS: list[tuple[str, str | bytes, str | bytes, str]] = [
    ("no user", FILMS, RATINGS.replace("2,2,", ",2,"), "ratings.csv:3: userId must"),
    ("blank user", FILMS, RATINGS.replace("2,2,", "  ,2,"), "ratings.csv:3: userId must"),
    ("no film", FILMS, RATINGS.replace("2,2,", "2,,"), "ratings.csv:3: movieId must"),
    ("no film id", FILMS.replace("2,Am", ",Am"), RATINGS, "movies.csv:3: movieId must"),
    ("float id", FILMS, RATINGS.replace("2,2,", "2.0,2,"), "ratings.csv:3: userId must"),
    ("negative id", FILMS, RATINGS.replace("2,2,", "-2,2,"), "ratings.csv:3: userId must"),
    ("great id", FILMS, RATINGS.replace("2,2,", f"{2**63},2,"), "ratings.csv:3: userId must"),
    ("digits", FILMS, RATINGS.replace("2,2,", "٣,2,"), "ratings.csv:3: userId must"),
    ("NaN", FILMS, RATINGS.replace("3.5", "NaN"), "ratings.csv:3: rating must"),
    ("inf", FILMS, RATINGS.replace("3.5", "-inf"), "ratings.csv:3: rating must"),
    ("no rating", FILMS, RATINGS.replace("3.5", ""), "ratings.csv:3: rating must"),
    ("of ten", FILMS, RATINGS.replace("3.5", "8"), "ratings.csv:3: rating must"),
    ("comma", FILMS, RATINGS.replace("3.5", '"3,5"'), "ratings.csv:3: rating must"),
    ("milliseconds", FILMS, RATINGS.replace("200", "964982000000"), "divide milliseconds"),
    ("microseconds", FILMS, RATINGS.replace("200", "964982000000000"), "ratings.csv:3: timestamp"),
    ("before 1970", FILMS, RATINGS.replace("200", "-5"), "ratings.csv:3: timestamp"),
    ("a date", FILMS, RATINGS.replace("200", "2005-04-02 23:53:47"), "ratings.csv:3: timestamp"),
    ("part of it", FILMS, RATINGS.replace("200", "200.5"), "ratings.csv:3: timestamp"),
    ("twice", FILMS, RATINGS + "3,1,4,9\n1,1,2,300\n", "ratings.csv:5: user 1 has rated film 1"),
    ("film twice", FILMS + "1,Again,Drama\n", RATINGS, "movies.csv:4: movieId 1 is there twice"),
    ("cut off", FILMS, RATINGS + "3,1", "ratings.csv:4: too few columns"),
    ("a comma", FILMS + "3,President, The,Drama\n", RATINGS, "movies.csv:4: too many columns"),
    ("open quote", FILMS + '3,"President, The\n4,X,Y\n', RATINGS, "movies.csv:4: "),
    ("bad quote", FILMS + '3,"President" The,Z\n', RATINGS, "movies.csv:4: "),
    ("no column", FILMS, RATINGS.replace("rating,", "stars,"), "lacks the columns rating"),
    ("column twice", FILMS, RATINGS.replace("userId", "rating,userId"), "rating is there twice"),
    ("no header", FILMS, RATINGS.partition("\n")[2], "ratings.csv lacks the columns movieId, "),
    ("header only", FILMS, RATINGS.partition("\n")[0], "ratings.csv holds no row"),
    ("films: header", FILMS.partition("\n")[0], RATINGS, "movies.csv holds no row"),
    ("empty", FILMS, "", "ratings.csv lacks the columns movieId, rating, timestamp, userId"),
    ("empty films", "\n\n", RATINGS, "movies.csv lacks the columns genres, movieId, title"),
    ("UTF-16", FILMS.encode("utf-16"), RATINGS, "movies.csv is UTF-16"),
    ("UTF-16 BE", BOM[:0] + FILMS.encode("utf-16-be"), RATINGS, "movies.csv is UTF-16"),
    ("UTF-16 rows", FILMS, b"\xfe\xff" + RATINGS.encode("utf-16-be"), "ratings.csv is UTF-16"),
    ("latin-1", FILMS.encode("latin-1"), RATINGS, "movies.csv:3: byte 0xe9 is no UTF-8"),
    ("gzip", FILMS, gzip.compress(RATINGS.encode()), "ratings.csv is compressed by gzip; unpack"),
    ("zip", b"PK\x03\x04rest", RATINGS, "movies.csv is a zip archive; unpack it"),
    ("long title", FILMS + f"3,{'x' * 1_001},Drama\n", RATINGS, "movies.csv:4: "),
    ("long line", FILMS + "3," + "x" * 2_000_000 + ",Drama\n", RATINGS, "movies.csv:4: a line"),
    ("long header", "x" * 500_000 + FILMS, RATINGS, "movies.csv lacks the columns"),
    ("long genre", FILMS + f"3,x,{'x' * 101}\n", RATINGS, "movies.csv:4: "),
]


@pytest.mark.parametrize(
    ("films", "ratings", "says"), [one[1:] for one in FAULTS], ids=[one[0] for one in FAULTS]
)
def test_a_fault_in_movielens_is_named_by_file_and_line(
    tmp_path: Path, films: str | bytes, ratings: str | bytes, says: str
) -> None:
    folder = movielens(tmp_path / "ml", films, ratings)
    assert says in refused("movielens", folder, tmp_path / "log.jsonl")


@pytest.mark.parametrize(
    ("layout", "name", "add", "says"),
    [
        ("1m", "ratings.dat", b"3::1::4\n", "ratings.dat:3: too few columns"),
        ("1m", "ratings.dat", b"3::1::4::5::6\n", "ratings.dat:3: too many columns"),
        ("1m", "ratings.dat", b"::1::4::5\n", "ratings.dat:3: userId must"),
        ("1m", "ratings.dat", b"1::1::4::5\n", "ratings.dat:3: user 1 has rated film 1"),
        ("1m", "movies.dat", b"3::Heat (1995)\n", "movies.dat:3: too few columns"),
        ("100k", "u.data", b"3 1 4 100\n", "u.data:3: too few columns"),
        ("100k", "u.item", b"3|Heat (1995)|||||\n", "u.item:3: too few columns"),
    ],
)
def test_a_fault_in_other_layouts_is_named_by_file_and_line(
    tmp_path: Path, layout: str, name: str, add: bytes, says: str
) -> None:
    folder = files(tmp_path / "ml", LAYOUTS[layout])
    with (folder / name).open("ab") as file:
        file.write(add)
    assert says in refused("movielens", folder, tmp_path / "log.jsonl")


def test_what_is_missing_or_packed_is_said_with_what_to_do(tmp_path: Path) -> None:
    folder = files(tmp_path / "ml", {"ml-25m.zip": b"PK\x03\x04"})
    said = refused("movielens", folder, tmp_path / "log.jsonl")
    assert said.endswith(f"unpack {folder / 'ml-25m.zip'} there")
    files(folder, {"ratings.csv": RATINGS})
    assert "movies.csv: No such file" in refused("movielens", folder, tmp_path / "log.jsonl")
    assert "none is no folder" in refused("movielens", folder, tmp_path / "none" / "log.jsonl")


def test_ratings_of_films_without_a_line_are_counted(tmp_path: Path) -> None:
    folder = movielens(tmp_path / "ml", ratings=RATINGS + "1,7,5,300\n2,7,1,400\n3,8,1,5\n")
    done = rankloop("import", "movielens", folder, tmp_path / "log.jsonl")
    assert done.exit_code == 0
    assert "7 messages in" in done.output and "2 items, 3 rewards, 2 clicks" in done.output
    assert "3 of them are of 2 items that the data set does not describe" in done.stderr
    assert "film:7" in done.stderr


# Open Bandit.


@pytest.mark.parametrize("where", ["{policy}/men", "obd/{policy}/men", "obd/{policy}"])
def test_open_bandit_is_read_as_published_and_flat(tmp_path: Path, where: str) -> None:
    flat = open_bandit(tmp_path / "flat")
    for policy in ("random", "bts"):
        place = tmp_path / "given" / where.format(policy=policy)
        place.parent.mkdir(parents=True, exist_ok=True)
        (flat / policy).rename(place)
        place.joinpath("all.csv").touch()
    found = imported("open-bandit", tmp_path / "given", tmp_path / "log.jsonl")
    assert found == list(open_bandit_messages(open_bandit(flat)))
    assert len(found) == 6


def test_a_campaign_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    folder = open_bandit(tmp_path / "obd")
    said = refused("open-bandit", folder, tmp_path / "log.jsonl", "--campaign", "women")
    assert "no campaign 'women' in" in said and said.endswith("it has men")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"propensity": "0"}, "men.csv:3: propensity_score must be above 0"),
        ({"propensity": "-0.1"}, "men.csv:3: propensity_score must"),
        ({"propensity": "1.5"}, "men.csv:3: propensity_score must"),
        ({"propensity": "nan"}, "men.csv:3: propensity_score must"),
        ({"propensity": ""}, "men.csv:3: propensity_score must"),
        ({"position": 0}, "men.csv:3: position must be a whole number from 1"),
        ({"position": 101}, "men.csv:3: position must"),
        ({"position": -1}, "men.csv:3: position must"),
        ({"position": 1.5}, "men.csv:3: position must"),
        ({"click": 2}, "men.csv:3: click must"),
        ({"click": "nan"}, "men.csv:3: click must"),
        ({"click": ""}, "men.csv:3: click must"),
        ({"item": ""}, "men.csv:3: item_id must"),
        ({"at": "yesterday"}, "men.csv:3: timestamp must be as 2019-11-24"),
        ({"at": "1574553603"}, "men.csv:3: timestamp must be as"),
        ({"at": "1969-11-24 00:00:03+00:00"}, "men.csv:3: "),
        ({"head": ROWS.replace("click", "clicks")}, "men.csv lacks the columns click"),
        ({"context": CONTEXT + "2,1,0,z\n"}, "item_context.csv:4: item_id 1 is there twice"),
        ({"context": CONTEXT + "2,2,inf,z\n"}, "item_context.csv:4: item_feature_0 must"),
        ({"context": CONTEXT + f"2,2,1,{'z' * 130_000}\n"}, "item_context.csv:4: "),
        ({"context": ""}, "item_context.csv lacks the columns item_id"),
    ],
)
def test_a_fault_in_open_bandit_is_named_by_file_and_line(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = open_bandit(tmp_path / "obd", **changes)
    assert says in refused("open-bandit", folder, tmp_path / "log.jsonl")


def test_a_time_without_a_zone_is_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    naive = open_bandit(tmp_path / "naive", at="2019-11-24 00:00:03.800821")
    zoned = open_bandit(tmp_path / "zoned", at="2019-11-24T09:00:03.800821+09:00")
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        assert list(open_bandit_messages(naive)) == list(open_bandit_messages(zoned))
    time.tzset()


# Whatever is in the files: a log that is read again, or one line.

WHOLE = ["1", "2", "7", "100", "964982000000", "-1", "0.5", "3.5", "4.0", "1e999", "NaN", "inf"]
CELLS = st.sampled_from([*WHOLE, "", " ", "x", '"', '"a,b"', "é", "\x00", "\x85", "５"])
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-16-le"])


def tables(head: Sequence[str]) -> st.SearchStrategy[bytes]:
    """A header, mostly, and rows of odd cells."""
    rows = st.lists(st.lists(CELLS, min_size=len(head), max_size=len(head)), max_size=4)
    ends = st.sampled_from(["\n", "\r\n", "\r"])
    separators = st.sampled_from([",", ";", "\t", "::"])
    return st.builds(
        lambda rows, end, by, code: end.join([by.join(one) for one in [head, *rows]]).encode(
            code, "replace"
        ),
        rows, ends, separators, ENCODINGS,
    )  # fmt: skip


def is_whole_or_refused(out: Path, messages: Iterable[Message]) -> None:
    said, count = "", 0
    try:
        count = write_log(out, messages)
    except ValueError as error:
        said = str(error)
    if said:
        assert not out.exists()
        assert str(out.parent) in said and "\n" not in said
    else:
        assert len(list(read_log(out))) == count
    out.unlink(missing_ok=True)
    assert not list(out.parent.glob("*.part"))


@given_files
@given(
    tables(["movieId", "title", "genres"]) | st.just(FILMS.encode()) | st.binary(max_size=80),
    tables(["userId", "movieId", "rating", "timestamp"]) | st.just(RATINGS.encode()),
    st.sampled_from([("movies.csv", "ratings.csv"), ("movies.dat", "ratings.dat")]),
)
@example(FILMS.encode().replace(b"1995", b"0000"), RATINGS.encode(), ("movies.csv", "ratings.csv"))
@example(b"1::\xe9\x00::x", b"1::2::3::4\r1::1::3::4", ("movies.dat", "ratings.dat"))
def test_what_import_movielens_writes_is_read_again(
    tmp_path: Path, films: bytes, ratings: bytes, names: tuple[str, str]
) -> None:
    folder = tmp_path / "ml"
    shutil.rmtree(folder, ignore_errors=True)
    files(folder, dict(zip(names, (films, ratings), strict=True)))
    is_whole_or_refused(tmp_path / "log.jsonl", movielens_messages(folder))


@given_files
@given(
    tables(["item_id", "item_feature_0", "item_feature_1"]) | st.just(CONTEXT.encode()),
    tables(ROWS.split(",")) | st.binary(max_size=80),
    st.dictionaries(st.sampled_from(["item", "position", "click", "propensity"]), CELLS),
    st.booleans(),
)
def test_what_import_open_bandit_writes_is_read_again(
    tmp_path: Path, context: bytes, table: bytes, cells: dict[str, str], odd_rows: bool
) -> None:
    folder = open_bandit(tmp_path / "obd", **cells)
    files(folder / "random", {"men.csv": table} if odd_rows else {"item_context.csv": context})
    is_whole_or_refused(tmp_path / "log.jsonl", open_bandit_messages(folder))


numbers = st.floats() | st.integers(-(2**70), 2**70)
words = st.text(st.characters(exclude_categories=[]), max_size=4)
MESSAGES = st.one_of(
    st.builds(Item, id=words, at=numbers, title=words),
    st.builds(Click, id=words, user=words, item=words, at=numbers, position=numbers),
    st.builds(Reward, id=words, user=words, item=words, at=numbers, value=numbers),
    st.builds(
        Outcome,
        id=words, user=words, at=numbers, status=words, policy=words, model=st.integers(0, 9),
        slots=st.tuples(
            st.builds(OutcomeSlot, item=words, position=numbers, propensity=numbers, reward=numbers)
        ),
        source=st.just(Source(0, 0, 0)),
    ),
)  # fmt: skip


@given_files
@given(st.lists(MESSAGES, max_size=3), st.sampled_from(["log.jsonl", "log.parquet", "l.jsonl.gz"]))
def test_a_log_that_is_written_is_read_whatever_its_messages_hold(
    tmp_path: Path, messages: list[Any], name: str
) -> None:
    path = tmp_path / name
    try:
        write_log(path, messages)
    except InvalidMessageError:
        assert not path.exists()
    else:
        assert len(list(read_log(path))) == len(messages)
        path.unlink()


def test_a_message_that_no_command_could_read_is_named_and_not_written(tmp_path: Path) -> None:
    nothing = OutcomeSlot(item="a", position=0, propensity=0.0, reward=0.0)
    outcome = Outcome(
        id="o1", user="u", at=1, status="expired", policy="p", model=0, slots=(nothing,),
        source=Source(0, 0, 0),
    )  # fmt: skip
    with pytest.raises(InvalidMessageError, match=r"no valid outcome 'o1': .*propensity"):
        write_log(tmp_path / "log.jsonl", [Item(id="a", at=0), outcome])
    assert not list(tmp_path.iterdir())


# Byte order marks in what commands read.


@pytest.mark.parametrize("name", ["log.jsonl", "log.jsonl.gz"])
def test_byte_order_marks_in_a_log_are_no_part_of_it(tmp_path: Path, name: str) -> None:
    lines = [encode(Item(id=str(n), at=n)) for n in range(3)]
    pack = gzip.compress if name.endswith(".gz") else bytes
    one = BOM + b"\n".join(lines) + b"\n"
    (tmp_path / name).write_bytes(pack(one + one + BOM))  # joined by cat
    assert [item.id for item in read_log(tmp_path / name)] == ["0", "1", "2"] * 2


@pytest.mark.parametrize("code", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_log_in_another_encoding_is_named(tmp_path: Path, code: str) -> None:
    (tmp_path / "log.jsonl").write_bytes(encode(Tick(at=0)).decode().encode(code))
    done = rankloop("replay", tmp_path / "log.jsonl")
    assert done.exit_code == 1
    assert "log.jsonl is UTF-16, not UTF-8; save it as UTF-8" in done.stderr


def test_a_log_by_a_wrong_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(gzip.compress(encode(Tick(at=0))))
    with pytest.raises(InvalidMessageError, match=r"log\.jsonl is compressed by gzip"):
        list(read_log(tmp_path / "log.jsonl"))


def test_byte_order_marks_in_texts_and_settings_are_no_part_of_them(tmp_path: Path) -> None:
    texts = "text,category\n" + "".join(f"text {n},{'ab'[n % 2]}\n" for n in range(40))
    logs = list[list[Any]]()
    for name, start in (("plain.csv", b""), ("marked.csv", BOM)):
        (tmp_path / name).write_bytes(start + texts.encode())
        logs.append(imported("readers", tmp_path / name, tmp_path / "log.jsonl"))
    assert logs[0] == logs[1]
    (tmp_path / "rankloop.toml").write_bytes(BOM + b"epsilon = 0.25\n")
    assert Settings.load(file=tmp_path / "rankloop.toml").epsilon == 0.25
