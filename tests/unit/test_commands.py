"""The command line says what a user can mend in one line, and shows our own errors in full."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from click.testing import CliRunner, Result

from models.events import Click, Embedding, Item, Request, Tick
from stream.cli import errors as mistakes
from stream.cli.main import main
from stream.datasets.log_files import write_log
from stream.kafka.producer import ProduceError
from stream.kafka.topics import Topics
from stream.settings import Settings
from tests.conftest import Kafka

VECTOR = Embedding(id="a", encoder="hash", text_hash="0" * 16, vector=b"\x00\x3c")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of good and bad files, which is the present one."""
    monkeypatch.chdir(tmp_path)
    write_log(
        tmp_path / "good.jsonl",
        [
            Item(id="a", title="one", at=0),
            Item(id="b", title="two", at=0),
            Request(id="r", user="ann", at=5, k=1),
            Click(id="c", user="ann", item="a", at=9),
        ],
    )
    write_log(tmp_path / "items.jsonl", [Item(id="a", at=0)])
    write_log(tmp_path / "ticks.jsonl", [Tick(at=0)])
    write_log(tmp_path / "vectors.jsonl", [VECTOR])
    Path("empty.jsonl").touch()
    Path("bad.jsonl").write_text('{"type":"click"}\n')
    Path("cut.jsonl.gz").write_bytes(b"\x1f\x8b")
    Path("notes.txt").write_text("{}")
    Path("odd.toml").write_text("polizy = 'uniform'\n")
    Path("folder").mkdir()
    return tmp_path


def rankloop(arguments: Sequence[str], **environ: str) -> Result:
    usual = {"ENCODER": "hash", "DATA_DIR": "data", "BROKERS": "127.0.0.1:1"} | environ
    return CliRunner().invoke(
        main, arguments, env={f"RANKLOOP_{name}": value for name, value in usual.items()}
    )


MISTAKES: list[tuple[str, Mapping[str, str], int, str]] = [
    ("replay bad.jsonl", {}, 1, "bad.jsonl:1: Object missing required field"),
    ("replay cut.jsonl.gz", {}, 1, "cut.jsonl.gz:1: "),
    ("replay notes.txt", {}, 1, "a log is a .jsonl, .jsonl.gz or .parquet file, not 'notes.txt'"),
    ("replay empty.jsonl", {}, 1, "empty.jsonl holds no request, click or positive reward"),
    ("replay items.jsonl --policies knn", {}, 1, "items.jsonl holds no request"),
    ("replay none.jsonl", {}, 2, "'none.jsonl' does not exist"),
    ("replay good.jsonl --horizon -5", {}, 2, "HORIZON_SECONDS): Expected `float` >= 0.0, got -5"),
    ("replay good.jsonl --policies knn,magic", {}, 2, "--policies must be among uniform, popular"),
    ("replay good.jsonl --policies magic --decisions o.jsonl", {}, 2, "got magic"),
    ("replay good.jsonl --policies knn,mf --decisions o.jsonl", {}, 2, "those of one policy"),
    ("replay good.jsonl --policies knn --limit 5", {}, 2, "--limit goes without --policies"),
    ("replay good.jsonl --json folder/none/o.json", {}, 1, "folder/none/o.json: No such file"),
    (
        "replay good.jsonl --policies knn --decisions none/o.jsonl",
        {},
        1,
        "none/o.jsonl: No such file or directory",
    ),
    ("replay good.jsonl", {"DATA_DIR": "notes.txt"}, 1, "notes.txt"),
    ("replay good.jsonl", {"ENCODER": "./folder"}, 1, "folder"),
    ("replay good.jsonl", {"EPSILON": "2"}, 2, "RANKLOOP_EPSILON): Expected `float` <= 1.0"),
    ("--config odd.toml replay good.jsonl", {}, 2, "polizy is no setting; did you mean policy?"),
    ("simulate --policies magic", {}, 2, "got magic"),
    ("simulate --horizon -5", {}, 2, "HORIZON_SECONDS"),
    ("publish bad.jsonl", {}, 1, "bad.jsonl:1: "),
    ("publish notes.txt", {}, 1, "not 'notes.txt'"),
    ("publish good.jsonl", {}, 1, "no Kafka answers at 127.0.0.1:1 "),
    ("topics", {}, 1, "no Kafka answers at 127.0.0.1:1 "),
    ("topics", {"SECURITY_PROTOCOL": "SSL", "SSL_CAFILE": "none.pem"}, 1, "No such file"),
    ("worker --web-port 70000", {}, 2, "WEB_PORT): Expected `int` <= 65535, got 70000"),
    ("import movielens folder o.jsonl", {}, 1, "no ratings.csv or ratings.dat or u.data in folder"),
    ("import movielens nowhere o.jsonl", {}, 2, "'nowhere' does not exist"),
    ("demo --data folder", {}, 1, "no ratings.csv or ratings.dat or u.data in folder"),
    ("audit", {}, 1, "no Kafka answers at 127.0.0.1:1 "),
    ("audit --from folder", {}, 1, "folder"),
    ("schema --out notes.txt", {}, 1, "notes.txt: File exists"),
    ("snapshots list", {"EPSILON": "2"}, 2, "RANKLOOP_EPSILON"),
    ("snapshots show 7", {}, 1, "7"),
    ("snapshots rollback x", {}, 2, "'x' is not a valid integer"),
]


