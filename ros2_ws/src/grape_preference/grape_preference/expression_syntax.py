"""Turn an expression's text into a bounded syntax tree; Python's ``ast`` parses it and evaluates nothing."""

from __future__ import annotations

import ast
import re
import warnings
from difflib import get_close_matches

MAX_LENGTH, MAX_DEPTH, MAX_NODES, MAX_NUMBER = 400, 32, 128, 1e6
_FORBIDDEN_CHARACTER = re.compile(r"[^A-Za-z0-9_ .,()+\-*/<>=!]")


class ConstraintError(ValueError):
    """An expression or stage file is not valid; ``column`` is 1-based in the expression, 0 when unknown."""

    def __init__(self, message: str, column: int = 0) -> None:
        super().__init__(f"column {column}: {message}" if column else message)
        self.column = column


def syntax_tree(text: str) -> ast.expr:
    """Return the tree of ``text``; its ``col_offset`` is the 1-based column. Raise ConstraintError."""
    _check_text(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The parentheses allow leading blanks and shift offsets so that they count columns from 1.
            return ast.parse(f"({text})", mode="eval").body
    except SyntaxError as error:
        column = min(max((error.offset or 1) - 1, 1), len(text))
        raise ConstraintError(f"not an expression ({error.msg})", column) from None
    except (ValueError, MemoryError, RecursionError) as error:
        raise ConstraintError(f"not an expression ({error})") from None


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise ConstraintError(f"an expression is text, not {type(text).__name__}")
    if not text.strip():
        raise ConstraintError("the expression is empty")
    if len(text) > MAX_LENGTH:
        raise ConstraintError(f"the expression has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    bad = _FORBIDDEN_CHARACTER.search(text)
    if bad:
        raise ConstraintError(f"character {bad.group()!r} is not part of the language", bad.start() + 1)
    depth = 0
    for column, character in enumerate(text, start=1):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            raise ConstraintError("')' closes nothing", column)
        if depth > MAX_DEPTH:
            raise ConstraintError(f"nested deeper than {MAX_DEPTH} levels", column)
    if depth:
        raise ConstraintError("'(' is never closed", text.rindex("(") + 1)


def describe(node: ast.expr) -> str:
    """Name a construct that the language does not have, in the user's words."""
    if isinstance(node, ast.Constant):
        return f"the {type(node.value).__name__} {node.value!r}"
    words: dict[type[ast.expr], str] = {
        ast.Attribute: "an attribute ('.')",
        ast.Subscript: "an index",
        ast.Lambda: "a lambda",
        ast.IfExp: "'if ... else'",
        ast.Await: "'await'",
        ast.Tuple: "a list of values (',')",
    }
    return words.get(type(node), type(node).__name__)


def suggest(name: str, known: list[str]) -> str:
    """Return a hint which of the ``known`` names was meant."""
    close = get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
