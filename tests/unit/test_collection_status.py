"""The status page: its figures, whole at every moment, and it opens in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import BROWSER, opened_page
from grape_episodes.stop_reasons import MEANINGS, StopReason
from grape_policy.arm.safety import Reason
from grape_policy.collection.session import Session
from grape_policy.collection.task_list import TaskList
from played_robot import FROZEN, PlayedRobot


@pytest.fixture
def finished(tmp_path: Path) -> Session:
    """A collection of two tasks in which a rollout failed once and another one for good."""
    robot = PlayedRobot(tmp_path / "episodes")
    failure = {"outcome": "failure", "success": False, "steps": 4, "reason": "no success within 4 steps"}
    robot.script = [FROZEN, failure, FROZEN, FROZEN]
    fields: dict[str, Any] = {
        "name": "night",
        "rollouts": 2,
        "tolerance": 0,
        "retries": 1,
        "tasks": [{"task": task, "states": 1} for task in ("carrot_on_plate", "<b>odd</b>")],
        "limits": {"free_gigabytes": 0},
    }
    session = Session(robot, TaskList.model_validate(fields), robot.root, say=print)
    session.run()
    return session


def test_shows_counts_stops_and_attempts(finished: Session) -> None:
    facts = json.loads((finished.status.path.parent / "status.json").read_text())
    counts = {key: facts[key] for key in ("planned", "done", "successes", "given_up", "set_aside")}
    assert counts == {"planned": 4, "done": 3, "successes": 2, "given_up": 1, "set_aside": 3}
    stop = {"reason": "IMAGE_FROZEN", "count": 3, "meaning": MEANINGS[StopReason.IMAGE_FROZEN]}
    assert facts["stops"] == [stop]
    assert facts["tasks"][0] == {"task": "carrot_on_plate", "planned": 2, "done": 1, "successes": 0}
    assert facts["phase"] == "finished"
    assert len(facts["attempts"]) == 6
    page = finished.status.path.read_text()
    assert "3 of 4" in page
    assert "IMAGE_FROZEN" in page
    assert "<b>odd</b>" not in page  # names are text, never markup
    assert "&lt;b&gt;odd&lt;/b&gt;" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page), "nothing is loaded from elsewhere"
    assert list(finished.status.path.parent.glob("*.tmp")) == []


def test_estimates_the_end_from_the_recent_pace(finished: Session) -> None:
    assert finished.status.facts()["ends"] is None  # nothing is left
    finished.status._plan = [*finished.status._plan, finished.status._plan[0].__class__("x", "x/y/0000", 1)]
    assert finished.status.facts()["ends"] is not None


@pytest.mark.skipif(BROWSER is None, reason="no Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_opens_in_a_browser(finished: Session, tmp_path: Path, width: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        finished.status.note(rng.integers(0, 255, (240, 320, 3), dtype=np.uint8))
    page = re.sub(r'<meta http-equiv="refresh"[^>]*>', "", finished.status.path.read_text())
    shown = opened_page(page, tmp_path, width)
    assert [image[:2] for image in shown["images"]] == [[320, 240]] * 6
    assert all(image[2] for image in shown["images"])


def test_every_reason_has_words_and_those_of_the_arm_have_its_names() -> None:
    assert set(MEANINGS) == set(StopReason) - {StopReason.NONE}
    assert {reason.name for reason in Reason if reason != Reason.NONE} <= {r.name for r in StopReason}
