"""What README says is what the code does: examples run, messages decode, tables are current."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from models.events import Interaction, decode_any
from stream.cli.main import main
from stream.settings import settings_table
from tests.conftest import Kafka
from tests.kafka_helpers import World
from tests.kafka_worker import eventually

README = (Path(__file__).parents[1] / "README.md").read_text()
COMMANDS = [line for line in README.splitlines() if line.startswith("    rankloop ")]


def commands_table() -> str:
    """One row a command, as README has it."""
    rows = ["| command | what it does |", "|---|---|"]
    for name, command in main.commands.items():
        if isinstance(command, click.Group):
            for inner, one in command.commands.items():
                rows.append(f"| `rankloop {name} {inner}` | {one.get_short_help_str(200)} |")
        else:
            rows.append(f"| `rankloop {name}` | {command.get_short_help_str(200)} |")
    return "\n".join(rows)


def test_the_table_of_settings_is_current() -> None:
    assert settings_table().strip() in README


def test_the_table_of_commands_is_current() -> None:
    assert commands_table() in README


@pytest.mark.parametrize("line", COMMANDS, ids=[line.strip()[:40] for line in COMMANDS])
def test_commands_in_readme_exist_with_their_options(line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    context = click.Context(main)
    name, command, rest = main.resolve_command(context, words)
    assert command is not None, name
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    assert {word for word in rest if word.startswith("-")} <= known


def test_every_example_message_is_valid_and_every_type_has_one() -> None:
    block = re.search(r"```json\n(.*?)```", README, re.DOTALL)
    assert block
    messages = [decode_any(line.encode()) for line in block[1].splitlines()]
    assert {type(message).__name__ for message in messages} == {
        "Item",
        "Request",
        "Impression",
        "Click",
        "Reward",
        "Decision",
        "Interaction",
        "Outcome",
        "Embedding",
        "Begin",
        "Mark",
        "Fold",
        "Champion",
    }


@pytest.mark.kafka
def test_the_producer_and_consumer_of_readme_work(
    kafka: Kafka, topic_prefix: str, tmp_path: Path
) -> None:
    marked = r"<!-- run by tests/test_readme.py -->\n```python\n(.*?)```"
    found = re.search(marked, README, re.DOTALL)
    assert found
    script = tmp_path / "example.py"
    script.write_text(found[1].replace('"rankloop.', f'"{topic_prefix}.'))
    with World(kafka.brokers, topic_prefix, tmp_path) as world:
        world.ready()
        done = subprocess.run(
            [sys.executable, str(script)],
            env=world.environ | {"RANKLOOP_BROKERS": kafka.brokers},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert re.match(r"ann sees \['n\d', 'n\d'\]\n$", done.stdout)
        eventually(
            lambda: any(isinstance(one, Interaction) and one.id == "c1" for one in world.records()),
            "the click is learned",
        )
