"""BERT fine-tuned on likes learns who likes what together, from the past alone."""

from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
from click.testing import CliRunner, Result
from msgspec import structs

from models.base import Floats
from models.bert_encoder import BertEncoder
from models.events import Click, Event, Item
from models.finetuning import finetune
from stream.cli.main import main
from stream.datasets.log_files import write_log
from stream.offline.compare.command import ComparisonPlan, compare_arms, reread
from stream.offline.compare.findings import findings
from stream.offline.compare.report import page
from stream.offline.finetune import read_result
from stream.settings import Settings
from stream.simulation.event_log import read_event_log
from tests.support.tiny_bert import tiny_bert

ITEMS, USERS, LIKES = 60, 40, 1_200
WORDS = [f"word{n}" for n in range(ITEMS)]  # none says which of two tastes its item is of
HALF = 1_000 * LIKES // 2


def likes(seed: int) -> Iterator[Event]:
    """Each user likes items of one taste: even ones or odd ones."""
    rng = Random(seed)
    for n in range(LIKES):
        user = rng.randrange(USERS)
        item = 2 * rng.randrange(ITEMS // 2) + user % 2
        yield Click(id=f"c{n}", user=f"u{user}", item=f"i{item}", at=1_000 * (n + 1))


def a_log(path: Path, *, later: int = 1) -> Path:
    """Likes drawn by seed 1, those of the second half by another one."""
    items = [Item(id=f"i{n}", title=word, at=0) for n, word in enumerate(WORDS)]
    second = [like for like in likes(later) if like.at > HALF]
    write_log(path, [*items, *(like for like in likes(1) if like.at <= HALF), *second])
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("tiny"), WORDS, spread=0.02)


def tuned(tiny: Path, log: Path, folder: Path, *arguments: str) -> Result:
    options = ["--rate", "3e-3", "--epochs", "4", "--batch", "16", *arguments]
    return CliRunner().invoke(
        main, ["finetune", str(log), str(folder), *options], env={"RANKLOOP_ENCODER": str(tiny)}
    )


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    result = tuned(tiny, a_log(folder / "log.jsonl"), folder / "bert")
    assert result.exit_code == 0, result.output
    assert "RANKLOOP_ENCODER=" in result.output
    return folder


def closeness(vectors: Floats) -> float:
    """How much nearer to each other texts of one taste are than texts of two (cosines)."""
    cosines = vectors @ vectors.T
    taste = np.arange(ITEMS) % 2
    same = taste[:, None] == taste[None, :]
    return float(cosines[same & ~np.eye(ITEMS, dtype=bool)].mean() - cosines[~same].mean())


def test_texts_that_the_same_people_like_come_to_lie_near_each_other(tiny: Path, made: Path):
    before = closeness(BertEncoder(tiny).encode(WORDS))
    after = closeness(BertEncoder(made / "bert").encode(WORDS))
    assert before < 0.1
    assert after > 1
    says = read_result(made / "bert")
    assert says.base == BertEncoder(tiny).version != BertEncoder(made / "bert").version
    assert says.until == HALF
    assert says.after > says.before


def test_nothing_later_than_it_says_was_seen(tiny: Path, made: Path, tmp_path: Path):
    result = tuned(tiny, a_log(tmp_path / "log.jsonl", later=2), tmp_path / "bert")
    assert result.exit_code == 0, result.output
    first, same = [BertEncoder(folder / "bert").encode(WORDS) for folder in (made, tmp_path)]
    assert np.array_equal(first, same)
    other = tuned(tiny, a_log(tmp_path / "log.jsonl"), tmp_path / "more", "--share", "0.9")
    assert other.exit_code == 0, other.output
    assert not np.array_equal(first, BertEncoder(tmp_path / "more").encode(WORDS))


