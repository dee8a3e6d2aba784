"""Open Bandit Dataset as our log: each row an outcome of one slot, with its logged propensity.

Saito, Aihara, Matsutani & Narita 2021, "Open Bandit Dataset and Pipeline" (arXiv:2008.07146): two
policies served the same page of a shop, one uniform, one Bernoulli Thompson sampling (bts).
"""

import csv
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from models.events import Item, Outcome, OutcomeSlot, Source, chain, encode

POLICIES = {"random": "uniform", "bts": "bts"}  # their folders, our names
_CONTEXT = tuple(f"user_feature_{i}" for i in range(4))
_COLUMNS = ("timestamp", "item_id", "position", "click", "propensity_score", *_CONTEXT)


def open_bandit_messages(folder: Path, campaign: str = "men") -> Iterator[Item | Outcome]:
    """The items, then each policy's rows in order; a policy is a partition of its own.

    The data name no users: each row has a user of its own.
    """
    found = [name for name in POLICIES if (folder / name / f"{campaign}.csv").is_file()]
    if not found:
        raise FileNotFoundError(
            f"no random/{campaign}.csv or bts/{campaign}.csv in {folder}; unpack the Open Bandit "
            "Dataset there"
        )
    yield from _items(folder / found[0] / "item_context.csv")
    for partition, name in enumerate(found):
        yield from _outcomes(folder / name / f"{campaign}.csv", partition, POLICIES[name])


def _items(path: Path) -> Iterator[Item]:
    for row in _rows(path, "item_id"):
        attributes: dict[str, str | float | bool] = {
            name: float(value) if name == "item_feature_0" else value
            for name, value in row.items()
            if name.startswith("item_feature_") and value
        }
        yield Item(id=f"item:{int(row['item_id'])}", at=0, attributes=attributes)


def _outcomes(path: Path, partition: int, policy: str) -> Iterator[Outcome]:
    prev = ""
    for number, row in enumerate(_rows(path, *_COLUMNS)):
        click = float(row["click"])
        outcome = Outcome(
            id=f"{policy}:{number}",
            user=f"{policy}:{number}",
            at=round(datetime.fromisoformat(row["timestamp"]).timestamp() * 1000),
            status="complete" if click else "expired",
            policy=policy,
            model=0,
            slots=(
                OutcomeSlot(
                    item=f"item:{int(row['item_id'])}",
                    position=int(row["position"]) - 1,
                    propensity=float(row["propensity_score"]),
                    reward=click,
                ),
            ),
            source=Source(partition, number, 0),
            context={name: row[name] for name in _CONTEXT if row[name]},
            reward=click,
            prev=prev,
        )
        prev = chain(encode(outcome))
        yield outcome


def _rows(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := sorted(set(columns) - set(reader.fieldnames or ())):
            raise ValueError(f"{path} lacks the columns {', '.join(missing)}")
        for row in reader:
            if any(row[column] is None for column in columns):
                raise ValueError(f"{path}:{reader.line_num}: too few columns")
            yield row
