"""A request is answered with all that is needed to answer it again, or with why it cannot be."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from agents.attribution import RankingTask
from agents.learner import Learner
from agents.recommender import MAX_DECISION_BYTES, DecisionMetadata, Recommender, seeded
from models.base import Doubles
from models.candidates import FEATURES, Candidates, Retrieval
from models.catalogue import Catalogue
from models.content import Content
from models.events import (
    MAX_CANDIDATES,
    MAX_MESSAGE_BYTES,
    MAX_SLOTS,
    Decision,
    Interaction,
    Item,
    Outcome,
    Request,
    Source,
    decode_decision,
    encode,
)
from models.memory import Memory
from policies.uniform import Uniform

TERMS = DecisionMetadata(seed=3, build="1.2", settings="abc")


def recommender(
    items: Sequence[str] = "abcdef", terms: DecisionMetadata = TERMS, policy: Uniform | None = None
) -> Recommender:
    memory, catalogue = Memory(None, {}), Catalogue(encoder="tiny", dimensions=1)
    for offset, item in enumerate(items):
        catalogue.fold_item(offset, Item(id=item, at=0))
    retrieval = Retrieval(memory, catalogue, Content(catalogue, memory.histories))
    return Recommender(Learner(memory, policy or Uniform()), catalogue, retrieval, terms)


def ask(source: int = 9, **rest: Any) -> RankingTask:
    return RankingTask(Request(**{"id": "r", "user": "ann", "at": 5, "k": 3, **rest}), source)


def items(decision: Decision) -> list[str]:
    return [slot.item for slot in decision.slots]


def test_a_decision_names_all_that_is_needed_to_make_it_again() -> None:
    recommend = recommender()
    recommend.learner.ledger.version = 7
    decision = recommend(ask(context={"page": "home"}))
    assert (decision.id, decision.user, decision.at, decision.k) == ("r", "ann", 5, 3)
    assert (decision.model, decision.items, decision.embeddings) == (7, 6, 0)
    assert (decision.source, decision.encoder, decision.policy) == (9, "tiny", "uniform")
    assert (decision.seed, decision.build, decision.settings) == (3, "1.2", "abc")
    assert decision.context == {"page": "home"}
    assert decision.features == tuple(feature.name for feature in FEATURES)
    assert decision.refused is None


def test_a_decision_has_as_many_slots_as_were_asked_for_each_item_once() -> None:
    chosen = items(recommender()(ask(k=4)))
    assert len(chosen) == len(set(chosen)) == 4


def test_with_fewer_candidates_than_asked_for_all_of_them_are_ranked() -> None:
    decision = recommender("abc")(ask(k=MAX_SLOTS))
    assert sorted(items(decision)) == ["a", "b", "c"]
    assert [slot.propensity for slot in decision.slots] == [1 / 3, 1 / 2, 1.0]


def test_a_slot_says_who_proposed_it_and_what_it_was_judged_on() -> None:
    [slot] = recommender("a")(ask(k=1)).slots
    assert slot.source == "fresh"
    assert len(slot.features.x) == len(FEATURES)


def test_the_same_request_at_the_same_versions_gives_the_same_bytes() -> None:
    assert encode(recommender()(ask())) == encode(recommender()(ask()))


def test_chance_comes_from_the_seed_and_the_request_alone() -> None:
    decisions = {
        tuple(items(recommender(terms=DecisionMetadata(seed=seed))(ask(id=id, k=6))))
        for seed in range(5)
        for id in "rst"
    }
    assert len(decisions) > 10
    recommend = recommender()
    first = recommend(ask())
    for n in range(10):
        recommend(ask(id=f"other {n}"))
    assert recommend(ask()) == first


def test_a_seed_and_an_id_are_not_run_together() -> None:
    assert seeded(1, "1:r", "x") != seeded(11, ":r", "x")
    assert seeded(0, "ann", "1") != seeded(0, "an", "n1")
    assert 0 <= seeded(0, "ann", "r") < 2**64


def clicked(made: Recommender, *items: str, user: str = "ann") -> None:
    """Let a user have clicked them."""
    for n, item in enumerate(items):
        made.learner.memory.histories.learn(
            Interaction(id=item, user=user, item=item, at=0, value=1, source=Source(0, n, 0))
        )


@pytest.mark.parametrize(
    ("has", "wants", "says"),
    [
        ("", {}, "the catalogue is empty"),
        ("abc", {"candidates": ()}, "the request's list is empty"),
        ("abc", {"exclude": tuple("abc")}, "of the catalogue's 3 items, 3 in `exclude`"),
        (
            "xy",
            {},
            "of the catalogue's 2 items, 2 clicked or rated by the user before (exclude_seen)",
        ),
        (
            "axy",
            {"exclude": ("a", "x")},
            "of the catalogue's 3 items, 2 in `exclude`, "
            "1 clicked or rated by the user before (exclude_seen)",
        ),
        (
            "axy",
            {"candidates": tuple("xy"), "exclude_seen": True},
            "of the request's list's 2 items, 2 clicked or rated by the user before (exclude_seen)",
        ),
    ],
)
def test_without_candidates_a_request_is_refused_and_says_why(
    has: str, wants: dict[str, Any], says: str
) -> None:
    made = recommender(has)
    clicked(made, "x", "y")
    decision = made(ask(**wants))
    assert decision.slots == ()
    assert decision.refused == f"no candidates: {says}"
    assert decode_decision(encode(decision)) == decision


def test_expired_and_deleted_items_are_named_in_a_refusal() -> None:
    made = recommender("")
    made.catalogue.fold_item(0, Item(id="old", at=0, expires_at=1))
    assert made(ask()).refused == (
        "no candidates: of the catalogue's 1 items, 1 deleted or expired"
    )


def test_of_the_requests_own_list_only_what_it_asks_for_is_left_out_and_counted() -> None:
    made = recommender("abcdef")
    clicked(made, "a", "b")
    own = {"candidates": tuple("abcd"), "k": 9}
    whole = made(ask(**own))
    assert ({slot.item for slot in whole.slots}, whole.left_out) == (set("abcd"), {})
    less = made(ask(**own, exclude=("c",), exclude_seen=True))
    assert [slot.item for slot in less.slots] == ["d"]
    assert less.left_out == {"excluded": 1, "seen": 2}
    assert made(ask(**own, exclude=("d",))).left_out == {"excluded": 1}


def test_a_request_may_ask_for_what_the_user_has_seen() -> None:
    made = recommender("abc")
    clicked(made, "a", "b")
    assert items(made(ask())) == ["c"]
    assert sorted(items(made(ask(exclude_seen=False)))) == ["a", "b", "c"]


def test_candidates_are_listed_only_if_asked_for() -> None:
    assert recommender()(ask()).candidates is None
    listing = recommender(terms=DecisionMetadata(log_candidates=True))
    assert listing(ask()).candidates == tuple("abcdef")


class Wordy(Retrieval):
    """Finds candidates with as many long tags as a slot takes."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, request: Request) -> Candidates:
        n = len(request.candidates or ())
        tags = tuple("t" * self.size for _ in range(60))
        return Candidates(
            names=("x",),
            items=request.candidates or (),
            sources=("request",) * n,
            x=np.zeros((n, 1)),
            tags=(tags,) * n,
            text=np.zeros((n, 0)),
        )


