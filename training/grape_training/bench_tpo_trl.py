"""TRL's DPOTrainer on whole trajectories: the peer of ``grape bench tpo`` and an independent gradient oracle.

TRL knows rows of text. Here a row is a trajectory: one token that names it, then the action tokens of all its
steps. The model below turns the row back into images, prompts and tokens, and hands TRL a log-probability per
token; the loss, the reference by switching the adapter off and the backward pass are TRL's own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from grape_policy.vla.checkpoint import Checkpoint
from grape_policy.vla.scoring import action_log_probabilities
from peft import LoraConfig
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from grape_training.tpo_data import Rollout, RolloutPair
from grape_training.tpo_options import LoraOptions

TOKENS = 7


class PackedVla(PreTrainedModel):
    """A VLA that reads rows of packed trajectories: ids (B, 1 + 7 T), the first names the rollout."""

    config_class = PreTrainedConfig
    supports_gradient_checkpointing = False

    def __init__(self, checkpoint: Checkpoint, rollouts: Sequence[Rollout]) -> None:
        super().__init__(PreTrainedConfig())
        self.generation_config = GenerationConfig()
        self.vla = checkpoint.model
        self._preprocessor, self._rollouts = checkpoint.preprocessor, rollouts

    def get_output_embeddings(self) -> nn.Module:
        """Return the decoder's head; TRL asks for it."""
        head: nn.Module = self.vla.language_model.lm_head
        return head

    def packed(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> SimpleNamespace:
        """Return what TRL's fused head returns: log-probabilities (B, L - 1), zero at padding."""
        counts = ((attention_mask.sum(1) - 1) // TOKENS).tolist()
        rollouts = [self._rollouts[int(row[0])] for row in input_ids]
        images = torch.cat([torch.from_numpy(rollout.images) for rollout in rollouts])
        tokens = torch.cat(
            [row[1 : 1 + TOKENS * n].view(n, TOKENS) for row, n in zip(input_ids, counts, strict=True)]
        )
        prompts = [rollout.prompt_ids for rollout, n in zip(rollouts, counts, strict=True) for _ in range(n)]
        steps = action_log_probabilities(self.vla, self._preprocessor.normalise(images), prompts, tokens)
        parts = [part.flatten() for part in steps.split(counts)]
        rows = nn.utils.rnn.pad_sequence(parts, batch_first=True)
        zero = torch.zeros_like(rows)  # of TRL's further curves, which then cost it nothing here
        return SimpleNamespace(log_probs=rows, entropy=zero, mean_logits=zero, is_top1=zero.bool())


class PackedTrainer(DPOTrainer):
    """TRL's trainer on a data set that is tokenised already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset


class TrlPeer:
    """TRL's trainer with one pair of trajectories; ``precomputed`` caches the reference as TRL can."""

    def __init__(
        self, checkpoint: Checkpoint, pair: RolloutPair, lora: LoraOptions, beta: float, precomputed: bool
    ) -> None:
        rollouts = (pair.chosen, pair.rejected)
        ids = [rollout.token_ids.flatten().tolist() for rollout in rollouts]
        rows = {
            "prompt_ids": [[0]],
            "chosen_ids": [ids[0]],
            "rejected_ids": [ids[1]],
        }
        model = PackedVla(checkpoint, rollouts)
        with tempfile.TemporaryDirectory() as folder:
            self.trainer = PackedTrainer(
                model,
                args=_arguments(folder, beta),
                train_dataset=Dataset.from_dict(rows),
                processing_class=_tokenizer(checkpoint, Path(folder)),
                peft_config=LoraConfig(
                    r=lora.rank, lora_alpha=lora.alpha, target_modules=rf"vla\.({lora.targets})"
                ),
            )
        model.forward = model.packed
        adapted: Any = self.trainer.model
        self.model = adapted.eval()
        self.batch = self.trainer.data_collator([{name: column[0] for name, column in rows.items()}])
        self.batch["input_ids"][:, 0] = torch.tensor([0, 1])
        self.trainer.precompute_ref_logps = precomputed
        if precomputed:
            values = self.trainer.compute_ref_log_probs(self.model, self.batch)
            self.batch["ref_chosen_logps"], self.batch["ref_rejected_logps"] = values

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters, under the names that our own adapter gives them."""
        named = sorted(self.model.named_parameters())
        return {name.replace(".vla.", "."): value for name, value in named if value.requires_grad}

    def add_gradient(self) -> float:
        """Back-propagate TRL's loss on the pair; return the loss."""
        loss = self.trainer.compute_loss(self.model, self.batch)
        loss.backward()
        return float(loss.detach())


def _arguments(folder: str, beta: float) -> DPOConfig:
    return DPOConfig(
        folder,
        beta=beta,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        max_length=None,
        report_to=[],
    )


def _tokenizer(checkpoint: Checkpoint, folder: Path) -> PreTrainedTokenizerFast:
    """Return any tokeniser: TRL wants one, but the rows are tokenised already."""
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer.to_json(), encoding="utf-8")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(checkpoint.config.text.eos_token_id)
    return tokenizer
