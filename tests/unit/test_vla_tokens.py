"""Prompts, action tokens and statistics: the places where a small deviation ruins a policy silently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from grape_policy.vla.actions import ActionTokenizer
from grape_policy.vla.config import KNOWN_TOWERS, ConfigError, TextConfig, VlaConfig, small_config
from grape_policy.vla.statistics import ActionStatistics, StatisticsError, choose_statistics
from grape_policy.vla.tokenizer import VlaTokenizer
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from vla_factory import STATISTICS, tiny_config, tiny_tokenizer

OPENVLA = VlaConfig(tuple(KNOWN_TOWERS.values()), TextConfig())  # type: ignore[arg-type]
TOKENIZER = tiny_tokenizer()


def test_a_prompt_starts_with_bos_and_ends_with_the_empty_token() -> None:
    ids = TOKENIZER.prompt_ids("Put the carrot on the plate")
    assert (ids[0], ids[-1]) == (1, TOKENIZER.tokenizer.token_to_id("▁"))
    assert TOKENIZER.eos_id == 2
    assert TOKENIZER.eos_id not in ids
    text = TOKENIZER.tokenizer.decode(ids)
    assert text.rstrip() == "In: What action should the robot take to put the carrot on the plate?\nOut:"


def test_the_first_released_model_has_another_prompt() -> None:
    text = TOKENIZER.tokenizer.decode(VlaTokenizer(TOKENIZER.tokenizer, "vicuna").prompt_ids("put it in"))
    assert text.startswith("A chat between a curious user")
    assert text.rstrip().endswith("USER: What action should the robot take to put it in? ASSISTANT:")


def test_case_and_space_around_an_instruction_do_not_matter() -> None:
    assert TOKENIZER.prompt_ids("  PUT it In ") == TOKENIZER.prompt_ids("put it in")


def test_any_text_can_be_encoded_and_words_are_single_tokens() -> None:
    ids = TOKENIZER.prompt_ids("put the çarrot 🥕 on")
    assert TOKENIZER.tokenizer.token_to_id("<unk>") not in ids
    assert "çarrot 🥕" in TOKENIZER.tokenizer.decode(ids)
    assert TOKENIZER.tokenizer.token_to_id("▁carrot") in TOKENIZER.prompt_ids("put the carrot on the plate")


@pytest.mark.parametrize("instruction", ["", "   ", "x" * 401])
def test_useless_instructions_are_refused(instruction: str) -> None:
    with pytest.raises(ValueError, match="characters"):
        TOKENIZER.prompt_ids(instruction)


def test_a_tokenizer_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(TOKENIZER.to_json(), encoding="utf-8")
    assert VlaTokenizer.from_file(path).prompt_ids("put it in") == TOKENIZER.prompt_ids("put it in")
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        VlaTokenizer.from_file(path)


def test_action_ids_stand_before_the_vocabulary_padding() -> None:
    assert OPENVLA.vocabulary == 32000
    assert OPENVLA.action_ids == range(31744, 32000)
    config = tiny_config(TOKENIZER)
    assert config.text.vocab_size - config.vocabulary == 64
    assert config.vocabulary % 64 == 0
    assert config.action_ids.start >= len(TOKENIZER)


def test_known_actions_have_openvla_token_ids() -> None:
    actions = ActionTokenizer(OPENVLA)
    assert actions.encode(np.array([-1.0, 0.0, 1.0, -5.0, 5.0])).tolist() == [
        31999,
        31872,
        31744,
        31999,
        31744,
    ]
    decoded = actions.decode(np.array([31999, 31744, 31745]))
    assert decoded == pytest.approx([-1 + 1 / 255, 1 - 1 / 255, 1 - 1 / 255])
    with pytest.raises(ValueError, match="NaN"):
        actions.encode(np.array([np.nan]))


@given(arrays(np.float64, 7, elements=st.floats(-1, 1)))
def test_tokens_keep_an_action_to_half_a_bin(normalised: np.ndarray) -> None:
    actions = ActionTokenizer(OPENVLA)
    decoded = actions.decode(actions.encode(normalised))
    assert np.abs(decoded - normalised).max() <= 1 / 255 + 1e-12
    assert actions.encode(decoded).tolist() == [max(i, 31745) for i in actions.encode(normalised)]


@given(arrays(np.float64, 7, elements=st.floats(-0.5, 1.5)))
def test_normalising_is_undone_within_the_percentiles(actions: np.ndarray) -> None:
    low = np.where(STATISTICS.mask, STATISTICS.q01, -1.0)
    high = np.where(STATISTICS.mask, STATISTICS.q99, 1.0)
    back = STATISTICS.unnormalise(STATISTICS.normalise(actions))
    np.testing.assert_allclose(back, np.clip(actions, low, high), atol=1e-12)


def test_a_dimension_that_never_moved_stays_where_it_was() -> None:
    statistics = ActionStatistics.from_actions(np.tile([0.1, 0, 0, 0, 0, 0, 1.0], (5, 1)))
    normalised = statistics.normalise(np.array([0.1, 0, 0, 0, 0, 0, 1.0]))
    assert normalised.tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert statistics.unnormalise(normalised)[0] == pytest.approx(0.1)


def test_statistics_survive_their_file_and_are_chosen_by_key() -> None:
    again = ActionStatistics.from_dict(STATISTICS.to_dict(), "a")
    np.testing.assert_array_equal(again.q99, STATISTICS.q99)
    assert choose_statistics({"a": again}) is again
    assert choose_statistics({"a": again, "b": STATISTICS}, "b") is STATISTICS
    for key in (None, "c"):
        with pytest.raises(StatisticsError, match="'a', 'b'"):
            choose_statistics({"a": again, "b": STATISTICS}, key)


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"action": {"q01": [0] * 7}},
        {"action": {"q01": [0] * 6, "q99": [1] * 6}},
        {"action": {"q01": [0] * 7, "q99": [float("nan")] * 7}},
        {"action": {"q01": [1] * 7, "q99": [0] * 7}},
        {"action": {"q01": ["x"] * 7, "q99": [0] * 7}},
    ],
)
def test_malformed_statistics_are_refused(entry: dict) -> None:
    with pytest.raises(StatisticsError, match="'k'"):
        ActionStatistics.from_dict(entry, "k")


def test_the_published_config_gives_the_7b_sizes() -> None:
    document = {
        "timm_model_ids": ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"],
        "llm_backbone_id": "llama2-7b-pure",
        "text_config": {
            "model_type": "llama",
            "pad_token_id": 32000,
            "torch_dtype": "bfloat16",
            "vocab_size": 32064,
        },
        "n_action_bins": 256,
        "pad_to_multiple_of": 64,
        "norm_stats": {"bridge_orig": STATISTICS.to_dict()},
    }
    config = VlaConfig.from_dict(document)
    assert (config.patches, config.text.hidden_size, config.prompt_style) == (256, 4096, "openvla")
    assert [tower.executed_blocks for tower in config.towers] == [23, 26]
    assert VlaConfig.from_dict({**document, "llm_backbone_id": "vicuna-v15-7b"}).prompt_style == "vicuna"
    assert VlaConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"towers": []}, "two vision towers"),
        ({"text_config": None}, "text_config"),
        ({"timm_model_ids": ["resnet"], "towers": None}, "resnet"),
        ({"prompt_style": "chat"}, "prompt_style"),
        ({"text_config": {"vocab_size": 100}}, "vocab_size"),
    ],
)
def test_configs_that_describe_no_model_are_refused(change: dict, message: str) -> None:
    document = {
        key: value for key, value in {**small_config(300).to_dict(), **change}.items() if value is not None
    }
    if change.get("towers", True) is None:
        document.pop("towers", None)
    with pytest.raises(ConfigError, match=message):
        VlaConfig.from_dict(document)
