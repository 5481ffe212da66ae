"""Vision models in this process: real code of transformers on tiny random checkpoints built here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grape_episodes import contract
from grape_preference import learned_proposer
from grape_preference.learned_proposer import LearnedProposer, bind_by_colour, distinct, divide
from grape_preference.local_models import load_model
from grape_preference.proposers import ColourProposer
from grape_preference.schema_guide import SchemaGuide
from grape_preference.segmentation import Candidate, Projector
from grape_preference.vlm import Budget, Question, VlmError
from grape_preference.vlm_client import VlmClient
from grape_preference.vlm_local import LocalModel
from grape_preference.vlm_prompts import SUCCESS_SCHEMA, pointing_question, stages_schema
from grape_sim.environment import Observation, SimEnvironment
from tiny_vision_models import save_dinov2, save_llava, save_sam2
from transformers import Dinov2Model, Sam2Model

CAMERA = contract.camera()


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models(tmp_path_factory: Any) -> Path:
    root: Path = tmp_path_factory.mktemp("models")
    save_sam2(root / "sam2")
    save_dinov2(root / "dinov2")
    save_llava(root / "llava")
    return root


@pytest.fixture(scope="module")
def scene() -> Observation:
    environment = SimEnvironment(depth=True)
    try:
        return environment.reset("carrot_on_plate/train/0003")
    finally:
        environment.close()


@pytest.fixture(scope="module")
def coloured(scene: Observation) -> dict[str, Candidate]:
    found = ColourProposer().propose(scene.image, scene.depth, CAMERA)
    assert {"carrot", "plate"} <= set(found)
    return found


def mask_of(candidate: Candidate) -> np.ndarray:
    mask = np.zeros((CAMERA.height, CAMERA.width), bool)
    mask[candidate.pixels[:, 1], candidate.pixels[:, 0]] = True
    return mask


# --- SAM2 + DINOv2


def test_both_models_run_through_to_objects_and_parts(
    models: Path, scene: Observation, monkeypatch: Any
) -> None:
    # Random masks are not of things on the table; let all of them pass so that everything behind runs too.
    monkeypatch.setattr(learned_proposer, "is_object", lambda mask, above, *_: (mask & above).sum() > 500)
    proposer = LearnedProposer(models / "sam2", models / "dinov2", min_quality=-np.inf)
    found = proposer.propose(scene.image, scene.depth, CAMERA)
    assert "object_1" in found
    assert any("_part_2" in name for name in found)
    above = Projector(CAMERA).above_table(scene.depth)
    for candidate in found.values():
        assert above[candidate.pixels[:, 1], candidate.pixels[:, 0]].all()
        assert np.isfinite(candidate.lower).all()
        assert (candidate.lower <= candidate.upper).all()
    again = LearnedProposer(models / "sam2", models / "dinov2", min_quality=-np.inf)
    repeated = again.propose(scene.image, scene.depth, CAMERA)
    assert {name: item.area for name, item in found.items()} == {n: i.area for n, i in repeated.items()}


def test_random_masks_are_no_objects(models: Path, scene: Observation) -> None:
    proposer = LearnedProposer(models / "sam2", models / "dinov2", min_quality=2.0)
    assert proposer.propose(scene.image, scene.depth, CAMERA) == {}


def test_masks_depend_on_the_point_and_have_the_image_s_size(models: Path, scene: Observation) -> None:
    proposer = LearnedProposer(models / "sam2", models / "dinov2")
    points = np.array([[10, 10], [300, 200], [160, 120]])
    masks, quality = proposer._masks(scene.image, points)
    assert masks.shape == (3, 240, 320)
    assert quality.shape == (3,)
    assert len({mask.tobytes() for mask in masks}) > 1
    none, _ = proposer._masks(scene.image, np.zeros((0, 2)))
    assert none.shape == (0, 240, 320)


def test_batches_of_points_give_what_one_batch_gives(
    models: Path, scene: Observation, monkeypatch: Any
) -> None:
    proposer = LearnedProposer(models / "sam2", models / "dinov2")
    points = np.array([[10, 10], [300, 200], [160, 120]])
    whole, _ = proposer._masks(scene.image, points)
    monkeypatch.setattr(learned_proposer, "POINTS_AT_ONCE", 2)
    assert (proposer._masks(scene.image, points)[0] == whole).mean() > 0.999


class TrueMasks(LearnedProposer):
    """With what a perfect SAM2 would say: all objects, pieces and repetitions of them, the table."""

    shown: list[np.ndarray]

    def _masks(self, image: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        masks = np.stack(self.shown)
        return masks, np.ones(len(masks))


def test_objects_on_the_table_are_found_and_bound(
    models: Path, scene: Observation, coloured: dict[str, Candidate]
) -> None:
    proposer = TrueMasks(models / "sam2", models / "dinov2", parts=0)
    whole = [mask_of(item) for item in coloured.values()]
    halves = [mask & (np.arange(320) < np.median(np.nonzero(mask)[1])) for mask in whole]
    proposer.shown = [np.ones_like(whole[0]), ~np.any(whole, axis=0), *halves, *whole, *whole]
    nameless = proposer.propose(scene.image, scene.depth, CAMERA)
    assert list(nameless) == [f"object_{n}" for n in range(1, len(coloured) + 1)]
    sizes = [len(item.pixels) for item in nameless.values()]
    assert sizes == sorted(sizes, reverse=True)
    named = proposer.propose(scene.image, scene.depth, CAMERA, list(coloured))
    for name, candidate in coloured.items():
        assert np.abs(named[name].lower - candidate.lower).max() < 1e-9
    missing = proposer.propose(scene.image, scene.depth, CAMERA, ["carrot"])
    assert set(missing) == {"carrot"}


def test_names_are_bound_once_and_only_where_the_colour_is(
    scene: Observation, coloured: dict[str, Candidate]
) -> None:
    regions = [coloured["carrot"].pixels, coloured["plate"].pixels]
    assert set(bind_by_colour(scene.image, regions, ["carrot", "plate", "green_cube"])) == {"carrot", "plate"}
    assert set(bind_by_colour(scene.image, regions[1:], ["carrot", "plate"])) == {"plate"}
    with pytest.raises(ValueError, match="'tomato'"):
        bind_by_colour(scene.image, regions, ["tomato"])


def test_repetitions_and_pieces_are_one_thing() -> None:
    big, small, far = np.zeros((3, 20, 20), bool)
    big[2:12, 2:12], small[4:8, 4:8], far[15:18, 15:18] = True, True, True
    shifted = np.roll(big, 1, axis=0)
    kept = distinct([small, shifted, far, big])
    assert [int(mask.sum()) for mask in kept] == [100, 9]


def test_parts_follow_features_and_places() -> None:
    v, u = np.mgrid[0:20, 0:40]
    pixels = np.stack([u.ravel(), v.ravel()], axis=1)
    points = np.concatenate([pixels * 0.005, np.zeros((len(pixels), 1))], axis=1)
    features = np.zeros((20, 40, 3), np.float32)
    features[:, 25:] = 3.0
    parts = divide(pixels, features, points, 2)
    assert sorted((int(part[:, 0].min()), int(part[:, 0].max())) for part in parts) == [(0, 24), (25, 39)]
    assert divide(pixels, features, points * 0.05, 2) == []  # too small to have parts
    assert divide(pixels[:20], features, points[:20], 3) == []


# --- checkpoints that cannot be used


def test_folder_of_another_model_is_refused(models: Path) -> None:
    with pytest.raises(ValueError, match=r"as Sam2Model|tensors are missing"):
        load_model(Sam2Model, models / "dinov2", torch.float32)


def test_missing_tensors_are_refused(models: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(models / "dinov2", tmp_path / "cut")
    tensors = load_file(tmp_path / "cut" / "model.safetensors")
    removed = next(iter(sorted(tensors)))
    del tensors[removed]
    save_file(tensors, tmp_path / "cut" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="1 tensors are missing"):
        load_model(Dinov2Model, tmp_path / "cut", torch.float32)


def test_missing_folder_pickles_and_foreign_code_are_refused(models: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        load_model(Dinov2Model, tmp_path / "nowhere", torch.float32)
    pickled = shutil.copytree(models / "dinov2", tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_model(Dinov2Model, pickled, torch.float32)
    foreign = shutil.copytree(models / "llava", tmp_path / "foreign")
    config = json.loads((foreign / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.C", "AutoModelForImageTextToText": "evil.M"},
    }
    (foreign / "config.json").write_text(json.dumps(config))
    (foreign / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    with pytest.raises(ValueError, match="cannot be loaded"):
        LocalModel(foreign)
    assert not (tmp_path / "owned").exists()


def test_text_model_without_template_is_refused(models: Path, tmp_path: Path) -> None:
    plain = shutil.copytree(models / "llava", tmp_path / "plain")
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(ValueError, match="chat template"):
        LocalModel(plain)


# --- the local vision-language model

IMAGE = np.full((30, 40, 3), 90, np.uint8)
VALUE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["reason", "value"],
    "properties": {"reason": {"type": "string", "maxLength": 20}, "value": {"enum": ["yes", "no"]}},
}


def question(prompt: str = "How many?", images: int = 1) -> Question:
    return Question("test", "Be brief.", prompt, (IMAGE,) * images, VALUE)


def test_local_model_answers_repeatably_within_its_limits(models: Path) -> None:
    model = LocalModel(models / "llava", max_answer_tokens=12)
    budget, attempts = Budget(), list[dict[str, Any]]()
    first = model.complete(question(), budget, attempts)
    assert first == model.complete(question(), Budget(), [])
    assert model.complete(question(images=3), Budget(), []).tokens == first.tokens + 2 * (4 + len("\n"))
    assert (budget.requests, budget.tokens, len(attempts)) == (1, first.tokens, 1)
    prompt = len("USER: \nBe brief.\n\nHow many? ASSISTANT:") + 4  # bytes, and four patches of the picture
    assert first.tokens <= prompt + 12


def test_even_a_random_model_is_held_to_the_schema(models: Path, tmp_path: Path) -> None:
    client = VlmClient(LocalModel(models / "llava", max_answer_tokens=600), tmp_path)
    answers = [client.ask(question(f"Question {n}"), lambda document: document) for n in range(3)]
    assert all(answer["value"] in ("yes", "no") for answer in answers)
    long = Question("test", "", "Go on.", (), {"type": "array", "items": VALUE, "minItems": 3, "maxItems": 3})
    assert len(client.ask(long, lambda document: document)) == 3


def test_schemas_of_all_questions_can_be_held_to(models: Path) -> None:
    tokenizer = LocalModel(models / "llava")._tokenizer
    pointing = pointing_question(["carrot", "plate"], IMAGE).schema
    for schema in (stages_schema(), SUCCESS_SCHEMA, pointing):
        SchemaGuide(tokenizer, schema)
    with pytest.raises(ValueError, match="grammar"):
        SchemaGuide(tokenizer, {"type": "no such type"})


def test_local_model_keeps_to_budget_and_time(models: Path) -> None:
    model = LocalModel(models / "llava", timeout=0.0, max_answer_tokens=5)
    with pytest.raises(VlmError, match="within 0 s"):
        model.complete(question(), Budget(), [])
    with pytest.raises(VlmError, match="budget"):
        model.complete(question(), Budget(max_requests=0), [])
    few = LocalModel(models / "llava", max_answer_tokens=50)
    budget = Budget(max_tokens=1)
    few.complete(question(), budget, [])
    with pytest.raises(VlmError, match="budget of 1 tokens"):
        few.complete(question(), budget, [])


def test_answer_that_was_cut_off_is_refused_and_audited(models: Path, tmp_path: Path) -> None:
    client = VlmClient(LocalModel(models / "llava", max_answer_tokens=8), tmp_path)
    with pytest.raises(VlmError) as caught:
        client.ask(question(), lambda document: document)
    assert caught.value.reason == "invalid_answer"
    (folder,) = (tmp_path / "audit").iterdir()
    assert json.loads((folder / "verdict.json").read_text())["verdict"] == "invalid_answer"
    assert (folder / "answer.txt").read_text().startswith('{"reason')
