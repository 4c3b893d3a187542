"""How one parameter is declared: name, default, description, range, and when it may change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mtaclip_core.cli import UserError

Changes = Literal["never", "unconfigured", "any time"]
Value = bool | int | float | str | tuple[str, ...] | tuple[int, ...]
_TYPE_NAMES = {bool: "bool", int: "integer", float: "double", str: "string"}


@dataclass(frozen=True)
class Spec:
    """How one parameter is declared.

    Attributes:
        name: its ROS name, dotted.
        default: also fixes its type; an empty tuple for a list.
        description: one sentence for `ros2 param describe` and the README.
        changes: `never` is read-only, `unconfigured` waits for `ros2 lifecycle set NODE cleanup`.
        low, high: inclusive range of a number.
        choices: the allowed strings.
        items: what a list is made of, str or int.
    """

    name: str
    default: Value
    description: str
    changes: Changes
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    items: type = str

    @property
    def is_list(self) -> bool:
        return isinstance(self.default, tuple)

    @property
    def expected(self) -> str:
        """What a good value is, in words."""
        if self.is_list:
            return f"a list of {_TYPE_NAMES[self.items]}s"
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        kind = f"of type {_TYPE_NAMES[type(self.default)]}"
        return kind if self.low is None or self.high is None else f"{kind} from {self.low:g} to {self.high:g}"

    def check(self, value: Any) -> Any:
        """The value, when it is a good one; a list comes back as a tuple.

        Raises:
            UserError: wrong type, out of range, or not one of the choices.
        """
        if self.is_list:
            return self._check_list(value)
        good = type(value) is type(self.default) and (not self.choices or value in self.choices)
        if not good or (self.low is not None and self.high is not None and not self.low <= value <= self.high):
            raise UserError(f"parameter '{self.name}' must be {self.expected}; got {value!r}")
        return value

    def _check_list(self, value: Any) -> tuple[Any, ...]:
        # `[]` in a YAML file is no value to ROS, and `['']` is how an empty list of strings is written around that
        items = [] if value is None or value == [""] else value
        if isinstance(items, str | bytes) or not hasattr(items, "__iter__"):
            raise UserError(f"parameter '{self.name}' must be {self.expected}; got {value!r}")
        if any(type(item) is not self.items for item in items):
            raise UserError(f"parameter '{self.name}' must be {self.expected}; got {list(items)!r}")
        return tuple(items)


def parameter(name: str, default: Value, description: str, changes: Changes = "any time", **limits: Any) -> Any:
    """A dataclass field that carries its `Spec`."""
    return field(default=default, metadata={"spec": Spec(name, default, description, changes, **limits)})
