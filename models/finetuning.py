"""BERT fine-tuned on likes: the texts of what one user liked in turn come to lie near each other.

Contrastive, with the other pairs of a batch as negatives: Henderson et al. 2017 (arXiv:1705.00652,
section 4), with the cosine at a temperature of van den Oord et al. 2018 (arXiv:1807.03748). What
many like is a negative as often as it is liked, so popularity is divided out, and left to others.
torch is imported when it begins.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from models.bert_encoder import BertEncoder

if TYPE_CHECKING:
    from torch import Tensor

TEMPERATURE = 0.05
WARM = 0.1  # share of the steps in which the rate rises
HELD = 1_000  # pairs at most, and a tenth at most, that are never learned from

Pair = tuple[int, int]  # two different texts, by their place


class FineTuningResult(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a fine-tuned model came from, and what that did."""

    base: str  # the version of the encoder that it was
    until: int  # milliseconds: it has seen nothing later
    pairs: int
    epochs: int
    seconds: float
    held: int  # pairs held out, in batches of at most `batch`
    batch: int
    before: float  # of those, how often the right text was nearest in its batch
    after: float  # the best epoch's, whose weights are kept
    by_epoch: tuple[float, ...] = ()


class HoldoutResult(Struct, frozen=True):
    """Of pairs held out, how often the right text was the nearest of its batch.

    >>> HoldoutResult(pairs=9, before=0.1, by_epoch=(0.3, 0.4, 0.2)).best
    1
    """

    pairs: int
    before: float
    by_epoch: tuple[float, ...]

    @property
    def best(self) -> int:
        """The number of the best epoch, the first of equals; from 0."""
        return max(range(len(self.by_epoch)), key=lambda epoch: self.by_epoch[epoch])

    @property
    def after(self) -> float:
        """The best epoch's."""
        return self.by_epoch[self.best]


def finetune(
    encoder: BertEncoder,
    texts: Sequence[str],
    pairs: Sequence[Pair],
    *,
    epochs: int = 1,
    batch: int = 64,
    rate: float = 2e-4,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> HoldoutResult:
    """Train the encoder's model in place, and leave it with the weights of the best epoch: the one
    after which the right text was most often the nearest of its batch, in pairs held out.

    AdamW; the rate rises for a tenth of the steps and then falls to 0. ValueError if there are too
    few pairs to learn from, or if a step's loss is not a number (try a lower rate).
    """
    import torch

    if len(pairs) < 4 * batch:
        raise ValueError(
            f"{len(pairs)} pairs of likes are too few to learn from; {4 * batch} are needed"
        )
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    rows = encoder.tokens(texts)
    order = rng.permutation(len(pairs))
    held = min(HELD, len(pairs) // 10)
    mixed = np.array(pairs, np.int64)[order]
    kept, learned = mixed[:held], mixed[held:]
    before = _found(encoder, rows, kept, batch)

    model = encoder.model
    steps = epochs * -(-len(learned) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    warm = max(1, round(WARM * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: min((n + 1) / warm, (steps - n) / max(1, steps - warm))
    )
    done, found, best = 0, list[float](), dict[str, Any]()
    for _ in range(epochs):
        model.train()
        for some in _batches(learned[rng.permutation(len(learned))], batch):
            loss = _loss(_cosines(encoder, rows, some) / TEMPERATURE, some)
            if not torch.isfinite(loss):
                raise ValueError(f"the loss is {loss.item()} after {done} pairs: try a lower rate")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += len(some)
            if progress:
                progress(done, epochs * len(learned))
        model.eval()
        found.append(_found(encoder, rows, kept, batch))
        if found[-1] > max(found[:-1], default=-1.0):
            best = {name: one.detach().clone() for name, one in model.state_dict().items()}
    model.load_state_dict(best)
    return HoldoutResult(held, before, tuple(found))


def _batches(pairs: NDArray[np.int64], batch: int) -> Iterator[NDArray[np.int64]]:
    return (pairs[start : start + batch] for start in range(0, len(pairs), batch))


def _cosines(encoder: BertEncoder, rows: list[list[int]], pairs: NDArray[np.int64]) -> "Tensor":
    """Of each first text with each second one, shape (n, n); of equal texts -1, but for the pair.

    They are no negatives: they may be what the user liked.
    """
    import torch

    firsts, seconds = pairs.T.tolist()
    places, means = zip(*encoder.pooled([rows[i] for i in firsts + seconds]), strict=True)
    back = np.argsort(np.concatenate(places))
    vectors = torch.nn.functional.normalize(torch.cat(means)[torch.from_numpy(back)])
    cosines = vectors[: len(pairs)] @ vectors[len(pairs) :].T
    return cosines.masked_fill(torch.from_numpy(alike(pairs)).to(cosines.device), -1.0)


def alike(pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which second text is no negative for which first one: it is in the other's pair, too.

    >>> alike(np.array([[1, 2], [3, 2], [4, 5], [5, 6]])).astype(int).tolist()
    [[0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]
    """
    firsts, seconds = pairs.T
    same = seconds[:, None] == seconds[None, :]
    same |= firsts[:, None] == firsts[None, :]
    same |= firsts[:, None] == seconds[None, :]
    np.fill_diagonal(same, val=False)
    return same


def _loss(logits: "Tensor", pairs: NDArray[np.int64]) -> "Tensor":
    """Cross entropy of the right second for each first, and of the right first for each second."""
    import torch

    right = torch.arange(len(pairs), device=logits.device)
    entropy = torch.nn.functional.cross_entropy
    return (entropy(logits, right) + entropy(logits.T, right)) / 2


def _found(
    encoder: BertEncoder, rows: list[list[int]], pairs: NDArray[np.int64], batch: int
) -> float:
    """How often the right second is nearer to its first than all others of the batch."""
    import torch

    hits = 0
    with torch.inference_mode():
        for some in _batches(pairs, batch):
            nearest: Any = _cosines(encoder, rows, some).argmax(dim=1).cpu().numpy()
            hits += int((nearest == np.arange(len(some))).sum())
    return hits / len(pairs)
