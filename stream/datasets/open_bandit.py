"""Open Bandit Dataset as our log: each row an outcome of one slot, with its logged propensity.

Saito, Aihara, Matsutani & Narita 2021, "Open Bandit Dataset and Pipeline" (arXiv:2008.07146): two
policies served the same page of a shop, one uniform, one Bernoulli Thompson sampling (bts).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from models.events import MAX_SLOTS, Item, Outcome, OutcomeSlot, Source, chain
from stream.datasets.log_files import encode_checked
from stream.datasets.source_files import Row, csv_rows, find_folder

POLICIES = {"random": "uniform", "bts": "bts"}  # their folders, our names
_CONTEXT = tuple(f"user_feature_{i}" for i in range(4))
_COLUMNS = ("timestamp", "item_id", "position", "click", "propensity_score", *_CONTEXT)


def open_bandit_messages(folder: Path, campaign: str = "men") -> Iterator[Item | Outcome]:
    """The items, then each policy's rows in order; a policy is a partition of its own.

    The data name no users: each row has a user of its own. Times without a zone are UTC. A
    ValueError names the file and line of what cannot be used.
    """
    wanted = f"random/{campaign}.csv, random/{campaign}/{campaign}.csv or the same of bts"
    if (others := _campaigns(folder)) and campaign not in others:
        raise ValueError(f"no campaign {campaign!r} in {folder}; it has {', '.join(others)}")
    name = "the Open Bandit Dataset"
    folder = find_folder(folder, lambda one: bool(_files(one, campaign)), wanted, name)
    files = _files(folder, campaign)
    yield from _items(next(iter(files.values())).with_name("item_context.csv"))
    for partition, (name, path) in enumerate(files.items()):
        yield from _outcomes(path, partition, POLICIES[name])


def _files(folder: Path, campaign: str) -> dict[str, Path]:
    """The rows of each policy: in its campaign's folder, as published, or beside it."""
    name = f"{campaign}.csv"
    return {
        policy: path
        for policy in POLICIES
        for path in (folder / policy / name, folder / policy / campaign / name)
        if path.is_file()
    }


def _campaigns(folder: Path) -> list[str]:
    paths = (path for name in POLICIES for path in (folder / name).glob("**/*.csv"))
    return sorted({path.stem for path in paths} - {"item_context"})


def _items(path: Path) -> Iterator[Item]:
    seen: set[int] = set()
    for row in csv_rows(path, "item_id"):
        number = row.whole("item_id")
        if number in seen:
            raise row.error(f"item_id {number} is there twice; keep one")
        seen.add(number)
        attributes: dict[str, str | float | bool] = {
            name: row.number(name) if name == "item_feature_0" else row.text(name)
            for name in row.columns
            if name.startswith("item_feature_") and row.text(name)
        }
        item = Item(id=f"item:{number}", at=0, attributes=attributes)
        with row.naming():
            encode_checked(item)
        yield item


def _outcomes(path: Path, partition: int, policy: str) -> Iterator[Outcome]:
    prev = ""
    for number, row in enumerate(csv_rows(path, *_COLUMNS)):
        click = float(row.whole("click", most=1))
        outcome = Outcome(
            id=f"{policy}:{number}",
            user=f"{policy}:{number}",
            at=_millis(row),
            status="complete" if click else "expired",
            policy=policy,
            model=0,
            slots=(
                OutcomeSlot(
                    item=f"item:{row.whole('item_id')}",
                    position=_position(row),
                    propensity=_propensity(row),
                    reward=click,
                ),
            ),
            source=Source(partition, number, 0),
            context={name: row.text(name) for name in _CONTEXT if row.text(name)},
            reward=click,
            prev=prev,
        )
        with row.naming():
            prev = chain(encode_checked(outcome))
        yield outcome


def _millis(row: Row) -> int:
    text = row.text("timestamp")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise row.error(
            f"timestamp must be as 2019-11-24 00:00:03.8+00:00, got {text[:80]!r}"
        ) from None
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def _position(row: Row) -> int:
    hint = "; positions count from 1: if the first is 0 here, add 1 to each"
    return row.whole("position", 1, MAX_SLOTS, hint) - 1


def _propensity(row: Row) -> float:
    value = row.number("propensity_score", 0.0, 1.0)
    if value > 0.0:
        return value
    raise row.error(
        "propensity_score must be above 0: what is shown had a chance; leave the row out, or find "
        "its chance"
    )
