"""`rankloop finetune`: BERT learns from the likes of a log which texts are of like taste."""

from collections import deque
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from shutil import rmtree
from time import perf_counter

import msgspec
from rich.console import Console

from models.bert_encoder import BertEncoder
from models.events import Click, Item, Reward, text_of
from models.finetuning import FineTuningResult, Pair, finetune
from stream import build
from stream.datasets.log_files import read_log
from stream.progress import progress
from stream.settings import Settings
from stream.simulation.event_log import liked

NAME = "finetuned.json"  # beside the model's files
RECENT = 5  # likes that a like is paired with: as many as make up a user's taste


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
    texts, likes = texts_and_likes(file)
    seen = likes[: round(share * len(likes))]
    found = coupled(seen, texts, limit=pairs, seed=settings.seed)
    started = perf_counter()
    with progress() as bar:
        task = bar.add_task("pairs of likes", total=None)
        held, before, after = finetune(
            encoder,
            list(texts.values()),
            found,
            epochs=epochs,
            batch=batch,
            rate=rate,
            seed=settings.seed,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    tuned = FineTuningResult(
        base=encoder.version,
        until=seen[-1][0],
        pairs=len(found),
        epochs=epochs,
        seconds=perf_counter() - started,
        held=held,
        batch=batch,
        before=before,
        after=after,
    )
    save_model(encoder, tuned, folder)
    console = Console(width=130, highlight=False)
    for line in summary_lines(tuned, folder):
        console.print(line, markup=False, soft_wrap=True)


def texts_and_likes(file: Path) -> tuple[dict[str, str], list[tuple[int, str, str]]]:
    """Items' latest texts, and likes of items that have one, in event time: (at, user, item)."""
    texts: dict[str, str] = {}
    likes: list[tuple[int, str, str]] = []
    for message in read_log(file):
        item = liked(message)
        if isinstance(message, Item):
            if not message.deleted and text_of(message).strip():
                texts[message.id] = text_of(message)
        elif item is not None and isinstance(message, Click | Reward):
            likes.append((message.at, message.user, item))
    likes.sort(key=lambda like: like[0])
    return texts, [like for like in likes if like[2] in texts]


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
        f"the right text is the nearest of {tuned.batch} for {tuned.after:.1%} of {tuned.held:,} "
        f"pairs held out; before, {tuned.before:.1%}",
        f"RANKLOOP_ENCODER={folder} reads with it; `rankloop compare LOG --tuned {folder}` says "
        "what it adds after that day",
    ]
