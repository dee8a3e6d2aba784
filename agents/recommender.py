"""Request + what is learned + catalogue -> Decision, with all that is needed to make it again."""

import logging
from collections.abc import Sequence
from hashlib import blake2b
from random import Random

from msgspec import Struct

from agents.attribution import RankingTask
from agents.learner import Learner
from models.candidates import Candidates, Retrieval
from models.catalogue import Catalogue
from models.content import Content
from models.events import Decision, Request, Slot, encode
from policies.base import rank, scored
from policies.evaluation.importance_weights import chances, weights

log = logging.getLogger(__name__)
MAX_DECISION_BYTES = 800_000  # leaves room for its outcome within one message


class DecisionMetadata(Struct, frozen=True, kw_only=True):
    """What a decision names besides its versions."""

    seed: int = 0
    build: str = ""
    settings: str = ""
    log_candidates: bool = False


class Recommender:
    """Answers a request with the model and the catalogue as they stand.

    Chance comes from (seed, user, request id): the same request at the same versions gives the same
    bytes: what `audit` checks.

    >>> from models.content import Content; from models.memory import Memory
    >>> from policies.uniform import Uniform
    >>> memory, films = Memory(None, {}), Catalogue(encoder="", dimensions=1)
    >>> retrieval = Retrieval(memory, films, Content(films, memory.histories))
    >>> recommend = Recommender(Learner(memory, Uniform()), films, retrieval, DecisionMetadata())
    >>> recommend(RankingTask(Request(id="r", user="ann", at=0), source=0)).refused
    'no candidates: the catalogue is empty'
    """

    def __init__(
        self, learner: Learner, catalogue: Catalogue, retrieval: Retrieval, terms: DecisionMetadata
    ) -> None:
        self.learner = learner
        self.catalogue = catalogue
        self.retrieval = retrieval
        self.terms = terms

    @property
    def content(self) -> Content:
        """What ranks by text alone."""
        return self.retrieval.content

    def __call__(self, task: RankingTask) -> Decision:
        """The decision for a request; one that cannot be served says why in `refused`.

        Nor does one that a model or the policy fails at stop the others: whoever tries it again
        would fail alike.
        """
        try:
            return self._ranked(task)
        except Exception as error:
            log.exception("request not ranked", extra={"request": task.request.id})
            return self._decision(task, refused=f"failed: {type(error).__name__}")

    def _ranked(self, task: RankingTask) -> Decision:
        request, policy = task.request, self.learner.policy
        candidates = self.retrieval(request)
        own = {} if request.candidates is None else dict(candidates.left_out)
        if not candidates.items:
            return self._decision(task, refused=_nothing(request, candidates), left_out=own)
        rng = Random(seeded(self.terms.seed, request.user, request.id))
        slots = rank(policy, request.user, request.context, candidates, request.k, rng)
        decision = self._decision(
            task,
            slots=slots,
            features=candidates.names,
            candidates=candidates.items if self.terms.log_candidates else None,
            left_out=own,
            weights=self._weights(request, candidates, slots),
        )
        size = len(encode(decision))
        if size > MAX_DECISION_BYTES:
            return self._decision(task, refused=f"too large: {size} bytes")
        return decision

    def _weights(
        self, request: Request, candidates: Candidates, slots: Sequence[Slot]
    ) -> dict[str, tuple[float, ...]]:
        """How likely each challenger was to rank so, against the champion, slot by slot.

        Only here are all candidates at hand, as it would have judged them. One that fails would
        have earned nothing; it costs nobody a ranking.
        """
        found: dict[str, tuple[float, ...]] = {}
        for name, policy in self.learner.challengers.items():
            try:
                scores = scored(policy, request.user, request.context, candidates)
                order = [candidates.items.index(slot.item) for slot in slots]
                found[name] = weights(chances(policy, scores, order), slots)
            except Exception as error:
                log.warning("challenger failed", extra={"policy": name, "reason": str(error)})
                found[name] = (0.0,) * len(slots)
        return found

    def _decision(self, task: RankingTask, **rest: object) -> Decision:
        request: Request = task.request
        return Decision(
            id=request.id,
            user=request.user,
            at=request.at,
            k=request.k,
            context=request.context,
            policy=self.learner.policy.name,
            model=self.learner.version,
            items=self.catalogue.items_version,
            embeddings=self.catalogue.embeddings_version,
            encoder=self.catalogue.encoder,
            source=task.source,
            build=self.terms.build,
            settings=self.terms.settings,
            seed=self.terms.seed,
            **rest,  # pyright: ignore[reportArgumentType]
        )


def _nothing(request: Request, candidates: Candidates) -> str:
    """Why there is nothing to rank."""
    what = "catalogue" if request.candidates is None else "request's list"
    if not candidates.left_out:
        return f"no candidates: the {what} is empty"
    said = {
        "withdrawn": "deleted or expired",
        "excluded": "in `exclude`",
        "seen": "clicked or rated by the user before (exclude_seen)",
    }
    each = ", ".join(f"{count} {said[why]}" for why, count in candidates.left_out.items())
    return f"no candidates: of the {what}'s {sum(candidates.left_out.values())} items, {each}"


def seeded(seed: int, user: str, id: str) -> int:
    """A seed of its own for each request: two users may ask by the same id.

    >>> seeded(0, "ann", "1") == seeded(0, "ann", "1") != seeded(0, "bob", "1")
    True
    """
    name = f"{seed}:{len(user)}:{user}:{id}".encode()
    return int.from_bytes(blake2b(name, digest_size=8).digest(), "little")
