"""The bandit: its scores are Vowpal Wabbit's, no string steers it, what it learned can be kept."""

import gc
import re
import resource
import weakref
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.candidates import Candidates
from models.events import Features, InvalidMessageError, Outcome, OutcomeSlot, Source
from policies.vowpal import SavedModel, Vowpal
from policies.vowpal_explore import VowpalExplore
from policies.vowpal_text import example, head, item, label, shared

NAMES = ("popularity", "knn")
ALL = ("Ux", "Ut", "Ue", "Cx", "Ct", "Ce")
CONTEXT = {"device": "mobile", "hour": 21.0, "night": True, "balance": -1e6, "zero": 0.0}
LINE = re.compile(r"(shared|0:-?\d+\.\d{6}:\d\.\d{6})?( ?\|[UCxte]( \d+(:-?\d+\.\d{6})?)* ?)+")

texts = st.text(max_size=20) | st.text(alphabet="|: \n\t\"'0:1abUCxteshared", max_size=20)
values = st.floats(-1e5, 1e5)
contexts = st.dictionaries(texts, texts | values | st.booleans(), max_size=5)


def candidates(n=12, seed=0):
    chance = np.random.default_rng(seed)
    tags = ("drama", "war", "war", "comedy")
    return Candidates(
        names=NAMES,
        items=tuple(f"item-{i:03}" for i in range(n)),
        sources=("knn",) * n,
        x=chance.normal(size=(n, 2)).round(4),
        tags=tuple(tags[: i % 5] for i in range(n)),
        text=chance.normal(size=(n, 3)).round(4),
    )


def outcome(*slots, user="ann", context=CONTEXT, names=NAMES):
    """Slots are (features, reward) or (features, reward, propensity)."""
    judged = tuple(
        OutcomeSlot(
            item=f"i{i}",
            position=i,
            features=slot[0],
            reward=slot[1],
            propensity=slot[2] if len(slot) > 2 else 1.0,
        )
        for i, slot in enumerate(slots)
    )
    return Outcome(
        id="r",
        user=user,
        at=0,
        status="complete",
        policy="p",
        model=0,
        slots=judged,
        source=Source(0, 0, 0),
        features=names,
        context=context,
    )


def taught(policy, begin=0, end=100):
    for i in range(begin, end):
        found = candidates(3, seed=i)
        slots = [(found.features(j), float(found.x[j, i % 2] > 0)) for j in range(3)]
        policy.learn(outcome(*slots, user=f"user-{i % 3}"), seed=i)
    return policy


@pytest.mark.parametrize("interactions", [(), ("Ux",), ("Ux", "Cx", "Ct"), ALL])
@pytest.mark.parametrize("bits", [10, 18])
def test_scores_are_what_vowpal_wabbit_itself_predicts(interactions, bits):
    policy, found = taught(Vowpal(interactions=interactions, bits=bits)), candidates(30, seed=7)
    for user in ("user-0", "user-1", "stranger"):
        for context in (CONTEXT, {}, {"device": "desktop"}):
            scores = policy.scores(user, context, found)
            np.testing.assert_allclose(
                scores, policy.predicted(user, context, found), rtol=1e-5, atol=1e-5
            )
    assert np.ptp(scores) > 0.01


def test_scores_are_vowpal_wabbits_after_a_reload_too():
    policy, loaded = taught(Vowpal(interactions=ALL)), Vowpal(interactions=ALL)
    loaded.load(policy.save())
    found = candidates(30, seed=7)
    np.testing.assert_allclose(
        loaded.scores("user-1", CONTEXT, found),
        policy.predicted("user-1", CONTEXT, found),
        rtol=1e-5,
        atol=1e-5,
    )


