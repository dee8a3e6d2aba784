# pyright: standard
"""A contextual bandit by Vowpal Wabbit, learning from what was shown and logged.

Vowpal Wabbit learns and its weights are the model. Its reward model is linear, so `scores` reads
the weights a request touches and adds them up: 100 candidates in 0.07 ms, where writing and parsing
100 lines of text takes 0.9 ms. `predicted` asks Vowpal Wabbit itself; tests hold the two together.

It is taught the shown items alone, each with probability 1: a model of rewards, which learned
better on the film log than weighing by propensity (a setting). Propensities are for evaluation.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from errno import ENOSPC
from functools import partial
from hashlib import blake2b
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
from vowpalwabbit import pyvw

from models.base import Doubles
from models.candidates import Candidates
from models.events import Outcome
from policies.exploration import Exploration, InverseGap
from policies.vowpal_text import (
    ITEM,
    SHARED,
    Context,
    dimensions,
    example,
    finite,
    head,
    item,
    label,
    number,
    shared,
)

INTERACTIONS = ("Ux", "Cx", "Ct")
CONSTANT = 11650396  # Vowpal Wabbit's feature that is always there
FNV = 16777619  # its interaction of features i and j is (FNV i) xor j
SPARE_BYTES = 1 << 20  # left on a disk: then what was written before is there to its end
LARGEST = 10.0  # reward of a slot that is learned from, either way


class SavedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model file with what must hold before Vowpal Wabbit may read it: it trusts its input."""

    format: int = 1
    options: str
    checksum: bytes
    model: bytes


class Workspace:
    """A Vowpal Wabbit workspace: its options, weights, bytes. At most 2**bits features (16 B each).

    Saving is canonical: equal models give equal bytes, whatever their past, so that a digest of
    them is a digest of all that steers further learning.
    """

    def __init__(self, base: str, *, rate: float, bits: int, interactions: tuple[str, ...]) -> None:
        if not 0.0 < rate <= 10.0:
            raise ValueError(f"rate must be in (0, 10], got {rate}; 0.02 to 0.05 learned best")
        if not 10 <= bits <= 28:
            raise ValueError(f"bits must be in 10..28, got {bits}; 18 are 4 MB, 24 are 256 MB")
        allowed = [a + b for a in SHARED for b in ITEM]
        if unknown := sorted(set(interactions) - set(allowed)):
            raise ValueError(f"interactions must be among {allowed}, got {unknown}")
        self.interactions = tuple(sorted(set(interactions)))
        crossed = " ".join(f"-q {pair}" for pair in self.interactions)
        self.options = f"{base} --cb_type mtr --power_t 0 -l {rate} -b {bits} {crossed} --quiet"
        self._mask = (1 << bits) - 1
        self._vw: pyvw.Workspace | None = pyvw.Workspace(self.options)
        self._spaces = {letter: self.vw.hash_space(letter) for letter in SHARED + ITEM}
        self._seen_at = _seen_at(self.options)

    @property
    def vw(self) -> pyvw.Workspace:
        if self._vw is None:
            raise ValueError("a closed policy neither ranks nor learns; make a new one")
        return self._vw

    def set(self, letter: str, name: str, cost: float) -> None:
        """Start the weight of a feature at `cost`; Vowpal Wabbit learns on from there."""
        self.vw.set_weight((number(name) + self._spaces[letter]) & self._mask, 0, cost)

    def learn(self, lines: list[str]) -> None:
        self.vw.learn(lines)

    def predict(self, lines: list[str]) -> Doubles:
        return np.array(self.vw.predict(lines), dtype=np.float64)

    def reader(
        self, who: dict[str, list[tuple[int, float]]]
    ) -> tuple[float, Callable[[str, int], float]]:
        """For one request: what all actions share, and what one more unit of a feature adds."""
        weight: Callable[[int, int], float] = partial(pyvw.pylibvw.vw.get_weight, self.vw)
        mask, spaces = self._mask, self._spaces
        base = weight(CONSTANT & mask, 0)
        crossed: dict[str, list[tuple[int, float]]] = {letter: [] for letter in ITEM}
        for letter, pairs in who.items():
            partners = [b for b in ITEM if letter + b in self.interactions]
            for i, value in pairs:
                i += spaces[letter]
                base += value * weight(i & mask, 0)
                for partner in partners:
                    crossed[partner].append((FNV * i, value))

        def slope(letter: str, i: int) -> float:
            i += spaces[letter]
            total = weight(i & mask, 0)
            for half, value in crossed[letter]:
                total += value * weight((half ^ i) & mask, 0)
            return total

        return base, slope

    def save(self) -> bytes:
        fresh = _opened(self.options, _written(self.vw))  # loading drops losses and progress
        model = bytearray(_written(fresh))
        model[self._seen_at : self._seen_at + 8] = bytes(8)
        model = bytes(model)
        fresh.finish()
        saved = SavedModel(options=self.options, checksum=_checksum(model), model=model)
        return msgspec.msgpack.encode(saved)

    def load(self, data: bytes) -> None:
        try:
            saved = msgspec.msgpack.decode(data, type=SavedModel)
        except msgspec.MsgspecError as error:
            raise ValueError(
                f"not a saved policy ({error}); start from an older snapshot"
            ) from None
        if saved.format != 1 or saved.options != self.options:
            raise ValueError(
                f"a policy must be loaded under the options it was saved with, {saved.options!r} "
                f"(format {saved.format}), not {self.options!r}; restore them or learn anew"
            )
        if saved.checksum != _checksum(saved.model):
            raise ValueError("the saved policy is damaged; start from an older snapshot")
        loaded = _opened(self.options, saved.model)
        self.close()
        self._vw = loaded

    def close(self) -> None:
        if self._vw is not None:
            self._vw.finish()
            self._vw = None


