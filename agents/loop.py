"""Both folds and the recommender over logs in memory: what replay, simulation and tests drive."""

from agents.attribution import Attribution, RankingTask
from agents.catalogue_records import EmbeddingRecord
from agents.learner import Learner
from agents.recommender import Recommender
from models.catalogue import Catalogue
from models.events import Decision, Embedding, Event, Item


class Loop:
    """One partition and one worker without Kafka: the same agents, one message at a time.

    `appended` is each event's own `at`: in a replayed past nothing comes from the future.
    """

    def __init__(
        self, attribution: Attribution, learner: Learner, recommender: Recommender
    ) -> None:
        self.attribution = attribution
        self.learner = learner
        self.recommender = recommender

    @property
    def catalogue(self) -> Catalogue:
        """The items that can be shown."""
        return self.recommender.catalogue

    def __call__(self, message: Item | Embedding | EmbeddingRecord | Event) -> list[Decision]:
        """Take one message in; returns the rankings it caused."""
        catalogue = self.catalogue
        match message:
            case Item():
                catalogue.fold_item(catalogue.items_version, message)
                return []
            case Embedding():
                catalogue.fold_embedding(catalogue.embeddings_version, message)
                return []
            case EmbeddingRecord():
                message.fold(catalogue, catalogue.embeddings_version)
                return []
            case _:
                return self._event(message)

    def _event(self, event: Event) -> list[Decision]:
        caused = self.attribution(self.attribution.next, event.at, event)
        for record in caused.records:
            self.learn(record.data)
        decisions = [self.decide(task) for task in caused.tasks]
        for decision in decisions:
            self.attribution.decided(decision)
        return decisions

    def learn(self, record: bytes) -> None:
        """The second fold's next record."""
        self.learner(self.learner.version, record)

    def decide(self, task: RankingTask) -> Decision:
        """The answer to a request, by what is learned so far."""
        return self.recommender(task)
