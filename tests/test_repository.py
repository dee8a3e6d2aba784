"""The repository keeps its own rules: small modules, one reader of the environment, one stack."""

import re
import statistics
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = ("stream", "agents", "policies", "models")
LINES = {
    path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines())
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py"
}


def test_no_module_is_over_300_lines() -> None:
    assert {path: lines for path, lines in LINES.items() if lines > 300} == {}


def test_the_median_module_is_under_120_lines() -> None:
    assert statistics.median(LINES.values()) < 120


def test_only_settings_reads_the_environment() -> None:
    reads = re.compile(r"\bos\.(environb?|getenv)\b|from os import .*\b(environ|getenv)\b")
    assert [path for path in LINES if reads.search((ROOT / path).read_text())] == [
        "stream/settings.py"
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
