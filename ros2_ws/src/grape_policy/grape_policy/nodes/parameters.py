"""One table of parameters per node: declaration, default, bounds and documentation in one place.

A node writes ``PARAMETERS = (Parameter(...), ...)`` and calls ``declare(self, PARAMETERS)``; the manual calls
``markdown_table(PARAMETERS)`` on the same table.  Parameters are read once at start-up and are read-only, so
what ``ros2 param get`` shows is what the node runs with.  Only ``declare`` imports rclpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rclpy.node import Node

Value = bool | int | float | str


class ParameterError(ValueError):
    """A parameter has a value the node refuses; the message names node, parameter, value, bounds and unit."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a node; ``default`` sets its type, bounds are inclusive and for numbers only."""

    name: str
    default: Value
    description: str
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""

    @property
    def bounds(self) -> str:
        """The bounds as text, e.g. ``0.1 .. 5 s``; empty when there are none."""
        if self.minimum is None and self.maximum is None:
            return ""
        low = "" if self.minimum is None else f"{self.minimum:g}"
        high = "" if self.maximum is None else f"{self.maximum:g}"
        return f"{low} .. {high} {self.unit}".strip()

    def check(self, value: object) -> Value:
        """Return ``value`` in the parameter's type.

        Raises:
            ParameterError: wrong type, not finite, or out of bounds.
        """
        kind = type(self.default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not kind:
            raise ParameterError(f"{self.name} must be of type {kind.__name__}, got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ParameterError(f"{self.name} must be finite, got {value!r}")
        if isinstance(value, int | float) and not isinstance(value, bool) and not self._inside(value):
            raise ParameterError(f"{self.name} = {value!r} is out of bounds; allowed: {self.bounds}")
        assert isinstance(value, bool | int | float | str)
        return value

    def _inside(self, value: float) -> bool:
        return (self.minimum is None or value >= self.minimum) and (
            self.maximum is None or value <= self.maximum
        )


def _descriptor(parameter: Parameter) -> Any:
    """Return the ROS descriptor of ``parameter``; the type is left open so that 5 is taken for 5.0."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    description = f"{parameter.description} [{parameter.unit}]" if parameter.unit else parameter.description
    descriptor = ParameterDescriptor(description=description, read_only=True, dynamic_typing=True)
    low, high = parameter.minimum, parameter.maximum
    if low is None or high is None:
        return descriptor  # ROS ranges have two ends; `check` looks after the others
    if isinstance(parameter.default, float):
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(low), to_value=float(high))]
    else:
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high))]
    return descriptor


def declare(node: Node, table: Iterable[Parameter]) -> SimpleNamespace:
    """Declare the table on ``node`` and return the values as attributes (dots in names become underscores).

    Raises:
        ParameterError: an override (command line, launch, YAML) has the wrong type or is out of bounds.
    """
    from rclpy.exceptions import InvalidParameterException, InvalidParameterValueException

    values = SimpleNamespace()
    for parameter in table:
        try:
            read = node.declare_parameter(parameter.name, parameter.default, _descriptor(parameter)).value
            value = parameter.check(read)
        except (ParameterError, InvalidParameterException, InvalidParameterValueException) as error:
            raise ParameterError(f"{node.get_name()}: parameter refused: {error}") from error
        setattr(values, parameter.name.replace(".", "_"), value)
    return values


def markdown_table(table: Iterable[Parameter]) -> str:
    """Render the table as Markdown for the reference documentation."""
    lines = ["| parameter | default | bounds | unit | meaning |", "|---|---|---|---|---|"]
    for p in table:
        default = repr(p.default) if isinstance(p.default, str) else str(p.default)
        lines.append(f"| `{p.name}` | `{default}` | {p.bounds or '-'} | {p.unit or '-'} | {p.description} |")
    return "\n".join(lines) + "\n"
