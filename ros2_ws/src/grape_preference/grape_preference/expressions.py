"""Check and evaluate one expression of the constraint language. No text is ever executed.

Every node of the syntax tree is matched against a whitelist and turned into a closure over numpy functions of
the declared table; whatever is not on the list is refused with the column it stands at.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from grape_preference.expression_syntax import (
    MAX_DEPTH,
    MAX_NODES,
    MAX_NUMBER,
    ConstraintError,
    describe,
    suggest,
    syntax_tree,
)
from grape_preference.language_functions import BUILT_IN_POINTS, FUNCTIONS, VARIABLES
from grape_preference.language_types import BOOLEAN, ONE, POINT, SAME, Context, Function, Unit

_NUMBERS: dict[type[ast.operator], Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
Kind = Unit | str | None  # None: a literal number, which takes the unit of its neighbour


@dataclass(frozen=True)
class Expression:
    """A checked expression: text, kind (a Unit or BOOLEAN), the points it reads, and how to evaluate it."""

    text: str
    kind: Unit | str
    points: frozenset[str]
    run: Callable[[Context], np.ndarray]

    def evaluate(self, context: Context) -> np.ndarray:
        """Return the value at every frame, (T,) float64 or bool; division by zero gives inf or NaN."""
        with np.errstate(all="ignore"):
            return self.values(context)

    def values(self, context: Context) -> np.ndarray:
        """Return what ``evaluate`` does, for callers that silence numpy's warnings once for many."""
        found = self.run(context)
        return found if np.ndim(found) else np.broadcast_to(found, (len(context.tracks),))


@dataclass(frozen=True)
class _Part:
    """A checked subtree: kind, source (the cache key), whether it depends on the stage start, closure."""

    kind: Kind
    source: str
    staged: bool
    run: Callable[[Context], np.ndarray]


def parse_expression(text: str, points: Iterable[str] = ()) -> Expression:
    """Check ``text`` over the keypoint names ``points``; raise ConstraintError with the place."""
    body = syntax_tree(text)
    checker = _Checker(frozenset(points))
    part = checker.check(body, 1)
    if part.kind == POINT:
        raise ConstraintError("is a point, not a number or a condition; measure it, e.g. height(...)", 1)
    return Expression(text, part.kind if part.kind is not None else ONE, frozenset(checker.used), part.run)


class _Checker:
    """Turns a syntax tree into typed closures, node by node, refusing what is not whitelisted."""

    def __init__(self, points: frozenset[str]) -> None:
        self.points = points | frozenset(BUILT_IN_POINTS)
        self.used: set[str] = set()
        self.nodes = 0

    def check(self, node: ast.expr, depth: int) -> _Part:
        column = node.col_offset
        self.nodes += 1
        if depth > MAX_DEPTH:
            raise ConstraintError(f"nested deeper than {MAX_DEPTH} levels", column)
        if self.nodes > MAX_NODES:
            raise ConstraintError(f"more than {MAX_NODES} terms", column)
        match node:
            case ast.Constant():
                return self._number(node)
            case ast.Name():
                return self._name(node)
            case ast.UnaryOp(op=ast.UAdd() | ast.USub() | ast.Not()):
                return self._unary(node, depth)
            case ast.BinOp():
                return self._arithmetic(node, depth)
            case ast.Compare():
                return self._comparison(node, depth)
            case ast.BoolOp():
                return self._logic(node, depth)
            case ast.Call():
                return self._call(node, depth)
        raise ConstraintError(f"{describe(node)} is not part of the language", column)

    def _number(self, node: ast.Constant) -> _Part:
        if type(node.value) not in (int, float):
            raise ConstraintError(f"{describe(node)} is not part of the language", node.col_offset)
        # Compared as they are: converting a huge int to float would overflow.
        if not -MAX_NUMBER <= node.value <= MAX_NUMBER:  # type: ignore[operator]
            raise ConstraintError(f"numbers must lie within ±{MAX_NUMBER:g}", node.col_offset)
        value = np.asarray(node.value, dtype=np.float64)
        return _Part(None, repr(float(value)), False, lambda _: value)

    def _name(self, node: ast.Name) -> _Part:
        name = node.id
        if name in self.points:
            self.used.add(name)
            return _Part(POINT, name, False, lambda context: context.point(name))  # type: ignore[arg-type, return-value]
        if name in VARIABLES:
            variable = VARIABLES[name]
            return _Part(variable.unit, name, name == "stage_time", variable.evaluate)
        if name in FUNCTIONS:
            raise ConstraintError(f"{name!r} is a function; write {_usage(FUNCTIONS[name])}", node.col_offset)
        known = sorted(self.points | VARIABLES.keys())
        raise ConstraintError(f"unknown name {name!r}; {suggest(name, known)}", node.col_offset)

    def _unary(self, node: ast.UnaryOp, depth: int) -> _Part:
        part = self.check(node.operand, depth + 1)
        if isinstance(node.op, ast.Not):
            _require_boolean(part, node.operand)
            return _Part(BOOLEAN, f"(not {part.source})", part.staged, lambda c: ~part.run(c))
        _require_number(part, node.operand)
        if isinstance(node.op, ast.UAdd):
            return part
        return _Part(part.kind, f"(-{part.source})", part.staged, lambda c: -part.run(c))

    def _arithmetic(self, node: ast.BinOp, depth: int) -> _Part:
        column = node.right.col_offset
        if type(node.op) not in _NUMBERS:
            raise ConstraintError("only + - * / combine numbers", column)
        left, right = self.check(node.left, depth + 1), self.check(node.right, depth + 1)
        _require_number(left, node.left)
        _require_number(right, node.right)
        if isinstance(node.op, ast.Add | ast.Sub):
            kind: Kind = _same_unit(left, right, column)
        elif left.kind is None and right.kind is None:
            kind = None
        else:
            a, b = _unit(left), _unit(right)
            kind = a * b if isinstance(node.op, ast.Mult) else a / b
        return _combine(kind, type(node.op).__name__, _NUMBERS[type(node.op)], left, right)

    def _comparison(self, node: ast.Compare, depth: int) -> _Part:
        column = node.comparators[0].col_offset
        if len(node.ops) != 1 or type(node.ops[0]) not in _COMPARISONS:
            raise ConstraintError("compare two numbers with < <= > >=; join comparisons with 'and'", column)
        left, right = self.check(node.left, depth + 1), self.check(node.comparators[0], depth + 1)
        _require_number(left, node.left)
        _require_number(right, node.comparators[0])
        _same_unit(left, right, column)
        return _combine(BOOLEAN, type(node.ops[0]).__name__, _COMPARISONS[type(node.ops[0])], left, right)

    def _logic(self, node: ast.BoolOp, depth: int) -> _Part:
        join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        parts = [self.check(value, depth + 1) for value in node.values]
        for part, value in zip(parts, node.values, strict=True):
            _require_boolean(part, value)
        joined = parts[0]
        for part in parts[1:]:
            joined = _combine(BOOLEAN, type(node.op).__name__, join, joined, part)
        return joined

    def _call(self, node: ast.Call, depth: int) -> _Part:
        column = node.col_offset
        if not isinstance(node.func, ast.Name):
            raise ConstraintError("only the declared functions can be called", column)
        function = FUNCTIONS.get(node.func.id)
        if function is None:
            hint = suggest(node.func.id, sorted(FUNCTIONS))
            raise ConstraintError(f"unknown function {node.func.id!r}; {hint}", column)
        if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
            raise ConstraintError(f"write {_usage(function)} with plain arguments", column)
        least = len(function.parameters)
        if len(node.args) < least or (len(node.args) > least and not function.variadic):
            raise ConstraintError(f"{len(node.args)} argument(s) given; write {_usage(function)}", column)
        parts = [self.check(argument, depth + 1) for argument in node.args]
        kind = _result_kind(function, parts, node.args)
        source = f"{function.name}({', '.join(part.source for part in parts)})"
        staged = function.since_stage_start or any(part.staged for part in parts)
        return _Part(kind, source, staged, _cached(function, source, staged, parts))


