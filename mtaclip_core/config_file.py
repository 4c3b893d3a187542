"""The text side of configurations: YAML files that start from others, and `key=value` overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mtaclip_core.cli import UserError


def override(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `key=value` texts to `values`, in place; the values are YAML.

    Raises:
        UserError: a text without `=`, a value that is no YAML, a list entry that is not there.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"override '{text}': expected key=value, for example optimiser.lr=2e-4")
        try:
            _set(values, key.split("."), yaml.safe_load(value) if value else None)
        except yaml.YAMLError:
            raise UserError(f"override '{text}': '{value}' is not a valid YAML value") from None


def read_values(path: Path, depth: int = 0) -> dict[str, Any]:
    """The mapping of a file, laid over that of its `base`.

    Raises:
        UserError: no such file, broken YAML, no mapping, a circle of bases.
    """
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", "not a text file")
        raise UserError(f"config '{path}': {reason}; expected a YAML file such as config/train/*.yaml") from None
    except yaml.YAMLError as error:
        raise UserError(f"config '{path}' is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"config '{path}' must hold key: value pairs")
    base = values.pop("base", None)
    if base is None:
        return values
    if depth > 8:
        raise UserError(f"config '{path}': the chain of `base` files is longer than 8; is there a circle?")
    return _merge(read_values(path.parent / str(base), depth + 1), values)


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in above.items():
        nested = isinstance(value, Mapping) and isinstance(below.get(key), dict)
        below[key] = _merge(below[key], value) if nested else value
    return below


def _set(values: Any, path: list[str], value: Any) -> None:
    *parents, last = path
    node = values
    for part in parents:
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise UserError(f"override '{'.'.join(path)}': there is no entry {part}; the list has {len(node)}")
            node = node[int(part)]
        else:
            if not isinstance(node.get(part), (dict, list)):
                node[part] = {}
            node = node[part]
    if isinstance(node, list):
        raise UserError(f"override '{'.'.join(path)}': name a key of the list's entry, such as {path[0]}.0.data")
    node[last] = value
