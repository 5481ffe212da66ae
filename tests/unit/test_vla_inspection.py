"""Inspecting, verifying and merging checkpoints, and the memory budget of the released sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from grape_policy.vla.checkpoint import load_checkpoint, save_checkpoint
from grape_policy.vla.inspection import find_problems, inspect_checkpoint
from grape_policy.vla.memory import GIB, budget_table, estimate, released_7b
from grape_policy.vla.preprocess import Preprocessor
from grape_policy.vla.runtime import Runtime
from grape_training.cli import app
from grape_training.lora import LoraOptions, attach, save_adapter
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner
from vla_factory import STATISTICS, tiny_checkpoint, tiny_model, tiny_tokenizer

LM_HEAD = "language_model.lm_head.weight"
SHIPPED = Path(__file__).parents[2] / "checkpoints" / "grape-small"
DOCS = Path(__file__).parents[2] / "docs" / "how-to" / "checkpoints.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_checkpoint(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_inspection_reads_headers_and_hashes(folder: Path) -> None:
    facts = inspect_checkpoint(folder)
    model = load_checkpoint(folder).model
    assert facts["version"] == load_checkpoint(folder).version
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())
    assert facts["dtypes"] == {"F32": facts["tensors"]}
    assert facts["weight_bytes"] == 4 * facts["parameters"]
    assert facts["statistics"] == ["grape_sim"]
    assert facts["shapes"]["projector.fc1.bias"] == [256]
    assert len(facts["sha256"]["model.safetensors"]) == 64


def test_an_unreadable_weight_file_is_one_reason_and_not_one_for_each_tensor(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    problems = find_problems(folder)
    assert len(problems) == 1
    assert problems[0].startswith("model.safetensors: ")


def test_the_shipped_checkpoint_is_the_one_its_manifest_describes(tmp_path: Path) -> None:
    assert find_problems(SHIPPED) == []
    copy = Path(shutil.copytree(SHIPPED, tmp_path / "changed"))
    (copy / "config.json").write_text((SHIPPED / "config.json").read_text() + " ")
    assert find_problems(copy) == ["not the file of MANIFEST.json: config.json"]


def published_layout(folder: Path) -> None:
    """Write a checkpoint as the published ones are: bfloat16 shards, unused tensors, no statistics file."""
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer).to(torch.bfloat16)
    save_checkpoint(
        folder, model, tokenizer, {"bridge_orig": STATISTICS}, Preprocessor(32), max_shard_size="200KB"
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"norm_stats": {"bridge_orig": STATISTICS.to_dict(), "fractal": STATISTICS.to_dict()}}
    config |= {"llm_backbone_id": "vicuna-v15-7b", "auto_map": {"AutoConfig": "configuration.OpenVLAConfig"}}
    config.pop("prompt_style")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "dataset_statistics.json").unlink()
    (folder / "modeling_prismatic.py").write_text("raise SystemExit('remote code must never run')")
    (folder / "tokenizer_config.json").write_text("{}")
    tower = "vision_backbone.{}.{}"
    unused = {tower.format("featurizer", "blocks.2.attn.qkv.weight"): torch.zeros(4, 4)}
    unused |= {tower.format("featurizer", f"norm.{part}"): torch.zeros(4) for part in ("weight", "bias")}
    unused |= {tower.format("fused_featurizer", "attn_pool.latent"): torch.full((1, 1, 4), float("nan"))}
    save_file(unused, folder / "model-unused.safetensors")
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] |= dict.fromkeys(unused, "model-unused.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_the_published_layout_loads_without_remote_code(tmp_path: Path) -> None:
    published_layout(tmp_path / "openvla-v01")
    facts = inspect_checkpoint(tmp_path / "openvla-v01")
    assert (facts["unused_tensors"], facts["prompt_style"]) == (4, "vicuna")
    assert facts["dtypes"] == {"BF16": facts["tensors"]}
    assert facts["statistics"] == ["bridge_orig", "fractal"]
    assert find_problems(tmp_path / "openvla-v01", statistics_key="fractal") == []
    loaded = load_checkpoint(tmp_path / "openvla-v01", runtime=Runtime(precision="bfloat16"))
    expected = tiny_model(tiny_tokenizer()).to(torch.bfloat16).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.model.state_dict().items())


def test_all_problems_of_all_files_are_listed(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors[LM_HEAD][0, 0] = float("nan")
    del tensors["projector.fc1.bias"]
    tensors["surprise"] = torch.zeros(2)
    save_file(tensors, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "MANIFEST.json").write_text(json.dumps({"files": {"config.json": "0" * 64}}))
    found = find_problems(folder, statistics_key="libero")
    parts = ["NaN or infinity: " + LM_HEAD, "missing: projector.fc1.bias", "extra: surprise"]
    parts += ["pickled file pytorch_model.bin", "tokenizer.json", "MANIFEST.json: config.json", "'libero'"]
    assert len(found) == len(parts), found
    for part in parts:
        assert any(part in line for line in found), part


def test_a_missing_folder_is_one_problem(tmp_path: Path) -> None:
    assert find_problems(tmp_path / "none") == ["no such folder"]


def test_an_adapter_of_ours_is_inspected_and_verified(folder: Path, tmp_path: Path) -> None:
    adapted = attach(tiny_model(tiny_tokenizer()), LoraOptions(rank=4), folder, seed=0)
    save_adapter(adapted, tmp_path / "adapter")
    facts = inspect_checkpoint(tmp_path / "adapter")
    assert (facts["kind"], facts["rank"], facts["base"]) == ("adapter", 4, str(folder))
    assert find_problems(tmp_path / "adapter", statistics_key="grape_sim") == []
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "lora_B" in name)
    tensors[name] = torch.full_like(tensors[name], float("inf"))
    save_file(tensors, weights)
    assert len(find_problems(tmp_path / "adapter")) == 1
    assert find_problems(folder) == []


def test_the_7b_budget_agrees_with_measured_figures() -> None:
    found = estimate(released_7b())
    assert found.parameters == pytest.approx(7.498e9, rel=1e-3)
    assert found.weights("bfloat16") / GIB == pytest.approx(13.97, abs=0.01)
    assert 16 * found.adapter_parameters / GIB == pytest.approx(1.63, abs=0.03)
    assert found.activations / GIB == pytest.approx(3.73, rel=0.1)
    assert found.activations_checkpointed / GIB == pytest.approx(0.12, abs=0.03)
    assert found.training("bfloat16", 8) / GIB == pytest.approx(18.5, rel=0.1)


def test_the_guide_shows_the_budget_that_the_code_gives() -> None:
    assert budget_table(released_7b()) in DOCS.read_text(encoding="utf-8")


def test_the_commands_answer_programs_and_end_with_their_verdict(folder: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return result.exit_code, result.output

    fixture = Path(__file__).parents[1] / "data" / "openvla_parity.npz"
    code, output = run("checkpoint", "parity", fixture)
    assert (code, output.splitlines()[-1].split("=")[0]) == (0, "parity: max|d| ")
    code, output = run("checkpoint", "parity", fixture, "--pixel-phase", 7)
    assert code == 1
    assert run("checkpoint", "verify", folder)[0] == 0
    code, output = run("checkpoint", "verify", folder, "--statistics-key", "other", "--json")
    assert code == 1
    assert json.loads(output)["passed"] is False
    assert json.loads(run("checkpoint", "inspect", folder, "--tensors", "--json")[1])["shapes"]
    assert "act, bfloat16" in run("checkpoint", "inspect", folder, "--memory")[1]
    adapted = attach(tiny_model(tiny_tokenizer()), LoraOptions(rank=4), folder, seed=0)
    save_adapter(adapted, tmp_path / "adapter")
    assert run("checkpoint", "merge", tmp_path / "adapter", tmp_path / "merged")[0] == 0
    assert find_problems(tmp_path / "merged") == []
    assert run("checkpoint", "merge", tmp_path / "adapter", tmp_path / "merged")[0] != 0
    measured = json.loads(run("bench", "inference", "--policy", folder, "--runs", 10, "--json")[1])
    names = {"p50_ms", "p95_ms", "p99_ms", "tokens_per_s", "peak_mb", "speedup_vs_generate"}
    assert names <= set(measured)
    assert measured["p50_ms"] <= measured["p95_ms"] <= measured["p99_ms"]
