"""Replay: nothing is known before its time, equal logs give equal bytes, and metrics are right."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec import structs

from models.base import Doubles
from models.candidates import Candidates
from models.events import Click, Embedding, Item, Request, Reward, decode_decision
from policies.base import Policy
from stream import build
from stream.cli.main import main
from stream.datasets.log_files import write_log
from stream.offline.off_policy import TARGETS
from stream.offline.prequential import evaluate_prequentially
from stream.settings import Settings
from stream.simulation.closed_loop import Run, run
from stream.simulation.environment import LogEnvironment
from stream.simulation.event_log import EventLog, read_event_log
from stream.simulation.experiment import POLICIES

ROOT = Path(__file__).parents[2]


def messages(users: int = 30, likes: int = 20, seed: int = 1) -> list[Item | Click | Reward]:
    """Films of four genres, and users who like one genre and, now and then, dislike another."""
    rng = Random(seed)
    genres = [f"genre{g}" for g in range(4)]
    made: list[Item | Click | Reward] = [
        Item(id=f"film:{i}", at=i, title=f"{genres[i % 4]} tale {i}", tags=(genres[i % 4],))
        for i in range(120)
    ]
    events: list[Click | Reward] = []
    for u in range(users):
        films = [i for i in range(120) if i % 4 == u % 4]
        at = 1_000_000 + 100_000 * u
        for n, film in enumerate(rng.sample(films, likes)):
            name = f"{u}:{film}"
            event = Click(id=name, user=f"user:{u}", item=f"film:{film}", at=at + 5_000 * n)
            events.append(event)
        other = rng.choice([i for i in range(120) if i % 4 != u % 4])
        dislike = Reward(id=f"no:{u}", user=f"user:{u}", item=f"film:{other}", at=at, value=-2)
        events.append(dislike)
    return made + sorted(events, key=lambda event: event.at)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(encoder="hash", data_dir=str(tmp_path / "data"), horizon_seconds=10)


@pytest.fixture
def log(tmp_path: Path, settings: Settings) -> EventLog:
    write_log(tmp_path / "log.jsonl", messages())
    return read_event_log(tmp_path / "log.jsonl", settings)


def test_an_item_is_unknown_before_its_time(tmp_path: Path, settings: Settings):
    late = [
        Item(id="old", title="old", at=0),
        Item(id="new", title="new", at=50),
        Click(id="a", user="ann", item="old", at=49),
        Click(id="b", user="ann", item="old", at=50),
    ]
    write_log(tmp_path / "log.jsonl", late)
    found = read_event_log(tmp_path / "log.jsonl", settings).in_time()
    assert [getattr(message, "id", "") for message in found] == [
        "old",
        "old",
        "a",
        "new",
        "new",
        "b",
    ]


def test_a_new_text_that_says_nothing_keeps_no_vector_of_the_old_one(
    tmp_path: Path, settings: Settings
):
    log = (
        Item(id="a", title="draft", at=0),
        click("1", 10),
        Item(id="a", title="\u200b", at=0),
        click("2", 20),
        Item(id="a", title="a title", at=0),
        click("3", 30),
    )
    write_log(tmp_path / "log.jsonl", log)
    read = read_event_log(tmp_path / "log.jsonl", settings)
    loop, found = build.loop(settings, read.encoder), list[bool]()
    for message in read.in_time():
        loop(message)
        if isinstance(message, Click):
            found.append(loop.catalogue.vector("a") is not None)
    assert found == [True, False, True]


def seen(path: Path, settings: Settings, *log: Item | Click) -> list[tuple[str, str]]:
    """What enters, in order: (id, title) of an item, `gone` if deleted; vectors are left out."""
    write_log(path, log)
    found: list[tuple[str, str]] = []
    for message in read_event_log(path, settings).in_time():
        if isinstance(message, Item):
            found.append((message.id, "gone" if message.deleted else message.title))
        elif isinstance(message, Click):
            found.append((message.id, ""))
    return found


def click(id: str, at: int, item: str = "a") -> Click:
    return Click(id=id, user="ann", item=item, at=at)


def test_an_update_and_a_deletion_are_unknown_before_their_place_in_the_file(
    tmp_path: Path, settings: Settings
):
    log = (
        Item(id="a", at=0, title="draft"),
        click("1", 10),
        click("2", 10),
        Item(id="a", at=0, title="final"),
        click("3", 10),
        Item(id="a", at=0, deleted=True),
        click("4", 20),
        Item(id="a", at=0, title="again"),
        click("5", 30),
    )
    assert seen(tmp_path / "log.jsonl", settings, *log) == [
        ("a", "draft"),
        ("1", ""),
        ("2", ""),
        ("a", "final"),
        ("3", ""),
        ("a", "gone"),
        ("4", ""),
        ("a", "again"),
        ("5", ""),
    ]


def test_an_update_is_unknown_before_its_time_wherever_it_stands(
    tmp_path: Path, settings: Settings
):
    log = (
        Item(id="a", at=0, title="draft"),
        Item(id="a", at=20, title="final"),
        Item(id="a", at=5, deleted=True),  # by the file after `final`: so it is in the replay
        click("1", 10),
        click("2", 20),
    )
    assert seen(tmp_path / "log.jsonl", settings, *log) == [
        ("a", "draft"),
        ("1", ""),
        ("a", "final"),
        ("a", "gone"),
        ("2", ""),
    ]


def test_what_is_changed_after_all_events_is_never_known(tmp_path: Path, settings: Settings):
    log = (click("1", 10), Item(id="a", at=0, title="draft"), Item(id="a", at=0, title="final"))
    assert seen(tmp_path / "log.jsonl", settings, *log) == [("a", "draft"), ("1", "")]


def test_each_version_comes_with_the_vector_of_its_own_text(tmp_path: Path, settings: Settings):
    def vector(log: Sequence[Item | Click], version: int) -> bytes:
        write_log(tmp_path / "log.jsonl", log)
        found = list(read_event_log(tmp_path / "log.jsonl", settings).in_time())
        return [one for one in found if isinstance(one, Embedding)][version].vector

    def item(title: str, *, deleted: bool = False) -> Item:
        return Item(id="a", at=0, title=title, deleted=deleted)

    war, tea = item("a long war"), item("tea for two")
    both = [war, click("1", 5), item("", deleted=True), click("2", 6), tea, click("3", 7)]
    assert vector(both, 0) == vector([war, click("1", 5)], 0)
    assert vector(both, 1) == vector([tea, click("1", 5)], 0)
    assert vector(both, 0) != vector(both, 1)


def test_a_deleted_item_is_ranked_while_it_is_there_and_not_after(
    tmp_path: Path, settings: Settings
):
    def asked(*gone: Item) -> dict[str, float]:
        films = [Item(id=f"film:{i}", at=0) for i in range(3)]
        fans = [Click(id=str(i), user=f"fan:{i}", item="film:0", at=10 + i) for i in range(5)]
        log = [*films, *fans[:4], *gone, fans[4]]
        write_log(tmp_path / "log.jsonl", log)
        result = evaluate_prequentially(
            read_event_log(tmp_path / "log.jsonl", settings), settings, k=1
        )
        assert result.items == 3
        return {row.model: row.recall.mean for row in result.rows}

    assert asked()["popularity"] == pytest.approx(4 / 5)  # all but the first
    assert asked(Item(id="film:0", at=0, deleted=True))["popularity"] == pytest.approx(3 / 5)


def test_a_policy_shows_a_deleted_item_before_its_deletion_and_not_after(
    tmp_path: Path, settings: Settings
):
    log = [
        Item(id="a", at=0),
        Request(id="before", user="ann", at=10, k=5),
        Item(id="a", at=0, deleted=True),
        Item(id="b", at=0),
        Request(id="after", user="bob", at=20, k=5),
    ]
    write_log(tmp_path / "log.jsonl", log)
    out = tmp_path / "decisions.jsonl"
    environment = LogEnvironment(read_event_log(tmp_path / "log.jsonl", settings), 10)
    run(Run(settings=settings, environment=environment, decisions=out))
    decided = [decode_decision(line) for line in out.read_bytes().splitlines()]
    assert [{slot.item for slot in one.slots} for one in decided] == [{"a", "b"}, {"b"}]


def test_models_that_know_the_user_beat_chance_by_far(log: EventLog, settings: Settings):
    result = evaluate_prequentially(log, settings)
    reached = {row.model: row.recall.mean for row in result.rows}
    assert result.questions == 600 and result.users == 30
    assert 0.04 < reached["random"] < 0.16  # 10 of 100 to 120 unmet films
    assert reached["knn"] > 0.3 and reached["content"] > 0.3  # 10 of the 30 of a genre, at least
    assert reached["knn"] > 2 * reached["popularity"]


def test_every_question_is_ranked_before_it_is_learned(tmp_path: Path, settings: Settings):
    films = [Item(id=f"film:{i}", at=0) for i in range(50)]
    once = [Click(id=str(i), user=f"u{i}", item=f"film:{i}", at=1 + i) for i in range(50)]
    write_log(tmp_path / "log.jsonl", [*films, *once])
    result = evaluate_prequentially(read_event_log(tmp_path / "log.jsonl", settings), settings)
    assert result.cold == 1.0
    assert {r.model: r.recall.mean for r in result.rows if r.model != "random"} == {
        "popularity": 0,
        "knn": 0,
        "knn_long": 0,
        "mf": 0,
        "content": 0,
        "blend": 0,
    }


def test_what_a_user_met_is_not_asked_again_nor_ranked(tmp_path: Path, settings: Settings):
    again = [Click(id=str(i), user="ann", item="film:0", at=1 + i) for i in range(9)]
    write_log(tmp_path / "log.jsonl", [Item(id="film:0", at=0), *again])
    assert (
        evaluate_prequentially(read_event_log(tmp_path / "log.jsonl", settings), settings).questions
        == 1
    )


def test_a_learning_policy_beats_chance_in_the_closed_loop(log: EventLog, settings: Settings):
    def reward(policy: str) -> float:
        trial = Run(
            settings=structs.replace(settings, policy=policy), environment=LogEnvironment(log, 300)
        )
        rewards = run(trial).rewards
        assert len(rewards) == 300
        return sum(rewards)

    assert reward("knn") > 1.2 * reward("uniform")


def shown(log: EventLog, settings: Settings, policy: str, out: Path) -> list[list[str]]:
    """The items of 300 rankings."""
    run(
        Run(
            settings=settings.alone(policy),
            environment=LogEnvironment(log, 300),
            decisions=out,
        )
    )
    decisions = [json.loads(line) for line in out.read_text().splitlines()]
    assert {one["policy"] for one in decisions} == {policy}
    return [[slot["item"] for slot in one["slots"]] for one in decisions]


def test_random_draws_evenly_from_all_items_and_uniform_from_the_candidates(
    log: EventLog, settings: Settings, tmp_path: Path
):
    few = structs.replace(settings, candidates=20, exclude_seen=False)
    drawn = shown(log, few, "random", tmp_path / "random.jsonl")
    count = Counter(item for items in drawn for item in items)
    assert len(count) == 120 and sum(count.values()) == 3_000
    expected = 3_000 / 120
    squares = sum((n - expected) ** 2 / expected for n in count.values())
    assert squares < 190  # chi square, 119 degrees of freedom: above one time in 30,000
    chosen = Counter(
        item for items in shown(log, few, "uniform", tmp_path / "uniform.jsonl") for item in items
    )
    assert max(chosen.values()) > 2 * max(count.values())  # what retrieval prefers
    again = shown(log, structs.replace(few, seed=few.seed + 1), "random", tmp_path / "again.jsonl")
    assert again != drawn


def some_candidates() -> Candidates:
    """Four with all columns."""
    names = tuple(one.name for one in build.features(Settings()))
    return Candidates(
        names=names,
        items=tuple("abcd"),
        sources=("knn",) * 4,
        x=np.random.default_rng(0).normal(size=(4, len(names))),
        tags=((),) * 4,
        text=np.zeros((4, 0)),
    )


def column(name: str) -> Doubles:
    """A column of `some_candidates`."""
    return some_candidates().x[:, some_candidates().names.index(name)]


def scores(policy: Policy) -> Doubles:
    """Of `some_candidates`."""
    return policy.scores("ann", {}, some_candidates())


def test_every_table_holds_each_fixed_policy_with_and_without_repeats():
    with_a_list_or_one_slot = {"baseline", "vw_explore"}
    assert {*POLICIES} == {*build.POLICIES} - with_a_list_or_one_slot | {"random"}
    assert {*TARGETS} < {*build.POLICIES}
    weighed = ("popular", "knn", "mf", "content", "blend")
    assert {f"{name}-repeats" for name in weighed} | {"rate"} < {*POLICIES}
    for name in weighed:
        with_it, without = (build.policy(Settings(), one) for one in (f"{name}-repeats", name))
        assert scores(without) - scores(with_it) == pytest.approx(column("repeats"))
    assert scores(build.policy(Settings(), "rate")) == pytest.approx(column("rate"))


def test_requests_and_clicks_of_the_log_are_replayed_as_they_are(
    tmp_path: Path, settings: Settings
):
    own = [
        Item(id="a", at=0),
        Item(id="b", at=0),
        Request(id="r1", user="ann", at=10, k=2),
        Click(id="c1", user="ann", item="a", at=11, request="r1"),
        Request(id="r2", user="ann", at=20, k=2),
        Click(id="c2", user="ann", item="elsewhere", at=21, request="r2"),
    ]
    write_log(tmp_path / "log.jsonl", own)
    out = tmp_path / "decisions.jsonl"
    environment = LogEnvironment(read_event_log(tmp_path / "log.jsonl", settings), 10)
    played = run(Run(settings=settings, environment=environment, decisions=out))
    assert played.rewards == [1.0, 0.0]
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["r1", "r2"]


def test_equal_logs_and_seeds_give_equal_bytes_under_any_hash_seed(tmp_path: Path):
    write_log(tmp_path / "log.jsonl", messages(users=12))
    decisions, said = [], []
    for hash_seed in ("0", "4711"):
        out = tmp_path / f"{hash_seed}.jsonl"
        command = ["replay", str(tmp_path / "log.jsonl"), "--policies", "bandit"]
        done = subprocess.run(
            [sys.executable, "-m", "stream", *command, "--requests", "120", "--decisions", out],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "RANKLOOP_ENCODER": "hash",
                "RANKLOOP_DATA_DIR": str(tmp_path / hash_seed),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        decisions.append(out.read_bytes())
        said.append(done.stdout.split("digest")[1])
    assert decisions[0].count(b"\n") == 120
    assert decisions[0] == decisions[1]
    assert said[0] == said[1]


def test_the_command_compares_policies_in_processes_of_their_own(tmp_path: Path):
    write_log(tmp_path / "log.jsonl", messages(users=12))
    out = tmp_path / "result.json"
    command = ["replay", str(tmp_path / "log.jsonl"), "--policies", "random,uniform,knn"]
    environment = {"RANKLOOP_ENCODER": "hash", "RANKLOOP_DATA_DIR": str(tmp_path / "data")}
    result = CliRunner().invoke(
        main, [*command, "--requests", "60", "--json", str(out)], env=environment
    )
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["champion"] == "knn" and found["requests"] == 60
    assert [one["policy"] for one in found["standings"]] == ["random", "uniform", "knn"]
    assert found["standings"][2]["lead"] is None
    assert "knn minus it" in result.output
    assert "random over all items" in result.output
    assert "uniform over candidates" in result.output


def test_an_unknown_policy_is_named_with_those_there_are(tmp_path: Path):
    write_log(tmp_path / "log.jsonl", messages(users=2))
    result = CliRunner().invoke(
        main,
        ["replay", str(tmp_path / "log.jsonl"), "--policies", "magic"],
        env={"RANKLOOP_ENCODER": "hash", "RANKLOOP_DATA_DIR": str(tmp_path / "data")},
    )
    assert result.exit_code == 2
    assert "magic" in result.output and "uniform" in result.output


def test_simulated_readers_are_played_alike(tmp_path: Path):
    out = [tmp_path / "1.json", tmp_path / "2.json"]
    for path in out:
        result = CliRunner().invoke(
            main,
            ["simulate", "--policies", "bandit", "--requests", "40", "--json", str(path)],
            env={"RANKLOOP_ENCODER": "hash", "RANKLOOP_DATA_DIR": str(tmp_path / "data")},
        )
        assert result.exit_code == 0, result.output
    first, second = (json.loads(path.read_text())["standings"][0] for path in out)
    assert first["digests"] == second["digests"] and first["seeds"] == second["seeds"]


def test_movielens_is_imported_without_hindsight(tmp_path: Path):
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n1,Toy Story (1995),Comedy\n")
    (tmp_path / "tags.csv").write_text("userId,movieId,tag,timestamp\n1,1,pixar,99\n")
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,4.0,9\n")
    out = tmp_path / "log.jsonl"
    result = CliRunner().invoke(main, ["import", "movielens", str(tmp_path), str(out)])
    assert result.exit_code == 0, result.output
    assert "pixar" not in out.read_text() and "Toy Story" in out.read_text()