@given(user=texts, context=contexts, names=st.tuples(texts, texts), tags=st.lists(texts))
def test_no_string_adds_a_feature_a_namespace_a_label_or_a_line(user, context, names, tags):
    first = head(shared(user, context))
    second = label(1.0, 0.5, weigh=True) + " "
    second += item(names, Features((0.5, -1.0), tuple(tags), (0.25,)))
    for line in (first, second):
        assert LINE.fullmatch(line), line
    assert [len(part.split()) - 1 for part in first.split("|")[1:]] == [1, len(context)]
    assert [len(part.split()) - 1 for part in second.split("|")[1:]] == [2, len(tags), 1]


def test_vowpal_wabbit_sees_as_many_features_as_were_given():
    odd = ("|x 1:9 |U 2", "0:-1:1 |", "a:b c\n\nshared |U 1", "", "\0", "\ud800")
    policy = Vowpal()
    for text in odd:
        shown = item((text, "b"), Features((1.5, -1.0), odd, (2.0,)))
        lines = [
            head(shared(text, {text: text, "n": 2.0})),
            f"{label(1.0, 0.5, weigh=True)} {shown}",
        ]
        vw = policy._model.vw
        examples = vw.parse(lines)
        spaces = [
            {chr(one.get_ns(i).ord_ns): one.num_features_in(i) for i in range(one.num_namespaces())}
            for one in examples
        ]
        vw.finish_example(examples)
        for seen in spaces:
            seen.pop(chr(128), None)  # the constant
        assert spaces == [{"U": 1, "C": 2}, {"x": 2, "t": 6, "e": 1}]


def test_an_action_without_any_feature_keeps_its_place():
    policy = taught(Vowpal())
    bare = msgspec.structs.replace(candidates(3), x=np.zeros((3, 2)), tags=((),) * 3)
    bare = msgspec.structs.replace(bare, text=np.zeros((3, 3)))
    assert len(policy.predicted("ann", {}, bare)) == 3
    assert len(example("ann", {}, bare)) == 4
    np.testing.assert_allclose(policy.scores("ann", {}, bare), policy.predicted("ann", {}, bare))


def test_a_prior_ranks_before_anything_is_learned_and_gives_way_to_what_is():
    policy, found = Vowpal(prior={"knn": 0.05}), candidates(30, seed=7)
    np.testing.assert_allclose(policy.scores("ann", {}, found), 0.05 * found.x[:, 1], atol=1e-7)
    np.testing.assert_allclose(
        policy.scores("ann", {}, found), policy.predicted("ann", {}, found), atol=1e-6
    )
    for i in range(500):
        seen = candidates(4, seed=i)
        slots = [(seen.features(j), float(seen.x[j, 1] < 0)) for j in range(4)]
        policy.learn(outcome(*slots, context={}), seed=i)
    assert np.corrcoef(policy.scores("ann", {}, found), found.x[:, 1])[0, 1] < -0.8
    loaded = Vowpal()
    loaded.load(policy.save())
    assert (loaded.scores("ann", {}, found) == policy.scores("ann", {}, found)).all()


def test_users_of_opposite_tastes_get_opposite_rankings():
    policy = Vowpal()
    for i in range(300):
        found = candidates(4, seed=i)
        for user, sign in (("ann", 1.0), ("bob", -1.0)):
            slots = [(found.features(j), float(sign * found.x[j, 0] > 0)) for j in range(4)]
            policy.learn(outcome(*slots, user=user, context={}), seed=i)
    found = candidates(30, seed=1000)
    ann, bob = (policy.scores(user, {}, found) for user in ("ann", "bob"))
    assert np.corrcoef(ann, found.x[:, 0])[0, 1] > 0.8
    assert np.corrcoef(bob, found.x[:, 0])[0, 1] < -0.8


def test_the_context_decides_where_it_matters():
    policy = Vowpal()
    for i in range(300):
        found = candidates(4, seed=i)
        for device, sign in (("mobile", 1.0), ("desktop", -1.0)):
            slots = [(found.features(j), float(sign * found.x[j, 0] > 0)) for j in range(4)]
            policy.learn(outcome(*slots, context={"device": device}), seed=i)
    found = candidates(30, seed=1000)
    mobile, desktop = (policy.scores("new", {"device": d}, found) for d in ("mobile", "desktop"))
    assert np.corrcoef(mobile, desktop)[0, 1] < -0.5


