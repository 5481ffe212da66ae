"""Ask a vision-language model for the stages of a task; what it answers is checked data, never code.

The answer goes through the same schema and whitelist as a stage file, and must make sense on the first frame.
A refused answer is shown to the model once, with the reason; then the shipped stages of the task serve, if
there are any, and the proposal says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from grape_episodes.types import Episode

from grape_preference.appearance import appearances, gripper_joint, gripper_opening
from grape_preference.constraints import ConstraintError, StagePlan, plan_for_task, plan_from_document
from grape_preference.drawing import draw_marks, project
from grape_preference.language_types import Context
from grape_preference.proposers import NAMELESS, declared_appearance
from grape_preference.segmentation import Candidate
from grape_preference.tracks import KeypointTracks
from grape_preference.vlm import VlmError
from grape_preference.vlm_audit import write_whole
from grape_preference.vlm_client import VlmClient
from grape_preference.vlm_json import AnswerError, shorten
from grape_preference.vlm_prompts import MarkedObject, document_of, repair_question, stages_question

UNREACHED_COST = 1.0  # as in the shipped stages


@dataclass(frozen=True)
class StageProposal:
    """Stages for a task and where they are from.

    Attributes:
        plan: the checked stages.
        source: "model" or "shipped".
        verdict: "accepted", "repaired" (at the second try), "chosen" (shipped ones were asked for) or the
            reason of the VlmError for which the shipped ones serve.
        message: why, in words; empty when accepted at once.
    """

    plan: StagePlan
    source: str
    verdict: str
    message: str = ""


def shipped_proposal(task: str) -> StageProposal:
    """Return the shipped stages of ``task``, no model asked; raise ConstraintError when there are none."""
    return StageProposal(plan_for_task(task), "shipped", "chosen", "no model was asked")


def propose_stages(client: VlmClient, episode: Episode, found: Mapping[str, Candidate]) -> StageProposal:
    """Ask for the stages of an episode's instruction, shown its first frame.

    Args:
        client: whom to ask.
        episode: gives instruction, task, first frame, camera and the robot's first state.
        found: what a proposer found in the first frame; the model gives names to those that have none.

    Raises:
        VlmError: no usable answer, also after one repair.
        ValueError: nothing was found in the first frame, so that there is nothing to speak about.
    """
    if not found:
        raise ValueError("no object was found in the first frame; check the camera's pose and the proposer")
    marks = dict(enumerate(found.values(), start=1))
    question = stages_question(episode.manifest.instruction, _picture(episode, marks), _told(marks))

    def read(document: Any) -> StageProposal:
        return _proposal(document, episode, marks)

    try:
        return client.ask(question, read)
    except VlmError as error:
        if error.reason != "invalid_answer":
            raise
        refusal = shorten(str(error), 600)
        repaired = client.ask(repair_question(question, error.raw, refusal), read)
        return StageProposal(repaired.plan, "model", "repaired", refusal)


def propose_or_ship(
    client: VlmClient, episode: Episode, find: Callable[[], Mapping[str, Candidate]], *, fallback: bool = True
) -> StageProposal:
    """Return the model's proposal, or with ``fallback`` the shipped stages of the task and why they serve.

    ``find`` looks for the objects; it may ask the model too. Raise VlmError when there is neither.
    """
    try:
        return propose_stages(client, episode, find())
    except VlmError as error:
        try:
            plan = plan_for_task(episode.manifest.task) if fallback else None
        except ConstraintError:
            plan = None
        if plan is None:
            raise
        return StageProposal(plan, "shipped", error.reason, shorten(str(error), 600))


def write_stages(proposal: StageProposal, path: Path, instruction: str, model: str = "") -> None:
    """Write the proposal as a stage file, atomically; comments say where it is from."""
    origin = f"proposed by {model}" if proposal.source == "model" else "the shipped stages"
    lines = [
        f"Stages of {json.dumps(shorten(instruction))}: {shorten(origin)}, {datetime.now(UTC):%Y-%m-%d}.",
        f"Verdict: {proposal.verdict}. {shorten(proposal.message, 400)}".rstrip(),
    ]
    header = "".join(f"# {line}\n" for line in lines)
    body = yaml.safe_dump(document_of(proposal.plan), sort_keys=False, allow_unicode=False, width=1000)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, header + body)


def _told(marks: Mapping[int, Candidate]) -> list[MarkedObject]:
    return [
        MarkedObject(number, _known_name(item), (item.lower + item.upper) / 2, item.extent)
        for number, item in marks.items()
    ]


def _known_name(candidate: Candidate) -> str | None:
    return None if NAMELESS.fullmatch(candidate.name) else candidate.name


def _picture(episode: Episode, marks: Mapping[int, Candidate]) -> np.ndarray:
    centres = np.array([(item.lower + item.upper) / 2 for item in marks.values()])
    return draw_marks(episode.images[0], project(centres, episode.camera), [str(n) for n in marks])


def _proposal(document: dict[str, Any], episode: Episode, marks: Mapping[int, Candidate]) -> StageProposal:
    bound = _bind(document["keypoints"], marks)
    stages = [{k: v for k, v in stage.items() if v is not None} for stage in document["stages"]]
    looks = {
        name: declared_appearance(item, episode.images[0])
        for name, item in bound.items()
        if name not in appearances() or _known_name(item) is None
    }
    fields = {
        "version": 1,
        "task": episode.manifest.task,
        "keypoints": list(bound),
        "unreached_cost": UNREACHED_COST,
        "appearances": looks,
        "stages": stages,
    }
    plan = plan_from_document(fields, "the answer")
    _check_sense(plan, _first_state(episode, bound))
    return StageProposal(plan, "model", "accepted")


def _bind(keypoints: list[dict[str, Any]], marks: Mapping[int, Candidate]) -> dict[str, Candidate]:
    """Return the chosen objects by name; raise AnswerError when a number or a name cannot be."""
    taken = {name for name in map(_known_name, marks.values()) if name}
    bound: dict[str, Candidate] = {}
    for place, keypoint in enumerate(keypoints):
        number, name = keypoint["number"], keypoint["name"]
        where = f"keypoints[{place}]"
        if number not in marks:
            raise AnswerError(f"{where}: there is no object {number}; there are 1 to {len(marks)}")
        known = _known_name(marks[number])
        if known is not None and name != known:
            raise AnswerError(f"{where}: object {number} is called {known!r}, not {name!r}")
        if known is None and name in taken:
            raise AnswerError(f"{where}: {name!r} is another object's name; choose a new one for {number}")
        if name in bound or any(item is marks[number] for item in bound.values()):
            raise AnswerError(f"{where}: {name!r} (object {number}) is chosen twice")
        bound[name] = marks[number]
    return bound


def _first_state(episode: Episode, bound: Mapping[str, Candidate]) -> KeypointTracks:
    """Return what the first frame shows, as tracks of one frame."""
    boxes = list(bound.values())
    joint = episode.joint_names.index(gripper_joint())
    return KeypointTracks(
        names=tuple(bound),
        positions=np.array([[(item.lower + item.upper) / 2 for item in boxes]]),
        confidence=np.ones((1, len(boxes))),
        extents=np.array([item.extent for item in boxes]),
        end_effector_positions=episode.end_effector_positions[:1],
        end_effector_quaternions=episode.end_effector_quaternions[:1],
        gripper=gripper_opening(episode.joint_positions[:1, joint]),
        times=np.zeros(1),
        obstacles=np.empty((0, 3)),
        obstacles_gone=np.zeros(1),
    )


def _check_sense(plan: StagePlan, start: KeypointTracks) -> None:
    """Refuse stages that are valid but worthless: success without objects, or before anything was done."""
    read = frozenset().union(
        *(e.points for s in plan.stages for e in (s.end, *(c.expression for c in s.constraints)))
    )
    idle = [name for name in plan.keypoints if name not in read]
    if idle:
        raise AnswerError(f"keypoints: no end and no constraint reads {idle[0]!r}")
    if not plan.success.points & set(plan.keypoints):
        raise AnswerError(f"the end of the last stage speaks about no keypoint: {plan.success.text!r}")
    if bool(plan.success.evaluate(Context(start))[0]):
        raise AnswerError(f"the end of the last stage is true before the robot starts: {plan.success.text!r}")
