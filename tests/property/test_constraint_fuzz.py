"""Whatever text comes in, the language gives a bounded answer: a value per frame or one ConstraintError."""

from __future__ import annotations

import ast
import builtins
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from grape_preference.constraints import ConstraintError, check_expression, plan_from_document
from grape_preference.language_functions import FUNCTIONS, VARIABLES, Context
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_factory import make_tracks

HAND = np.linspace([0.3, 0.0, 0.3], [0.3, 0.1, 0.02], 12)
TRACKS = make_tracks(HAND, {"carrot": [0.3, 0, 0.01], "plate": [0.3, 0.1, 0]})
WORDS = (
    "carrot plate end_effector and or not if else lambda __class__ import yield await is in 0.03 1e6 0 1_0"
)
SIGNS = [*"(),+-*/<>=.[]{}@%#\\'", ">=", "==", ":=", "**", "0x", "1j"]
PIECES = [*FUNCTIONS, *VARIABLES, *WORDS.split(), *SIGNS, " ", "\n", "é", "\x00"]


@contextmanager
def nothing_executed() -> Iterator[None]:
    """Fail at any compilation to code, eval or exec; parsing to a tree (a flag of compile) is allowed."""
    compile_ = builtins.compile

    def only_parse(source: Any, filename: str, mode: str, flags: int = 0, **options: Any) -> Any:
        assert flags & ast.PyCF_ONLY_AST, "an expression was compiled to code"
        return compile_(source, filename, mode, flags, **options)

    def refuse(*_: object) -> None:
        raise AssertionError("an expression was executed")

    with (
        patch.object(builtins, "compile", only_parse),
        patch.object(builtins, "eval", refuse),
        patch.object(builtins, "exec", refuse),
    ):
        yield


def probe(text: str) -> bool:
    """Check and evaluate; return whether it was accepted. Anything but ConstraintError is a failure."""
    with nothing_executed():
        try:
            expression = check_expression(text, TRACKS.names)
        except ConstraintError as error:
            assert "\n" not in str(error)  # noqa: PT017 - one line for the user
            return False
        values = expression.evaluate(Context(TRACKS))
    assert values.shape == (12,)
    assert values.dtype in (np.float64, np.bool_)
    return True


def test_random_pieces_of_the_language() -> None:
    rng, accepted, start = random.Random(7), 0, time.perf_counter()
    for _ in range(12_000):
        accepted += probe(" ".join(rng.choices(PIECES, k=rng.randint(1, 12))))
    assert accepted > 20  # the fuzz reaches the evaluator too
    assert time.perf_counter() - start < 60.0


@given(st.text(max_size=500))
@settings(max_examples=400, deadline=2000)
def test_arbitrary_text(text: str) -> None:
    probe(text)


NUMBERS = st.one_of(
    st.floats(-1e6, 1e6).map(repr), st.sampled_from(["gripper", "time", "0", "height(carrot)"])
)
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["abs", "-", "min", "max", "not"]), inner).map(lambda t: f"{t[0]}({t[1]})"),
        st.tuples(inner, inner).map(lambda t: f"max({t[0]}, {t[1]})"),
        st.tuples(inner, st.sampled_from(["<", ">", "and", "or"]), inner).map(lambda t: f"({' '.join(t)})"),
    ),
    max_leaves=20,
)


@given(EXPRESSIONS)
@settings(max_examples=400, deadline=2000)
def test_grown_expressions(text: str) -> None:
    probe(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["version", "task", "keypoints", "stages", "name", "end", "constraints", "kind", "weight"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(JSON)
@settings(max_examples=200, deadline=2000)
def test_arbitrary_documents(document: object) -> None:
    with pytest.raises(ConstraintError):
        plan_from_document(document, "answer")
