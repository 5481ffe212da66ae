"""Stages, pointing and judgement by a vision-language model: a real server, a real scene, checked answers."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grape_episodes.types import Episode
from grape_preference.constraints import check_file, plan_for_task
from grape_preference.judge import judge
from grape_preference.keypoints import track
from grape_preference.language_functions import FUNCTIONS, VARIABLES
from grape_preference.proposers import ColourProposer, PointingProposer, declared_appearance, region_at
from grape_preference.scoring import score_episode
from grape_preference.segmentation import Candidate, Projector
from grape_preference.vlm import Budget, VlmError
from grape_preference.vlm_client import VlmClient
from grape_preference.vlm_http import ChatServer
from grape_preference.vlm_judge import VlmJudge
from grape_preference.vlm_prompts import document_of
from grape_preference.vlm_query import (
    propose_or_ship,
    propose_stages,
    shipped_proposal,
    write_stages,
)
from grape_preference.vlm_transport import HttpOptions
from grape_sim.environment import SimEnvironment
from grape_training.truth import Rollout, roll_out
from vlm_answers import good_answer
from vlm_server import Behaviour, hang_up, nothing, say, send, serving

OPTIONS = HttpOptions(timeout=1.0, attempts=1)


@pytest.fixture(scope="module")
def rollout() -> Rollout:
    environment = SimEnvironment(depth=True)
    try:
        return roll_out(environment, "carrot_on_plate/train/0003", 0.0, 0)
    finally:
        environment.close()


@pytest.fixture(scope="module")
def episode(rollout: Rollout) -> Episode:
    return rollout.episode


@pytest.fixture(scope="module")
def found(episode: Episode) -> dict[str, Candidate]:
    return ColourProposer().propose(episode.images[0], episode.depths[0], episode.camera)


def client(url: str, root: Path, **limits: int) -> VlmClient:
    return VlmClient(ChatServer(url, "some-model", OPTIONS), root, Budget(**limits))


def test_proposal_is_scored_exactly_as_the_shipped_file(
    episode: Episode, found: dict[str, Candidate], tmp_path: Path
) -> None:
    with serving(say(good_answer(found))) as server:
        proposal = propose_stages(client(server.url, tmp_path), episode, found)
    assert (proposal.source, proposal.verdict) == ("model", "accepted")
    path = tmp_path / "stages" / "carrot_on_plate.yaml"
    write_stages(proposal, path, episode.manifest.instruction, "some-model")
    assert path.read_text().startswith('# Stages of "put the carrot on the plate": proposed by some-model')
    tracks = track(episode)
    mine, shipped = score_episode(episode, tracks, check_file(path)), score_episode(episode, tracks)
    assert mine.verdict == "ok"
    assert mine.r_ext == shipped.r_ext
    assert mine.stages == shipped.stages


def test_prompt_tells_language_objects_and_instruction(
    episode: Episode, found: dict[str, Candidate], tmp_path: Path
) -> None:
    with serving(say(good_answer(found))) as server:
        propose_stages(client(server.url, tmp_path), episode, found)
        text = server.requests[0]["messages"][1]["content"][0]["text"]
        schema = server.requests[0]["response_format"]["json_schema"]["schema"]
    assert '"put the carrot on the plate"' in text
    assert all(f"`{name}(" in text for name in FUNCTIONS)
    assert all(f"`{name}`" in text for name in VARIABLES)
    assert all(f"- {number}: {name}, centre" in text for number, name in enumerate(found, start=1))
    example = text.split("as an example:")[1]
    assert "carrot" not in example.split("The answer follows")[0]  # not the answer itself
    assert {"carrot", "plate"} <= set(found)
    assert schema["required"] == ["keypoints", "stages"]
    assert set(schema["$defs"]["stage"]["required"]) == set(schema["$defs"]["stage"]["properties"])


def set_end(expression: str) -> Any:
    def change(answer: dict[str, Any]) -> dict[str, Any]:
        answer["stages"][-1]["end"] = expression
        return answer

    return change


def set_constraint(**fields: Any) -> Any:
    def change(answer: dict[str, Any]) -> dict[str, Any]:
        answer["stages"][0]["constraints"][0].update(fields)
        return answer

    return change


def set_keypoint(**fields: Any) -> Any:
    def change(answer: dict[str, Any]) -> dict[str, Any]:
        answer["keypoints"][0].update(fields)
        return answer

    return change


BAD_ANSWERS: list[tuple[Any, str]] = [
    (set_end("__import__('os').system('touch /tmp/owned')"), "stage 4 'place', end"),
    (set_end("(lambda: 1)() > 0"), "stage 4 'place', end"),
    (set_end("carrot.__class__ > 0"), "stage 4 'place', end"),
    (set_end("open('/etc/passwd') > 0"), "stage 4 'place', end"),
    (set_end("9**9**9 > 0"), "stage 4 'place', end"),
    (set_end("a" * 401), "end"),
    (set_end("(" * 200 + "1" + ")" * 200), "end"),
    (set_end("height(carrot)"), "condition is needed"),
    (set_end("gripper > 0.5"), "no keypoint"),
    (set_end("height(carrot) > -1"), "before the robot starts"),
    (set_end(5), "end"),  # type: ignore[arg-type]
    (set_constraint(expression="distance(carrot, tomato)"), "constraint 1, column"),
    (set_constraint(expression="exec(carrot)"), "unknown function 'exec'"),
    (set_constraint(unit="m"), "constraint 1"),
    (set_constraint(weight="1.0"), "weight"),
    (set_constraint(weight=True), "weight"),
    (set_constraint(weight=1e300), "weight"),
    (set_constraint(weight=float("nan")), "finite"),
    (set_constraint(threshold=float("-inf")), "finite"),
    (set_constraint(kind="reward"), "kind"),
    (set_constraint(code="print(1)"), "code"),
    (set_keypoint(number=99), "no object 99"),
    (set_keypoint(number=0), "number"),
    (set_keypoint(name="plate"), "is called 'carrot'"),
    (set_keypoint(name="../../etc/passwd"), "name"),
    (lambda a: {**a, "keypoints": a["keypoints"] * 2}, "twice"),
    (lambda a: {**a, "keypoints": a["keypoints"][:1]}, "unknown name 'plate'"),
    (lambda a: {**a, "stages": []}, "stages"),
    (lambda a: {**a, "stages": a["stages"] * 5}, "stages: "),
    (lambda a: {**a, "stages": {"a": 1}}, "stages"),
    (lambda a: {**a, "task": "other"}, "task"),
    (lambda a: {**a, "stages": a["stages"] * 50}, "65536 characters"),
    (lambda a: [a], "is not of type 'object'"),
    (lambda _: None, "object"),
]


@pytest.mark.parametrize(("spoil", "part"), BAD_ANSWERS)
def test_bad_answer_is_refused_with_its_place_and_repaired_once(
    spoil: Any, part: str, episode: Episode, found: dict[str, Candidate], tmp_path: Path
) -> None:
    bad = json.dumps(spoil(copy.deepcopy(good_answer(found))))
    with serving(say(bad), say(good_answer(found))) as server:
        proposal = propose_stages(client(server.url, tmp_path), episode, found)
        again = server.requests[1]["messages"][1]["content"][0]["text"]
    assert proposal.verdict == "repaired"
    assert part in proposal.message
    assert "It was refused:" in again
    assert part in again
    assert not Path("/tmp/owned").exists()
    folders = sorted((tmp_path / "audit").iterdir())
    told = [json.loads((folder / "verdict.json").read_text())["verdict"] for folder in folders]
    assert told == ["invalid_answer", "accepted"]


@pytest.mark.parametrize(
    ("behaviour", "verdict"),
    [
        (say("no"), "invalid_answer"),
        (send(401, "key?"), "refused"),
        (hang_up, "unreachable"),
        (nothing, "timeout"),
    ],
)
def test_shipped_stages_serve_when_the_model_fails_and_the_file_says_so(
    behaviour: Behaviour, verdict: str, episode: Episode, found: dict[str, Candidate], tmp_path: Path
) -> None:
    with serving(behaviour) as server:
        proposal = propose_or_ship(client(server.url, tmp_path), episode, lambda: found)
        assert len(server.requests) == (2 if verdict == "invalid_answer" else 1)
    assert (proposal.source, proposal.verdict) == ("shipped", verdict)
    path = tmp_path / "carrot_on_plate.yaml"
    write_stages(proposal, path, episode.manifest.instruction, "some-model")
    assert "the shipped stages" in path.read_text()
    assert f"Verdict: {verdict}" in path.read_text()
    assert document_of(check_file(path)) == document_of(plan_for_task("carrot_on_plate"))


def test_without_shipped_stages_the_failure_is_told(
    episode: Episode, found: dict[str, Candidate], tmp_path: Path
) -> None:
    manifest = dataclasses.replace(episode.manifest, task="fold_shirt")
    folding = dataclasses.replace(episode, manifest=manifest)
    with serving(send(404, "?")) as server, pytest.raises(VlmError, match="404"):
        propose_or_ship(client(server.url, tmp_path), folding, lambda: found)


def test_budget_ends_the_repair(episode: Episode, found: dict[str, Candidate], tmp_path: Path) -> None:
    with serving(say("no")) as server:
        proposal = propose_or_ship(client(server.url, tmp_path, max_requests=1), episode, lambda: found)
        assert (proposal.verdict, len(server.requests)) == ("budget", 1)


def test_shipped_stages_chosen(tmp_path: Path) -> None:
    proposal = shipped_proposal("stack_cube")
    assert (proposal.source, proposal.verdict) == ("shipped", "chosen")
    write_stages(proposal, tmp_path / "stack_cube.yaml", "stack\n!!python/object:os.system {} #", "")
    assert check_file(tmp_path / "stack_cube.yaml").keypoints == ("green_cube", "yellow_cube")


def test_model_names_objects_without_declared_appearance(
    episode: Episode, found: dict[str, Candidate], tmp_path: Path
) -> None:
    nameless = {f"object_{n}": found[name] for n, name in enumerate(("carrot", "plate"), start=1)}
    nameless = {
        name: Candidate(name, item.lower, item.upper, item.pixels, item.area)
        for name, item in nameless.items()
    }
    text = json.dumps(good_answer({"carrot": found["carrot"], "plate": found["plate"]}))
    answer = json.loads(text.replace("carrot", "orange_thing").replace("plate", "dish"))
    with serving(say(answer)) as server:
        proposal = propose_stages(client(server.url, tmp_path), episode, nameless)
    assert proposal.plan.keypoints == ("orange_thing", "dish")
    path = tmp_path / "carrot_on_plate.yaml"
    write_stages(proposal, path, episode.manifest.instruction, "some-model")
    plan = check_file(path)
    assert plan.appearances == proposal.plan.appearances
    scored = score_episode(episode, track(episode, plan.keypoints, plan.appearances), plan)
    shipped = score_episode(episode, track(episode))
    assert (scored.verdict, scored.i_success) == ("ok", shipped.i_success)
    assert scored.r_ext == pytest.approx(shipped.r_ext, abs=0.1)
    both = {**nameless, "plate": found["plate"]}
    with serving(say(json.loads(text))) as server, pytest.raises(VlmError, match="another object's name"):
        propose_stages(client(server.url, tmp_path / "anew"), episode, both)


def test_name_that_a_pointing_model_found_needs_no_declaration(
    episode: Episode, found: dict[str, Candidate], tmp_path: Path
) -> None:
    pointed = {"vegetable": found["carrot"], "plate": found["plate"]}
    pointed = {name: dataclasses.replace(item, name=name) for name, item in pointed.items()}
    text = json.dumps(good_answer({"carrot": 1, "plate": 2})).replace("carrot", "vegetable")
    with serving(say(text)) as server:
        plan = propose_stages(client(server.url, tmp_path), episode, pointed).plan
        told = server.requests[0]["messages"][1]["content"][0]["text"]
    assert "- 1: vegetable, centre" in told
    assert [item.name for item in plan.appearances] == ["vegetable"]


def test_red_is_two_ranges_of_hue() -> None:
    image = np.zeros((10, 10, 3), np.uint8)
    image[:, :5], image[:, 5:] = (200, 0, 10), (200, 10, 0)
    pixels = np.stack(np.meshgrid(np.arange(10), np.arange(10)), -1).reshape(-1, 2)
    body = declared_appearance(Candidate("a", np.zeros(3), np.ones(3), pixels, 1.0), image)["body"]
    assert [(part["lower"][0], part["upper"][0]) for part in body] == [(0, 3), (177, 179)]


def test_pointing_finds_objects_where_they_are(
    rollout: Rollout, found: dict[str, Candidate], tmp_path: Path
) -> None:
    episode, names = rollout.episode, ("carrot", "plate", "spoon")
    pixels = {name: 2 * np.median(found[name].pixels, axis=0).astype(int) for name in names[:2]}
    points = [{"name": name, "u": int(p[0]), "v": int(p[1])} for name, p in pixels.items()]
    with serving(say({"points": points})) as server:
        proposer = PointingProposer(client(server.url, tmp_path))
        boxes = proposer.propose(episode.images[0], episode.depths[0], episode.camera, names)
    assert set(boxes) == {"carrot", "plate"}
    for name, box in boxes.items():
        centre = (box.lower + box.upper) / 2
        assert np.linalg.norm((centre - rollout.centres[name][0])[:2]) < 0.015


@pytest.mark.parametrize(
    ("points", "part"),
    [
        ([{"name": "carrot", "u": 640, "v": 5}], "640"),
        ([{"name": "carrot", "u": -1, "v": 5}], "-1"),
        ([{"name": "carrot", "u": 1.5, "v": 5}], "1.5"),
        ([{"name": "tomato", "u": 1, "v": 5}], "tomato"),
        ([{"name": "carrot", "u": 1, "v": 5}] * 2, "twice"),
        ([{"name": "carrot", "u": 1, "v": 5}] * 3, "too long"),
        ({"carrot": [1, 5]}, "array"),
    ],
)
def test_points_outside_the_picture_are_refused(
    points: Any, part: str, episode: Episode, tmp_path: Path
) -> None:
    with serving(say({"points": points})) as server, pytest.raises(VlmError, match=part):
        PointingProposer(client(server.url, tmp_path)).propose(
            episode.images[0], episode.depths[0], episode.camera, ("carrot", "plate")
        )


def test_pointing_at_nothing_finds_nothing(episode: Episode) -> None:
    projector = Projector(episode.camera)
    above = projector.above_table(episode.depths[0])
    v, u = np.nonzero(~above)
    far = next(
        np.array([x, y])
        for x, y in zip(u, v, strict=True)
        if not above[max(y - 9, 0) : y + 9, max(x - 9, 0) : x + 9].any()
    )
    assert region_at(far, above, episode.depths[0], projector) is None
    assert region_at(far, np.zeros_like(above), episode.depths[0], projector) is None


def test_colours_of_unknown_objects_are_not_known(episode: Episode) -> None:
    with pytest.raises(ValueError, match="'tomato'"):
        ColourProposer().propose(episode.images[0], episode.depths[0], episode.camera, ["tomato"])


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"reason": "it lies on the plate", "success": "yes"}, True),
        ({"reason": "it fell", "success": "no"}, False),
        ({"reason": "dark", "success": "unsure"}, None),
        ({"success": True}, None),
        ("yes", None),
    ],
)
def test_second_opinion_of_the_judge(
    answer: Any, expected: bool | None, episode: Episode, tmp_path: Path
) -> None:
    tracks, plan = track(episode), plan_for_task("carrot_on_plate")
    assert tracks is not None
    with serving(say(answer)) as server:
        visual = VlmJudge(client(server.url, tmp_path))
        verdict = judge(episode, tracks, plan, visual)
        shown = [part for part in server.requests[0]["messages"][1]["content"] if part["type"] == "image_url"]
        assert len(shown) == 2
        assert visual(episode.manifest.instruction, list(episode.images[-2:])) is expected
    assert judge(episode, tracks, plan).success
    assert verdict.success is (expected is not False)


def test_judge_without_a_server_leaves_it_to_the_keypoints(
    episode: Episode, tmp_path: Path, caplog: Any
) -> None:
    with serving(hang_up) as server:
        visual = VlmJudge(client(server.url, tmp_path))
        assert visual("put the carrot on the plate", [episode.images[-1]]) is None
    assert "did not judge" in caplog.text


def test_nothing_found_is_no_question(episode: Episode, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no object was found"):
        propose_stages(client("http://127.0.0.1:1/v1", tmp_path), episode, {})
