"""Which policy earns most, as far as the champion's own log can tell: outcomes weighed anew.

A challenger's value is that of RIPS (`policies.evaluation.slates`): each slot's reward, times how
much likelier it was to fill this slot and all above it so. Decisions log these weights, when all
candidates are at hand, so the board is a function of feedback alone. Assumed: users read from the
top (a slot's reward does not hang on what is below it), a ranking's rewards do not hang on which
others were shown, and what a producer shows instead of one ranking it would also have shown instead
of another. What was not shown, as far as is known, has no outcome and is not judged.

All is bounded. A ranking's reward is cut to [0, reward], its slots from the top, and a weight to
`most`. Cut weights can only make a challenger look worse, since rewards below 0 count as 0: what
the champion hardly ever shows is not proved by the few times it was shown. So a challenger that
differs from a champion that hardly explores looks poor whatever it is worth; its mean weight, far
below 1, says so.
"""

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from agents.ledger import Ledger
from models.events import Control, Fold, Outcome, OutcomeSlot, Record
from models.fields import MAX_CHALLENGERS
from policies.evaluation.confidence_sequences import BettingSequence, RunningInterval
from policies.evaluation.intervals import Interval

LEVEL = 0.95
MOST = 10.0  # what a weight is cut to


class Score(Struct, frozen=True):
    """What a policy would have earned a ranking.

    `value` holds its mean at any time with probability LEVEL; `ahead`, what it earned more than the
    champion on the same rankings, does so for all challengers at once, for as long as one champion
    lasts. Both are None before the first outcome: nothing is known then. Early rankings weigh more
    in both (`RunningInterval`). `effective`: Kish's sample size of the weights; `weight`: their
    mean, 1 if the champion shows all that the challenger would; `cut`: the share that was cut.
    """

    policy: str
    outcomes: int
    value: Interval | None
    ahead: Interval | None
    effective: float
    weight: float
    cut: float


class ScoreRow(Struct):
    """The sums of one policy."""

    value: RunningInterval
    ahead: RunningInterval
    slots: int = 0
    cut: int = 0
    weights: float = 0.0
    squares: float = 0.0


class ScoreboardState(Struct):
    """All that is counted since one champion began to decide, at the version `since`."""

    champion: str
    since: int
    own: RunningInterval
    rows: dict[str, ScoreRow]


_decode = msgspec.json.Decoder(ScoreboardState).decode


