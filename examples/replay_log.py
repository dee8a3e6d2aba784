"""Replay a log: which model foresees what users like next, and which policy earns most?

Without an argument the script makes a small log. Give a log of your own (.jsonl, .jsonl.gz or
.parquet; `rankloop import` makes them from data sets) to replay that.
Needs no Kafka; takes some ten seconds.
Run it with:  python examples/replay_log.py [LOG]
"""

# %% Imports
import json
import random
import sys
import tempfile
from pathlib import Path

from policies.evaluation.intervals import clustered
from stream.offline.prequential import evaluate_prequentially
from stream.settings import Settings
from stream.simulation.closed_loop import Run, run
from stream.simulation.environment import LogEnvironment
from stream.simulation.event_log import read_event_log


# %% A small log: 120 films of four genres, 40 users who like one genre each.
def write(path: Path) -> None:
    """One JSON message a line: items first, then clicks in the order of time."""
    rng = random.Random(1)
    genres = ["war", "comedy", "crime", "space"]
    messages: list[dict] = [
        {
            "type": "item",
            "id": f"film:{n}",
            "at": n,
            "title": f"A {genres[n % 4]} film, number {n}",
            "tags": [genres[n % 4]],
        }
        for n in range(120)
    ]
    clicks = []
    for user in range(40):
        likes = [n for n in range(120) if n % 4 == user % 4]
        others = [n for n in range(120) if n % 4 != user % 4]
        for visit, film in enumerate(rng.sample(likes, 15) + rng.sample(others, 3)):
            at = 1_000_000 + rng.randrange(3_000_000)  # milliseconds
            click = {"type": "click", "id": f"{user}:{visit}", "user": f"user:{user}"}
            clicks.append(click | {"item": f"film:{film}", "at": at})
    messages += sorted(clicks, key=lambda click: click["at"])
    path.write_text("\n".join(map(json.dumps, messages)) + "\n")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "log.jsonl"
        if len(sys.argv) == 1:
            write(path)
        # A ranking waits 10 s (of the log's time) for its clicks, then it is learned from.
        settings = Settings(encoder="hash", data_dir=folder, horizon_seconds=10)
        log = read_event_log(path, settings)

        # %% Models: rank all items just before each liked item is learned; where was it?
        result = evaluate_prequentially(log, settings, k=10)
        print(f"{result.questions:,} liked items of {result.users} users, {result.items} items")
        print(f"{'model':12} recall@10 [95%]           nDCG@10  MRR")
        for one in result.rows:
            print(f"{one.model:12} {one.recall}  {one.ndcg.mean:.4f}   {one.mrr.mean:.4f}")

        # %% Policies: each answers the same 400 requests, and learns from its own clicks.
        # `random` draws from all items, `uniform` from the candidates that retrieval found.
        environment = LogEnvironment(log, requests=400, k=10)
        print(f"\n{'policy':15} clicks a ranking [95%]")
        for name in (
            "random",
            "uniform",
            "popular",
            "popular-repeats",
            "knn",
            "blend-repeats",
            "bandit",
        ):
            done = run(Run(settings=settings.alone(name), environment=environment))
            print(f"{name:15} {clustered(done.rewards, done.users)}")


if __name__ == "__main__":
    main()