def test_a_decision_too_large_to_publish_is_refused_instead() -> None:
    recommend = recommender()
    recommend.retrieval = Wordy(size=100)
    fits = recommend(ask(k=100, candidates=tuple(f"i{n}" for n in range(100))))
    assert fits.refused is None
    recommend.retrieval = Wordy(size=150)
    refused = recommend(ask(k=100, candidates=tuple(f"i{n}" for n in range(100))))
    assert refused.slots == ()
    assert refused.refused is not None
    assert refused.refused.startswith("too large: ")
    assert len(encode(refused)) < 1_000


class Broken(Uniform):
    """Cannot judge one item."""

    def scores(
        self, user: str, context: Mapping[str, str | float | bool], candidates: Candidates
    ) -> Doubles:
        return np.where(np.array(candidates.items) == "d", np.nan, 0.0)


def test_a_request_that_cannot_be_ranked_is_refused_and_the_next_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    recommend = recommender(policy=Broken())
    refused = recommend(ask())
    assert (refused.slots, refused.refused) == ((), "failed: ValueError")
    assert "request not ranked" in caplog.text and "must be 6 finite numbers" in caplog.text
    assert recommend(ask()) == refused
    assert items(recommend(ask(candidates=("a", "b"), k=2))) != []


def test_the_largest_candidate_list_is_refused_rather_than_too_large() -> None:
    ids = tuple("ﷺ" * 250 + f"{n:04}" for n in range(MAX_CANDIDATES))
    recommend = recommender(terms=DecisionMetadata(log_candidates=True))
    decision = recommend(ask(candidates=ids))
    assert len(encode(ask(candidates=ids).request)) < MAX_MESSAGE_BYTES
    assert len(encode(decision)) <= MAX_DECISION_BYTES


def test_ranking_teaches_the_policy_nothing() -> None:
    class Watched(Uniform):
        def learn(self, outcome: Outcome, seed: int) -> None:
            raise AssertionError("only the learner teaches")

    assert recommender(policy=Watched())(ask()).slots
