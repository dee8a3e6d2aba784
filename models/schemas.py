"""What the messages look like to producers in other languages."""

from typing import Any

import msgspec

from models import events


def schemas() -> dict[str, dict[str, Any]]:
    """A JSON Schema (2020-12) for each message type.

    >>> schemas()["tick"]["$ref"]
    '#/$defs/Tick'
    """
    kinds = (events.Item, events.Request, events.Impression, events.Click, events.Reward)
    kinds += (events.Tick, events.Embedding, events.Decision, events.Interaction, events.Outcome)
    kinds += (events.Begin, events.Fold, events.Champion, events.Mark)
    return {kind.__name__.lower(): msgspec.json.schema(kind) for kind in kinds}
