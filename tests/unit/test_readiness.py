"""Why a worker is not ready, how often it says so, and what dead letters look like in the log."""

import logging
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.scoreboard import Scoreboard
from stream.worker.dead_letters import HINTS, MOST, SECONDS, DeadLetterLog
from stream.worker.readiness import AGAIN, SAMPLES, LagClock, Readiness


def test_a_change_is_said_at_once_and_a_reason_again_every_half_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ready, state = Readiness(), {"away": "", "refused": ""}
    ready.add("kafka_away", lambda: state["away"])
    ready.add("refused", lambda: state["refused"])
    with caplog.at_level(logging.INFO):
        for now, away in ((0, ""), (1, ""), (2, "for 1 s"), (3, "for 2 s"), (3 + AGAIN, "still")):
            state["away"] = away
            ready.say(float(now), lambda: {"items": 7})
        state |= {"away": "", "refused": "the remedy"}
        ready.say(90.0, dict)
        state["refused"] = ""
        ready.say(91.0, dict)
    said = [(r.levelname, r.getMessage(), getattr(r, "kafka_away", None)) for r in caplog.records]
    assert said == [
        ("INFO", "ready", None),
        ("WARNING", "not ready", "for 1 s"),
        ("WARNING", "not ready", "still"),
        ("WARNING", "not ready", None),
        ("INFO", "ready", None),
    ]
    assert getattr(caplog.records[0], "items", 0) == 7


def test_steps_of_a_start_are_no_alarm_at_first_and_standing_by_is_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ready = Readiness()
    ready.add("restoring", lambda: "partition 1")
    with caplog.at_level(logging.INFO):
        ready.say(0.0, dict)
        ready.say(AGAIN, dict)
        ready.add("standing_by", lambda: "seed is 1 here and 2 in force")
        ready.say(AGAIN + 1, dict)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING", "ERROR"]


def test_a_stuck_reader_is_behind_for_ever_and_one_that_keeps_up_never() -> None:
    stuck, quick = LagClock(), LagClock()
    for now in range(3 * SAMPLES):
        assert stuck(float(now), now, 0) == max(0.0, now - 1.0)
        assert quick(float(now), now, now) == 0.0


def test_a_slow_reader_is_as_far_behind_as_what_it_reads_is_old() -> None:
    clock = LagClock()
    for now in range(100):
        behind = clock(float(now), now + 1, max(0, now - 9))
    assert behind == 9.0  # type: ignore[possibly-undefined]


def test_a_dead_letter_is_said_once_a_reason_and_minute_with_an_example_and_a_hint(
    caplog: pytest.LogCaptureFixture,
) -> None:
    letters = DeadLetterLog()
    for n in range(10):
        letters.add("events", 1, n, "misrouted: the key must be the user", float(n))
    letters.add("events", 2, 7, "invalid: \x1b[2J\n" + "x" * 5000, 10.0)
    letters.say(SECONDS - 1)
    letters.say(SECONDS)
    letters.finish()
    found = [record.__dict__ for record in caplog.records]
    assert [(one["reason"], one["count"], one["offset"]) for one in found] == [
        ("misrouted", 1, 0),
        ("invalid", 1, 7),
        ("misrouted", 9, 1),
    ]
    assert "partitioner=murmur2_random" in found[0]["hint"]
    assert found[0]["topic"] == "events" and found[0]["partition"] == 1
    example = found[1]["example"]
    assert example.isprintable() and example.isascii() and len(example) < 1200
    assert all(record.levelno == logging.WARNING for record in caplog.records)


@given(st.lists(st.tuples(st.sampled_from([*HINTS]), st.floats(0, 300)), max_size=60))
def test_every_dead_letter_is_counted_in_one_line(sent: list[tuple[str, float]]) -> None:
    letters, counts, times = DeadLetterLog(), dict[str, int](), dict[str, list[float]]()

    def take(now: float) -> None:
        for one in letters.due(now):
            reason = one.why.partition(":")[0]
            counts[reason] = counts.get(reason, 0) + one.count
            times.setdefault(reason, []).append(now)

    letters.say = take  # type: ignore[method-assign]
    for n, (reason, now) in enumerate(sorted(sent, key=lambda one: one[1])):
        take(now)
        letters.add("events", 0, n, f"{reason}: why", now)
    take(1000.0)
    assert counts == {r: sum(one == r for one, _ in sent) for r in {one for one, _ in sent}}
    for said in times.values():
        assert all(b - a >= SECONDS - 1e-6 for a, b in pairwise(said))


def test_reasons_without_number_take_bounded_memory() -> None:
    letters = DeadLetterLog()
    for n in range(10 * MOST):
        letters.add("events", 0, n, f"reason {n}", 0.0)
    assert len(letters._said) <= MOST + 1
    assert sum(one.count for one in letters.due(SECONDS)) == 10 * MOST - MOST - 1


def test_nothing_is_known_of_a_policy_before_the_first_outcome() -> None:
    for score in Scoreboard(("popular", "bandit")).scores():
        assert (score.value, score.ahead, score.outcomes) == (None, None, 0)
