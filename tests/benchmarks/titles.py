"""Titles embedded a second: MiniLM in two precisions, and hashing."""

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import world
from measure import Row, Rows, amount, watch
from transformers.utils.logging import disable_progress_bar

from models.base import Encoder
from models.bert_encoder import BertEncoder, bundled
from models.hash_encoder import HashEncoder

ROUNDS = 3


def titles(seconds: float) -> Rows:
    """All variants in turns, three rounds of them, so that they can be compared."""
    texts = list(dict.fromkeys(item.title for item in world.items() if item.language == "en"))
    texts = texts[: amount(256, seconds)]
    made: dict[str, Callable[[], Encoder]] = {"hash": HashEncoder}
    folder = bundled()
    if folder is None:
        yield Row("MiniLM", float("nan"), "titles/s", "not installed: the extra minilm has it")
    else:
        made |= bert(folder)
    speeds: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(ROUNDS):
        for name, make in made.items():
            encoder = make()
            encoder.encode(texts[:64])
            with watch() as spent:
                encoder.encode(texts)
            speeds[name].append(len(texts) / spent.wall)
    for name, found in speeds.items():
        how = f"{len(texts):,} different English titles, median of {ROUNDS} rounds: "
        how += ", ".join(f"{one:,.0f}" for one in found)
        yield Row(f"titles by {name}", float(np.median(found)), "titles/s", how)


def bert(folder: Path) -> dict[str, Callable[[], Encoder]]:
    """MiniLM in each precision, batch and number of threads."""
    disable_progress_bar()  # of loading weights
    return {
        f"MiniLM {precision}, batch {batch}, {threads} thread(s)": partial(
            BertEncoder, folder, precision=precision, batch=batch, threads=threads
        )
        for threads, batch, precision in product((1, 2), (16, 32, 64), ("float32", "bfloat16"))
    }