@pytest.mark.parametrize(
    ("line", "environ", "code", "says"), MISTAKES, ids=[f"{m[0]} {m[1] or ''}" for m in MISTAKES]
)
@pytest.mark.usefixtures("here")
def test_a_mistake_ends_in_one_line(line: str, environ: Mapping[str, str], code: int, says: str):
    done = rankloop(line.split(), **environ)
    said = done.stderr.strip().splitlines()
    assert (done.exit_code, said[-1][:7]) == (code, "Error: ")
    assert says in said[-1]
    assert isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.output
    # Beside it there is click's reminder of how the command is used, if that was the mistake.
    assert [one for one in said[:-1] if one and not one.startswith(("Usage: ", "Try "))] == []


@pytest.mark.parametrize("ours", [TypeError, AssertionError, KeyError, RuntimeError, IndexError])
def test_our_own_errors_keep_their_traceback(ours: type[Exception]):
    def break_() -> None:
        raise ours("broken")

    group = mistakes.OneLineErrorGroup("rankloop", [click.Command("x", callback=break_)])
    assert isinstance(CliRunner().invoke(group, ["x"]).exception, ours)
    with pytest.raises(ours):
        group(["x"], prog_name="rankloop")


@pytest.mark.parametrize("theirs", [ProduceError("no topic"), OSError(5, "full"), ValueError()])
def test_all_a_server_or_a_disk_may_say_is_one_line(theirs: Exception):
    def break_() -> None:
        raise theirs

    inner = click.Group("inner", [click.Command("x", callback=break_)])
    done = CliRunner().invoke(mistakes.OneLineErrorGroup("rankloop", [inner]), ["inner", "x"])
    assert done.exit_code == 1
    assert done.output == f"Error: {str(theirs) or 'ValueError'}\n"


def test_a_reader_who_leaves_is_no_mistake():
    def leave() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    done = CliRunner().invoke(
        mistakes.OneLineErrorGroup("x", [click.Command("x", callback=leave)]), ["x"]
    )
    assert done.exit_code == 1
    assert "Error" not in done.output


@pytest.mark.usefixtures("here")
def test_one_item_is_ranked_by_vowpal_wabbits_own_exploration():
    for rule in ("epsilon", "softmax", "squarecb"):
        out = f"{rule}.jsonl"
        command = f"replay good.jsonl --policies vw_explore --k 1 --decisions {out}"
        done = rankloop(command.split(), EXPLORATION=rule)
        assert done.exit_code == 0, done.output
        assert '"policy":"vw_explore"' in Path(out).read_text()


@pytest.mark.kafka
def test_publishing_creates_the_topics_first(kafka: Kafka, topic_prefix: str, here: Path):
    told = {"BROKERS": kafka.brokers, "TOPIC_PREFIX": topic_prefix, "PARTITIONS": "3"}
    done = rankloop(["publish", "notes.txt"], **told)
    assert (done.exit_code, topics_of(kafka.brokers, topic_prefix)) == (1, {})
    done = rankloop(["publish", "good.jsonl"], **told)
    assert done.exit_code == 0, done.output
    assert "4 messages published" in done.output
    shapes = Topics(topic_prefix).shapes(3)
    assert topics_of(kafka.brokers, topic_prefix) == {name: shapes[name][0] for name in shapes}
    done = rankloop(["publish", "vectors.jsonl"], **told)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        "Error: vectors.jsonl:1: Embedding messages are written by workers, not by producers; "
        "leave all out but items, requests, impressions, clicks and rewards; nothing was sent"
    )


@pytest.mark.kafka
def test_a_worker_without_its_policy_says_so(kafka: Kafka, topic_prefix: str, tmp_path: Path):
    """In a process of its own: a worker keeps the event loop and the log to itself."""
    told = {"BROKERS": kafka.brokers, "TOPIC_PREFIX": topic_prefix, "POLICY": "magic"}
    done = subprocess.run(
        [sys.executable, "-m", "stream", "worker"],
        cwd=Path(__file__).parents[2],
        env=os.environ
        | {f"RANKLOOP_{name}": value for name, value in told.items()}
        | {"RANKLOOP_ENCODER": "hash", "RANKLOOP_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert "Error: policy must be one of uniform, popular" in done.stderr.splitlines()[-1]


def topics_of(brokers: str, prefix: str) -> dict[str, int]:
    """The topics under a prefix and how many partitions each has."""

    async def found() -> dict[str, int]:
        admin = AIOKafkaAdminClient(**Settings(brokers=brokers).aiokafka_options())
        await admin.start()
        try:
            names = [name for name in await admin.list_topics() if name.startswith(prefix + ".")]
            topics = await admin.describe_topics(names) if names else []
            return {one["topic"]: len(one["partitions"]) for one in topics}
        finally:
            await admin.close()

    return asyncio.run(found())


def test_help_shows_every_command_under_one_heading() -> None:
    shown = [name for names in main.sections.values() for name in names]
    assert sorted(shown) == sorted(main.commands)
    text = CliRunner().invoke(main, ["--help"]).output
    for heading in ("Run", "Data", "Offline evaluation", "Operate", "Verify"):
        assert f"\n{heading}:\n" in text
