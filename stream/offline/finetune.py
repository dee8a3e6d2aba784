"""`rankloop finetune`: BERT learns from the likes of a log which texts are of like taste."""

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from shutil import rmtree
from time import perf_counter

import click
import msgspec
from rich.console import Console

from models.bert_encoder import BertEncoder
from models.events import Click, Reward, text_of
from models.finetuning import FineTuningResult, HoldoutResult, Pair, finetune
from stream import build
from stream.datasets.accounting import TOLERATED, share
from stream.errors import UserError
from stream.offline.tables import print_accounting
from stream.progress import progress
from stream.settings import Settings
from stream.simulation.event_log import FileLog, liked, read_file_log

NAME = "finetuned.json"  # beside the model's files
RECENT = 5  # likes that a like is paired with: as many as make up a user's taste


class NotBetterError(UserError):
    """Fine-tuning made nothing better: says by how much, and what to try."""

    def __init__(self, held: HoldoutResult, folder: Path) -> None:
        super().__init__(
            f"in {held.pairs:,} pairs held out the right text was the nearest of its batch in "
            f"{held.before:.1%} before fine-tuning, and in {epochs_said(held.by_epoch)} after it: "
            f"no better, so {folder} is not written; try a lower --rate, other --epochs or more "
            "likes, or keep the model as it is"
        )


def run_finetuning(
    settings: Settings,
    file: Path,
    folder: Path,
    *,
    share: float,
    pairs: int,
    epochs: int,
    batch: int,
    rate: float,
) -> None:
    """Fine-tune on the first `share` of the likes, and write the model to a new folder."""
    if folder.exists():
        raise FileExistsError(f"{folder} is there already; name a new folder, or remove it")
    encoder = build.plain_encoder(settings)
    if not isinstance(encoder, BertEncoder):
        raise ValueError(
            f"the encoder {settings.encoder_name!r} cannot be fine-tuned; RANKLOOP_ENCODER must be "
            "minilm, or the name or path of a Hugging Face encoder"
        )
    log = read_file_log(file, settings.attribution_rules())
    print_accounting(log.accounting)
    texts, likes = texts_and_likes(log)
    seen = likes[: round(share * len(likes))]
    found = coupled(seen, texts, limit=pairs, seed=settings.seed)
    started = perf_counter()
    with progress() as bar:
        task = bar.add_task("pairs of likes", total=None)
        held = finetune(
            encoder,
            list(texts.values()),
            found,
            epochs=epochs,
            batch=batch,
            rate=rate,
            seed=settings.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    if held.after <= held.before:
        raise NotBetterError(held, folder)
    tuned = FineTuningResult(
        base=encoder.version,
        until=seen[-1][0],
        pairs=len(found),
        epochs=epochs,
        seconds=perf_counter() - started,
        held=held.pairs,
        batch=batch,
        before=held.before,
        after=held.after,
        by_epoch=held.by_epoch,
    )
    save_model(encoder, tuned, folder)
    console = Console(width=130, highlight=False)
    for line in summary_lines(tuned, folder):
        console.print(line, markup=False, soft_wrap=True)


def texts_and_likes(log: FileLog) -> tuple[dict[str, str], list[tuple[int, str, str]]]:
    """Items' latest texts, and likes of items that have one, in event time: (at, user, item)."""
    texts = {
        item.id: text_of(item) for item in log.items if not item.deleted and text_of(item).strip()
    }
    likes = [
        (event.at, event.user, item)
        for event in log.events
        if isinstance(event, Click | Reward) and (item := liked(event)) is not None
    ]
    known = [like for like in likes if like[2] in texts]
    if len(likes) - len(known) > TOLERATED * len(likes):
        item = next(item for _, _, item in likes if item not in texts)
        click.echo(
            f"warning: {share(len(likes) - len(known), len(likes))} likes are of items without a "
            f"text, for example {item!r}, and teach nothing here",
            err=True,
        )
    return texts, known


def epochs_said(found: Iterable[float]) -> str:
    """What was found after each epoch.

    >>> epochs_said([0.5, 0.25])
    '50.0%, 25.0%'
    """
    return ", ".join(f"{one:.1%}" for one in found)


def coupled(
    likes: Iterable[tuple[int, str, str]], texts: Mapping[str, str], *, limit: int, seed: int
) -> list[Pair]:
    """Each like with the user's last `RECENT` ones, at most `limit` pairs, drawn; as places.

    >>> coupled([(1, "u", "a"), (2, "u", "b"), (2, "v", "a"), (3, "u", "a")],
    ...     {"a": "A", "b": "B"}, limit=9, seed=0)
    [(0, 1), (1, 0)]
    """
    places = {item: n for n, item in enumerate(texts)}
    last: dict[str, deque[int]] = {}
    found: list[Pair] = []
    for _, user, item in likes:
        recent, place = last.setdefault(user, deque(maxlen=RECENT)), places[item]
        found += [(other, place) for other in recent if other != place]
        recent.append(place)
    return Random(seed).sample(found, limit) if len(found) > limit else found


def save_model(encoder: BertEncoder, tuned: FineTuningResult, folder: Path) -> None:
    """Write the folder whole or not at all."""
    part = folder.with_name(folder.name + ".part")
    rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    encoder.save(part)
    (part / NAME).write_bytes(msgspec.json.format(msgspec.json.encode(tuned)) + b"\n")
    part.rename(folder)


def read_result(folder: Path) -> FineTuningResult:
    """What a folder's model came from; ValueError if `finetune` did not make it."""
    try:
        return msgspec.json.decode((folder / NAME).read_bytes(), type=FineTuningResult)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no {NAME}: it is not what `finetune` writes") from None
    except msgspec.MsgspecError as error:
        raise ValueError(f"{folder / NAME} is not what `finetune` writes: {error}") from None


def summary_lines(tuned: FineTuningResult, folder: Path) -> list[str]:
    """What was done, and what can be done with it."""
    day = datetime.fromtimestamp(tuned.until / 1000, UTC).date()
    return [
        f"fine-tuned on {tuned.pairs:,} pairs of likes up to {day}, in {tuned.seconds:,.0f} s",
        f"the right text is the nearest of its batch (at most {tuned.batch}) for "
        f"{tuned.after:.1%} of {tuned.held:,} pairs held out; before, {tuned.before:.1%}; after "
        f"each epoch, {epochs_said(tuned.by_epoch)}: the best one's weights are kept",
        f"RANKLOOP_ENCODER={folder} reads with it; `rankloop compare LOG --tuned {folder}` says "
        "what it adds after that day",
    ]
