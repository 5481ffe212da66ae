"""An unattended collection with a played robot: what is kept, what is set aside, and what a restart does."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grape_episodes.catalogue import Catalogue
from grape_episodes.quarantine import read_note
from grape_policy.collection import resetting
from grape_policy.collection import session as session_module
from grape_policy.collection.robot import RobotError, Run
from grape_policy.collection.scene import Scene
from grape_policy.collection.session import Session
from grape_policy.collection.task_list import TaskList
from played_robot import FROZEN, OK, VERSION, PlayedRobot

TASK = "carrot_on_plate"


@pytest.fixture
def robot(tmp_path: Path) -> PlayedRobot:
    return PlayedRobot(tmp_path / "episodes")


def task_list(**changes: Any) -> TaskList:
    fields: dict[str, Any] = {
        "name": "shift",
        "rollouts": 2,
        "tolerance": 0,
        "retries": 2,
        "tasks": [{"task": TASK, "states": 1}],
        "limits": {"free_gigabytes": 0},
    }
    return TaskList.model_validate(fields | changes)


def session(robot: PlayedRobot, wanted: TaskList | None = None, **options: Any) -> Session:
    return Session(
        robot, wanted or task_list(), robot.root, say=print, **{"sleep": lambda _: None, **options}
    )


def listed(robot: PlayedRobot) -> list[str]:
    return [entry.episode_id for entry in Catalogue(robot.root / "catalogue.sqlite").episodes()]


def set_aside(robot: PlayedRobot) -> dict[str, str]:
    folders = (robot.root / "quarantine").glob("*")
    return {folder.name: read_note(folder)["reason"] for folder in folders}


def test_runs_the_list_and_a_second_time_nothing(robot: PlayedRobot) -> None:
    found = session(robot).run()
    assert (found.planned, found.done, found.successes, found.given_up, found.reason) == (2, 2, 2, 0, "")
    robot.calls.clear()
    assert session(robot).run() == found
    assert robot.calls == []
    assert len(listed(robot)) == 2


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (FROZEN, "IMAGE_FROZEN"),
        ({"outcome": "aborted", "success": False, "stop_reason": "CUT_OFF"}, "CUT_OFF"),
        ({"outcome": "failure", "success": False, "steps": 1}, "TOO_SHORT"),
        ({**OK, "instruction": "something else"}, "INCONSISTENT"),
        ({**OK, "steps": 60}, "INCONSISTENT"),
    ],
)
def test_an_odd_episode_is_set_aside_with_its_reason_and_run_again(
    robot: PlayedRobot, step: dict[str, Any], reason: str
) -> None:
    robot.script = [step]
    wanted = task_list(rollouts=1, tasks=[{"task": TASK, "states": 1, "forward": "put it there"}])
    found = session(robot, wanted).run()
    assert (found.done, found.given_up) == (1, 0)
    assert list(set_aside(robot).values()) == [reason]
    assert len(listed(robot)) == 1
    assert not set(listed(robot)) & set(set_aside(robot))


def test_a_damaged_recording_is_set_aside(robot: PlayedRobot) -> None:
    def damage(_: Any) -> None:
        robot.on_run = lambda rollout: None
        run = robot.record(wanted.plan()[0], "", 0.7, **OK)
        (file,) = (robot.root / run.episode_id).glob("*.mcap")
        file.write_bytes(file.read_bytes()[:-50])
        robot.script = [run]

    wanted = task_list(rollouts=1)
    robot.on_run = damage
    assert session(robot, wanted).run().done == 1
    assert list(set_aside(robot).values()) == ["INVALID"]


def test_an_episode_that_a_full_disk_kept_off_the_catalogue_is_taken_when_it_is_listed(
    robot: PlayedRobot,
) -> None:
    def fill(rollout: Any) -> None:
        robot.on_run = lambda rollout: None
        run = robot.record(rollout, "", 0.7, **OK)
        Catalogue(robot.root / "catalogue.sqlite").remove(run.episode_id)
        robot.script = [Run(run.episode_id, "aborted", "RECORDING_FAILED", "disk full")]
        robot.on_run = lambda _: Catalogue(robot.root / "catalogue.sqlite").rebuild(robot.root)

    robot.on_run = fill
    book = session(robot, task_list(rollouts=1))
    assert book.run().done == 1
    assert [(a.stop_reason, a.accepted) for a in book.journal.attempts] == [
        ("RECORDING_FAILED", False),
        ("", True),  # the first one after all
        ("DUPLICATE", False),
    ]
    assert len(listed(robot)) == 1


def test_an_episode_deleted_by_hand_is_run_again(robot: PlayedRobot) -> None:
    session(robot).run()
    shutil.rmtree(robot.root / listed(robot)[0])
    assert session(robot).run().done == 2
    assert len(listed(robot)) == 2


def test_a_stop_that_the_policy_caused_counts(robot: PlayedRobot) -> None:
    robot.script = [{"outcome": "stopped", "success": False, "stop_reason": "TABLE_CLEARANCE"}]
    assert session(robot, task_list(rollouts=1)).run().done == 1
    assert set_aside(robot) == {}


def test_a_rollout_is_given_up_after_its_retries_and_the_next_one_run(robot: PlayedRobot) -> None:
    robot.script = [FROZEN, RobotError("no answer"), Run("", "aborted", "POLICY_SILENT", "nothing came")]
    book = session(robot)
    found = book.run()
    assert (found.done, found.given_up, found.reason) == (1, 1, "")
    reasons = [attempt.stop_reason for attempt in book.journal.attempts]
    assert reasons == ["IMAGE_FROZEN", "SERVICE_FAILED", "POLICY_SILENT", ""]


def test_gives_up_when_everything_fails_and_says_why(robot: PlayedRobot) -> None:
    robot.script = [FROZEN] * 9
    found = session(robot, task_list(failures=3, retries=9)).run()
    assert "3 attempts in a row failed" in found.reason
    assert "the image does not" in found.reason


def test_waits_longer_and_longer_while_everything_fails(robot: PlayedRobot) -> None:
    waits: list[float] = []
    robot.script = [FROZEN] * 4
    assert session(robot, task_list(retries=9), sleep=waits.append).run().done == 2
    assert waits == [1.0, 2.0, 4.0]


def test_ends_when_the_nodes_are_gone_or_the_policy_was_replaced(robot: PlayedRobot) -> None:
    robot.missing = "nothing serves /grape/arm/set_armed"
    assert session(robot).run().reason == robot.missing
    robot.missing = ""
    robot.on_run = lambda _: setattr(robot, "version", "other-00000000")
    assert "replaced by other-00000000" in session(robot).run().reason


class Killed(BaseException):
    """Stands for a kill at this very point."""


def killed_at(monkeypatch: pytest.MonkeyPatch, place: Any, name: str) -> None:
    """Kill the collection the next time it calls ``place.name``, before that does anything."""
    original = getattr(place, name)

    def die(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(place, name, original)
        raise Killed

    monkeypatch.setattr(place, name, die)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (session_module.Journal, "add"),
        (session_module.Catalogue, "remove"),
        (session_module, "quarantine"),
        (session_module, "inspect"),
    ],
)
@pytest.mark.parametrize("first", [OK, FROZEN])
def test_a_kill_anywhere_loses_nothing_and_runs_nothing_twice(
    robot: PlayedRobot, monkeypatch: pytest.MonkeyPatch, place: Any, name: str, first: dict[str, Any]
) -> None:
    robot.script = [dict(first)]
    killed_at(monkeypatch, place, name)
    try:
        session(robot).run()
    except Killed:
        found = session(robot).run()
        assert (found.done, found.given_up) == (2, 0)
    runs = [call for call in robot.calls if call.startswith("run")]
    assert len(runs) == (2 if first is OK else 3)
    assert len(listed(robot)) == 2
    assert len(set_aside(robot)) == (first is FROZEN)
    assert len(session(robot).journal.attempts) == len(runs)


def test_waits_out_quiet_hours_and_an_emergency_stop(robot: PlayedRobot) -> None:
    clock = [datetime.fromisoformat("2026-03-10T06:59:52").astimezone()]
    waits: list[str] = []
    book: Session

    def sleep(seconds: float) -> None:
        waits.append(json.loads((book.status.path.parent / "status.json").read_text())["phase"])
        if len(waits) == 2:
            clock[0] = clock[0].replace(hour=7, minute=0)
            robot.stopped = True
        if len(waits) == 3:
            robot.stopped = False

    wanted = task_list(limits={"free_gigabytes": 0, "quiet_hours": ["22:00-07:00"]})
    book = session(robot, wanted, sleep=sleep, now=lambda: clock[0])
    assert book.run().done == 2
    assert waits[:2] == ["quiet hours until 07:00"] * 2
    assert waits[2].startswith("the emergency stop is engaged")
    assert len(waits) == 3


def test_a_used_up_budget_ends_the_collection_before_the_next_rollout(robot: PlayedRobot) -> None:
    found = session(robot, task_list(limits={"disk_gigabytes": 1e-6, "free_gigabytes": 0})).run()
    assert (found.done, robot.calls) == (0, [])  # the catalogue alone is larger
    assert "disk budget" in found.reason


def scenes(monkeypatch: pytest.MonkeyPatch, *offsets: float | None) -> None:
    """Let the looks see the carrot so far (m) from its place; None: not at all; then exactly there."""
    left = list(offsets)

    def locate(task: str, view: Any) -> Scene:
        offset = left.pop(0) if left else 0.0
        place = np.full(3, np.nan) if offset is None else np.array([0.3 + offset, 0.0, 0.02])
        return Scene({"carrot": place, "plate": np.array([0.3, 0.1, 0.0])}, done=False)

    monkeypatch.setattr(resetting, "locate", locate)


def test_a_bad_reset_is_noticed_and_made_again(robot: PlayedRobot, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes(monkeypatch, 0.06, 0.0)  # the very first reset is the bad one: two looks must agree
    assert session(robot, task_list(tolerance=0.02)).run().done == 2
    assert [call for call in robot.calls if call != "look"][:5] == ["reset"] * 4 + [f"run {TASK}: "]
    assert robot.calls.count("reset") == 5  # 2 + 2 for the reference, 1 for the second rollout


def test_a_scene_that_stays_wrong_is_not_acted_on(
    robot: PlayedRobot, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes(monkeypatch, 0.0, 0.0, *[0.05] * 40)
    book = session(robot, task_list(tolerance=0.02, retries=1))
    found = book.run()
    assert (found.done, found.given_up) == (1, 1)
    assert book.journal.attempts[-1].stop_reason == "INITIAL_STATE"
    assert "carrot is 50 mm from its place" in book.journal.attempts[-1].message


def test_an_object_that_is_not_seen_is_named(robot: PlayedRobot, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes(monkeypatch, *[None] * 20)
    book = session(robot, task_list(tolerance=0.02, rollouts=1, retries=0))
    assert book.run().given_up == 1
    assert "not seen: carrot" in book.journal.attempts[-1].message


ROBOT_TASK = {
    "task": TASK,
    "states": 1,
    "forward": "put the carrot on the plate",
    "backward": "take the carrot off the plate",
    "reset": ["scatter", "inverse", "ask"],
}


@pytest.mark.parametrize(("confirms", "done"), [(True, 2), (False, 1)])
def test_a_robot_scatters_a_new_scene_undoes_its_work_and_asks_when_that_fails(
    robot: PlayedRobot, monkeypatch: pytest.MonkeyPatch, confirms: bool, done: int
) -> None:
    scenes(monkeypatch, 0.0, 0.0, 0.1, 0.1)  # scattered and lying still; the inverse fails twice
    robot.confirms = confirms
    wanted = task_list(tolerance=0.02, retries=0, tasks=[ROBOT_TASK])
    assert session(robot, wanted).run().done == done
    calls = [call for call in robot.calls if call != "look"]
    forward, backward = (
        f"run {TASK}: {ROBOT_TASK['forward']}",
        f"run {TASK}_inverse: {ROBOT_TASK['backward']}",
    )
    assert calls[:6] == ["scatter", forward, backward, "home", backward, "home"]
    assert calls[6] == "home"
    assert calls[7].startswith(f"ask: Put the scene back into {TASK}/shift/0000: carrot at x 0.30")
    assert (calls[-1] == forward) == confirms
    assert {entry.task for entry in Catalogue(robot.root / "catalogue.sqlite").episodes()} == {
        TASK,
        f"{TASK}_inverse",
    }


@pytest.mark.parametrize("version", [VERSION])
def test_another_temperature_is_another_collection(robot: PlayedRobot, version: str) -> None:
    session(robot).run()
    assert session(robot, task_list(temperature=0.9)).run().done == 2
    assert len(listed(robot)) == 4
