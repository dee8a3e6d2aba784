"""Which part helped, for whom, at what cost: sentences that say what the numbers bear, no more."""

from msgspec import Struct

from stream.compare.comparison import ALL, FULL, Comparison, Contrast, Standing
from stream.tables import signed

# A part, and the arm that does without it. `full` less that arm is what the part adds.
PARTS = {
    "Text": "bandit-no-text",
    "Collaborative filtering": "bandit-no-cf",
    "Learning weights from rewards": "hybrid",
    "All of it, over popularity": "popular",
}


# In order of telling. Too little: the interval leaves out 0, but so many were looked at.
VERDICTS = ("helps", "hurts", "too little to claim", "nothing measurable")


class Verdict(Struct, frozen=True):
    """What one part adds to the full ranker."""

    part: str
    against: str  # the arm without it
    finds: str  # over all requests
    whom: list[str]  # where it is more, less or unknown
    cost: str


def verdicts(result: Comparison) -> list[Verdict]:
    """One for each part whose arms were compared."""
    arms = {one.arm: one for one in result.standings}
    made: list[Verdict] = []
    for part, arm in PARTS.items():
        gains = [one for one in result.contrasts if (one.arm, one.base) == (FULL, arm)]
        if not gains:
            continue
        finds = says(gains[0], arms[arm].clicks[ALL].mean)
        price = cost(arms[FULL], arms[arm])
        if part == "Text":
            price += f"; {result.items:,} texts to embed, {result.texts_a_second:,.0f} a second"
        made.append(Verdict(part, arm, finds, whom(gains), price))
    return made


def says(gain: Contrast, base: float) -> str:
    """What a part adds over all requests to the `base` clicks a ranking without it."""
    interval = signed(gain.difference)
    if not gain.sure:
        return f"{verdict(gain)}: {interval} clicks a ranking"
    share = f", {gain.difference.mean / base:+.0%}" if base > 0 else ""
    verb = "adds" if gain.difference.mean > 0 else "costs"
    return f"{verb} {interval} clicks a ranking{share}"


def whom(gains: list[Contrast]) -> list[str]:
    """The slices where it surely helps, where it surely hurts, and where nothing can be said."""
    found: dict[str, list[str]] = {word: [] for word in VERDICTS}
    for gain in gains:
        silent = gain.difference.low == gain.difference.high == 0.0  # no clicks on either side
        if gain.slice != ALL and not silent:
            found[verdict(gain)].append(f"{gain.slice} {signed(gain.difference)}")
    return [f"{word}: {'; '.join(ones)}" for word, ones in found.items() if ones]


def verdict(gain: Contrast) -> str:
    """One of `VERDICTS`."""
    low, high = gain.difference.low, gain.difference.high
    if gain.sure:
        return "helps" if low > 0 else "hurts"
    return "nothing measurable" if low <= 0 <= high else "too little to claim"


def cost(full: Standing, without: Standing) -> str:
    """What full takes beyond the arm without the part."""
    a, b = full.cost, without.cost
    return (
        f"{a.decision_micros - b.decision_micros:+,.0f} µs a decision, "
        f"{a.event_micros - b.event_micros:+,.0f} µs an event learned, "
        f"{a.state_mb - b.state_mb:+,.1f} MB"
    )
