"""Memory: everything learned except the policy, as one fold of the feedback log."""

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np

from models.arrays.id_table import IdTable
from models.arrays.lru_index import nested, part
from models.base import Arrays, Scorer
from models.events import Interaction, Outcome
from models.history import Exposure, Histories


class Memory:
    """What is known of items and users; every part learns from the same records, in one order.

    Parts that were made with the same names of users and items keep each id once; the memory is
    given the names too, and saves them.

    >>> from models.events import Source
    >>> memory = Memory(popularity=None, scorers={})
    >>> memory.learn(Interaction("i", "ann", "film", 7, 1.0, Source(0, 0, 0)), seed=0)
    >>> copy = Memory(popularity=None, scorers={})
    >>> copy.load(memory.state())
    >>> copy.digest() == memory.digest()
    True
    """

    def __init__(
        self,
        popularity: Scorer | None,
        scorers: Mapping[str, Scorer],
        histories: Histories | None = None,
        exposure: Exposure | None = None,
        user_names: IdTable | None = None,
        item_names: IdTable | None = None,
    ) -> None:
        self.popularity = popularity
        self.scorers = dict(scorers)
        self.histories = Histories() if histories is None else histories
        self.exposure = Exposure() if exposure is None else exposure
        first = {} if popularity is None else {"popularity": popularity}
        self._learners: dict[str, Scorer] = first | self.scorers
        self._parts = self._learners | {"histories": self.histories, "exposure": self.exposure}
        # What the parts share; loaded before them, checked after them.
        shared = {"users": user_names, "items": item_names}
        self._names = {name: names for name, names in shared.items() if names is not None}
        taken = {"popularity", "histories", "exposure", "users", "items"} & set(scorers)
        if taken or any("." in name for name in scorers):
            raise ValueError(
                f"scorers are named without dots, and not popularity, histories, exposure, users "
                f"or items; got {list(scorers)}; choose other names"
            )

    def scorer(self, name: str) -> Scorer | None:
        """The scorer of this name, be it the popularity; None if there is none."""
        return self._learners.get(name)

    def learn(self, interaction: Interaction, seed: int) -> None:
        """Take in one interaction; all chance comes from `seed`."""
        user, item, value = interaction.user, interaction.item, interaction.value
        for learner in self._learners.values():
            learner.learn(user, item, value, seed)
        self.histories.learn(interaction)

    def shown(self, outcome: Outcome) -> None:
        """Take in what a closed decision showed; a corrected one is not counted again."""
        self.histories.shown(outcome)
        self.exposure.shown(outcome)

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """By what is remembered, how many and how many at most."""
        users, shown = self.histories.users, self.exposure.items
        return {"users": (len(users), users.limit), "items_shown": (len(shown), shown.limit)}

    def state(self) -> Arrays:
        """Everything learned, as arrays named by part; `load` of it continues bit for bit."""
        kept = self._names | self._parts
        return nested(**{name: learned.state() for name, learned in kept.items()})

    def load(self, state: Arrays) -> None:
        """Replace what is learned by what `state` returned; refuse another set of parts."""
        found = sorted({name.partition(".")[0] for name in state})
        kept = self._names | self._parts
        if found != sorted(kept):
            raise ValueError(
                f"a memory of {sorted(kept)} can't load a state of {found}; "
                "start it with the same scorers, or fold the log again"
            )
        for name, learned in kept.items():
            learned.load(part(state, name))
        for names in self._names.values():
            names.check()

    def digest(self) -> str:
        """128 bits over everything learned: equal where the same log was folded."""
        digest = blake2b(digest_size=16)
        for name, array in sorted(self.state().items()):
            digest.update(f"{name}:{array.dtype.str}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