def _cached(
    function: Function, source: str, staged: bool, parts: list[_Part]
) -> Callable[[Context], np.ndarray]:
    """Evaluate each distinct call once per episode (once per stage if it depends on the stage's start)."""

    def run(context: Context) -> np.ndarray:
        key = (source, context.stage_start if staged else None)
        if key not in context.cache:
            context.cache[key] = function.evaluate(context, *(part.run(context) for part in parts))
        return context.cache[key]

    return run


def _combine(
    kind: Kind, name: str, join: Callable[[np.ndarray, np.ndarray], np.ndarray], left: _Part, right: _Part
) -> _Part:
    source = f"{name}({left.source}, {right.source})"
    return _Part(kind, source, left.staged or right.staged, lambda c: join(left.run(c), right.run(c)))


def _result_kind(function: Function, parts: list[_Part], nodes: list[ast.expr]) -> Kind:
    kind: Kind = None
    names = [name for name, _ in function.parameters] + ["further argument"] * len(parts)
    wanted = function.parameters[0][1] if function.parameters else POINT
    for name, part, node in zip(names, parts, nodes, strict=False):
        if wanted == POINT and part.kind != POINT:
            message = f"{function.name}() takes a point as {name!r}, not {_say(part.kind)}"
            raise ConstraintError(message, node.col_offset)
        if wanted == SAME:
            _require_number(part, node)
            kind = part.kind if kind is None else kind
            _same_unit(_Part(kind, "", False, part.run), part, node.col_offset)
    return kind if function.result == SAME else function.result


def _unit(part: _Part) -> Unit:
    return part.kind if isinstance(part.kind, Unit) else ONE


def _same_unit(left: _Part, right: _Part, column: int) -> Kind:
    if left.kind is None or right.kind is None or left.kind == right.kind:
        return right.kind if left.kind is None else left.kind
    raise ConstraintError(f"{_say(left.kind)} and {_say(right.kind)} do not go together", column)


def _require_number(part: _Part, node: ast.expr) -> None:
    if part.kind in (BOOLEAN, POINT):
        raise ConstraintError(f"a number is needed here, not {_say(part.kind)}", node.col_offset)


def _require_boolean(part: _Part, node: ast.expr) -> None:
    if part.kind != BOOLEAN:
        message = f"a condition is needed here, not {_say(part.kind)}; compare it with < or >"
        raise ConstraintError(message, node.col_offset)


def _say(kind: Kind) -> str:
    return {None: "a number", BOOLEAN: "a condition", POINT: "a point"}.get(kind, f"a number in {kind}")  # type: ignore[arg-type]


def _usage(function: Function) -> str:
    more = ", ..." if function.variadic else ""
    return f"{function.name}({', '.join(name for name, _ in function.parameters)}{more})"
