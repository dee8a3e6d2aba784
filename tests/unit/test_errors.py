"""Each error has its place in the tree that `stream.errors` shows, and ends a command by it."""

import ast
import re
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agents.errors import DivergedError
from stream import errors
from stream.cli.errors import OneLineErrorGroup
from stream.kafka.authorization import BrokerUnavailableError
from stream.kafka.identity import LogMismatchError
from stream.settings import SettingError
from stream.worker.assignment import PartitionLostError

ROOT = Path(__file__).parents[2]
ROOTS = {"RankloopError", "UserError", "LogError", "RetryableError"}


def listed() -> dict[str, tuple[str, str]]:
    """What the docstring shows: by name, the error above it and the module it lives in."""
    above: list[tuple[int, str]] = []
    found: dict[str, tuple[str, str]] = {}
    for indent, name, rest in re.findall(
        r"^( {4,})(\w+Error)\b(.*)$", errors.__doc__ or "", re.MULTILINE
    ):
        while above and above[-1][0] >= len(indent):
            above.pop()
        module = "agents.errors" if name in ROOTS else rest.split()[-1]
        found[name] = above[-1][1] if above else "Exception", module
        above.append((len(indent), name))
    return found


def defined() -> dict[str, tuple[str, str]]:
    """The same of all exceptions in the code, by their first base."""
    found: dict[str, tuple[str, str]] = {}
    for path in [*(ROOT / "stream").rglob("*.py"), *(ROOT / "agents").rglob("*.py")]:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Error"):
                found[node.name] = ast.unparse(node.bases[0]), module
    return found


# Imported before any test runs: what an earlier test left to be collected is not this one's fault.
MODULES = {module: import_module(module) for _, module in listed().values()}


def test_the_tree_shows_each_error_below_its_base_and_with_its_module() -> None:
    assert listed() == defined()
    for name, (base, module) in listed().items():
        error = getattr(MODULES[module], name)
        assert issubclass(error, errors.RankloopError)
        assert error.__bases__[0].__name__ == base


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingError("epsilon is too small"), 2),
        (LogMismatchError("another log"), 1),
        (DivergedError("another record"), 1),
        (BrokerUnavailableError("nobody answers"), 1),
        (PartitionLostError("the lease ran out"), 1),
    ],
)
def test_each_kind_of_error_ends_a_command_in_one_line(error: Exception, code: int) -> None:
    def fail() -> None:
        raise error

    done = CliRunner().invoke(OneLineErrorGroup("x", [click.Command("x", callback=fail)]), ["x"])
    assert (done.exit_code, done.output) == (code, f"Error: {error}\n")
