"""`rankloop evaluate`, `import open-bandit`: what a log says of policies that did not write it."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from msgspec import structs

from models.events import (
    Champion,
    Click,
    Item,
    Outcome,
    OutcomeSlot,
    Request,
    Source,
    Tick,
    decode_decision,
    decode_record,
    encode,
)
from policies.blend import Blend
from policies.evaluation.importance_weights import chances, weights
from policies.evaluation.slates import SLATE_ESTIMATORS
from stream.cli.main import main
from stream.datasets.log_files import read_lines, read_log, write_log
from stream.datasets.open_bandit import open_bandit_messages
from stream.datasets.topic_logs import save_topic
from stream.offline.off_policy import evaluate
from stream.offline.rescore import rescored
from stream.settings import Settings
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment, now
from tests.support.kafka_worker import eventually
from tests.support.shared import DATA
from tests.unit.test_audit import SETTINGS, lived, user_of
from tests.unit.test_policies import candidates

JUDGED = structs.replace(
    SETTINGS, policy="popular", challengers="bandit,uniform", exploration="epsilon", epsilon=0.5
)
REAL = DATA / "open-bandit"
COLUMNS = "timestamp,item_id,position,click,propensity_score," + ",".join(
    f"user_feature_{i}" for i in range(4)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Open Bandit Dataset: 3 items, 2 places, 600 uniform and 400 greedy rows."""
    rng = np.random.default_rng(1)
    for name, n, pmf in ("random", 600, [1 / 3] * 3), ("bts", 400, [0.2, 0.2, 0.6]):
        (tmp_path / name).mkdir()
        lines = ["," + COLUMNS]
        for i in range(n):
            item = int(rng.choice(3, p=pmf))
            click = int(rng.random() < (0.1, 0.2, 0.5)[item])
            at = f"2019-11-24 00:{i // 60 % 60:02}:{i % 60:02}.5+00:00"
            lines.append(f"{i},{at},{item},{1 + i % 2},{click},{pmf[item]},a,b,c,d{i % 3}")
        (tmp_path / name / "men.csv").write_text("\n".join(lines) + "\n")
        items = ["," + "item_id,item_feature_0,item_feature_1"]
        items += [f"{i},{i},{i / 10},x{i}" for i in range(3)]
        (tmp_path / name / "item_context.csv").write_text("\n".join(items) + "\n")
    return tmp_path


@pytest.fixture
def log(folder: Path) -> Path:
    path = folder / "obd.jsonl"
    write_log(path, open_bandit_messages(folder))
    return path


def rankloop(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments])


def test_a_row_is_an_outcome_of_one_slot_with_its_propensity(folder: Path) -> None:
    messages = list(open_bandit_messages(folder))
    items = [one for one in messages if isinstance(one, Item)]
    outcomes = [one for one in messages if isinstance(one, Outcome)]
    assert [one.id for one in items] == ["item:0", "item:1", "item:2"]
    assert items[1].attributes == {"item_feature_0": 0.1, "item_feature_1": "x1"}
    assert [one.policy for one in outcomes] == ["uniform"] * 600 + ["bts"] * 400
    first = outcomes[0]
    assert first.at == 1_574_553_600_500 and first.slots[0].propensity == 1 / 3
    assert [one.slots[0].position for one in outcomes[:3]] == [0, 1, 0]
    assert first.context == {f"user_feature_{i}": x for i, x in enumerate(("a", "b", "c", "d0"))}


def test_an_imported_log_has_the_chain_of_feedback(log: Path) -> None:
    from models.events import chain

    last: dict[int, str] = {}
    for _, data in read_lines(log):
        if b'"item_feature' not in data:
            record = decode_record(data)
            assert record.prev == last.get(record.source.partition, "")
            last[record.source.partition] = chain(data)
    assert sorted(last) == [0, 1]


def test_each_policy_is_judged_on_the_others_log_beside_what_it_earned(log: Path) -> None:
    found = evaluate(Settings(), str(log))
    measured = {one.policy: one for one in found.measured}
    assert {(one.target, one.logged_by) for one in found.judged} == {
        ("bts", "uniform"),
        ("uniform", "bts"),
    }
    for judged in found.judged:
        truth = measured[judged.target].value.mean
        by = {one.estimator: one.value for one in judged.estimates}
        for name in ("IPS", "SNIPS", "DR", "SNDR"):
            assert by[name].low - 0.05 < truth < by[name].high + 0.05, (judged.target, name)
        assert ("replay" in by) == (judged.logged_by == "uniform")
        assert (judged.anytime is not None) == (judged.logged_by == "uniform")


