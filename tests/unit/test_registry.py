"""The registry and its gate: atomic switch, refusal of worse versions, the way back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from grape_policy.vla.checkpoint import load_checkpoint
from grape_training import files, registry
from grape_training.errors import BadInputError, UserError
from grape_training.evaluation import CellResult
from grape_training.gate import DEMO, Decision, GateOptions, decide
from grape_training.lora import attach, save_adapter
from grape_training.promotion import register_folder
from grape_training.registry import Registry
from grape_training.tpo_options import LoraOptions
from vla_factory import tiny_checkpoint


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A checkpoint and two different adapters on it."""
    root = tmp_path_factory.mktemp("folders")
    tiny_checkpoint(root / "base")
    for seed in (1, 2):
        adapted = attach(load_checkpoint(root / "base").model, LoraOptions(4, 4), root / "base", seed)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter.data, std=0.01)
        save_adapter(adapted, root / f"adapter{seed}")
    return {name: root / name for name in ("base", "adapter1", "adapter2")}


@pytest.fixture
def books(folders, tmp_path) -> Registry:
    books = Registry(tmp_path / "registry")
    books.start(books.add(folders["base"], "base"))
    return books


def cells(successes: int, collided: int = 0, total: int = 40) -> list[CellResult]:
    return [
        CellResult(f"stack_cube/eval/{k:04d}", k < successes, True, int(k < collided), 10)
        for k in range(total)
    ]


def verdict(books: Registry, candidate: str, new: int, old: int, **options) -> Decision:
    return decide(candidate, books.current, cells(new), cells(old), GateOptions(**options))


def candidate(books: Registry, folder: Path) -> str:
    return books.add(folder, "tpo", parents=(books.versions()[0],) if books.current is None else _base(books))


def _base(books: Registry) -> tuple[str, ...]:
    return tuple(v for v in books.versions() if books.manifest(v).kind == "checkpoint")


def test_version_is_what_the_running_policy_reports(books, folders):
    version = candidate(books, folders["adapter1"])
    assert load_checkpoint(books.folder(version)).version == version
    assert load_checkpoint(books.folder(books.current)).version == books.current
    manifest = books.manifest(version)
    assert manifest.kind == "adapter"
    assert manifest.parents == (books.current,)
    assert set(manifest.files) == {"adapter_config.json", "adapter_model.safetensors"}


def test_registry_can_be_moved(books, folders, tmp_path):
    version = candidate(books, folders["adapter1"])
    books.root.rename(tmp_path / "moved")
    assert load_checkpoint(Registry(tmp_path / "moved").folder(version)).version == version


def test_adding_the_same_content_twice_is_one_version(books, folders):
    first = candidate(books, folders["adapter1"])
    assert candidate(books, folders["adapter1"]) == first
    assert candidate(books, folders["adapter2"]) != first
    assert len(books.versions()) == 3


def test_a_better_candidate_is_promoted_and_rolled_back(books, folders):
    base = books.current
    version = candidate(books, folders["adapter1"])
    books.promote(version, verdict(books, version, 30, 20))
    assert books.current == version
    assert books.rollback() == base
    assert books.current == base
    assert [entry["action"] for entry in books.pointer().history] == ["start", "promote", "rollback"]
    with pytest.raises(UserError, match="no earlier version"):
        books.rollback()


def test_rollbacks_walk_back_and_not_to_and_fro(books, folders):
    base = books.current
    first, second = candidate(books, folders["adapter1"]), candidate(books, folders["adapter2"])
    books.promote(first, verdict(books, first, 30, 20))
    books.promote(second, verdict(books, second, 30, 20))
    assert [books.rollback(), books.rollback()] == [first, base]


@pytest.mark.parametrize(("new", "old"), [(5, 20), (20, 20), (22, 20), (0, 0)])
def test_a_broken_equal_or_barely_better_candidate_is_refused(books, folders, new, old):
    version = candidate(books, folders["adapter1"])
    decision = verdict(books, version, new, old)
    assert not decision.promote
    with pytest.raises(UserError, match="was not promoted"):
        books.promote(version, decision)
    assert books.current == _base(books)[0]


def test_better_but_less_safe_is_refused(books, folders):
    version = candidate(books, folders["adapter1"])
    decision = decide(version, books.current, cells(30, collided=20), cells(20, collided=4))
    assert decision.success.p_greater < 0.05
    assert not decision.promote
    assert "not shown to be as safe" in decision.reason


def test_the_reason_says_that_demo_evidence_is_weak(books, folders):
    version = candidate(books, folders["adapter1"])
    decision = decide(version, books.current, cells(24), cells(20), DEMO)
    assert decision.promote
    assert "weak evidence" in decision.reason


def test_a_decision_about_other_versions_does_not_count(books, folders):
    first, second = candidate(books, folders["adapter1"]), candidate(books, folders["adapter2"])
    decision = verdict(books, first, 30, 20)
    with pytest.raises(UserError, match="compared"):
        books.promote(second, decision)
    books.promote(first, decision)
    with pytest.raises(UserError, match="compared"):
        books.promote(first, decision)  # the incumbent is another one by now


def test_evaluations_of_different_states_are_not_compared(books):
    other = [
        replace(cell, initial_state_id=cell.initial_state_id.replace("eval", "train")) for cell in cells(3)
    ]
    with pytest.raises(ValueError, match="different initial states"):
        decide("a-0", books.current, cells(3), other)


def test_an_interrupted_switch_leaves_the_old_pointer(books, folders, monkeypatch):
    version, before = candidate(books, folders["adapter1"]), (books.root / "current.json").read_bytes()
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space"):
        books.promote(version, verdict(books, version, 30, 20))
    assert (books.root / "current.json").read_bytes() == before
    assert sorted(path.name for path in books.root.iterdir()) == ["current.json", "versions"]


def test_an_interrupted_add_leaves_no_version(books, folders, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        candidate(books, folders["adapter1"])
    assert [path.name for path in (books.root / "versions").iterdir()] == [books.current]


def test_bad_input_has_one_line_and_a_remedy(books, folders, tmp_path):
    with pytest.raises(BadInputError, match="neither a checkpoint"):
        books.add(tmp_path, "x")
    with pytest.raises(BadInputError, match="needs a complete checkpoint"):
        books.add(folders["adapter1"], "x")
    with pytest.raises(BadInputError, match="Known versions"):
        books.folder("../base")
    (books.root / "current.json").write_text("{")
    with pytest.raises(BadInputError, match="damaged"):
        books.pointer()


def test_manifest_hashes_the_files(books):
    folder = books.folder(books.current)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["model.safetensors"] == files.hash_file(folder / "model.safetensors")


def test_an_adapter_folder_brings_its_base(folders, tmp_path):
    books = Registry(tmp_path / "registry")
    version = register_folder(books, folders["adapter1"])
    assert books.manifest(version).parents == (books.current,)
    assert books.current == register_folder(books, folders["base"])