def test_a_rare_draw_weighs_more_only_where_propensities_are_learned():
    good = Features((1.0, 0.0))
    for weighs in (False, True):
        often, rarely = Vowpal(logged_propensity=weighs), Vowpal(logged_propensity=weighs)
        often.learn(outcome((good, 1.0, 1.0)), 0)
        rarely.learn(outcome((good, 1.0, 0.01)), 0)
        a, b = (p.scores("ann", CONTEXT, candidates()).max() for p in (often, rarely))
        assert (b > a) if weighs else (b == a)


@pytest.mark.parametrize(
    "bad",
    [
        (Features((1.0, 0.0)), float("nan")),
        (Features((1.0, 0.0)), float("inf")),
        (Features((1.0, 0.0)), 2e6),
        (Features((1.0, 0.0)), 1.0, 0.0),
        (Features((1.0, 0.0)), 1.0, -0.5),
        (Features((1.0, 0.0)), 1.0, float("nan")),
        (Features((1.0, 0.0)), 1.0, 1.5),
        (Features((float("nan"), 0.0)), 1.0),
        (Features((0.0, float("inf"))), 1.0),
        (Features((0.0, 0.0), (), (float("-inf"),)), 1.0),
        (Features((0.0, 0.0, 0.0)), 1.0),
    ],
)
@pytest.mark.parametrize("kind", [Vowpal, VowpalExplore])
def test_an_outcome_that_cannot_be_used_is_refused_and_nothing_of_it_is_learned(kind, bad):
    policy = taught(kind(), 0, 5)
    before = policy.save()
    with pytest.raises(InvalidMessageError):
        policy.learn(outcome((Features((1.0, 1.0)), 1.0), bad), 0)
    assert policy.save() == before


def test_an_item_that_was_shown_without_features_teaches_the_average_alone():
    policy = Vowpal()
    policy.learn(outcome((Features(), 1.0)), 0)
    assert np.ptp(policy.scores("ann", CONTEXT, candidates())) == 0.0


def test_equal_models_have_equal_bytes_whatever_their_past():
    straight = taught(Vowpal(), 0, 60)
    winding = taught(Vowpal(), 0, 30)
    for _ in range(3):
        winding.predicted("ann", CONTEXT, candidates())
        winding.load(winding.save())
    taught(winding, 30, 60)
    winding.predicted("ann", CONTEXT, candidates())
    assert winding.save() == straight.save()
    assert winding.save() == straight.save()
    assert taught(winding, 60, 61).save() != straight.save()


@pytest.mark.parametrize(
    "other",
    [
        lambda: Vowpal(rate=0.05),
        lambda: Vowpal(bits=12),
        lambda: Vowpal(interactions=("Ux",)),
        lambda: VowpalExplore(),
    ],
)
def test_a_model_saved_under_other_options_is_refused_and_the_present_one_stays(other):
    policy, found = taught(Vowpal()), candidates()
    before = policy.scores("ann", CONTEXT, found).tolist()
    with pytest.raises(ValueError, match="must be loaded under the options it was saved with"):
        policy.load(other().save())
    assert policy.scores("ann", CONTEXT, found).tolist() == before


def test_damaged_bytes_never_reach_vowpal_wabbit():
    policy = taught(Vowpal())
    saved = msgspec.msgpack.decode(policy.save(), type=SavedModel)
    damaged = msgspec.structs.replace(saved, model=saved.model[:-4])
    with pytest.raises(ValueError, match="damaged"):
        policy.load(msgspec.msgpack.encode(damaged))
    for garbage in (b"", b"\x00", b"vw", policy.save()[:-1]):
        with pytest.raises(ValueError, match="not a saved policy"):
            policy.load(garbage)


