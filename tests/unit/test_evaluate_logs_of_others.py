"""Whatever outcomes a log holds, `evaluate` ends with estimates or with one line that says why."""

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from msgspec import structs

from models.events import Interaction, Item, Outcome, OutcomeSlot, Source, encode
from policies.evaluation.estimators import ESTIMATORS
from stream.cli.main import main
from stream.datasets.log_files import write_log
from stream.offline.off_policy import MODELLED
from tests.support.shared import SHARED

HAND = SHARED / "cases" / "hand" / "files"
ITEMS = [Item(id=f"i{n}", at=0) for n in range(4)]


def outcome(number: int, item: str, reward: float, **changed: Any) -> Outcome:
    """A decision of one slot out of four, drawn alike."""
    at = changed.pop("position", number % 3)
    chance = changed.pop("propensity", 0.25)
    slot = OutcomeSlot(item=item, position=at, propensity=chance, reward=reward)
    made = Outcome(
        id=f"r{number}",
        user=f"u{number % 20}",
        at=number,
        status="complete" if reward else "expired",
        policy="old" if number % 2 else "uniform",
        model=0,
        slots=(slot,),
        source=Source(0, number, 0),
        reward=reward,
        context={"hour": str(number % 4)},
    )
    return structs.replace(made, **changed)


def outcomes(count: int = 240, **changed: Any) -> list[Outcome]:
    rng = Random(2)
    return [
        outcome(n, f"i{rng.randrange(4)}", float(rng.random() < 0.3), **changed)
        for n in range(count)
    ]


def evaluated(tmp_path: Path, log: Path | list[Any], *options: object) -> tuple[Result, Any]:
    """What `evaluate` did, and its JSON; any other error than one in one line is raised."""
    if not isinstance(log, Path):
        others = b"".join(encode(message) + b"\n" for message in log)
        log = tmp_path / "log.jsonl"
        log.write_bytes(others)
    out = tmp_path / "found.json"
    out.unlink(missing_ok=True)
    arguments = ["evaluate", str(log), "--json", str(out), *map(str, options)]
    result = CliRunner().invoke(main, arguments)
    if result.exit_code:
        assert isinstance(result.exception, SystemExit), result.exc_info
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("Error: ")
        return result, None
    found = json.loads(out.read_bytes())
    counts = found["accounting"]
    assert counts["messages"] == (
        sum(counts["fates"].values()) + counts["items"] + sum(counts["unused"].values())
    )
    return result, found


