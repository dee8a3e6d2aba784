"""Times in other units than milliseconds are dead letters that say so; any past may be replayed."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import json

from agents.attribution import Attribution, AttributionRules
from agents.audit.expected import ExpectedRecords
from agents.ledger import Ledger
from agents.partition import Partition, PublishDeadLetters, ReceivedMessage
from models.events import (
    DAY,
    Click,
    Event,
    Impression,
    InvalidMessageError,
    Item,
    Message,
    Request,
    Reward,
    Tick,
    encode,
    read_event,
    read_item,
)
from stream.datasets.log_files import read_log, write_log

NOW = 1_764_000_000_000  # appended, in November 2025
YEAR = 365 * DAY
NINETEEN_73 = 10**11
EVENTS: list[Callable[[int], Event]] = [
    lambda at: Request(id="r", user="u", at=at),
    lambda at: Impression(id="m", user="u", at=at, request="r", shown=()),
    lambda at: Click(id="c", user="u", item="i", at=at),
    lambda at: Reward(id="w", user="u", at=at, item="i", value=1.0),
    lambda at: Tick(at=at),
]
UNITS = {
    "looks like seconds: multiply by 1000": lambda at: at // 1000,
    "looks like microseconds: divide by 1000": lambda at: at * 1000,
    "looks like nanoseconds: divide by 1000000": lambda at: at * 10**6 + 1,
}
each_unit = pytest.mark.parametrize("says", UNITS)
each_event = pytest.mark.parametrize("event", EVENTS, ids=lambda made: type(made(0)).__name__)
real = st.integers(NINETEEN_73, NOW + DAY)  # replayed or of today


def with_time(message: Event | Item, **times: Any) -> bytes:
    return json.encode(json.decode(encode(message)) | times)


@each_unit
@each_event
@given(at=real)
def test_an_event_in_another_unit_says_in_which(
    event: Callable[[int], Event], says: str, at: int
) -> None:
    with pytest.raises(InvalidMessageError) as raised:
        read_event(with_time(event(0), at=UNITS[says](at)), NOW)
    told = str(raised.value)
    assert says in told and "milliseconds" in told and re.search(r"\bat\b", told)


@each_event
@given(at=real | st.integers(0, 99_999_999) | st.integers(NOW // 1000 + DAY, NINETEEN_73))
def test_a_replayed_past_stays_in_its_past_and_may_count_from_0(
    event: Callable[[int], Event], at: int
) -> None:
    assert read_event(encode(event(at)), NOW) == event(at)


@each_event
@given(at=st.integers(0, 10**11), late=st.integers(-YEAR, DAY))
def test_in_a_log_whose_broker_counts_from_0_all_counts_are_milliseconds(
    event: Callable[[int], Event], at: int, late: int
) -> None:
    assert read_event(encode(event(at)), max(0, at + late) if at < DAY else at) == event(at)


@each_unit
@given(at=real)
def test_an_item_in_another_unit_says_in_which(says: str, at: int) -> None:
    item = Item(id="i", at=0)
    with pytest.raises(InvalidMessageError, match=says):
        read_item(with_time(item, at=UNITS[says](at)), NOW)


@each_unit
@given(
    at=st.sampled_from([0, 1, 40]) | real,
    expires=st.integers(NOW - 10 * YEAR, NOW + 500 * YEAR),
)
def test_an_item_that_expires_in_another_unit_says_in_which(
    says: str, at: int, expires: int
) -> None:
    wrong = UNITS[says](expires)
    with pytest.raises(InvalidMessageError, match=rf"\b{says}") as raised:
        read_item(with_time(Item(id="i", at=at), expires_at=wrong), NOW)
    assert "expires_at" in str(raised.value)


@given(
    at=st.integers(0, 99_999_999) | st.integers(NOW // 1000 + DAY, NOW + 20 * YEAR),
    lasts=st.integers(0, 100 * YEAR),
)
def test_an_item_may_be_old_announced_or_expired_long_ago(at: int, lasts: int) -> None:
    for expires in (None, 0, 40, 253_402_300_799_999, max(at + lasts, NOW // 4), max(at, 1) - 1):
        if expires is not None and at <= 99_999_999 < expires < NOW // 4:
            continue
        if expires is not None and 10**8 <= expires < min(at, 253_402_300_800):
            continue  # before it was there, in 1970 or shortly after
        item = Item(id="i", at=at, expires_at=expires)
        assert read_item(encode(item), NOW) == item


def test_an_archive_of_the_seventies_keeps_its_dates() -> None:
    item = Item(id="i", at=4 * YEAR, expires_at=4 * YEAR + 2 * DAY)
    assert read_item(encode(item), NOW) == item


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1_732_780_000.123, "1732780000.123 looks like seconds: multiply by 1000"),
        (1_732_780_000_000.5, "in milliseconds since 1970-01-01 UTC, a whole number"),
        ("2024-11-28T08:00:00Z", "in milliseconds since 1970-01-01 UTC, a whole number"),
        (2**63 - 1, "9223372036854775807 looks like nanoseconds: divide by 1000000"),
        (-1, "in milliseconds since 1970-01-01 UTC"),
    ],
)
@pytest.mark.parametrize("field", ["at", "expires_at"])
def test_a_time_of_another_type_says_what_it_must_be(field: str, value: Any, says: str) -> None:
    with pytest.raises(InvalidMessageError) as raised:
        read_item(with_time(Item(id="i", at=0), **{field: value}), NOW)
    assert f"{field} is in milliseconds" in str(raised.value)
    assert says in str(raised.value)


def test_the_owner_of_a_partition_and_the_audit_refuse_the_same_events() -> None:
    seconds = [encode(made(NOW // 1000 + n)) for n, made in enumerate(EVENTS)]
    usual = [encode(made(NOW + n)) for n, made in enumerate(EVENTS)]
    log = [ReceivedMessage(n, NOW, data) for n, data in enumerate(seconds + usual)]
    attribution = Attribution(0, AttributionRules())

    def decide(task: object) -> Any:
        raise AssertionError("nothing is decided here")

    partition = Partition(attribution, Ledger(), decide, lambda user: 0)
    letters = next(partition.batch(log))
    assert isinstance(letters, PublishDeadLetters)
    assert [message.offset for message, _ in letters.letters] == [0, 1, 2, 3, 4]
    for n, (_, reason) in enumerate(letters.letters):
        assert reason.startswith(f"invalid: at {NOW // 1000 + n} looks like seconds: multiply by")
    audit = ExpectedRecords(AttributionRules(refresh=False), lambda user: 0)
    for message in log:
        audit.event(0, message)
    assert (audit.unreadable, audit.count) == (5, 1)


def test_what_was_once_in_force_stays_so_where_no_append_time_is_known() -> None:
    """Files of logs tell none: an event is taken to have come at its own time."""
    assert read_event(encode(Tick(at=1_732_780_000)), 0) == Tick(at=1_732_780_000)


ITEMS = [Item(id="new", at=NOW), Item(id="old", at=0), Item(id="1971", at=YEAR)]


def lines(messages: Iterable[Message]) -> bytes:
    """As somebody else writes a log: `write_log` refuses what cannot be read."""
    return b"".join(encode(message) + b"\n" for message in messages)


@pytest.mark.parametrize(
    ("times", "line"),
    [
        ([NOW // 1000, NOW // 1000 + 60], 1),
        ([852_076_800, 852_076_900], 1),  # films of 1997
        ([NOW, NOW + 1, NOW // 1000], 3),
        ([40, NOW // 1000, NOW], 3),
    ],
    ids=["all in seconds", "an old log in seconds", "seconds last", "seconds first"],
)
@pytest.mark.parametrize("items", [[], ITEMS[1:], ITEMS])
def test_a_file_in_seconds_is_refused_by_its_line(
    tmp_path: Path, items: list[Item], times: list[int], line: int
) -> None:
    file = tmp_path / "log.jsonl"
    clicks = [Click(id=f"{n}", user="u", item="i", at=at) for n, at in enumerate(times)]
    file.write_bytes(lines([*items, *clicks]))
    with pytest.raises(InvalidMessageError, match="looks like seconds: multiply by") as raised:
        list(read_log(file))
    assert str(raised.value).startswith(f"{file}:{len(items) + line}: ")


def test_a_catalogue_in_seconds_is_refused_at_the_latest_where_the_events_are_not(
    tmp_path: Path,
) -> None:
    file = tmp_path / "log.jsonl"
    seconds, clicks = Item(id="a", at=NOW // 1000), [Click(id="c", user="u", item="i", at=NOW)]
    for log, line in (([seconds, *clicks], 2), ([*ITEMS, seconds], 4), ([seconds, *ITEMS], 2)):
        file.write_bytes(lines(log))
        with pytest.raises(InvalidMessageError, match=f"at {NOW // 1000} looks like sec") as raised:
            list(read_log(file))
        assert str(raised.value).startswith(f"{file}:{line}: ")


@pytest.mark.parametrize("first", [0, 40, NOW, NOW - 30 * YEAR])
def test_a_file_of_any_past_is_read(tmp_path: Path, first: int) -> None:
    clicks = [Click(id=f"{n}", user="u", item="i", at=first + n * DAY // 8) for n in range(99)]
    write_log(tmp_path / "log.jsonl", [*ITEMS, *clicks])
    assert list(read_log(tmp_path / "log.jsonl")) == [*ITEMS, *clicks]
