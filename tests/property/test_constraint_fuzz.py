"""Whatever text comes in, the language gives a bounded answer: a value per frame or one ConstraintError.

Most inputs come from a plain seeded generator, which makes thousands a second; hypothesis adds those that it
is better at: arbitrary text, grown expressions, arbitrary documents. Together about 90,000.
"""

from __future__ import annotations

import ast
import builtins
import os
import random
import resource
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import yaml
from grape_preference.constraints import (
    ConstraintError,
    check_expression,
    check_file,
    plan_for_task,
    plan_from_document,
)
from grape_preference.language_functions import FUNCTIONS, VARIABLES
from grape_preference.language_types import Context
from hypothesis import given, settings
from hypothesis import strategies as st
from preference_factory import make_tracks

HAND = np.linspace([0.3, 0.0, 0.3], [0.3, 0.1, 0.02], 12)
TRACKS = make_tracks(
    HAND,
    {"carrot": [0.3, 0, 0.01], "plate": [0.3, 0.1, 0]},
    obstacles=np.array([[0.3, 0.2, 0.1], [0.31, 0.2, 0.05]]),
)
CONTEXT = Context(TRACKS)
WORDS = (
    "carrot plate end_effector and or not if else lambda __class__ import yield await is in 0.03 1e6 0 1_0"
)
SIGNS = [*"(),+-*/<>=.[]{}@%#\\'", ">=", "==", ":=", "**", "0x", "1j"]
PIECES = [*FUNCTIONS, *VARIABLES, *WORDS.split(), *SIGNS, " ", "\n", "é", "\x00"]
MANY, SECONDS, MEGABYTES = 30_000, 20.0, 64


@contextmanager
def nothing_executed() -> Iterator[None]:
    """Fail at any compilation to code, eval, exec, import, open or process; parsing to a tree is allowed."""
    compile_ = builtins.compile

    def only_parse(source: Any, filename: str, mode: str, flags: int = 0, **options: Any) -> Any:
        assert flags & ast.PyCF_ONLY_AST, "an expression was compiled to code"
        return compile_(source, filename, mode, flags, **options)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("an expression was executed")

    with (
        patch.object(builtins, "compile", only_parse),
        patch.object(builtins, "eval", refuse),
        patch.object(builtins, "exec", refuse),
        patch.object(builtins, "open", refuse),
        patch.object(os, "system", refuse),
        patch.object(subprocess, "Popen", refuse),
    ):
        yield


def probe(text: str) -> bool:
    """Check and evaluate; return whether it was accepted. Anything but ConstraintError is a failure."""
    try:
        expression = check_expression(text, TRACKS.names)
    except ConstraintError as error:
        assert "\n" not in str(error)  # noqa: PT017 - one line for the user
        return False
    CONTEXT.cache.clear()
    values = expression.evaluate(CONTEXT)
    assert values.shape == (12,)
    assert values.dtype in (np.float64, np.bool_)
    return True


def probe_many(make: Callable[[random.Random], str], seed: int) -> int:
    """Probe MANY generated texts within bounds of time and memory; return how many were accepted."""
    rng, accepted = random.Random(seed), 0
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with nothing_executed():
        for _ in range(MANY):
            began = time.process_time()
            accepted += probe(make(rng))
            assert time.process_time() - began < 1.0
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024
    return accepted


def test_random_pieces_of_the_language() -> None:
    assert probe_many(lambda rng: " ".join(rng.choices(PIECES, k=rng.randint(1, 12))), 7) > 20


def grown(rng: random.Random, depth: int = 0) -> str:
    """A sentence of the language, mostly of matching kinds."""
    if depth > 4 or rng.random() < 0.3:
        return rng.choice(["gripper", "time", "stage_time", "0.03", "1e6", "-2", "0", "height(carrot)"])
    name = rng.choice([*FUNCTIONS, "+", "-", "*", "/", "<", ">=", "and", "or", "not", "neg"])
    if name in FUNCTIONS:
        kinds = [kind for _, kind in FUNCTIONS[name].parameters]
        points = ["carrot", "plate", "end_effector"]
        made = [rng.choice(points) if kind == "point" else grown(rng, depth + 1) for kind in kinds]
        return f"{name}({', '.join(made)})"
    if name in ("not", "neg"):
        return f"({'not' if name == 'not' else '-'} {grown(rng, depth + 1)})"
    return f"({grown(rng, depth + 1)} {name} {grown(rng, depth + 1)})"


def test_grown_sentences() -> None:
    assert probe_many(grown, 11) > MANY // 20


CORPUS = [
    expression.text
    for stage in plan_for_task("carrot_on_plate").stages
    for expression in (stage.end, *(constraint.expression for constraint in stage.constraints))
]


def mutated(rng: random.Random) -> str:
    """A shipped expression with a few characters changed, removed, doubled or taken from anywhere."""
    text = list(rng.choice(CORPUS))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        new = rng.choice([chr(rng.randrange(1, 0x500)), rng.choice(PIECES), ""])
        text[at : at + rng.randint(0, 3)] = new * rng.choice([1, 1, 1, 2, 40])
    return "".join(text)


def test_mutated_expressions() -> None:
    assert probe_many(mutated, 13) > 100


