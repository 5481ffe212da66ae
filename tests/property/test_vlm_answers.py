"""Whatever a model answers, it becomes a checked plan or a refusal with words: no crash, no hang."""

from __future__ import annotations

import copy
import json
from functools import cache
from typing import Any

import numpy as np
from episode_factory import make_episode
from grape_episodes.types import Episode
from grape_preference.segmentation import Candidate
from grape_preference.vlm_json import AnswerError, parse_answer, parse_json
from grape_preference.vlm_prompts import stages_schema
from grape_preference.vlm_query import StageProposal, _proposal
from hypothesis import given, settings
from hypothesis import strategies as st
from vlm_answers import good_answer

PIXELS = np.stack(np.meshgrid(np.arange(5), np.arange(5)), axis=-1).reshape(-1, 2)
WORDS = st.sampled_from(
    [
        "carrot",
        "plate",
        "__import__('os')",
        "distance(carrot, plate) < 0.1",
        "gripper > 1",
        "1e999",
        "",
        "\ud800",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


@cache
def scene() -> tuple[Episode, dict[int, Candidate]]:
    boxes = {"carrot": (0.2, 0.1, 0.02), "plate": (0.3, -0.1, 0.01)}
    marks = {
        number: Candidate(name, np.array(centre) - 0.02, np.array(centre) + 0.02, PIXELS, 0.01)
        for number, (name, centre) in enumerate(boxes.items(), start=1)
    }
    return make_episode(steps=1), marks


def read(text: str) -> StageProposal | None:
    """Read an answer as the client does; None: refused with words."""
    episode, marks = scene()
    try:
        return _proposal(parse_answer(text, stages_schema()), episode, marks)
    except ValueError as error:
        words = str(error)
    assert words
    return None


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document, from its whole to its leaves."""
    if not isinstance(document, dict | list):
        return [path]
    children = document.items() if isinstance(document, dict) else enumerate(document)
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def test_the_good_answer_is_read() -> None:
    assert read(json.dumps(good_answer(["carrot", "plate"]))) is not None


@settings(max_examples=600, deadline=2000)
@given(st.text(max_size=300) | VALUES.map(lambda value: json.dumps(value)))
def test_any_text_is_refused_with_words(text: str) -> None:
    assert read(text) is None


@settings(max_examples=300, deadline=2000)
@given(st.data())
def test_any_change_of_a_good_answer_is_read_or_refused(data: Any) -> None:
    answer = copy.deepcopy(good_answer(["carrot", "plate"]))
    *parents, last = data.draw(st.sampled_from([place for place in places(answer) if place]))
    target = answer
    for key in parents:
        target = target[key]
    if data.draw(st.booleans()):
        target[last] = data.draw(VALUES)
    else:
        target.pop(last)
    proposal = read(json.dumps(answer))
    if proposal is not None:
        assert set(proposal.plan.keypoints) <= {"carrot", "plate"}
        weights = [item.weight for stage in proposal.plan.stages for item in stage.constraints]
        assert all(0 <= weight <= 10_000 for weight in weights)


@settings(max_examples=600, deadline=1000)
@given(st.text(alphabet='{}[]",:\\0123456789.eE-+ntrufalsNIiy ', max_size=200))
def test_json_is_read_strictly_or_refused(text: str) -> None:
    try:
        document = parse_json(text)
    except AnswerError:
        return
    assert json.loads(json.dumps(document, allow_nan=False)) == document
