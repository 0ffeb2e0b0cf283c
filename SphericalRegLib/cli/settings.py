"""``--set NAME=VALUE``: any field of an options dataclass, by its dotted name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from SphericalRegLib.errors import InputError

T = TypeVar("T")


def with_settings(options: T, settings: Iterable[str], option: str = "--set") -> T:
    """Options with some fields changed.

    Args:
        options: a dataclass, whose fields may be dataclasses.
        settings: as ``loss.gradient=0.3``; values are JSON, or a word as it is. Later ones win.
        option: for messages.

    Raises:
        InputError: no such field, a value of another kind, or one that the dataclass refuses.
    """
    changes: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise InputError(f"{option} {setting} sets nothing; expected NAME=VALUE, as loss.gradient=0.3")
        _note(changes, options, name.strip().split("."), value.strip(), f"{option} {setting}")
    return _changed(options, changes)  # at once: fields that must fit each other may come in any order


def _note(changes: dict[str, Any], node: Any, path: list[str], text: str, where: str) -> None:
    """Check a setting against the field that it names, and keep its value where the field is."""
    head, *rest = path
    known = [item.name for item in fields(node)]
    if head not in known:
        raise InputError(f"{where}: there is no {head!r}; expected one of {', '.join(known)}")
    current = getattr(node, head)
    if is_dataclass(current) != bool(rest):
        has = f"fields of its own ({', '.join(item.name for item in fields(current))})" if is_dataclass(current) else "no fields"
        raise InputError(f"{where}: {head!r} has {has}; expected the name of a single value")
    if rest:
        _note(changes.setdefault(head, {}), current, rest, text, where)
    else:
        changes[head] = _value(current, text, where)


def _changed(node: Any, changes: dict[str, Any]) -> Any:
    if not changes:
        return node
    return replace(node, **{name: _changed(getattr(node, name), new) if isinstance(new, dict) else new for name, new in changes.items()})


def _value(current: Any, text: str, where: str) -> Any:
    """What a text means in the place of a value; where that is None, whatever it says."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(current, float) and type(value) is int:
        value = float(value)
    if current is not None and type(value) is not type(current):
        raise InputError(f"{where}: expected a value like {json.dumps(current)}")
    if isinstance(current, tuple) and {type(item) for item in current} == {float}:
        if len(value) != len(current) or not all(type(item) in (int, float) for item in value):
            raise InputError(f"{where}: expected {len(current)} numbers, as {json.dumps(current)}")
        value = tuple(map(float, value))
    return value
