"""The repository keeps its own rules: what one can read, who reads the environment, one stack."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = ("stream", "agents", "policies", "models")
MODULES = [
    path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py"
]
DEFINITIONS = [
    (f"{path.relative_to(ROOT).as_posix()}:{node.lineno} {node.name}", node)
    for path in MODULES
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
]


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """How many parameters a function has; self and cls are none, commands have their options."""
    if any(ast.unparse(one).partition("(")[0].endswith("command") for one in node.decorator_list):
        return 0
    args = node.args
    names = [one.arg for one in (*args.posonlyargs, *args.args, *args.kwonlyargs)]
    rest = [one for one in (args.vararg, args.kwarg) if one is not None]
    return len([name for name in names if name not in ("self", "cls")]) + len(rest)


def test_a_folder_has_17_modules_at_most() -> None:
    folders = Counter(path.parent.relative_to(ROOT).as_posix() for path in MODULES)
    assert {folder: count for folder, count in folders.items() if count > 17} == {}


def test_a_function_has_60_lines_at_most() -> None:
    assert len(DEFINITIONS) > 1000
    lines = {name: (node.end_lineno or 0) - node.lineno + 1 for name, node in DEFINITIONS}
    assert {name: count for name, count in lines.items() if count > 60} == {}


def test_a_signature_has_8_parameters_at_most() -> None:
    counts = {name: parameters(node) for name, node in DEFINITIONS}
    assert {name: count for name, count in counts.items() if count > 8} == {}


def test_only_settings_reads_the_environment() -> None:
    reads = re.compile(r"\bos\.(environb?|getenv)\b|from os import .*\b(environ|getenv)\b")
    assert [path for path in MODULES if reads.search(path.read_text())] == [
        ROOT / "stream" / "settings.py"
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_test_folder_shadows_a_package(folder: str) -> None:
    assert not (ROOT / "tests" / folder).exists()


def test_the_licence_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_constraints_pin_every_dependency_exactly() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#"]
    assert [
        line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][^+\s]*", line)
    ] == []


@pytest.fixture
def compose() -> dict[str, dict[str, dict[str, object]]]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_compose_opens_ports_on_loopback_alone(
    compose: dict[str, dict[str, dict[str, list[str]]]],
) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_names_releases_volumes_and_healthchecks(
    compose: dict[str, dict[str, dict[str, str]]],
) -> None:
    for name, service in compose["services"].items():
        if "build" in service:
            continue  # its image carries its own
        assert "healthcheck" in service, name
        assert re.search(r":\d+\.\d+", service["image"]), name
