"""`rankloop compare`: arms have their own parts alone, and nothing is claimed that is not borne."""

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from msgspec import structs

from models.events import Click, Item, Request
from policies.evaluation.intervals import Interval
from policies.evaluation.paired import PairedColumns, holm
from policies.exploration import Epsilon
from stream.cli.main import main
from stream.datasets.log_files import write_log
from stream.offline.compare.arms import ARMS as ARMS_OF_ALL
from stream.offline.compare.arms import BANDIT
from stream.offline.compare.command import ComparisonPlan, compare_arms
from stream.offline.compare.comparison import (
    ALL,
    COLD_ITEMS,
    OTHER_ITEMS,
    PARTS,
    Comparison,
    Contrast,
    hypothesis_weights,
)
from stream.offline.compare.findings import finding, findings
from stream.offline.compare.report import page
from stream.offline.compare.trial import ArmRun, run_arm
from stream.offline.regret import Regret, RegretCurve
from stream.settings import Settings
from stream.simulation.environment import LogEnvironment
from stream.simulation.event_log import EventLog, read_event_log
from tests.unit.test_replay import column, messages, scores

ARMS = ("random", "popular", "content", "bandit-no-text", "full")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("compare")
    return Settings(encoder="hash", data_dir=str(folder), horizon_seconds=10)


@pytest.fixture(scope="module")
def log(settings: Settings) -> EventLog:
    path = Path(settings.data_dir) / "log.jsonl"
    write_log(path, messages())
    return read_event_log(path, settings)


@pytest.fixture(scope="module")
def result(log: EventLog, settings: Settings) -> Comparison:
    return compare_arms("log", log, settings, ComparisonPlan(requests=150, seeds=2, arms=ARMS))


def test_users_that_differ_by_chance_alone_are_called_different_one_time_in_twenty():
    rng = np.random.default_rng(1)
    users = [f"user:{i % 40}" for i in range(120)]
    columns = PairedColumns(users)
    for _ in range(1_000):
        each = rng.normal(0, 1, 40)  # what a user's requests have in common
        columns.add(np.tile(each, 3) + rng.normal(0, 1, 120))
    share = float((columns.p_values() < 0.05).mean())
    assert 0.03 < share < 0.07  # 3 standard errors of 1,000 looks


def test_a_difference_of_all_users_is_seen():
    users = [f"user:{i % 40}" for i in range(120)]
    columns = PairedColumns(users)
    columns.add(np.random.default_rng(1).normal(0.5, 1, 120))
    [interval], [p] = columns.intervals(), columns.p_values()
    assert interval.low > 0
    assert p < 0.01


@pytest.mark.parametrize("heavy", [0, 5])
def test_after_holm_some_claim_is_wrong_one_time_in_twenty_at_most(heavy: int):
    rng = np.random.default_rng(2)
    weights = np.array([5.0] * heavy + [1.0] * (30 - heavy))
    wrong = [bool((holm(rng.uniform(size=30), weights) < 0.05).any()) for _ in range(2_000)]
    assert 0.035 < np.mean(wrong) < 0.065


def test_a_question_needs_less_to_be_answered_than_a_slice():
    looks = [("full", "hybrid-repeats", ALL), *(("full", f"arm {n}", ALL) for n in range(99))]
    assert holm([0.01] + [1.0] * 99, hypothesis_weights(looks))[0] == pytest.approx(0.02)
    assert holm([0.01] + [1.0] * 99)[0] == 1.0
    assert holm([1.0] * 99 + [0.0001], hypothesis_weights(looks))[99] == pytest.approx(0.0198)


@pytest.mark.parametrize(
    ("low", "high", "p_value", "says"),
    [
        (0.1, 0.3, 0.01, "helps"),
        (-0.3, -0.1, 0.01, "hurts"),
        (0.1, 0.3, 0.06, "too little to claim"),
        (-0.1, 0.3, 0.01, "nothing measurable"),
        (-0.1, 0.3, 0.9, "nothing measurable"),
    ],
)
def test_only_what_interval_and_correction_bear_is_claimed(
    low: float, high: float, p_value: float, says: str
):
    interval = Interval((low + high) / 2, low, high)
    assert finding(Contrast("full", "hybrid", ALL, interval, p_value)) == says


def test_text_carries_the_taste_of_this_log_and_the_report_says_so(result: Comparison):
    content = result.of("content", "popular", COLD_ITEMS)
    assert content is not None
    assert content.sure
    assert content.difference.low > 0.5
    [whole] = [one for one in findings(result) if one.against == "popular"]
    assert whole.finds.startswith("adds +")


def test_clicks_on_cold_and_on_other_items_are_all_clicks(result: Comparison):
    for one in result.standings:
        parts = one.clicks[COLD_ITEMS].mean + one.clicks[OTHER_ITEMS].mean
        assert parts == pytest.approx(one.clicks[ALL].mean)


def test_slices_by_user_hold_every_request_once(result: Comparison):
    sizes = {one.name: one.requests for one in result.slices}
    assert sum(n for name, n in sizes.items() if name.startswith("users")) == sizes[ALL] == 150


def test_an_arm_pays_for_its_own_parts_alone(result: Comparison):
    cost = {one.arm: one.cost for one in result.standings}
    assert cost["random"].state_mb < cost["bandit-no-text"].state_mb < cost["full"].state_mb
    vectors = 120 * 64 * 4 / 1e6
    assert cost["content"].state_mb > vectors > cost["popular"].state_mb


