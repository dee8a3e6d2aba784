"""What the benchmark of snapshots fills a memory with is what learning would leave there."""

import numpy as np

from stream import build
from stream.settings import Settings
from tests.benchmarks.filled import fill, interactions, likes

VECTORS = ("mf.p", "mf.q")


def test_a_filled_memory_holds_what_learning_leaves_but_for_the_numbers_in_vectors() -> None:
    settings = Settings(encoder="hash", max_users=300, max_items=900)
    who, what = likes(300, 900, 7)
    learned, filled = build.memory(settings), build.memory(settings)
    for n, one in enumerate(interactions(who, what)):
        learned.learn(one, n)
    fill(filled, who, what)
    ours, theirs = learned.state(), filled.state()
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert (ours[name].dtype, ours[name].shape) == (theirs[name].dtype, theirs[name].shape)
        assert name in VECTORS or np.array_equal(ours[name], theirs[name]), name
    for name in VECTORS:
        assert np.ptp(theirs[name][:, :-1], axis=0).min() > 0.3
    assert len(filled.scorers["mf"].top("user:1", 5)) == 5
