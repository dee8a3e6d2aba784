"""Which part helped, for whom, at what cost: sentences that say what the numbers bear, no more."""

from msgspec import Struct

from stream.offline.compare.comparison import (
    ALL,
    DEEP,
    FULL_DEEP,
    PARTS,
    ArmSummary,
    Comparison,
    Contrast,
)
from stream.offline.tables import signed

# In order of telling. Too little: the interval leaves out 0, but so many were looked at.
VERDICTS = ("helps", "hurts", "too little to claim", "nothing measurable")


class Finding(Struct, frozen=True):
    """What one part adds."""

    part: str
    arm: str
    against: str  # the arm without it
    finds: str  # over all requests
    whom: list[str]  # where it is more, less or unknown
    cost: str


def findings(result: Comparison) -> list[Finding]:
    """One for each part whose arms were compared."""
    arms = {one.arm: one for one in result.standings}
    made: list[Finding] = []
    for part, (arm, base) in PARTS.items():
        gains = [one for one in result.contrasts if (one.arm, one.base) == (arm, base)]
        if not gains:
            continue
        finds = gain_sentence(gains[0], arms[base].clicks[ALL].mean)
        price = cost(arms[arm], arms[base])
        texts = f"{result.items:,} texts to embed, {result.texts_a_second:,.0f} a second"
        if part == "Text":
            price += f"; {texts}"
        if result.tuned and arm in (DEEP, FULL_DEEP):  # the same model once it is there
            price = f"{result.tuned.seconds:,.0f} s to fine-tune, and again {texts}"
        made.append(Finding(part, arm, base, finds, whom(gains), price))
    return made


def gain_sentence(gain: Contrast, base: float) -> str:
    """What a part adds over all requests to the `base` clicks a ranking without it."""
    interval = signed(gain.difference)
    if not gain.sure:
        return f"{finding(gain)}: {interval} clicks a ranking"
    share = f", {gain.difference.mean / base:+.0%}" if base > 0 else ""
    verb = "adds" if gain.difference.mean > 0 else "costs"
    return f"{verb} {interval} clicks a ranking{share}"


def whom(gains: list[Contrast]) -> list[str]:
    """The slices where it surely helps, where it surely hurts, and where nothing can be said."""
    found: dict[str, list[str]] = {word: [] for word in VERDICTS}
    for gain in gains:
        silent = gain.difference.low == gain.difference.high == 0.0  # no clicks on either side
        if gain.slice != ALL and not silent:
            found[finding(gain)].append(f"{gain.slice} {signed(gain.difference)}")
    return [f"{word}: {'; '.join(ones)}" for word, ones in found.items() if ones]


def finding(gain: Contrast) -> str:
    """One of `VERDICTS`."""
    low, high = gain.difference.low, gain.difference.high
    if gain.sure:
        return "helps" if low > 0 else "hurts"
    return "nothing measurable" if low <= 0 <= high else "too little to claim"


def cost(having: ArmSummary, without: ArmSummary) -> str:
    """What the arm with the part takes beyond the one without."""
    a, b = having.cost, without.cost
    return (
        f"{a.decision_micros - b.decision_micros:+,.0f} µs a decision, "
        f"{a.event_micros - b.event_micros:+,.0f} µs an event learned, "
        f"{a.state_mb - b.state_mb:+,.1f} MB"
    )
