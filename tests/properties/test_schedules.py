"""Partitions' lives through random schedules: crashes, sleepers, torn writes, any batches.

RANKLOOP_TEST_SCHEDULES sets how many, RANKLOOP_TEST_FIRST_SCHEDULE the seed of the first;
`make schedules` plays 100,000. Without any one rule some schedule goes wrong.
"""

import os

import pytest

from tests.properties.schedules.chance import Schedule
from tests.properties.schedules.play import Parts
from tests.properties.schedules.shorten import play, shorten, story
from tests.properties.schedules.without import WITHOUT

SCHEDULES = int(os.environ.get("RANKLOOP_TEST_SCHEDULES", "2000"))
FIRST = int(os.environ.get("RANKLOOP_TEST_FIRST_SCHEDULE", "0"))
SHARE = 2_000  # of CI: within it the lack of any one rule shows


def test_whatever_happens_the_logs_say_what_one_event_at_a_time_would() -> None:
    for seed in range(FIRST, FIRST + SCHEDULES):
        _, wrong = play(seed, Parts())
        if wrong is not None:
            pytest.fail(f"{story(seed, Parts())}\n(make schedules ARGS='--first {seed} --count 1')")


def test_the_schedules_hold_what_the_promise_is_about() -> None:
    worlds = [play(seed, Parts())[0] for seed in range(60)]
    feedback = b"".join(data for world in worlds for data in world.feedback)
    for kind in ("begin", "fold", "mark", "interaction", "outcome"):
        assert f'"type":"{kind}"'.encode() in feedback
    for status in ("complete", "expired", "corrected"):
        assert f'"status":"{status}"'.encode() in feedback
    rankings = b"".join(data for world in worlds for log in world.logs for data in log.rankings)
    for said in ('"settings":"old"', '"settings":"new"', '"policy":"rank ', '"id":"refresh:'):
        assert said.encode() in rankings
    assert {len(world.logs) for world in worlds} == {1, 2, 3, 4}
    assert any(log.kept for world in worlds for log in world.logs)
    assert any(world.saved["old"] for world in worlds)


def first_failure(parts: Parts) -> tuple[int, Schedule]:
    for seed in range(SHARE):
        world, wrong = play(seed, parts)
        if wrong is not None:
            return seed, world.schedule
    raise AssertionError(f"{SHARE} schedules do not show it")


@pytest.mark.parametrize("name", list(WITHOUT))
def test_without_any_one_rule_a_schedule_goes_wrong(name: str) -> None:
    seed, schedule = first_failure(WITHOUT[name])
    assert play(0, WITHOUT[name], schedule)[1] is not None, f"{seed} is not played again alike"
    assert play(0, Parts(), schedule)[1] is None, f"{seed} fails with the rule, too"


def test_a_schedule_that_goes_wrong_is_shortened_and_told() -> None:
    parts = WITHOUT["l4-chain"]
    seed, schedule = first_failure(parts)
    short = shorten(schedule, parts, tries=400)
    assert play(0, parts, short)[1] is not None
    assert len(short.steps) < len(schedule.steps) // 2
    assert "is not acknowledged" in story(seed, parts)