LONG = 1_000_000
TRICKS = [
    "().__class__.__base__.__subclasses__()",
    "carrot.__class__.__mro__[1]",
    "height.__globals__['os']",
    "height.__code__",
    "type(carrot)(carrot)",
    "vars()",
    "dir()",
    "getattr(carrot, '__class__')",
    "__builtins__",
    "__import__('os').system('touch /tmp/x')",
    "[c for c in ().__class__.__bases__]",
    "{c for c in (1,)}",
    "{c: c for c in (1,)}",
    "(c for c in (1,))",
    "f'{carrot.__class__}'",
    "f\"{__import__('os')}\"",
    "'{0.__class__}'.format(carrot)",
    "'%s' % carrot",
    "f'{1:>99999999}'",
    "2**2**2**2**2**2**2",
    "9**9**9**9",
    "1e400",
    "-1e400",
    "1e308*1e308",
    "nan",
    "inf",
    "-inf",
    "float('nan')",
    "0 * 1e999",
    "10 ** 1000000",
    "1 << 1 << 1 << 30",
    "'a' * 10 ** 10",
    "(" * 10_000 + "1" + ")" * 10_000,
    "-" * 10_000 + "1",
    "not " * 10_000 + "1",
    "height(" * 10_000,
    "max(" * 5_000 + "1,1)" * 5_000,
    "1+" * LONG + "1",
    "a" * LONG,
    "9" * LONG,
    "carrot" + "\u200b",
    "c\u0430rrot",  # a Cyrillic letter
    "\uff47\uff52\uff49\uff50\uff50\uff45\uff52 > 1",  # full-width letters, which Python would normalise
    "gripper\u00a0> 1",
    "\u202egripper > 1",
    "gr\u0131pper > 1",
    "\ud800",
    "gripper > \u0661",
    "gripper > ²",
    "gripper\x0c> 1\x00",
    "gripper > 1 #\\",
    "gripper > 1\\\n",
    "'''",
    "\\N{DIGIT ONE}",
    "`id`",
    "$(id)",
    "${7*7}",
    "{{7*7}}",
    "%(carrot)s",
    "lambda: height(carrot)",
    "(x:=carrot)",
    "print(carrot)",
    "await height(carrot)",
    "yield carrot",
    "*carrot",
    "**carrot",
    "height(*[carrot])",
    "height(**{'a': carrot})",
    "height(carrot).real",
    "gripper.real > 1",
    "1 .real",
    "1..__class__",
    "gripper if gripper > 1 else time",
    "gripper[0] > 1",
    "gripper[...] > 1",
    "gripper is not time",
    "gripper in (1, 2)",
    "gripper <> 1",
    "gripper != 1",
    "import os; os.system('id')",
    "exec('1')",
    "0b1 and 0o7",
    "1_000_000_000",
    "match gripper: 1",
]  # fmt: skip


@pytest.mark.parametrize("text", TRICKS, ids=range(len(TRICKS)))
def test_known_tricks_are_refused_at_once(text: str) -> None:
    start = time.process_time()
    with nothing_executed(), pytest.raises(ConstraintError) as caught:
        check_expression(text, TRACKS.names).evaluate(CONTEXT)
    assert time.process_time() - start < 0.5
    assert len(str(caught.value)) < 1000


BOMBS = {
    "aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n",
    "merge keys": "a: &a {x: 1}\nb: {<<: *a}\n",
    "python object": "!!python/object/apply:os.system [id]\n",
    "python name": "!!python/name:os.system\n",
    "python module": "a: !!python/module:os\n",
    "own tag": "!grape {a: 1}\n",
    "binary": "a: !!binary Z3JhcGU=\n",
    "set": "? a\n? b\n",
    "deep flow": "[" * 30_000,
    "deep block": "\n".join(" " * i + "- " for i in range(300)),
    "several documents": "a: 1\n---\nb: 2\n",
    "numbers": "version: 0x7fffffffffffffffffffffffffffffffffffff\n",
    "sexagesimal": "version: " + "1:" * 5000 + "1\n",
    "huge integer": "version: " + "9" * 60_000 + "\n",
    "date": "version: 2001-99-99\n",
    "not utf-8": "version: \udcff\n",
    "nan": "{version: 1, task: t, keypoints: [carrot], unreached_cost: .nan, stages: []}",
    "duplicate": "version: 1\nversion: 2\n",
}


@pytest.mark.parametrize("name", BOMBS)
def test_yaml_bombs_are_refused_at_once(tmp_path: Any, name: str) -> None:
    path, start = tmp_path / "stages.yaml", time.process_time()
    path.write_bytes(BOMBS[name].encode("utf-8", "surrogateescape"))
    with pytest.raises(ConstraintError) as caught:
        check_file(path)
    assert time.process_time() - start < 1.0
    assert "\n" not in str(caught.value)


def test_random_bytes_are_no_stage_file(tmp_path: Any) -> None:
    rng, path = random.Random(17), tmp_path / "stages.yaml"
    good = yaml.safe_dump({"version": 1, "task": "t", "keypoints": ["carrot"], "stages": [{"name": "reach"}]})
    for _ in range(1_500):
        data = bytearray(good.encode())
        for _ in range(rng.randint(1, 8)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(bytes(data))
        with pytest.raises(ConstraintError):
            check_file(path)


@given(st.text(max_size=500))
@settings(max_examples=300, deadline=2000)
def test_arbitrary_text(text: str) -> None:
    with nothing_executed():
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
@settings(max_examples=300, deadline=2000)
def test_grown_expressions(text: str) -> None:
    with nothing_executed():
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