@pytest.mark.parametrize("kind", [Vowpal, VowpalExplore])
def test_a_closed_policy_says_so_and_can_be_closed_again(kind):
    policy = kind()
    policy.close()
    policy.close()
    for use in (
        lambda: policy.scores("ann", {}, candidates()),
        lambda: policy.learn(outcome((Features((1.0, 0.0)), 1.0)), 0),
        policy.save,
    ):
        with pytest.raises(ValueError, match="closed policy"):
            use()


def test_a_dropped_policy_frees_its_workspace():
    policy = taught(Vowpal(), 0, 2)
    policy.scores("ann", CONTEXT, candidates())
    workspace = weakref.ref(policy._model.vw)
    del policy
    gc.collect()
    assert workspace() is None


def resident():
    """Megabytes in memory now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize() / 1e6


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_learning_predicting_and_reloading_do_not_leak():
    """Unfinished examples would leak 30 kB each, 50 MB here; dropped workspaces 4 MB each."""
    policy, found = Vowpal(), candidates(10)
    for _ in range(2):
        taught(policy, 0, 10)
        policy.load(policy.save())
    before = resident()
    taught(policy, 0, 400)
    for _ in range(100):
        policy.predicted("ann", CONTEXT, found)
    for _ in range(10):
        policy.load(policy.save())
    assert resident() - before < 16


@pytest.mark.parametrize(
    ("explore", "mild", "strict"),
    [("squarecb", 1.0, 1e5), ("epsilon", 0.9, 0.01), ("softmax", 0.1, 1e4)],
)
def test_vowpal_wabbits_own_exploration_has_full_support_and_obeys_its_amount(
    explore, mild, strict
):
    best = []
    for amount in (mild, strict):
        policy = taught(VowpalExplore(explore=explore, amount=amount, floor=0.001))
        pmf = policy.pmf(policy.scores("user-1", CONTEXT, candidates(20, seed=3)))
        assert pmf.min() >= 0.001 / 20 * 0.999
        assert pmf.sum() == pytest.approx(1.0, abs=1e-12)
        best.append(pmf.max())
    assert best[0] < 0.3 < 0.9 < best[1]


def test_one_enormous_reward_does_not_drown_what_was_learned_from_clicks():
    found = candidates(30, seed=7)
    kept = []
    for largest in (10.0, 1e6):
        policy = taught(Vowpal(largest_reward=largest), 0, 400)
        before = policy.scores("user-1", CONTEXT, found)
        policy.learn(outcome((found.features(3), 1e6), user="mallory"), seed=400)
        after = policy.scores("user-1", CONTEXT, found)
        kept.append(float(np.corrcoef(before, after)[0, 1]))
    assert kept[0] > 0.5 > abs(kept[1])


@pytest.mark.parametrize("value", [1e12, 1_764_000_000_000.0, 2.0**53 - 1, -(2.0**53) + 1])
def test_a_large_number_in_a_context_breaks_no_learner(value):
    """The others' scores stay, and whoever sends it goes on to learn which items are good."""
    found, context = candidates(30, seed=7), {"device": "mobile", "hour": 21.0}
    policy = Vowpal()

    def teach(begin, end, **more):
        for i in range(begin, end):
            some = candidates(3, seed=i)
            slots = [(some.features(j), float(some.x[j, 0] > 0)) for j in range(3)]
            shown = outcome(*slots, user=f"user-{i % 3}", context=context | more)
            policy.learn(shown, seed=i)

    teach(0, 200)
    before = policy.scores("user-1", context, found)
    teach(200, 203, at=value)
    assert np.corrcoef(before, policy.scores("user-1", context, found))[0, 1] > 0.98
    teach(203, 400, at=value)
    for more in ({}, {"at": value}):
        scores = policy.scores("user-1", context | more, found)
        assert np.isfinite(scores).all() and np.abs(scores).max() < 5
        assert np.corrcoef(scores, found.x[:, 0] > 0)[0, 1] > 0.6


def test_a_largest_reward_must_be_above_zero():
    with pytest.raises(ValueError, match="largest_reward must be above 0"):
        Vowpal(largest_reward=0.0)