def test_the_command_prints_a_table_every_warning_and_json(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    done = rankloop("evaluate", log, "--json", out)
    assert done.exit_code == 0, done.output
    assert "measured" in done.output and "DRos" in done.output
    assert "bts: its frequencies of item at place in 400 decisions" in done.output
    assert "uniform: of 3 candidates each, as the log says" in done.output
    assert "if bts learned while it logged" in done.output
    assert "no user comes twice" in done.output
    assert len(json.loads(out.read_text())["measured"]) == 2


def test_a_plot_is_drawn(log: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install -e '.[evaluate]'")
    done = rankloop("evaluate", log, "--policy", "bts", "--plot", tmp_path / "found.png")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_matplotlib_is_said_with_its_remedy(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = rankloop("evaluate", log, "--plot", tmp_path / "found.png")
    assert done.exit_code == 1
    assert "pip install -e '.[evaluate]' in rankloop's checkout" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--policy", "bandit"], "what bandit would have shown is not in this log"),
        (["--model", "magic"], "a reward model is one of linear"),
    ],
)
def test_what_a_log_cannot_say_is_refused(log: Path, arguments: list[str], says: str) -> None:
    done = rankloop("evaluate", log, *arguments)
    assert done.exit_code == 1
    assert says in done.stderr


def test_a_log_that_is_not_there_or_says_nothing_is_refused(tmp_path: Path) -> None:
    assert "no file, no folder" in rankloop("evaluate", tmp_path / "none.jsonl").stderr
    write_log(tmp_path / "empty.jsonl", [])
    assert "holds no outcome" in rankloop("evaluate", tmp_path / "empty.jsonl").stderr
    assert "unpack the Open Bandit" in rankloop("import", "open-bandit", tmp_path, "o.jsonl").stderr


def outcome(number: int, reward: float, status: str = "expired") -> Outcome:
    """A ranking of two out of four, drawn alike."""
    return Outcome(
        id=f"r{number}",
        user=f"u{number % 50}",
        at=number,
        status=status,  # pyright: ignore[reportArgumentType]
        policy="logger",
        model=0,
        slots=(
            OutcomeSlot(item="a", position=0, propensity=0.25, reward=reward),
            OutcomeSlot(item="b", position=1, propensity=1 / 3, reward=0.0),
        ),
        source=Source(0, number, 0),
        reward=reward,
    )


def test_rankings_of_feedback_are_weighed_by_what_was_logged(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    ones = [outcome(n, float(n % 2)) for n in range(200)]
    write_log(path, [*ones, outcome(0, 1.0, "corrected")])
    found = evaluate(Settings(), str(path), ["uniform"], candidates=4)
    by = {one.estimator: one.value.mean for one in found.judged[0].estimates}
    assert by == pytest.approx(dict.fromkeys(by, 0.505))
    assert set(by) == set(SLATE_ESTIMATORS) - {"cascade-DR"}
    assert any("no cascade-DR" in warning for warning in found.judged[0].warnings)
    assert found.measured[0].value.mean == pytest.approx(0.505)
    assert found.measured[0].decisions == 200


def test_a_policys_chances_are_conditional_on_the_slots_above() -> None:
    found = candidates(4)
    policy = Blend(weights={found.names[0]: 1.0})
    scores = policy.scores("ann", {}, found)
    rest = [0, 1, 3]
    first, second = chances(policy, scores, [2, 0])
    assert first == pytest.approx(policy.pmf(scores)[2])
    assert second == pytest.approx(policy.pmf(scores[rest])[0])


@pytest.mark.shared
@pytest.mark.skipif(
    not (REAL / "bts" / "men.csv").is_file(),
    reason="needs the Open Bandit Dataset in ../shared/data/open-bandit (random/, bts/)",
)
def test_open_bandit_men_each_policy_by_the_others_log(tmp_path: Path) -> None:
    path = tmp_path / "obd.jsonl"
    assert write_log(path, open_bandit_messages(REAL)) == 20_034
    assert sum(one.reward for one in read_log(path) if isinstance(one, Outcome)) == 46 + 69
    done = rankloop("evaluate", path, "--json", tmp_path / "found.json")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "found.json").read_text())
    clicks = {one["policy"]: one["value"]["mean"] for one in found["measured"]}
    assert clicks == {"bts": 0.0069, "uniform": 0.0046}
    bts = next(one for one in found["judged"] if one["target"] == "bts")
    by = {one["estimator"]: one["value"] for one in bts["estimates"]}
    for name in ("IPS", "SNIPS", "DR"):
        assert by[name]["low"] < clicks["bts"] < by[name]["high"]
    assert "only 46 clicks" in done.output and "only 69 clicks" in done.output
    assert "weights leave 656 effective decisions of 10,000" in done.output
    assert "their error is not in the intervals" in done.output


