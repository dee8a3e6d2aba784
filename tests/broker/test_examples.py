"""The examples run as they stand, and their producers find the partitions that rankloop expects."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from models.events import Interaction
from stream.kafka.topics import owner
from tests.conftest import Kafka
from tests.support.kafka_helpers import Deployment
from tests.support.kafka_worker import eventually

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
PARTITIONS = 8
# Bytes above 127, and ids of every length modulo 4: murmur2 takes the last bytes one by one.
USERS = [
    *(f"user:{n}" for n in range(80)),
    *(f"用户{n}" for n in range(80)),
    *("陈" * n for n in range(1, 20)),
    *("é" * n for n in range(1, 20)),
    "李小龙",
    "Zoë",
    "😀",
    "a b",
]


def run(command: list[str], environ: dict[str, str] | None = None, folder: Path = ROOT) -> str:
    """What an example prints; it has to end by itself, within two minutes, without an error."""
    others = {k: v for k, v in os.environ.items() if not k.startswith("RANKLOOP_")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        command,
        cwd=folder,
        env=others | {"PYTHONPATH": path} | (environ or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def script(name: str, *arguments: str, environ: dict[str, str] | None = None) -> str:
    return run([sys.executable, str(EXAMPLES / name), *arguments], environ)


def where(deployment: Deployment) -> dict[str, str]:
    """What an example reads from its environment to talk to a deployment's topics."""
    settings = deployment.settings
    return {"RANKLOOP_BROKERS": settings.brokers, "RANKLOOP_TOPIC_PREFIX": settings.topic_prefix}


def assert_all_were_routed_and_answered(deployment: Deployment) -> None:
    """Every user's events lie where rankloop expects them; none was refused, all are answered."""
    deployment.settled()
    landed: dict[str, set[int]] = {}
    requests: set[str] = set()
    for message in deployment.read(deployment.topics.events):
        event = json.loads(message.value or b"")
        if event["type"] != "tick":  # a worker's own
            landed.setdefault(event["user"], set()).add(message.partition)
        if event["type"] == "request":
            requests.add(event["id"])
    assert landed == {user: {owner(user, PARTITIONS)} for user in USERS}
    assert {n for numbers in landed.values() for n in numbers} == set(range(PARTITIONS))
    assert [letter.reason for letter in deployment.letters()] == []
    assert len(requests) == len(USERS)
    assert requests <= deployment.decisions().keys()


@pytest.mark.kafka
def test_a_producer_and_consumer_in_one_script(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    with Deployment(kafka.brokers, topic_prefix, tmp_path) as deployment:
        deployment.ready()
        said = script("producer_consumer.py", environ=where(deployment))
        first, then = said.splitlines()
        assert re.fullmatch(r"ann sees \['n\d', 'n\d'\]", first)
        clicked, refreshed = re.fullmatch(r"after her click on (n\d) ann sees (.*)", then).groups()  # pyright: ignore
        assert clicked not in refreshed
        assert "n" in refreshed

        def learned() -> bool:
            records = [one for one in deployment.records() if isinstance(one, Interaction)]
            return [(one.user, one.item) for one in records] == [("ann", clicked)]

        eventually(learned, "the click is learned")
        assert deployment.letters() == []
        script("producer_consumer.py", environ=where(deployment))  # again: every id is a new one


@pytest.mark.kafka
def test_a_producer_with_librdkafka(kafka: Kafka, topic_prefix: str, tmp_path: Path) -> None:
    if find_spec("confluent_kafka") is None:
        pytest.skip("needs librdkafka: pip install 'confluent-kafka>=2.5' (in the extra `dev`)")
    with Deployment(kafka.brokers, topic_prefix, tmp_path, partitions=PARTITIONS) as deployment:
        deployment.ready()
        said = script("producer_librdkafka.py", *USERS, environ=where(deployment))
        assert set(said.splitlines()) == {
            f"{user} is on partition {owner(user, PARTITIONS)}" for user in USERS
        }
        assert_all_were_routed_and_answered(deployment)


@pytest.fixture(scope="module")
def kafkajs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example in Node with its packages, in a folder of its own."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs Node 18 or newer: put `node` and `npm` on PATH")
    folder = tmp_path_factory.mktemp("node") / "producer_kafkajs"
    ignored = shutil.ignore_patterns("node_modules")
    shutil.copytree(EXAMPLES / "producer_kafkajs", folder, ignore=ignored)
    try:
        command = ["npm", "ci", "--no-audit", "--no-fund", "--fetch-retries=0"]
        subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        why = f"`npm ci` failed ({error}); npm_config_registry=URL names another registry"
        pytest.skip(f"needs kafkajs from the npm registry, but {why}")
    return folder


@pytest.mark.kafka
def test_a_producer_with_kafkajs(
    kafka: Kafka, kafkajs: Path, topic_prefix: str, tmp_path: Path
) -> None:
    with Deployment(kafka.brokers, topic_prefix, tmp_path, partitions=PARTITIONS) as deployment:
        deployment.ready()
        said = run(["node", "index.mjs", *USERS], where(deployment), kafkajs)
        assert said == f"sent a request and a click of {len(USERS)} users\n"
        assert_all_were_routed_and_answered(deployment)


def test_a_policy_of_ones_own_earns_more_than_popular() -> None:
    rows = table(script("custom_policy.py"))
    assert list(rows) == ["uniform", "popular", "tag_rates"]
    mean, low, high, *gain = rows["tag_rates"]
    assert low <= mean <= high
    assert gain[1] > 0  # the whole interval of the difference


def test_estimates_from_a_log_agree_with_the_truth() -> None:
    said = script("off_policy_evaluation.py")
    found = re.search(r"true value of the target: +([\d.]+)", said)
    assert found
    rows = table(said)
    for name in ("IPS", "SNIPS", "DR"):
        _, low, high = rows[name]
        assert low <= float(found[1]) <= high, said


def test_a_replay_of_a_small_log() -> None:
    said = script("replay_log.py")
    models, policies = (table(part) for part in said.split("\npolicy "))
    assert models["knn"][0] > models["random"][0]
    assert models["content"][0] > models["random"][0]
    compared = ["random", "uniform", "popular", "popular-repeats", "knn", "blend-repeats", "bandit"]
    assert list(policies) == compared
    assert policies["bandit"][1] > policies["popular"][2]  # intervals apart


def table(text: str) -> dict[str, list[float]]:
    """Rows of a word and numbers; intervals are a mean, a low and a high end."""
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        name, *numbers = re.sub(r"[\[\],]", " ", line).split() or [""]
        try:
            values = [float(number) for number in numbers]
        except ValueError:
            continue
        if len(values) >= 3:
            found[name] = values
    return found


def test_every_example_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text()
    names = {one.name for one in EXAMPLES.iterdir() if not one.name.startswith(("_", "."))}
    assert set(re.findall(r"^\| \[([\w.]+)", listed, re.MULTILINE)) == names - {"README.md"}