def test_compare_says_what_it_adds_after_what_it_has_seen(tiny: Path, made: Path):
    settings = Settings(encoder=str(tiny), data_dir=str(made / "data"))
    file = made / "log.jsonl"
    log = read_event_log(file, settings)
    deep = reread(file, settings, LIKES, made / "bert", log)
    result = compare_arms(
        "log",
        log,
        settings,
        ComparisonPlan(requests=600, seeds=1, k=3, jobs=1, arms=("popular", "content", "deep")),
        deep,
    )
    assert result.requests == 300  # the others were answered before
    gain = result.of("deep", "content")
    assert gain is not None
    assert gain.sure
    assert gain.difference.low > 0
    [verdict] = [one for one in findings(result) if one.arm == "deep"]
    assert verdict.finds.startswith("adds +")
    assert "to fine-tune" in verdict.cost
    assert f"fine-tuned on {read_result(made / 'bert').pairs:,} pairs" in page(result)
    plain = compare_arms("log", log, settings, ComparisonPlan(requests=20, seeds=1, jobs=1))
    assert "No model was fine-tuned" in page(plain)
    assert not {"deep", "full-deep"} & {one.arm for one in plain.standings}
    with pytest.raises(ValueError, match="was fine-tuned from bert@"):
        reread(file, structs.replace(settings, encoder="hash"), LIKES, made / "bert", deep.log)
    late = structs.replace(deep, tuned=structs.replace(deep.tuned, until=log.events[-1].at))
    with pytest.raises(ValueError, match="no request comes after"):
        compare_arms(
            "log",
            log,
            settings,
            ComparisonPlan(requests=9, seeds=1, jobs=1, arms=("popular",)),
            late,
        )


def test_what_cannot_be_fine_tuned_is_refused_with_the_remedy(tiny: Path, tmp_path: Path):
    log = a_log(tmp_path / "log.jsonl")
    assert "is there already; name a new folder" in tuned(tiny, log, tmp_path).output
    hashed = tuned(Path("hash"), log, tmp_path / "a")
    assert "cannot be fine-tuned; RANKLOOP_ENCODER must be" in hashed.output
    few = tuned(tiny, log, tmp_path / "b", "--share", "0.01")
    assert "pairs of likes are too few to learn from; 64 are needed" in few.output
    wild = tuned(tiny, log, tmp_path / "c", "--rate", "1e30")
    assert "try a lower rate" in wild.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no finetuned\.json"):
        read_result(tmp_path / "empty")
    (tmp_path / "empty" / "finetuned.json").write_text('{"pairs": "many"}')
    with pytest.raises(ValueError, match="is not what `finetune` writes"):
        read_result(tmp_path / "empty")


def test_progress_ends_at_the_last_pair(tiny: Path):
    pairs = [(n % ITEMS, (n + 2) % ITEMS) for n in range(100)]
    told: list[tuple[int, int]] = []
    held = finetune(
        BertEncoder(tiny), WORDS, pairs, batch=8, progress=lambda *both: told.append(both)
    )
    assert held.pairs == 10
    assert told[-1] == (90, 90)


def by_taste(count: int) -> list[tuple[int, int]]:
    """So many pairs of two different items of one taste."""
    rng, found = Random(1), list[tuple[int, int]]()
    while len(found) < count:
        first = rng.randrange(ITEMS)
        second = (first + 2 * rng.randrange(ITEMS // 2)) % ITEMS
        if first != second:
            found.append((first, second))
    return found


def test_the_weights_of_the_best_epoch_are_kept_where_later_ones_are_worse(tiny: Path):
    weights: list[Floats] = []
    encoder = BertEncoder(tiny)

    def learned() -> Floats:
        return next(iter(encoder.model.parameters())).detach().cpu().numpy().copy()

    def at_the_end_of_an_epoch(done: int, _: int) -> None:
        if done % 360 == 0:
            weights.append(learned())

    held = finetune(
        encoder,
        WORDS,
        by_taste(400),
        epochs=8,
        batch=16,
        rate=3e-2,
        progress=at_the_end_of_an_epoch,
    )
    assert len(held.by_epoch) == len(weights) == 8
    assert held.by_epoch[-1] < held.after == max(held.by_epoch)
    kept = learned()
    assert np.array_equal(kept, weights[held.best])
    assert not np.array_equal(kept, weights[-1])


def test_a_model_that_is_not_better_on_held_out_pairs_is_refused_and_not_written(
    tiny: Path, tmp_path: Path
):
    log = a_log(tmp_path / "log.jsonl")
    result = tuned(tiny, log, tmp_path / "bert", "--rate", "1e-12", "--epochs", "2")
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]
    assert "no better" in said and "is not written" in said and "--rate" in said
    assert "RANKLOOP_ENCODER=" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