def _opened(options: str, model: bytes) -> pyvw.Workspace:
    with _memory_file(model) as path:
        return pyvw.Workspace(f"{options} -i {path}")


def _written(vw: pyvw.Workspace) -> bytes:
    """The model file's bytes. Raises OSError if there is nowhere to write it, or not all of it.

    Vowpal Wabbit writes FILE.writing, without a look at what became of it, and renames it to FILE:
    a link of that name leads it into memory, which no full disk cuts short.
    """
    with _memory_file() as memory, _folder() as folder:
        path = Path(folder, "model")
        if memory.is_relative_to("/proc"):
            path.with_name("model.writing").symlink_to(memory)
        try:
            vw.save(path)
        except RuntimeError as error:
            raise OSError(f"Vowpal Wabbit cannot write its model in {folder}: {error}") from None
        data = path.read_bytes()
        if not (path.is_symlink() or disk_usage(folder).free > SPARE_BYTES):
            raise OSError(ENOSPC, "no room for all of Vowpal Wabbit's model", folder)
        return data


@contextmanager
def _memory_file(data: bytes = b"") -> Iterator[Path]:
    """A file that lies in memory where the system can (Linux), else in the temporary folder."""
    if not hasattr(os, "memfd_create"):
        with TemporaryDirectory() as folder:
            path = Path(folder, "file")
            path.write_bytes(data)
            yield path
        return
    with os.fdopen(os.memfd_create("vowpalwabbit"), "wb") as file:
        file.write(data)
        file.flush()
        yield Path(f"/proc/self/fd/{file.fileno()}")


@contextmanager
def _folder() -> Iterator[str]:
    """A folder for a link: in shared memory, or in the temporary folder."""
    try:
        made = TemporaryDirectory(dir="/dev/shm")
    except OSError:
        made = TemporaryDirectory()
    with made as folder:
        yield folder


