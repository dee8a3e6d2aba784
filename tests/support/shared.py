"""What lies beside the repository on the developers' machines: a Kafka, data with licences.

A stranger has none of it: RANKLOOP_TEST_SHARED= (empty) runs the tests as they do.
"""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
BESIDE = ROOT.parent / "shared"
SHARED = Path(os.environ.get("RANKLOOP_TEST_SHARED", BESIDE) or "/nonexistent")
KAFKA = SHARED / "kafka"
DATA = SHARED / "data"


def movielens_folder() -> Path | None:
    """MovieLens latest-small, if it is under ./data or beside the repository."""
    folders = [where / "movielens-latest-small" for where in (ROOT / "data", DATA)]
    return next((folder for folder in folders if (folder / "ratings.csv").is_file()), None)