def estimates(found: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By target, log and estimator; to nine decimals, as sums depend on the order of items."""
    return {
        (one["target"], one["logged_by"], each["estimator"]): {
            name: None if value is None else round(value, 9)
            for name, value in each["value"].items()
        }
        for one in found["judged"]
        for each in one["estimates"]
    }


@pytest.mark.shared
@pytest.mark.skipif(not HAND.is_dir(), reason="needs ../shared/cases")
@pytest.mark.parametrize(
    "name",
    ["ok", "position_minus_1", "position_150", "item_not_listed", "id_is_user"],
)
def test_a_log_by_others_gives_the_estimates_of_the_same_log_without_a_fault(
    tmp_path: Path, name: str
) -> None:
    _, right = evaluated(tmp_path, HAND / "evaluate_ok.jsonl")
    result, found = evaluated(tmp_path, HAND / f"evaluate_{name}.jsonl")
    assert estimates(found) == estimates(right)
    assert round(estimates(found)["uniform", "old", "DM"]["mean"], 4) == 0.1356
    assert round(estimates(found)["uniform", "old", "DR"]["mean"], 4) == 0.1365
    assert [one["decisions"] for one in found["measured"]] == [600, 600]
    assert "1,200 outcomes: 1,200 evaluated" in result.stdout
    assert ("3 items were shown that the log does not list" in result.stdout) == (
        name == "item_not_listed"
    )


@pytest.mark.parametrize("first", [-(10**12), -7, 1, 5_000, 2**62])
def test_a_position_is_a_name_whatever_it_counts_from(tmp_path: Path, first: int) -> None:
    _, right = evaluated(tmp_path, [*ITEMS, *outcomes()])
    log = [
        structs.replace(
            one, slots=(structs.replace(one.slots[0], position=first + one.slots[0].position),)
        )
        for one in outcomes()
    ]
    _, found = evaluated(tmp_path, [*ITEMS, *log])
    assert estimates(found) == estimates(right)


def test_more_positions_than_are_told_apart_give_estimates(tmp_path: Path) -> None:
    log = [outcome(n, f"i{n % 4}", float(n % 3 == 0), position=17 * n) for n in range(400)]
    result, found = evaluated(tmp_path, [*ITEMS, *log])
    assert ("old", "uniform", "DR") in estimates(found)
    assert "at places where it never was, or rarely" in result.stdout


def test_the_order_of_the_file_does_not_matter_to_corrections(tmp_path: Path) -> None:
    first = outcome(0, "i0", 0.0)
    later = structs.replace(
        first, status="corrected", slots=outcome(0, "i0", 1.0).slots, source=Source(0, 999, 0)
    )
    rest = outcomes()[1:]
    found = [
        evaluated(tmp_path, [*ITEMS, *log])
        for log in ([first, *rest, later], [later, *rest, first], [later, first, *rest])
    ]
    clicks = [
        {one["policy"]: one["clicks"] for one in each["measured"]}["uniform"] for _, each in found
    ]
    assert len(set(clicks)) == 1
    for result, each in found:
        assert each["accounting"]["fates"] == {"evaluated": 240, "corrected": 1}
        assert "1 outcomes were put together with their correction" in result.stdout


def test_a_log_that_lies_twice_in_a_file_is_evaluated_once_and_said(tmp_path: Path) -> None:
    _, right = evaluated(tmp_path, [*ITEMS, *outcomes()])
    result, found = evaluated(tmp_path, [*ITEMS, *outcomes(), *outcomes()])
    assert estimates(found) == estimates(right)
    assert found["accounting"]["fates"] == {"evaluated": 240, "duplicate": 240}
    assert "warning: 240 of 480 outcomes are left out: each is equal" in result.stderr


def test_two_users_of_one_id_are_two_decisions(tmp_path: Path) -> None:
    log = [structs.replace(one, id=str(n // 20)) for n, one in enumerate(outcomes())]
    _, right = evaluated(tmp_path, [*ITEMS, *outcomes()])
    for options in ([], ["--candidates", 20]):
        _, right = evaluated(tmp_path, [*ITEMS, *outcomes()], *options)
        _, found = evaluated(tmp_path, [*ITEMS, *log], *options)
        assert estimates(found) == estimates(right)


def test_one_user_has_estimates_and_no_interval(tmp_path: Path) -> None:
    log = [structs.replace(one, user="ann") for one in outcomes()]
    result, found = evaluated(tmp_path, [*ITEMS, *log])
    assert "one user: no interval" in result.stdout
    assert "a model of rewards needs 3 users" in result.stdout
    assert not {name for _, _, name in estimates(found)} & set(MODELLED)
    values = [one["value"] for one in found["measured"]] + [*estimates(found).values()]
    assert all(one["low"] is one["high"] is None for one in values)


def test_the_direct_method_has_no_interval_and_it_is_said_why(tmp_path: Path) -> None:
    result, found = evaluated(tmp_path, [*ITEMS, *outcomes()])
    for (_, _, name), value in estimates(found).items():
        assert (value["low"] is None) == (name == "DM")
    assert {name for _, _, name in estimates(found)} == set(ESTIMATORS)
    assert "DM has no interval" in result.stdout
    assert "0.2" in result.stdout and "nan" not in result.stdout


def test_frequencies_that_stand_for_propensities_are_said_to_move_by_how_much(
    tmp_path: Path,
) -> None:
    moved: list[float] = []
    for count in (240, 2_400):
        result, _ = evaluated(tmp_path, [*ITEMS, *outcomes(count)], "--policy", "old")
        [note] = [line for line in result.stdout.splitlines() if "stand for its prob" in line]
        moved.append(float(note.partition("by up to ")[2].partition(",")[0]))
    assert 0.0 < 2 * moved[1] < moved[0]  # ten times the decisions, a third of the error


@pytest.mark.parametrize("propensity", [1e-300, 5e-324, 1e-12])
def test_a_tiny_propensity_says_that_few_decisions_bear_the_estimate(
    tmp_path: Path, propensity: float
) -> None:
    log = [*outcomes(), outcome(241, "i1", 1.0, propensity=propensity)]
    result, found = evaluated(tmp_path, [*ITEMS, *log])
    assert "weights leave 1 effective decisions of 121" in result.stdout
    assert "one decision has 100% of all weight" in result.stdout
    assert max(map(len, result.stdout.splitlines())) < 400  # no number of 300 digits
    assert all(one["mean"] is not None for one in estimates(found).values())


def test_all_propensities_tiny_give_estimates(tmp_path: Path) -> None:
    result, found = evaluated(tmp_path, [*ITEMS, *outcomes(propensity=1e-300)])
    assert "weights average" in result.stdout
    assert all(math.isfinite(one["mean"]) for one in estimates(found).values())


@pytest.mark.parametrize(
    ("log", "says"),
    [
        ([], "holds no outcome that showed anything (0 outcomes)"),
        ([*ITEMS, structs.replace(outcome(1, "i0", 0.0), slots=())], "1 outcomes: 1 empty"),
        (
            [Interaction(id="c", user="u", item="i0", at=1, value=1.0, source=Source(0, 1, 0))],
            "1 interaction of no use here",
        ),
    ],
)
def test_a_log_without_decisions_is_refused_and_says_what_it_holds(
    tmp_path: Path, log: list[Any], says: str
) -> None:
    result, _ = evaluated(tmp_path, log)
    assert result.exit_code == 1
    assert says in result.stderr


def test_one_decision_gives_what_it_earned(tmp_path: Path) -> None:
    result, found = evaluated(tmp_path, [*ITEMS, outcome(1, "i0", 1.0)])
    assert result.exit_code == 0
    assert found["measured"][0]["value"]["mean"] == 1.0


@pytest.mark.parametrize("reward", ["NaN", "Infinity", "1e400", "2e6"])
def test_a_reward_that_is_no_number_of_use_is_refused_with_its_line(
    tmp_path: Path, reward: str
) -> None:
    write_log(tmp_path / "log.jsonl", [*ITEMS, *outcomes()])
    text = (tmp_path / "log.jsonl").read_text().replace('"reward":1.0', f'"reward":{reward}', 1)
    (tmp_path / "log.jsonl").write_text(text)
    result, _ = evaluated(tmp_path, tmp_path / "log.jsonl")
    assert result.exit_code == 1
    assert "log.jsonl:" in result.stderr


def test_a_target_whose_rankings_a_file_does_not_know_is_left_out_unless_named(
    tmp_path: Path,
) -> None:
    second = OutcomeSlot(item="i3", position=1, propensity=0.5, reward=0.0)
    log = [structs.replace(one, slots=(*one.slots, second)) for one in outcomes()]
    result, found = evaluated(tmp_path, [*ITEMS, *log])
    assert {one["target"] for one in found["judged"]} == {"uniform"}
    assert "old is not judged on the log of uniform" in result.stdout
    result, _ = evaluated(tmp_path, [*ITEMS, *log], "--policy", "old")
    assert "what old would have shown is not in this log" in result.stderr


slots = st.builds(
    OutcomeSlot,
    item=st.sampled_from([one.id for one in ITEMS] + ["other"]),
    position=st.sampled_from([0, 1, 2, -1, 150]) | st.integers(-(2**62), 2**62),
    propensity=st.sampled_from([0.25, 0.25, 1.0, 0.5, 1e-300])
    | st.floats(0.0, 1.0, exclude_min=True),
    reward=st.sampled_from([0.0, 0.0, 1.0]) | st.floats(-1e6, 1e6),
)


def any_outcome(length: st.SearchStrategy[int]) -> st.SearchStrategy[Outcome]:
    return st.builds(
        Outcome,
        id=st.sampled_from("abcd"),
        user=st.sampled_from("uvwxyz"),
        at=st.integers(0, 10**12),
        status=st.sampled_from(["complete", "expired", "corrected"]),
        policy=st.sampled_from(["old", "uniform", "bandit"]),
        model=st.integers(0, 3),
        slots=length.flatmap(lambda n: st.lists(slots, min_size=n, max_size=n).map(tuple)),
        source=st.builds(Source, st.integers(0, 1), st.integers(0, 9), st.just(0)),
        foreign=st.sampled_from([(), (), (), ("x",)]),
        context=st.dictionaries(st.sampled_from("hd"), st.sampled_from(["1", 2.0, True])),
    )


@given(
    log=st.lists(any_outcome(st.just(1)), max_size=30)
    | st.lists(any_outcome(st.integers(0, 3)), max_size=30),
    listed=st.booleans(),
    options=st.sampled_from([[], ["--candidates", "7"], ["--policy", "uniform"]]),
)
@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_outcomes_there_are_it_ends_with_estimates_or_one_line(
    tmp_path: Path, log: list[Outcome], listed: bool, options: list[str]
) -> None:
    result, found = evaluated(tmp_path, [*(ITEMS if listed else []), *log], *options)
    if found is not None:
        decisions = sum(one["decisions"] for one in found["measured"])
        assert decisions == found["accounting"]["fates"]["evaluated"]
        for one in found["judged"]:
            assert all(each["support"]["effective"] >= 0.0 for each in one["estimates"])
        assert "nan" not in result.stdout