def test_a_folder_of_all_logs_judges_policies_that_never_ran(tmp_path: Path) -> None:
    logs, folder = lived(SETTINGS, rounds=60).logs, tmp_path / "week"
    for name in ("events", "rankings", "feedback", "items", "embeddings"):
        assert list(save_topic(logs, folder, name))
    found = evaluate(SETTINGS, str(folder), ["uniform", "popular"])
    assert [one.target for one in found.judged] == ["uniform", "popular"]
    assert "uniform: of the candidates that retrieval found for each request" in found.notes
    for judged in found.judged:
        assert {one.estimator for one in judged.estimates} == set(SLATE_ESTIMATORS)
        assert all(one.support.rows == found.measured[0].decisions for one in judged.estimates)


def test_a_log_whose_champion_was_switched_judges_each_policy_as_it_was_then(
    tmp_path: Path,
) -> None:
    owned, folder = lived(JUDGED, rounds=30), tmp_path / "week"
    owned.logs.append("feedback", encode(Champion(policy="bandit", expects="popular")))
    for worker in owned.workers:
        for n in range(30):
            worker.learn()
            user, at, id = user_of(worker.number, n % 7), 40_000 + 50 * n, f"s{n}-{worker.number}"
            [decision] = worker(Request(id=id, user=user, at=at, k=3))
            click = Click(id=f"d{id}", user=user, item=decision.slots[n % 3].item, at=at)
            worker(structs.replace(click, request=id))
        worker(Tick(at=60_000))
    for name in ("events", "rankings", "feedback", "items", "embeddings"):
        assert list(save_topic(owned.logs, folder, name))

    # The workers wrote down how likely their challengers would have shown the same.
    rankings = [m for log in owned.logs.topics["rankings"] for m in log]
    decisions = {d.id: d for m in rankings if (d := decode_decision(m.data)).slots}
    _, found = rescored(JUDGED, folder, ("popular", "bandit", "uniform"))
    told = {(d.policy, name) for d in decisions.values() for name in d.weights}
    assert len(told) == 4  # two champions, two challengers each
    for decision in decisions.values():
        for name, wanted in decision.weights.items():
            of = found[name][decision.user, decision.id, decision.model]
            places = [of[slot.item].chance for slot in decision.slots]
            assert weights(places, decision.slots) == wanted

    result = evaluate(JUDGED, str(folder))
    assert [one.policy for one in result.measured] == ["bandit", "popular"]
    assert all(one.decisions > 30 for one in result.measured)
    pairs = {(one.logged_by, one.target) for one in result.judged}
    assert {("bandit", "popular"), ("popular", "bandit"), ("bandit", "uniform")} <= pairs


@pytest.mark.kafka
def test_the_topics_of_a_running_rankloop_say_what_its_saved_folder_says(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    settings = {
        "partitions": 1,
        "horizon_seconds": 1,
        "early_reward_seconds": 1,
        "idle_tick_seconds": 0.5,
    }
    with Deployment(
        kafka.brokers, topic_prefix, tmp_path, refresh_on_click=False, **settings
    ) as deployment:
        deployment.ready()
        deployment.stock(12)
        deployment.publish(
            *(Request(id=f"r{n}", user=f"u{n % 5}", at=now(), k=3) for n in range(30))
        )
        shown = eventually(
            lambda: d if len(d := deployment.decisions()) == 30 else {}, "30 rankings"
        )
        for id, decision in list(shown.items())[::3]:
            item = decision.slots[0].item
            deployment.publish(
                Click(id=f"c{id}", user=decision.user, item=item, at=now(), request=id)
            )
        eventually(lambda: all(deployment.outcomes(id) for id in shown), "all decisions are closed")
        asked = ["--policy", "popular", "--policy", "uniform", "--json"]
        found = []
        folder = tmp_path / "kept"
        for command in (
            ["audit", "--save", folder],
            ["evaluate", "topic", *asked, tmp_path / "topic.json"],
            ["evaluate", folder, *asked, tmp_path / "folder.json"],
        ):
            done = CliRunner().invoke(main, [str(one) for one in command], env=deployment.environ)
            assert done.exit_code == 0, f"{done.output}{done.exc_info}"
            found.append(done.stdout)
        said = [json.loads((tmp_path / f"{one}.json").read_text()) for one in ("topic", "folder")]
        assert said[0] == said[1] | {"log": said[0].get("log")}
        assert "uniform" in found[1] and "popular" in found[1]
