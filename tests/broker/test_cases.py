"""What people send and what operators do: the scripts of ../shared/cases, each on Apache Kafka."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Kafka
from tests.support import shared

SCRIPTS = sorted((shared.SHARED / "cases" / "hand").glob("*.py"))
NONE = pytest.param(None, marks=pytest.mark.skip(reason="needs the scripts of ../shared/cases"))


@pytest.mark.kafka
@pytest.mark.shared
@pytest.mark.parametrize("script", SCRIPTS or [NONE], ids=lambda script: script and script.stem)
def test_a_scene_ends_right(script: Path, apache_kafka: Kafka) -> None:
    """Each script plays one mistake against a rankloop of its own, and says `right` or `WRONG`."""
    environ = os.environ | {
        "BROKERS": apache_kafka.brokers,
        "RANKLOOP": str(Path(sys.executable).with_name("rankloop")),
        "CONFLUENT": sys.executable,
        "PYTHONPATH": str(shared.ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    played = subprocess.run(
        [sys.executable, script], env=environ, capture_output=True, text=True, timeout=600
    )
    assert played.stdout.splitlines()[-1:] == ["right"], played.stdout + played.stderr
