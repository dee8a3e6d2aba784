"""`/metrics`: what the worker counts and holds, read when it is asked, as Prometheus reads it.

Nothing is counted here. Events and outcomes are counted once their commit was accepted
(`stream.worker.counters`), so that they add up over all workers.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from models.base import Encoder
from models.bert_encoder import CachedEncoder
from models.catalogue import Catalogue
from stream.worker.assignment import MAX_COMMITS_DUE
from stream.worker.delivery import RankingWriter
from stream.worker.embedder import EmbeddingCounters
from stream.worker.partitions import Partitions
from stream.worker.snapshotter import LearnerSnapshotter

CONTENT_TYPE = CONTENT_TYPE_LATEST
Values = Iterable[tuple[object, ...]]  # the labels, then the value


class LogProgress(Struct, frozen=True):
    """How far a log is folded: up to `version`; `lag` records are not."""

    version: int
    lag: int


def counter(name: str, says: str, labels: tuple[str, ...], values: Values) -> Metric:
    """A counter and its values, one a set of labels.

    >>> [sample.name for sample in counter("events", "Seen.", ("result",), [("late", 2)]).samples]
    ['rankloop_events_total']
    """
    family = CounterMetricFamily(f"rankloop_{name}", says, labels=labels)
    for *names, value in values:
        family.add_metric([str(each) for each in names], float(str(value)))
    return family


def gauge(name: str, says: str, labels: tuple[str, ...], values: Values) -> Metric:
    """The same for what rises and falls."""
    family = GaugeMetricFamily(f"rankloop_{name}", says, labels=labels)
    for *names, value in values:
        family.add_metric([str(each) for each in names], float(str(value)))
    return family


def histogram(of: Histogram) -> Metric:
    """A histogram as it stands, without the time it was made: a series that says nothing here.

    >>> from stream.worker.counters import decision_times
    >>> [sample.name for sample in histogram(decision_times()).samples[-2:]]
    ['rankloop_decision_seconds_count', 'rankloop_decision_seconds_sum']
    """
    [family] = of.collect()
    family.samples = [each for each in family.samples if not each.name.endswith("_created")]
    return family


class MetricsCollector:
    """All metrics of one worker as text; a collector of `prometheus_client`, in no registry else.

    Every group is a method below: adding a metric is adding a line to one of them.
    """

    def __init__(
        self,
        partitions: Callable[[], Partitions],
        progress: Callable[[], Mapping[str, LogProgress]],
        snapshotter: LearnerSnapshotter,
        catalogue: Catalogue,
        ranking_writer: RankingWriter,
        encoder: Encoder,
        embedded: EmbeddingCounters,
        decision_seconds: Histogram,
    ) -> None:
        self._assigned = partitions  # others after a stand-by
        self._progress = progress
        self._snapshotter = snapshotter
        self._catalogue = catalogue
        self._ranking_writer = ranking_writer
        self._encoder = encoder
        self._embedded = embedded
        self._decision_seconds = decision_seconds
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)  # resident memory, processor time, open files

    def __call__(self) -> bytes:
        return generate_latest(self._registry)

    def add(self, collector: Collector) -> None:
        """Metrics of another collector, too."""
        self._registry.register(collector)

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is to say depends on the partitions."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything as it stands now."""
        yield from self.events()
        yield from self.partitions()
        yield from self.learning()
        yield from self.scoreboard()
        yield from self.serving()
        yield from self.bounds()

    def events(self) -> Iterator[Metric]:
        """What came and what became of it: committed events only."""
        counters = sorted(self._assigned().counters.items())
        one, two = ("partition",), ("partition", "result")
        yield counter("events_in", "Messages committed.", one, ((p, t.taken) for p, t in counters))
        yield counter(
            "events",
            "What became of them: with rankloop_events_waiting they add up to those in.",
            two,
            ((p, result, n) for p, t in counters for result, n in sorted(t.results.items())),
        )
        yield gauge(
            "events_waiting",
            "Events that came before their request.",
            one,
            ((p, t.waiting) for p, t in counters),
        )
        yield counter(
            "events_waiting_moved",
            "Waiting events taken over with a partition, and given up with it.",
            ("partition", "direction"),
            (row for p, t in counters for row in ((p, "in", t.inherited), (p, "out", t.released))),
        )
        embedded = self._embedded
        yield counter(
            "deadletters",
            "Messages that could not be used.",
            ("topic", "partition", "reason"),
            [
                *(
                    ("events", p, reason, n)
                    for p, t in counters
                    for reason, n in sorted(t.dead_letters.items())
                ),
                *(("items", 0, why, n) for why, n in sorted(embedded.dead_letters.items())),
                *(("embeddings", 0, why, n) for why, n in sorted(embedded.wrong_vectors.items())),
            ],
        )
        yield counter(
            "outcomes",
            "Decisions closed and corrected; unshown and refused ones teach nothing.",
            ("partition", "status"),
            ((p, status, n) for p, t in counters for status, n in sorted(t.outcomes.items())),
        )

    def partitions(self) -> Iterator[Metric]:
        """How each partition fares."""
        partitions, one, now = self._assigned(), ("partition",), time.monotonic()
        counters = sorted(partitions.counters.items())
        assigned = sorted(partitions.assigned.items())
        yield counter(
            "rankings",
            "Rankings published and acknowledged.",
            ("partition", "kind"),
            ((p, kind, n) for p, t in counters for kind, n in sorted(t.rankings.items())),
        )
        yield counter(
            "candidates_left_out",
            "Of requests' own candidates: not ranked, by why.",
            ("partition", "reason"),
            ((p, why, n) for p, t in counters for why, n in sorted(t.left_out.items())),
        )
        for name, says, of in (
            ("batches_abandoned", "Batches given up and begun again from the commit.", "abandoned"),
            ("batches_behind", "Batches decided before their own clicks were learned.", "older"),
            ("restores", "Times a partition was taken up.", "restores"),
            ("restore_seconds", "Seconds that took.", "restore_seconds"),
            ("unserved", "Times events had waited for an owner.", "unserved_times"),
            ("unserved_seconds", "Seconds the oldest of them had waited.", "unserved_seconds"),
        ):
            yield counter(name, says, one, ((p, getattr(t, of)) for p, t in counters))
        yield gauge(
            "unserved_longest_seconds",
            "The longest that such an event had waited.",
            one,
            ((p, t.longest_unserved) for p, t in counters),
        )
        yield gauge(
            "unserved_current_seconds",
            "Since when a partition of this worker is being restored; 0: it is served.",
            one,
            ((p, 0 if owned.ready else now - owned.began) for p, owned in assigned),
        )
        yield gauge(
            "consumer_lag_events",
            "Events in Kafka that were not handled yet.",
            one,
            ((p, lag) for p, lag in partitions.lags().items()),
        )

    def learning(self) -> Iterator[Metric]:
        """How far the logs that all workers follow were folded."""
        held, logs = self._snapshotter, self._progress()
        yield counter(
            "feedback_records",
            "Records of the feedback log by verdict, from its start: equal on all workers.",
            ("verdict",),
            ((verdict, n) for verdict, n in sorted(held.ledger.counts.items())),
        )
        yield gauge(
            "version",
            "The offset a log was folded up to; of feedback, the model's version.",
            ("log",),
            ((name, log.version) for name, log in logs.items()),
        )
        behind = ((name, log.lag) for name, log in logs.items())
        yield gauge("log_lag_records", "Records of a log not folded yet.", ("log",), behind)
        newest = held.newest
        if newest is not None:
            yield gauge("snapshot_version", "Of the newest snapshot.", (), [(newest.version,)])
            age = time.time() - newest.written / 1000
            yield gauge("snapshot_age_seconds", "Of the newest snapshot.", (), [(age,)])
        yield counter("snapshots_failed", "Snapshots not written.", (), [(held.failed,)])
        yield counter(
            "snapshot_held_seconds",
            "Seconds that learning waited for a copy.",
            (),
            [(held.paused_seconds,)],
        )

    def scoreboard(self) -> Iterator[Metric]:
        """What the champion earns and its challengers would; NaN before the first outcome."""
        scores = self._snapshotter.learner.scores()
        if not scores:
            return
        champion = scores[0].policy
        each = [(score.policy, score) for score in scores]
        names = ((name, int(name == champion)) for name, _ in each)
        yield gauge("champion", "1 for the policy that decides.", ("policy",), names)
        for name, says, of in (
            ("outcomes", "Rankings of the champion that it was judged on.", "outcomes"),
            (
                "effective_sample",
                "As many independent rankings their weights are worth.",
                "effective",
            ),
            (
                "mean_weight",
                "Mean weight; far below 1, the champion hardly shows what it would.",
                "weight",
            ),
            ("clipped_share", "Share of weights that were clipped.", "cut"),
        ):
            values = ((policy, getattr(score, of)) for policy, score in each)
            yield gauge(f"policy_{name}", says, ("policy",), values)
        for name, says in (
            ("value", "Reward a ranking, with its range at any time."),
            ("ahead", "How much more than the champion, with its range at any time, for all."),
        ):
            yield gauge(
                f"policy_{name}",
                says,
                ("policy", "bound"),
                (
                    (policy, bound, getattr(getattr(score, name), bound, "NaN"))
                    for policy, score in each
                    if name == "value" or policy != champion
                    for bound in ("mean", "low", "high")
                ),
            )

    def serving(self) -> Iterator[Metric]:
        """How long deciding takes, what the text model did, and where rankings are."""
        embedded = self._embedded
        yield histogram(self._decision_seconds)
        yield counter("items_embedded", "Items embedded and published.", (), [(embedded.items,)])
        yield counter(
            "texts_without_vector",
            "Items without a vector: their text says nothing, or mostly what the model knows not.",
            ("reason",),
            [(reason, embedded.without[reason]) for reason in ("empty", "unknown")],
        )
        yield counter("embedding_seconds", "Seconds that took.", (), [(embedded.seconds,)])
        writer = self._ranking_writer
        kept = writer.rankings.counts
        yield counter(
            "latest_rankings",
            "Latest rankings for readers: written, refused by Redis, lost for want of room.",
            ("result",),
            [
                ("written", kept.written),
                ("refused", kept.refused),
                ("lost", kept.lost + writer.unkept),
            ],
        )

    def bounds(self) -> Iterator[Metric]:
        """How much is held of what grows, and its limit: docs/operations.md, "Bounds"."""
        partitions, catalogue, writer = self._assigned(), self._catalogue, self._ranking_writer
        memory, kept = self._snapshotter.learner.memory, writer.rankings.counts
        assigned = sorted(partitions.assigned.items())
        window = [(p, owned.attribution.sizes) for p, owned in assigned]
        yield gauge(
            "attribution_entries",
            "What a partition remembers of the last window of event time, by kind.",
            ("partition", "kind"),
            (
                (p, kind, getattr(sizes, kind))
                for p, sizes in window
                for kind in sizes.__struct_fields__
            ),
        )
        yield gauge(
            "commits_due",
            "Commits that wait for the learner.",
            ("partition",),
            ((p, owned.due) for p, owned in assigned),
        )
        held = {
            "items": (catalogue.size, catalogue.limit),
            **memory.sizes,
            "latest_rankings": (kept.held, kept.limit),
            "latest_rankings_on_their_way": (writer.waiting, writer.most),
            "commits_due": (max((owned.due for _, owned in assigned), default=0), MAX_COMMITS_DUE),
            "batch": (partitions.batch_sizer.size, partitions.batch_sizer.most),
        }
        encoder = self._encoder
        if isinstance(encoder, CachedEncoder):
            held["vectors_cached"] = (len(encoder.memory), encoder.limit)
        one = ("collection",)
        sizes = ((name, size) for name, (size, _) in held.items())
        limits = ((name, limit) for name, (_, limit) in held.items())
        yield gauge("collection_size", "How much is held.", one, sizes)
        yield gauge("collection_limit", "How much at most.", one, limits)
