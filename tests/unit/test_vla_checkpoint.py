"""Checkpoint folders and adapters: what is written is read again, what is wrong is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from grape_policy.vla.checkpoint import load_checkpoint, save_checkpoint
from grape_policy.vla.errors import CheckpointError
from grape_policy.vla.inference import VlaPolicy
from grape_policy.vla.preprocess import Preprocessor
from grape_policy.vla.runtime import Runtime
from safetensors.torch import load_file, save_file
from vla_factory import STATISTICS, random_images, tiny_checkpoint, tiny_model, tiny_tokenizer

LM_HEAD = "language_model.lm_head.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_checkpoint(folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def problems(folder: Path, **options: object) -> list[str]:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, **options)  # type: ignore[arg-type]
    return caught.value.problems


def test_round_trip_keeps_weights_and_version(original: Path) -> None:
    checkpoint = load_checkpoint(original)
    expected = tiny_model(tiny_tokenizer()).state_dict()
    loaded = checkpoint.model.state_dict()
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
    assert not checkpoint.model.training
    assert checkpoint.version.startswith("tiny-")
    assert (
        load_checkpoint(original, runtime=Runtime(precision="bfloat16")).model.projector.fc1.weight.dtype
        == torch.bfloat16
    )


def test_version_follows_the_content(original: Path, folder: Path, tmp_path: Path) -> None:
    version = load_checkpoint(original).version
    (folder / "MANIFEST.json").write_text("{}")
    assert load_checkpoint(folder).version == version
    assert tiny_checkpoint(tmp_path / "again") == version
    assert tiny_checkpoint(tmp_path / "other", seed=1) != version


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer)
    entries = {"grape_sim": STATISTICS}
    save_checkpoint(tmp_path / "s", model, tokenizer, entries, Preprocessor(32), max_shard_size="300KB")
    assert len(list((tmp_path / "s").glob("model-*.safetensors"))) > 2
    assert torch.equal(
        load_checkpoint(tmp_path / "s").model.state_dict()[LM_HEAD], model.state_dict()[LM_HEAD]
    )
    index = tmp_path / "s" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace('"model-00001', '"../model-00001'))
    assert any("no safetensors file of this folder" in line for line in problems(tmp_path / "s"))


def test_published_tensors_that_never_run_may_be_there(folder: Path) -> None:
    unused = {
        "vision_backbone.featurizer.blocks.2.attn.qkv.weight": torch.zeros(2, 2),
        "vision_backbone.featurizer.norm.weight": torch.zeros(2),
        "vision_backbone.fused_featurizer.attn_pool.latent": torch.zeros(1, 1, 2),
    }
    change_weights(folder, lambda tensors: tensors.update(unused))
    load_checkpoint(folder)


def test_everything_wrong_with_the_weights_is_listed(folder: Path) -> None:
    def damage(tensors: dict[str, torch.Tensor]) -> None:
        tensors["surprise"] = torch.zeros(1)
        tensors["projector.fc1.bias"] = torch.zeros(3)
        tensors["projector.fc2.bias"] = torch.zeros(64, dtype=torch.int64)
        del tensors[LM_HEAD]

    change_weights(folder, damage)
    (folder / "optimizer.pt").write_bytes(b"x")
    found = problems(folder)
    assert len(found) == 5
    for part in (
        "pickled file optimizer.pt",
        "extra: surprise",
        "projector.fc1.bias is",
        "fc2.bias is",
        LM_HEAD,
    ):
        assert any(part in line for line in found), part


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    change_weights(folder, lambda tensors: tensors[LM_HEAD][3].fill_(value))
    assert problems(folder) == [f"NaN or infinity: {LM_HEAD}"]


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "dataset_statistics.json",
        "preprocessor_config.json",
    ],
)
def test_missing_and_damaged_files_are_named(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    assert any(name in line for line in problems(folder))
    (folder / name).unlink()
    assert any(name in line for line in problems(folder))


def test_statistics_may_stand_in_the_config_and_the_key_must_exist(folder: Path) -> None:
    (folder / "dataset_statistics.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    config["norm_stats"] = {"bridge_orig": STATISTICS.to_dict()}
    (folder / "config.json").write_text(json.dumps(config))
    assert set(load_checkpoint(folder).statistics) == {"bridge_orig"}
    with pytest.raises(CheckpointError, match="bridge_orig"):
        VlaPolicy.from_checkpoint(folder, statistics_key="libero")


def test_a_failed_save_leaves_the_old_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_checkpoint(folder).version

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("grape_policy.vla.checkpoint.save_torch_state_dict", fail)
    with pytest.raises(OSError, match="no space"):
        tiny_checkpoint(folder, seed=1)
    assert load_checkpoint(folder).version == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
ALL_LINEAR += [
    "fc1",
    "fc2",
    "fc3",
    "qkv",
    "proj",
]  # as the published adapters; "proj" includes the patch embedding


def adapted(folder: Path) -> peft.PeftModel:
    model = peft.get_peft_model(
        load_checkpoint(folder).model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=ALL_LINEAR)
    )
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture
def adapter(original: Path, tmp_path: Path) -> Path:
    model = adapted(original)
    model.peft_config["default"].base_model_name_or_path = str(original)
    model.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=False)
    return tmp_path / "adapter"


def test_merging_equals_peft(original: Path, adapter: Path) -> None:
    expected = adapted(original).merge_and_unload().state_dict()
    merged = load_checkpoint(original, adapter)
    for name, tensor in merged.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)
    plain = load_checkpoint(original)
    changed = [
        n for n, t in plain.model.state_dict().items() if not torch.equal(t, merged.model.state_dict()[n])
    ]
    assert "vision_backbone.featurizer.patch_embed.proj.weight" in changed
    assert LM_HEAD in changed
    assert merged.version != plain.version


def test_an_adapter_folder_alone_finds_its_base(original: Path, adapter: Path) -> None:
    images, tasks = random_images(2), ["put it in"] * 2
    alone = VlaPolicy.from_checkpoint(adapter).act(images, tasks)
    both = VlaPolicy.from_checkpoint(original, adapter).act(images, tasks)
    assert (alone.token_ids == both.token_ids).all()


def test_merged_checkpoint_is_written_and_read(original: Path, adapter: Path, tmp_path: Path) -> None:
    merged = load_checkpoint(original, adapter)
    save_checkpoint(tmp_path / "m", merged.model, merged.tokenizer, merged.statistics, merged.preprocessor)
    again = load_checkpoint(tmp_path / "m").model.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in merged.model.state_dict().items())


def test_damaged_adapters_are_refused(original: Path, adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    good = dict(tensors)
    prefix = "base_model.model."
    tensors[f"{prefix}projector.fc1.lora_A.weight"] = torch.zeros(4, 3)
    tensors[f"{prefix}projector.fc2.lora_B.weight"].fill_(float("nan"))
    tensors[f"{prefix}nowhere.lora_A.weight"] = torch.zeros(4, 3)
    tensors["strange"] = torch.zeros(1)
    save_file(tensors, weights)
    found = problems(original, adapter=adapter)
    for part in ("projector.fc1.weight", "NaN or infinity: projector.fc2", "no nowhere.weight", "strange"):
        assert any(part in line for line in found), part
    save_file(good, weights)
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    assert problems(original, adapter=adapter) == ["adapter_config.json: use_dora is not supported"]
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "gone"}))
    assert "'gone'" in problems(adapter)[0]


def test_an_incomplete_pair_of_factors_is_refused(original: Path, adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    del tensors["base_model.model.projector.fc1.lora_B.weight"]
    save_file(tensors, weights)
    assert any("projector.fc1.weight" in line for line in problems(original, adapter=adapter))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_graphics_card_is_named() -> None:
    with pytest.raises(ValueError, match="no usable CUDA"):
        Runtime("cuda")


def test_unknown_devices_and_precisions_are_named() -> None:
    with pytest.raises(ValueError, match=r"precision 'int3'.*bfloat16"):
        Runtime(precision="int3")
    with pytest.raises(ValueError, match=r"device 'gpu'.*cuda"):
        Runtime("gpu")


def test_half_precision_policies_act(original: Path) -> None:
    for precision in ("bfloat16", "float16"):
        policy = VlaPolicy.from_checkpoint(original, runtime=Runtime(precision=precision))
        batch = policy.act(random_images(2), ["put it in"] * 2)
        assert batch.log_probabilities.dtype == "float32"


def test_a_4_bit_policy_keeps_its_blocks_in_an_eighth_of_float32(original: Path, tmp_path: Path) -> None:
    whole = VlaPolicy.from_checkpoint(original)
    policy = VlaPolicy.from_checkpoint(original, runtime=Runtime(precision="4bit"))
    sizes = [
        sum(
            p.numel() * p.element_size()
            for p in loaded.checkpoint.model.language_model.model.layers.parameters()
        )
        for loaded in (whole, policy)
    ]
    assert sizes[1] < sizes[0] / 7
    images, tasks = random_images(2), ["put it in"] * 2
    states = [
        loaded.checkpoint.model.forward_features(
            loaded.checkpoint.preprocessor(images).to(loaded.checkpoint.model.projector.fc1.weight.dtype),
            loaded.prompt_ids(tasks),
            torch.full((2, 7), loaded.checkpoint.config.action_ids.start),
        )[1].float()
        for loaded in (whole, policy)
    ]
    assert torch.nn.functional.cosine_similarity(*states, dim=-1).min() > 0.95
    acted, again = policy.act(images, tasks), policy.act(images, tasks)
    assert (acted.token_ids == again.token_ids).all()
    parts = policy.checkpoint
    with pytest.raises(ValueError, match="4-bit model is for acting only"):
        save_checkpoint(
            tmp_path / "saved", parts.model, parts.tokenizer, parts.statistics, parts.preprocessor
        )
    assert not (tmp_path / "saved").exists()


def test_rows_that_are_no_whole_blocks_stay_at_16_bits() -> None:
    shipped = Path(__file__).parents[2] / "checkpoints" / "grape-small"  # 352 inputs of the MLP's last layer
    policy = VlaPolicy.from_checkpoint(shipped, runtime=Runtime(precision="4bit"))
    mlp = policy.checkpoint.model.language_model.model.layers[0].mlp
    assert mlp.down_proj.weight.dtype == torch.bfloat16
    assert mlp.up_proj.weight.dtype == torch.uint8
    assert policy.act(random_images(1), ["put it in"]).token_ids.shape == (1, 7)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++")
def test_a_compiled_policy_acts_like_the_plain_one(original: Path) -> None:
    images, tasks = random_images(1), ["put it in"]
    plain = VlaPolicy.from_checkpoint(original).act(images, tasks)
    compiled = VlaPolicy.from_checkpoint(original, runtime=Runtime(compile=True)).act(images, tasks)
    assert (plain.token_ids == compiled.token_ids).all()
    assert abs(plain.log_probabilities - compiled.log_probabilities).max() < 1e-4