class Scoreboard:
    """Judges `policies`, whose first is champion until a record says otherwise.

    An outcome counts once, when it closes, and only if the champion decided it since it is one;
    what corrects it later does not.

    >>> from models.events import Source
    >>> board = Scoreboard(("popular", "bandit"))
    >>> slot = OutcomeSlot(item="film", position=0, propensity=0.5, reward=1.0)
    >>> board.count(Outcome(id="r", user="u", at=1, status="complete", policy="popular", model=0,
    ...     slots=(slot,), source=Source(0, 0, 0), weights={"bandit": (1.5,)}))
    >>> [(score.policy, score.value and score.value.mean) for score in board.scores()]
    [('popular', 1.0), ('bandit', 1.5)]
    """

    def __init__(
        self,
        policies: Sequence[str],
        *,
        reward: float = 1.0,
        most: float = MOST,
        level: float = LEVEL,
    ) -> None:
        if not 2 <= len(set(policies)) == len(policies) <= MAX_CHALLENGERS + 1:
            raise ValueError(
                f"a champion has 1 to {MAX_CHALLENGERS} challengers of other names, got {policies}"
            )
        if not (reward > 0.0 and most >= 1.0):
            raise ValueError(f"reward must be above 0, most at least 1, got {reward} and {most}")
        self.policies = tuple(policies)
        self.reward = float(reward)  # a whole number would be saved otherwise than it is loaded
        self.most = float(most)
        self.level = level
        self.board = self._begin(self.policies[0], 0)

    def _begin(self, champion: str, since: int) -> ScoreboardState:
        others = [name for name in self.policies if name != champion]
        level = 1.0 - (1.0 - self.level) / len(others)  # together they hold at `self.level`
        reward, most = self.reward, self.reward * self.most
        rows = {
            name: ScoreRow(
                value=RunningInterval(bets=BettingSequence(level=self.level), most=most),
                ahead=RunningInterval(
                    bets=BettingSequence(level=level), least=-reward, most=most - reward
                ),
            )
            for name in others
        }
        own = RunningInterval(bets=BettingSequence(level=self.level), most=reward)
        return ScoreboardState(champion=champion, since=since, own=own, rows=rows)

    def __call__(self, record: Record | Control | None, ledger: Ledger) -> None:
        """Take a record that the ledger has just taken: learned or noted, not a duplicate."""
        if isinstance(record, Outcome):
            self.count(record)
        elif isinstance(record, Fold) or ledger.champion != self.board.champion:
            self.board = self._begin(ledger.champion, ledger.version)

    def count(self, outcome: Outcome) -> None:
        """Judge all policies by one closed decision."""
        board = self.board
        if (
            outcome.status == "corrected"
            or outcome.policy != board.champion
            or outcome.model < board.since
            or outcome.weights.keys() != board.rows.keys()
            or not outcome.slots
        ):
            return
        earned = _earned(outcome.slots, self.reward)
        total = min(sum(earned), self.reward)
        board.own.add(total)
        for name, logged in outcome.weights.items():
            row = board.rows[name]
            weights = [min(weight, self.most) for weight in logged]
            value = sum([w * r for w, r in zip(weights, earned, strict=True)])
            row.value.add(min(value, row.value.most))
            row.ahead.add(min(value - total, row.ahead.most))
            weight = sum(weights) / len(weights)
            row.weights += weight
            row.squares += weight * weight
            row.slots += len(logged)
            row.cut += sum(weight > self.most for weight in logged)

    def scores(self) -> list[Score]:
        """The champion's, then the challengers' in their order."""
        board, n = self.board, self.board.own.bets.count
        own = board.own.interval if n else None
        found = [Score(board.champion, n, own, None, float(n), 1.0, 0.0)]
        for name, row in board.rows.items():
            found.append(
                Score(
                    policy=name,
                    outcomes=n,
                    value=row.value.interval if n else None,
                    ahead=row.ahead.interval if n else None,
                    effective=row.weights**2 / row.squares if row.squares else 0.0,
                    weight=row.weights / n if n else 0.0,
                    cut=row.cut / row.slots if row.slots else 0.0,
                )
            )
        return found

    def better(self, margin: float = 0.0, effective: float = 0.0) -> str | None:
        """The challenger that is ahead by more than `margin` for sure, the farthest; None if none.

        That one which is not ahead is ever named, however often one asks, has a probability of
        1 - LEVEL at most, all challengers together, until the champion changes. Two intervals that
        are apart would say so, too, but later: what is common to both cancels in a difference.
        """
        ahead = [
            (score.ahead.low, score.policy)
            for score in self.scores()
            if score.ahead and score.ahead.low > margin and score.effective >= effective
        ]
        return max(ahead)[1] if ahead else None

    def save(self) -> bytes:
        """All that was counted; `load` of it goes on bit for bit."""
        return msgspec.json.encode(self.board)

    def load(self, data: bytes) -> None:
        """Replace what was counted. Raises ValueError, and has changed nothing, if it cannot."""
        try:
            board = _decode(data)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"the scoreboard cannot be read: {error}") from None
        if board.champion not in self.policies or (
            list(board.rows) != list(self._begin(board.champion, 0).rows)
        ):
            raise ValueError(f"the scoreboard is not of {', '.join(self.policies)}")
        self.board = board


def scoreboard(policies: Sequence[str], reward: float) -> Scoreboard | None:
    """A board for a champion and its challengers, if there are any."""
    return Scoreboard(policies, reward=reward) if len(policies) > 1 else None


def _earned(slots: Sequence[OutcomeSlot], most: float) -> list[float]:
    """Each slot's reward, as far as those above it leave of `most`; none below 0."""
    left, found = most, list[float]()
    for slot in slots:
        reward = min(max(slot.reward, 0.0), left)
        left -= reward
        found.append(reward)
    return found