def test_what_an_arm_without_text_shows_does_not_depend_on_texts(log: EventLog, settings: Settings):
    others = tuple(
        structs.replace(one, vector=bytes(reversed(one.vector))) for one in log.embeddings
    )
    for arm, differs in ("bandit-no-text", False), ("full", True):
        ran = [
            run_arm(ArmRun(arm=arm, settings=settings, environment=LogEnvironment(one, 60)))
            for one in (log, structs.replace(log, embeddings=others))
        ]
        assert (ran[0].scores != ran[1].scores) == differs, arm


def test_chance_shows_all_items_alike(log: EventLog, settings: Settings):
    ran = run_arm(ArmRun(arm="random", settings=settings, environment=LogEnvironment(log, 300)))
    assert ran.shown.coverage == 1.0


def test_learned_weights_are_held_against_fixed_ones_with_the_same_columns():
    assert PARTS["Learning weights from rewards"] == ("full", "hybrid-repeats")
    for name in ("popular", "mf", "knn", "content", "hybrid"):
        assert structs.replace(ARMS_OF_ALL[f"{name}-repeats"], says="", policy=BANDIT) == (
            structs.replace(ARMS_OF_ALL[name], says="", policy=BANDIT)
        )
        with_it, without = (
            ARMS_OF_ALL[arm].policy(Settings(), Epsilon()) for arm in (f"{name}-repeats", name)
        )
        assert scores(without) - scores(with_it) == pytest.approx(column("repeats"))


def test_a_log_with_requests_of_its_own_is_answered_as_it_asks(tmp_path: Path, settings: Settings):
    asked: list[Item | Request | Click] = [Item(id=f"film:{i}", at=0) for i in range(3)]
    for i, user in enumerate(("ann", "bob", "ann", "cid")):
        at = 1_000_000 * (i + 1)
        asked.append(Request(id=f"r{i}", user=user, at=at, k=3))
        if user != "bob":
            film = f"film:{i % 3}"
            asked.append(Click(id=f"c{i}", user=user, item=film, at=at + 500, request=f"r{i}"))
    write_log(tmp_path / "log.jsonl", asked)
    log = read_event_log(tmp_path / "log.jsonl", settings)
    for arm in ("random", "popular", "full"):
        ran = run_arm(ArmRun(arm=arm, settings=settings, environment=LogEnvironment(log, 10)))
        assert ran.users == ["ann", "bob", "ann", "cid"]
        assert ran.clicks == [1.0, 0.0, 1.0, 1.0], arm
        assert ran.history == [0, 0, 1, 0]
        assert ran.ndcg[1] == 0.0 < min(ran.ndcg[0], ran.reciprocal[0]), arm


def test_a_context_that_changes_is_noticed(tmp_path: Path, settings: Settings):
    asked: list[Item | Request] = [Item(id="film", at=0)]
    for n in range(300):
        context = {"hour": 8.0 if n < 150 else 20.0, "page": "home"}
        asked.append(Request(id=f"r{n}", user=f"u{n}", at=1000 * n, context=context))
    write_log(tmp_path / "log.jsonl", asked)
    log = read_event_log(tmp_path / "log.jsonl", settings)
    found = compare_arms(
        "hours", log, settings, ComparisonPlan(requests=300, seeds=1, jobs=1, arms=("popular",))
    )
    assert [150 < at < 200 for at in found.drift["hour"]] == [True]
    assert found.drift["page"] == found.drift["likes of who asks"] == []


def test_the_page_fetches_nothing_and_escapes_what_it_shows(result: Comparison):
    hostile = structs.replace(
        result,
        log='<script>alert("x")</script>',
        encoder="<img src=x>",
        drift={"<script>hour</script>": [1200]},
    )
    html = page(hostile)
    assert "&lt;script&gt;hour&lt;/script&gt;: after 1,200." in html
    assert "<script" not in html
    assert "<img src=x>" not in html
    assert "&lt;script&gt;" in html
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', html)
    assert sources
    assert all(one.startswith("data:image/svg+xml;base64,") for one in sources)
    assert "url(" not in html
    assert "@import" not in html


def test_the_page_shows_regret_where_it_is_known(result: Comparison):
    flat = Interval(2.0, 1.9, 2.1)
    course = RegretCurve("bandit", [flat], flat, flat, flat, flat, [2.0, 2.0])
    known = Regret(10, 70, 3, [1, 2], "hash", [10], 1.0, [course])
    assert "the best is known" in page(result, known)
    assert "the best is known" not in page(result)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--html", "none/o.html"], "none is no folder"),
        (["--regret", "log.jsonl"], "log.jsonl is not what `regret --json` writes"),
    ],
)
def test_what_cannot_be_read_or_written_is_said_before_the_work(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    write_log(Path("log.jsonl"), messages(users=8, likes=6))
    done = CliRunner().invoke(main, ["compare", "log.jsonl", *arguments])
    assert done.exit_code == 1
    assert says in done.output
    assert "trials" not in done.output


def test_the_command_prints_a_table_and_writes_json_picture_and_page(tmp_path: Path):
    write_log(tmp_path / "log.jsonl", messages(users=8, likes=6))
    names = ("--json", "o.json"), ("--plot", "o.png"), ("--html", "o.html")
    files = [str(part) for option, name in names for part in (option, tmp_path / name)]
    done = CliRunner().invoke(
        main,
        ["compare", str(tmp_path / "log.jsonl"), "--requests", "20", "--seeds", "1", *files],
        env={"RANKLOOP_ENCODER": "hash", "RANKLOOP_DATA_DIR": str(tmp_path)},
    )
    assert done.exit_code == 0, done.output
    assert "bandit-no-cf" in done.output
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "o.html").read_text().startswith("<!doctype html>")
    found = msgspec.json.decode((tmp_path / "o.json").read_bytes(), type=Comparison)
    assert found.requests == 20
    assert len(found.standings) == 15
