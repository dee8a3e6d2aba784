"""No message of a log is left out without a word: its fate is told, in text and in JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import structs

from agents.loop import Loop
from models.events import Click, Event, Impression, Item, Message, Request, Reward, Tick
from stream import build
from stream.cli.main import main
from stream.datasets.accounting import FATES, LEFT_OUT
from stream.datasets.log_files import write_log
from stream.settings import Settings
from stream.simulation.closed_loop import Run, run
from stream.simulation.environment import LogEnvironment
from stream.simulation.event_log import read_event_log
from tests.support.shared import SHARED

HAND = SHARED / "cases" / "hand" / "files"
hand = pytest.mark.skipif(not HAND.is_dir(), reason="needs ../shared/cases")
ITEMS, USERS, MINUTE = 24, 8, 60_000
START = 1_700_000_000_000


def catalogue(at: int = 0) -> list[Item]:
    return [Item(id=f"i{n}", title=f"thing {n} of kind {n % 4}", at=at) for n in range(ITEMS)]


def clicks(count: int = 200, *, of_a_user: bool = False, every: int = 1_000) -> list[Click]:
    """Users click what is of their kind; ids count within a user, or in all."""
    rng, counts, found = Random(3), dict[str, int](), list[Click]()
    for n in range(count):
        user = f"u{rng.randrange(USERS)}"
        counts[user] = counts.get(user, 0) + 1
        id = str(counts[user]) if of_a_user else f"c{n}"
        item = f"i{4 * rng.randrange(ITEMS // 4) + int(user[1:]) % 4}"
        found.append(Click(id=id, user=user, item=item, at=START + every * n))
    return found


class CommandResult:
    """What a command printed, and its JSON."""

    def __init__(self, result: Result, out: Path) -> None:
        assert result.exit_code == 0, result.output
        self.stdout, self.stderr = result.stdout, result.stderr
        self.json: dict[str, Any] = json.loads(out.read_bytes())
        self.accounting: dict[str, Any] = self.json["accounting"]
        counts = self.accounting
        assert counts["messages"] == (
            counts["items"]
            + counts["items_after_log"]
            + sum(counts["fates"].values())
            + sum(counts["unused"].values())
        )

    @property
    def warnings(self) -> list[str]:
        lines = self.stderr.splitlines()
        found = [line for line in lines if line.startswith("warning: ")]
        assert found == [f"warning: {one}" for one in self.accounting["warnings"]]
        return found

    @property
    def figures(self) -> list[Any]:
        """All that was measured, less times."""
        return self.json["rows"]

    def recall(self, model: str) -> float:
        return round(
            next(row["recall"]["mean"] for row in self.json["rows"] if row["model"] == model), 4
        )


def command(tmp_path: Path, *arguments: object) -> CommandResult:
    out = tmp_path / "out.json"
    result = CliRunner().invoke(
        main,
        [*map(str, arguments), "--json", str(out)],
        env={"RANKLOOP_ENCODER": "hash", "RANKLOOP_DATA_DIR": str(tmp_path / "data")},
    )
    return CommandResult(result, out)


def replay(tmp_path: Path, log: Path | Sequence[Message], *options: object) -> CommandResult:
    if not isinstance(log, Path):
        write_log(tmp_path / "log.jsonl", log)
        log = tmp_path / "log.jsonl"
    return command(tmp_path, "replay", log, *options)


@pytest.mark.shared
@hand
@pytest.mark.parametrize(
    ("name", "same_as"),
    [("log_by_user", "log_ok"), ("log_ids_of_a_user", "log_dense_ok"), ("log_bom", "log_ok")],
)
def test_a_log_by_others_gives_the_figures_of_the_same_log_without_a_fault(
    tmp_path: Path, name: str, same_as: str
) -> None:
    right, found = (replay(tmp_path, HAND / f"{one}.jsonl") for one in (same_as, name))
    assert right.recall("knn") == 0.3743
    assert not right.warnings
    assert found.figures == right.figures
    assert found.accounting["fates"] == {"organic": 900}
    assert "900 events: 900 organic; 60 item versions" in found.stdout


@pytest.mark.shared
@hand
def test_a_catalogue_of_today_is_warned_of_by_every_command(tmp_path: Path) -> None:
    file = HAND / "log_catalogue_of_today.jsonl"
    found = replay(tmp_path, file)
    assert "60 of 60 items come after the log" in found.warnings[0]
    assert "among all 60 items" in found.stdout
    assert all(row["coverage"] <= 1.0 for row in found.json["rows"])
    for options in (["--policies", "popular,knn", "--requests", 20, "--jobs", 1],):
        said = replay(tmp_path, file, *options)
        assert "60 of 60 items come after the log" in said.warnings[0]
        assert all(one["coverage"] <= 1.0 for one in said.json["standings"])
    said = command(tmp_path, "compare", file, "--requests", 20, "--seeds", 1)
    assert "60 of 60 items come after the log" in said.warnings[0]


def test_a_log_in_order_says_what_became_of_it_and_warns_of_nothing(tmp_path: Path) -> None:
    said = replay(tmp_path, [*catalogue(), *clicks()])
    assert "200 events: 200 organic; 24 item versions" in said.stdout
    assert said.warnings == []
    assert said.json["events"] == 200


ORDERS = {
    "by user": lambda log: sorted(log, key=lambda one: one.user),
    "by item": lambda log: sorted(log, key=lambda one: one.item),
    "newest first": lambda log: log[::-1],
    "shuffled": lambda log: Random(1).sample(log, len(log)),
    "two halves swapped": lambda log: log[100:] + log[:100],
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("where", ["before", "after", "between"])
def test_the_order_of_a_file_changes_no_figure(tmp_path: Path, order: str, where: str) -> None:
    right = replay(tmp_path, [*catalogue(), *clicks()])
    events = ORDERS[order](clicks())
    cut = {"before": 0, "after": len(events), "between": 70}[where]
    found = replay(tmp_path, [*events[:cut], *catalogue(), *events[cut:]])
    assert found.figures == right.figures
    behind = found.accounting["out_of_order"]
    assert behind > 0
    assert f"{behind} of 200 events lay behind a later one in the file" in found.warnings[0]


def test_a_later_version_is_not_known_before_what_lay_before_it_in_an_unsorted_file(
    tmp_path: Path,
) -> None:
    log = [
        Item(id="a", title="first", at=0),
        Click(id="2", user="bob", item="a", at=20),
        Item(id="a", title="second", at=0),
        Click(id="1", user="ann", item="a", at=10),
        Click(id="3", user="ann", item="a", at=30),
    ]
    write_log(tmp_path / "log.jsonl", log)
    found = read_event_log(tmp_path / "log.jsonl", Settings(encoder="hash", data_dir=str(tmp_path)))
    said = [
        one.title if isinstance(one, Item) else one.id
        for one in found.in_time()
        if isinstance(one, Item | Click)
    ]
    assert said == ["first", "1", "2", "second", "3"]


def test_a_file_written_twice_gives_the_figures_of_one_and_says_how_many_were_duplicates(
    tmp_path: Path,
) -> None:
    options = ["--policies", "popular,knn", "--requests", 40, "--jobs", 1]
    log = [*catalogue(), *clicks()]
    right, twice = replay(tmp_path, log), replay(tmp_path, [*log, *log])
    assert twice.figures == right.figures
    assert twice.accounting["fates"] == {"organic": 200, "duplicate": 200}
    assert any(
        "200 of 400 events (50.0%) were left out: 200 duplicate, for example click 'c0' of "
        in warning
        for warning in twice.warnings
    )
    right, twice = replay(tmp_path, log, *options), replay(tmp_path, [*log, *log], *options)
    rewards = [[one["reward"] for one in said.json["standings"]] for said in (right, twice)]
    assert rewards[0] == rewards[1]


def test_ids_that_count_within_a_user_are_no_duplicates(tmp_path: Path) -> None:
    right = replay(tmp_path, [*catalogue(), *clicks()])
    found = replay(tmp_path, [*catalogue(), *clicks(of_a_user=True)])
    assert found.figures == right.figures
    assert found.warnings == []


def test_an_id_for_all_events_of_a_user_is_said_to_be_a_duplicate(tmp_path: Path) -> None:
    log = [structs.replace(one, id="click") for one in clicks()]
    found = replay(tmp_path, [*catalogue(), *log])
    assert found.accounting["fates"] == {"organic": USERS, "duplicate": 200 - USERS}
    assert "give each an id of its own" in found.warnings[0]


def test_a_few_duplicates_are_counted_and_not_warned_of(tmp_path: Path) -> None:
    log = clicks()
    found = replay(tmp_path, [*catalogue(), *log, log[-1]])
    assert found.accounting["fates"] == {"organic": 200, "duplicate": 1}
    assert found.warnings == []


def test_clicks_on_requests_that_the_log_does_not_hold_are_orphans(tmp_path: Path) -> None:
    log = [structs.replace(one, request=f"r{n}") for n, one in enumerate(clicks(every=MINUTE))]
    found = replay(tmp_path, [*catalogue(), *log])
    fates = found.accounting["fates"]
    assert fates["orphan"] + fates["waiting"] == 200
    assert "200 of 200 events (100.0%) join no request" in found.warnings[0]
    assert "a request that is not in the log" in found.warnings[0]


@pytest.mark.parametrize(("at", "after"), [(START + 100_000, 0), (START + 10**9, ITEMS)])
def test_a_catalogue_dated_within_or_after_the_log_is_warned_of(
    tmp_path: Path, at: int, after: int
) -> None:
    found = replay(tmp_path, [*catalogue(at), *clicks()])
    assert found.accounting["items_after_log"] == after
    assert found.accounting["unlisted"] == (200 if after else 100)
    assert any("the catalogue did not have at that time" in one for one in found.warnings)
    assert all(row["coverage"] <= 1.0 for row in found.json["rows"])


def test_a_log_without_a_catalogue_names_no_share_of_nothing(tmp_path: Path) -> None:
    found = replay(tmp_path, clicks())
    assert f"among all {ITEMS} items" in found.stdout
    assert "200 of 200 events are on items that the catalogue did not have" in found.warnings[0]
    assert all(row["coverage"] <= 1.0 for row in found.json["rows"])


def test_items_that_expired_before_the_log_are_said_not_to_be_in_the_catalogue(
    tmp_path: Path,
) -> None:
    items = [structs.replace(one, expires_at=START - MINUTE) for one in catalogue()]
    found = replay(tmp_path, [*items, *clicks()])
    assert "expired" in found.warnings[0]


def test_items_that_are_deleted_after_they_were_shown_cover_no_more_than_all(
    tmp_path: Path,
) -> None:
    log = clicks()
    gone = [Item(id=f"i{n}", at=log[-2].at, deleted=True) for n in range(ITEMS - 2)]
    log = [*catalogue(), *log[:-1], *gone, log[-1]]
    found = replay(tmp_path, log, "--policies", "uniform,knn", "--requests", 60, "--jobs", 1)
    assert all(0.0 < one["coverage"] <= 1.0 for one in found.json["standings"])


def test_what_a_limit_leaves_unread_is_counted(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", [*catalogue(), *clicks()])
    options = ["--requests", 20, "--seeds", 1, "--events", 150]
    said = command(tmp_path, "compare", tmp_path / "log.jsonl", *options)
    assert said.accounting["fates"] == {"organic": 150, "unread": 50}


def test_two_users_requests_of_one_id_are_rewarded_each_on_its_own(tmp_path: Path) -> None:
    asked = [Request(id="r", user=user, at=START, k=1, candidates=("i0",)) for user in "ab"]
    click = Click(id="c", user="a", item="i0", at=START + 1, request="r")
    write_log(tmp_path / "log.jsonl", [*catalogue(), *asked, click])
    settings = Settings(encoder="hash", data_dir=str(tmp_path), policy="popular")
    log = read_event_log(tmp_path / "log.jsonl", settings)
    assert run(Run(settings=settings, environment=LogEnvironment(log, 2))).rewards == [1.0, 0.0]


def some_log(draw: st.DrawFn) -> list[Item | Event]:
    """Events with few ids, users and requests, at times in any order, items anywhere."""
    id, user, item = (st.sampled_from(list(some)) for some in ("abc", "uv", "xyz"))
    request = st.none() | st.sampled_from(["a", "b", "none"])
    at = st.integers(0, 40).map(lambda n: n * 100_000)
    one = st.one_of(
        st.builds(Item, id=item, at=at, deleted=st.booleans()),
        st.builds(Click, id=id, user=user, item=item, at=at, request=request),
        st.builds(Reward, id=id, user=user, item=item, at=at, value=st.just(1.0), request=request),
        st.builds(Request, id=id, user=user, at=at, k=st.just(2)),
        st.builds(Impression, id=id, user=user, at=at, request=id, shown=st.just(("x",))),
        st.builds(Tick, at=at),
    )
    return draw(st.lists(one, max_size=30))


@given(log=st.composite(some_log)(), limit=st.none() | st.integers(0, 30))
@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_each_message_is_counted_once_as_a_loop_counts_what_it_is_given(
    tmp_path: Path, log: list[Item | Event], limit: int | None
) -> None:
    write_log(tmp_path / "log.jsonl", log)
    settings = Settings(encoder="hash", data_dir=str(tmp_path), refresh_on_click=False)
    read = read_event_log(tmp_path / "log.jsonl", settings, limit)
    told = read.accounting
    assert told.messages == len(log)
    assert told.messages == told.items + told.items_after_log + told.read
    raw = sorted((one for one in log if not isinstance(one, Item)), key=lambda one: one.at)
    assert told.fates == fates_of(settings, raw[:limit]) | (
        {"unread": len(raw[limit:])} if limit is not None and raw[limit:] else {}
    )
    left_out = sum(told.fates.get(name, 0) for name in LEFT_OUT)
    useful = {name: n for name, n in told.fates.items() if name not in (*LEFT_OUT, "unread")}
    if left_out:
        useful["tick"] = useful.get("tick", 0) + left_out
    assert fates_of(settings, read.events) == useful


def fates_of(settings: Settings, events: Sequence[Event]) -> dict[str, int]:
    """As the agents of a worker count them."""
    loop: Loop = build.loop(settings, build.encoder(settings))
    for event in events:
        loop(event)
    return {name: n for name in FATES if (n := loop.attribution.counts[name])}
