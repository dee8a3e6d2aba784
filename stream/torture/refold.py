"""A fresh process that folds all feedback anew: `python -m stream.torture.refold TOML VERSION...`.

It prints, as JSON, the digest at each version and at the end, and the verdicts. It is the fold that
nobody interrupted: no snapshot is read.
"""

import json
import sys

from stream import build
from stream.kafka.topics import Topics
from stream.settings import Settings
from stream.torture.checker.logs import topic_messages


def main(config: str, *wanted: str) -> None:
    """Fold and print."""
    settings = Settings.load({}, config)
    learner = build.learner(settings)
    versions = {int(version) for version in wanted}
    digests = {version: learner.digest() for version in versions if version == 0}
    for message in topic_messages(settings, Topics(settings.topic_prefix).feedback, 1):
        learner(message.offset, message.value or b"")
        if learner.version in versions:
            digests[learner.version] = learner.digest()
    digests[learner.version] = learner.digest()
    found = {"version": learner.version, "digests": digests, "learned": dict(learner.ledger.counts)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
