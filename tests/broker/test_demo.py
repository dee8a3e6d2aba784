"""The demo, small, from its command to its table; it keeps to the stack that it starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stream.simulation.experiment import POLICIES, label
from tests.conftest import Kafka

ROOT = Path(__file__).parents[2]


@pytest.mark.kafka
def test_the_demo_compares_audits_and_leaves_the_users_own_cluster_alone(
    kafka: Kafka, tmp_path: Path
) -> None:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RANKLOOP_")}
    elsewhere = {  # as if the user had a cluster of their own, out of reach
        "RANKLOOP_BROKERS": "127.0.0.1:1",
        "RANKLOOP_SECURITY_PROTOCOL": "SASL_SSL",
        "RANKLOOP_SASL_USERNAME": "ann",
        "RANKLOOP_SASL_PASSWORD": "hush",
        "RANKLOOP_GROUP": "production",
    }
    done = subprocess.run(
        [sys.executable, "-m", "stream", "demo", "--requests", "60"],
        cwd=tmp_path,  # no film log near here: news
        env=ours | elsewhere | {"RANKLOOP_ENCODER": "hash", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "simulated news" in done.stdout
    for policy in POLICIES:
        assert f"│ {label(policy)} " in done.stdout
    assert "60 of 60 rankings came out bit for bit the same" in done.stdout
    assert "60 of 60 requests and clicks that ask were answered" in done.stdout
    assert "hush" not in done.stdout + done.stderr
