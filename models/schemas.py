"""What the messages look like to producers in other languages."""

from typing import Any

import msgspec

from models import events


def schemas() -> dict[str, dict[str, Any]]:
    """A JSON Schema (2020-12) for each message type; what is optional may also be null.

    >>> schemas()["tick"]["$ref"]
    '#/$defs/Tick'
    """
    kinds = (events.Item, events.Request, events.Impression, events.Click, events.Reward)
    kinds += (events.Tick, events.Embedding, events.Decision, events.Interaction, events.Outcome)
    kinds += (events.Begin, events.Fold, events.Champion, events.Mark, events.Restart)
    found = {kind.__name__.lower(): msgspec.json.schema(kind) for kind in kinds}
    for schema in found.values():
        for struct in schema["$defs"].values():
            _allow_null(struct)
    return found


def _allow_null(struct: dict[str, Any]) -> None:
    """Let optional fields be null, which is as if they were not there, and values of maps."""
    required = struct.get("required", ())
    for name, field in struct.get("properties", {}).items():
        if "additionalProperties" in field:
            field["additionalProperties"] = _or_null(field["additionalProperties"])
        if name not in required:
            struct["properties"][name] = _or_null(field)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = schema.get("anyOf", [{k: v for k, v in schema.items() if k != "default"}])
    if {} in kinds or {"type": "null"} in kinds:
        return schema
    default = {"default": schema["default"]} if "default" in schema else {}
    return {"anyOf": [*kinds, {"type": "null"}]} | default
