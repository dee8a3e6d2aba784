"""How a frozen struct of settings is declared, read, checked, shown and listed."""

import re
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from msgspec import Meta, Struct

from stream.errors import UserError

PREFIX = "RANKLOOP_"
# Before 0.1.0 they were called so.
RENAMED = {
    "app": "group",
    "batch": "batch_events",
    "early_seconds": "early_reward_seconds",
    "future_seconds": "max_clock_skew_seconds",
    "largest_reward": "bandit_max_reward",
    "lateness_seconds": "allowed_lateness_seconds",
    "learn_late": "learn_corrections",
    "refresh": "refresh_on_click",
    "renew_seconds": "snapshot_poll_seconds",
    "score_reward": "scoreboard_max_reward",
    "tick_seconds": "idle_tick_seconds",
    "wait_seconds": "read_your_writes_seconds",
}


class SettingError(UserError, ValueError):
    """A setting that cannot be used: the rule, the value, the remedy."""

    exit_code = 2


Steers = Literal["", "joining", "learning", "deciding"]


def says(
    text: str, *, steers: Steers = "", secret: bool = False, added: bool = False, **rule: Any
) -> Meta:
    """One line on a setting; `steers`: what it changes, if anything; `secret`: never in a file.

    `added`: it steers nothing at its default, so hashes of before it was there stay as they are.
    """
    return Meta(
        description=text, extra={"steers": steers, "secret": secret, "added": added}, **rule
    )


def joins(text: str, **rule: Any) -> Meta:
    """One line on a setting that steers how rewards find their decisions: fixed with the log."""
    return says(text, steers="joining", **rule)


def folds(text: str, **rule: Any) -> Meta:
    """One line on a setting that steers what is learned: changed by a switch of the fold."""
    return says(text, steers="learning", **rule)


def decides(text: str, **rule: Any) -> Meta:
    """One line on a setting that steers decisions alone: changed as one likes."""
    return says(text, steers="deciding", **rule)


def read_settings(
    kind: type[Struct], environ: Mapping[str, str], path: str | Path | None
) -> dict[str, Any]:
    """The settings that a TOML file and, above it, RANKLOOP_* variables give.

    >>> class Window(Struct):
    ...     width: int = 80
    >>> read_settings(Window, {"RANKLOOP_WIDHT": "90"}, None)
    Traceback (most recent call last):
    stream.settings_schema.SettingError: RANKLOOP_WIDHT is no setting; did you mean RANKLOOP_WIDTH?
    """
    values = _from_file(kind, Path(path)) if path else {}
    types = _types(kind)
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable.startswith(PREFIX + "TEST_"):
            continue
        if variable != PREFIX + "CONFIG":
            name = variable.removeprefix(PREFIX).lower()
            _known(name, types, variable)
            values[name] = _parse(name, types[name], text, strict=False)
    return values


def check_rules(settings: Struct) -> None:
    """Refuse the first field that breaks its declared type or rule."""
    for name, declared in _types(type(settings)).items():
        _parse(name, declared, getattr(settings, name), strict=True)


def public(settings: Struct) -> dict[str, Any]:
    """All settings by name, secrets starred."""
    types = _types(type(settings))
    return {name: _shown(types[name], getattr(settings, name)) for name in types}


def steering(settings: Struct, *what: Steers) -> dict[str, Any]:
    """The settings that steer any of `what`; 600 and 600.0 are one."""
    values = {
        field.name: getattr(settings, field.name)
        for field in msgspec.structs.fields(type(settings))
        if _extra(field.type, "steers") in what
        and not (_extra(field.type, "added") and getattr(settings, field.name) == field.default)
    }
    whole = {n: int(v) for n, v in values.items() if isinstance(v, float) and v.is_integer()}
    return values | whole


def differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], defaults: Mapping[str, Any], there: str
) -> list[str]:
    """What differs, in words; a setting that one side leaves out has its default.

    >>> differences({"seed": 2, "policy": "mf"}, {"policy": "mf"}, {"seed": 1}, "in force")
    ['seed is 2 here and 1 in force']
    """
    found: list[str] = []
    for name in sorted(ours.keys() | theirs.keys()):
        usual = defaults.get(name, "not known")
        here, other = ours.get(name, usual), theirs.get(name, usual)
        if here != other:
            found.append(f"{name} is {_json(here)} here and {_json(other)} {there}")
    return found


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()[:200]


def markdown_table(defaults: Struct) -> str:
    """Every setting as a row of a Markdown table."""
    rows = ["| setting | default | what it says |", "|---|---|---|"]
    for name, declared in _types(type(defaults)).items():
        default = msgspec.json.encode(getattr(defaults, name)).decode()
        note = " (environment only)" if _extra(declared, "secret") else ""
        rows.append(f"| `{name}` | `{default}` | {_text(declared)}{note} |")
    return "\n".join(rows)


def _types(kind: type[Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def _metas(declared: Any) -> list[Meta]:
    return [meta for meta in get_args(declared) if isinstance(meta, Meta)]


def _text(declared: Any) -> str:
    return next((m.description for m in reversed(_metas(declared)) if m.description), "")


def _extra(declared: Any, key: str) -> Any:
    found = ((meta.extra or {}).get(key) for meta in _metas(declared))
    return next((value for value in found if value), None)


def _shown(declared: Any, value: Any) -> Any:
    """A value as it may be seen: a secret is starred, and so is who logs in to a URL."""
    if _extra(declared, "secret"):
        return "***" if value else ""
    if isinstance(value, str) and "://" in value and "@" in value:
        scheme, _, rest = value.partition("://")
        value = f"{scheme}://***@{rest.rpartition('@')[2]}"
    return re.sub(r"(?<=[?&]password=)[^&]+", "***", value) if isinstance(value, str) else value


def _known(name: str, types: Mapping[str, Any], written: str) -> None:
    if name not in types:
        near = [RENAMED[name]] if RENAMED.get(name) in types else get_close_matches(name, types)
        meant = [n if written == name else PREFIX + n.upper() for n in near]
        listed = "remove it; `rankloop settings` lists all there are"
        remedy = f"did you mean {meant[0]}?" if meant else listed
        raise SettingError(f"{written} is no setting; {remedy}")


def _parse(name: str, declared: Any, value: Any, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, declared, strict=strict)
    except msgspec.ValidationError as error:
        choices = [repr(choice) for part in get_args(declared) for choice in get_args(part)]
        rule = f"one of {', '.join(choices)}" if choices else str(error)
        raise SettingError(
            f"{name} ({PREFIX}{name.upper()}): {rule}, got {_shown(declared, value)!r}; "
            f"{_text(declared)}"
        ) from None


def _from_file(kind: type[Struct], path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError) as error:
        raise SettingError(f"settings file {path} cannot be read: {error}") from None
    types = _types(kind)
    for name, value in values.items():
        _known(name, types, name)
        if _extra(types[name], "secret") or _shown(types[name], value) != value:
            raise SettingError(
                f"{name} is a secret and not for {path.name}; set {PREFIX}{name.upper()} instead"
            )
    return values
