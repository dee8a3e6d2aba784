"""Without Kafka, one process: both folds, a decision and its parts, replay."""

from collections.abc import Callable
from random import Random
from time import perf_counter
from typing import Any

import world
from measure import Row, Rows, amount, watch

from agents.attribution import Attribution, RankingTask
from agents.loop import Loop
from agents.partition import Partition, ReceivedMessage
from agents.recommender import Recommender
from models.bert_encoder import embed
from models.candidates import standardised
from models.events import Click, Item, Reward, encode
from policies.base import rank
from stream import build
from stream.datasets.movielens import movielens_messages
from stream.kafka.topics import owner
from stream.simulation.event_log import EventLog
from stream.storage.vector_cache import EncoderIdentity
from tests.support.shared import movielens_folder

HOT = 200  # decisions before the first that counts


def folds(seconds: float) -> Rows:
    """Attribution and learning alone, of the clicks that `feedback` sends through Kafka."""
    clicks = world.clicks(amount(100_000, seconds))
    parts = build.parts(world.SETTINGS, build.encoder(world.SETTINGS))
    attribution = Attribution(0, world.SETTINGS.attribution_rules())
    received = [ReceivedMessage(n, one.at, encode(one)) for n, one in enumerate(clicks)]
    partition = Partition(attribution, parts.learner.ledger, refuse, own)
    with watch() as spent:
        for start in range(0, len(received), 500):
            for _ in partition.restore(received[start : start + 500]):
                pass
    how = f"{len(clicks):,} clicks decoded, checked and folded as a partition does, {spent.cores}"
    yield Row("attribution alone", len(clicks) / spent.wall, "events/s", how)

    attribution = Attribution(0, world.SETTINGS.attribution_rules())
    records = [
        record.data
        for n, click in enumerate(clicks)
        for record in attribution(n, click.at, click).records
    ]
    with watch() as spent:
        for offset, data in enumerate(records):
            parts.learner(offset, data)
    how = f"{len(records):,} records through the learner, {world.SAYS}, {spent.cores}"
    yield Row("learning alone", len(records) / spent.wall, "events/s", how)


def own(user: str) -> int:
    """The owner's check at its true cost; in this one-partition log every user is ours."""
    owner(user, world.SETTINGS.partitions)
    return 0


def refuse(ask: RankingTask) -> Any:
    raise AssertionError(f"{ask} in a log without requests")


def warm(seconds: float) -> Loop:
    """A loop that knows the world: 20,000 clicks and, among them, 1,000 rankings that closed."""
    loop = build.loop(world.SETTINGS, build.encoder(world.SETTINGS))
    for pair in zip(world.items(), world.embeddings(), strict=True):
        for message in pair:
            loop(message)
    asked = world.requests("warm", 1_000)
    for n, click in enumerate(world.clicks(amount(20_000, seconds), every=100)):
        loop(click)
        if n % 20 == 0 and (one := next(asked, None)):
            loop(world.request(*one, at=click.at))
    return loop


def deciding(seconds: float) -> Rows:
    """A decision in memory: 100 candidates, ten slots, the bandit; then its parts."""
    loop = warm(seconds)
    at = loop.attribution.watermark
    made = world.requests("ask", HOT + amount(5_000, seconds))
    asks = [RankingTask(world.request(*one, at=at), n) for n, one in enumerate(made)]
    decide = loop.recommender
    for ask in asks[:HOT]:
        encode(decide(ask))
    asks = asks[HOT:]
    with watch() as spent:
        for ask in asks:
            encode(decide(ask))
    says = f"{len(asks):,} requests, 100 candidates, 10 slots, bandit, hash vectors, {world.SAYS}"
    yield Row("rankings in memory", len(asks) / spent.wall, "rankings/s", f"{says}, {spent.cores}")
    for part, micros in parts_of(decide, asks[: amount(1_000, seconds)]).items():
        yield Row(f"  of it: {part}", micros, "us", "mean of a ranking, each part on its own")


def parts_of(decide: Recommender, asks: list[RankingTask]) -> dict[str, float]:
    """Mean microseconds of each step of a decision."""
    spent: dict[str, float] = {}

    def timed(part: str, step: Callable[[], Any]) -> Any:
        began = perf_counter()
        result = step()
        spent[part] = spent.get(part, 0.0) + perf_counter() - began
        return result

    retrieval, policy = decide.retrieval, decide.learner.policy
    for ask in asks:
        r = ask.request
        found = timed("candidates", lambda r=r: sorted(retrieval._found(r)))
        rows = retrieval.catalogue.find(found)
        timed("features", lambda r=r, f=found, w=rows: standardised(retrieval._features(r, f, w)))
        candidates, rng = retrieval(r), Random(1)
        timed("policy's scores", lambda r=r, c=candidates: policy.scores(r.user, r.context, c))
        timed("draw", lambda r=r, c=candidates, g=rng: rank(policy, r.user, r.context, c, r.k, g))
        decision = decide(ask)
        timed("encode", lambda d=decision: encode(d))
    spent["draw"] -= spent["policy's scores"]  # `rank` asks for them, too
    return {part: 1e6 * total / len(asks) for part, total in spent.items()}


def replay(seconds: float) -> Rows:
    """The loop that replays and simulations drive: a log alone, then with rankings in between."""
    log, what = film_log(amount(20_000, seconds))
    for every in (0, 10):
        loop, asked = build.loop(world.SETTINGS, log.encoder), 0
        held = list(log.in_time())
        with watch() as spent:
            for n, message in enumerate(held):
                if every and n % every == 0 and isinstance(message, Click | Reward):
                    asked += len(loop(world.request(f"ask-{n}", message.user, message.at)))
                loop(message)
        how = f"{what}, {asked:,} rankings by the bandit in between, {spent.cores}"
        yield Row("replay", (len(log.events) + asked) / spent.wall, "events/s", how)


def film_log(count: int) -> tuple[EventLog, str]:
    """The film log's first events if it is found, else the world's clicks."""
    folder = movielens_folder()
    text = build.encoder(world.SETTINGS)
    known = EncoderIdentity(text.version, text.dimensions)
    if folder is None:
        log = EventLog(world.items(), world.embeddings(), tuple(world.clicks(count)), known)
        return log, f"{len(log.events):,} clicks on simulated news (no film log here)"
    messages = list(movielens_messages(folder, user_tags=0))
    films = tuple(one for one in messages if isinstance(one, Item))
    events = tuple(one for one in messages if isinstance(one, Click | Reward))[:count]
    log = EventLog(films, tuple(embed(films, text)), events, known)
    return log, f"the film log's first {len(events):,} ratings, {len(films):,} films"