def _seen_at(options: str) -> int:
    """Where a model file counts the examples seen, as a double; to predict is to be seen as well.

    The count moves nothing while `--power_t` is 0, but reading must not change what is saved.
    """
    vw = pyvw.Workspace(options)
    none = _written(vw)
    vw.predict(["shared |U", "|x"])
    one = _written(vw)
    vw.finish()
    return next(i for i, (a, b) in enumerate(zip(none, one, strict=True)) if a != b) - 6


def _checksum(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def teach(model: Workspace, outcome: Outcome, weigh: bool, largest: float = LARGEST) -> None:
    """One example a shown item. All are built, and so checked, before the first is learned.

    Rewards are cut to `largest` either way: one of 350,000 cents would drown all clicks for all.
    """
    first = head(shared(outcome.user, outcome.context))
    names = outcome.features
    examples = [
        f"{label(cut(slot.reward, largest), slot.propensity, weigh)} {item(names, slot.features)}"
        for slot in outcome.slots
    ]
    for one in examples:
        model.learn([first, one])


def cut(reward: float, largest: float) -> float:
    """A reward within [-largest, largest]; what no outcome may hold stays, to be refused.

    >>> cut(350_000.0, 10.0), cut(-0.5, 10.0)
    (10.0, -0.5)
    """
    return min(max(reward, -largest), largest) if abs(reward) <= 1e6 else reward


class Vowpal:
    """A linear reward model of user and context crossed with item features; explores by slot.

    `prior` says what a column is first believed to be worth, in reward a unit of it: what would
    be ranked by before anything is learned. Without one the first rankings are drawn at random.

    >>> from policies.exploration import Epsilon
    >>> bandit = Vowpal(exploration=Epsilon(0.1), prior={"knn": 0.02})
    >>> bandit.pmf(np.array([0.0, 1.0])).round(3).tolist()
    [0.05, 0.95]
    >>> bandit.close()
    """

    def __init__(
        self,
        name: str = "bandit",
        *,
        exploration: Exploration | None = None,
        prior: Mapping[str, float] | None = None,
        rate: float = 0.01,
        bits: int = 18,
        interactions: tuple[str, ...] = INTERACTIONS,
        logged_propensity: bool = False,
        largest_reward: float = LARGEST,
    ) -> None:
        if not largest_reward > 0:
            raise ValueError(f"largest_reward must be above 0, got {largest_reward}; 10 is usual")
        self.name = name
        self._explore = exploration or InverseGap()
        self._logged_propensity = logged_propensity
        self._largest = largest_reward
        self._model = Workspace("--cb_adf", rate=rate, bits=bits, interactions=interactions)
        for column, worth in (prior or {}).items():
            self._model.set("x", column, -finite(worth, f"prior {column!r}"))

    def scores(self, user: str, context: Context, candidates: Candidates) -> Doubles:
        base, slope = self._model.reader(shared(user, context))
        x = [slope("x", number(name)) for name in candidates.names]
        e = [slope("e", number(name)) for name in dimensions(candidates.text.shape[1])]
        t = {tag: slope("t", number(tag)) for tag in sorted(set().union(*candidates.tags))}
        cost = (candidates.x * np.array(x)).sum(axis=1)
        cost += (candidates.text * np.array(e)).sum(axis=1)
        cost += [sum([t[tag] for tag in tags]) for tags in candidates.tags]
        return -(cost + base)

    def predicted(self, user: str, context: Context, candidates: Candidates) -> Doubles:
        """What `scores` says, by Vowpal Wabbit's own prediction from text (float32, slower)."""
        return -self._model.predict(example(user, context, candidates))

    def pmf(self, scores: Doubles) -> Doubles:
        return self._explore(scores)

    def learn(self, outcome: Outcome, seed: int) -> None:
        teach(self._model, outcome, self._logged_propensity, self._largest)

    def save(self) -> bytes:
        return self._model.save()

    def load(self, data: bytes) -> None:
        self._model.load(data)

    def close(self) -> None:
        self._model.close()
