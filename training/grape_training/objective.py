"""The training objective: action tokens (OpenVLA's loss) and auxiliary position losses.

They teach the towers to see and the decoder to look: the auxiliary heads stand where DINOv2 and SigLIP
pre-training stands in OpenVLA. They are thrown away: the shipped model has none of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from grape_policy.vla.config import VlaConfig
from grape_policy.vla.model import OpenVla
from torch import Tensor, nn

from grape_training.batches import SCALE, Batch
from grape_training.frames import CLASSES, GRIPPER, UNKNOWN_CLASS
from grape_training.grounding import READ_LAYER, attention_loss, places, read_out_loss

NEAR = 0.05  # m, horizontally


@dataclass(frozen=True)
class LossOptions:
    """Weights of the losses.

    ``bin_sigma``: width of the soft targets in bins, 0 gives OpenVLA's hard ones. ``near_weight``: of
    action tokens where the gripper is within ``NEAR`` of the source or holds it, because precision counts
    there.
    """

    bin_sigma: float = 2.0
    patch_weight: float = 1.0
    geometry_weight: float = 1.0
    grounding_weight: float = 1.0
    near_weight: float = 3.0


class AuxiliaryHeads(nn.Module):
    """Linear read-outs: what and where from each patch, displacements from the prompt's end."""

    def __init__(self, config: VlaConfig) -> None:
        super().__init__()
        self.patch = nn.Linear(sum(tower.width for tower in config.towers), CLASSES + 3)
        self.word = nn.Linear(config.text.hidden_size, 3)
        self.geometry = nn.Linear(config.text.hidden_size, 9 + 1)


@dataclass(frozen=True)
class Forward:
    """What one pass gives.

    features (B, N, C) of the towers; attention: the loss of where naming words look; words (B, 2 K, D):
    their states after ``READ_LAYER`` layers; states (B, K, T, D) that predict the tokens; logits (B, K, T,
    V).
    """

    features: Tensor
    attention: Tensor
    words: Tensor
    states: Tensor
    logits: Tensor


def packed_forward(model: OpenVla, batch: Batch) -> Forward:
    """Run B frames with K prompts each in B sequences: BOS, patches, then prompts blind to each other.

    Position ids start anew behind the patches for each prompt, so that every prompt gives what it gives
    alone.
    """
    features = model.patch_features(batch.pixels)
    count, prompts, length = batch.ids.shape
    bos = torch.full((count, 1), batch.bos)
    embedded = model.embed(torch.cat([bos, batch.ids.flatten(1)], dim=1), model.project(features))
    prefix = 1 + features.shape[1]
    mask, positions = _packing(prefix, prompts, length)
    positions = positions.expand(count, -1)
    output = model.language_model.model(
        inputs_embeds=embedded,
        attention_mask=mask.expand(count, 1, -1, -1),
        position_ids=positions,
        use_cache=False,
        output_hidden_states=True,
    )
    steps = torch.arange(batch.tokens.shape[2])
    begins = prefix + torch.arange(prompts) * length
    rows = torch.arange(count)
    states = output.last_hidden_state[rows[:, None, None], (begins + batch.lengths - 1)[..., None] + steps]
    words = (begins[:, None] + batch.words).flatten(1)
    attention = attention_loss(model, embedded, positions, words, places(batch, features.shape[1]))
    named = output.hidden_states[READ_LAYER][rows[:, None], words]
    return Forward(features, attention, named, states, model.language_model.lm_head(states))


def _packing(prefix: int, prompts: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the additive attention mask (1, 1, S, S) and the position ids (1, S) of a packed sequence."""
    group = torch.cat(
        [torch.zeros(prefix, dtype=torch.long), torch.arange(prompts).repeat_interleave(length) + 1]
    )
    visible = torch.ones(len(group), len(group), dtype=torch.bool).tril()
    visible &= (group[None, :] == 0) | (group[None, :] == group[:, None])
    mask = torch.zeros(visible.shape).masked_fill(~visible, torch.finfo(torch.float32).min)
    positions = torch.cat([torch.arange(prefix), (prefix + torch.arange(length)).repeat(prompts)])
    return mask[None, None], positions[None]


def losses(
    forward: Forward, heads: AuxiliaryHeads, batch: Batch, config: VlaConfig, options: LossOptions
) -> dict[str, Tensor]:
    """Return the total loss under ``total`` and its parts for the curve; all are scalars."""
    weights = near_weights(batch, options.near_weight)
    parts = token_losses(forward.logits, batch, config, options.bin_sigma, weights)
    parts |= patch_losses(heads.patch(forward.features), batch)
    parts |= geometry_losses(heads.geometry(forward.states[:, :, 0]), batch)
    parts |= {"attention": forward.attention, "words": read_out_loss(heads.word(forward.words), batch)}
    parts["total"] = (
        parts["tokens"]
        + options.patch_weight * (parts["patch_class"] + parts["patch_position"])
        + options.geometry_weight * (parts["geometry"] + 0.1 * parts["held"])
        + options.grounding_weight * (0.1 * parts["attention"] + parts["words"])
    )
    return parts


def near_weights(batch: Batch, weight: float) -> Tensor:
    """Return a weight (B, K) per prompt, mean 1: higher where the gripper is near the source, or holds it."""
    distance = batch.geometry[..., 3:5].norm(dim=-1) * SCALE
    weights = torch.where((distance < NEAR) | (batch.held > 0), weight, 1.0)
    return weights / weights.mean()


def token_losses(
    logits: Tensor, batch: Batch, config: VlaConfig, sigma: float, weights: Tensor
) -> dict[str, Tensor]:
    """Return the mean cross-entropy over the 7 action tokens and the end token, and the token accuracy.

    With ``sigma`` > 0 an action token's target is a Gaussian over neighbouring bins; its entropy is taken
    off, so that a perfect model has loss 0.
    """
    log_p = logits.log_softmax(dim=-1)
    if sigma > 0:
        ids = config.action_ids
        bins = log_p[..., :7, ids.start : ids.stop].flip(-1)  # lowest bin first
        target = soft_targets(batch.values, config.n_action_bins, sigma)
        action = (torch.xlogy(target, target) - target * bins).sum(-1)
        end = -log_p[..., 7, config.text.eos_token_id]
        tokens = (action.sum(-1) + end) / 8
    else:
        tokens = -log_p.gather(-1, batch.tokens[..., None]).squeeze(-1).mean(-1)
    accuracy = (logits.argmax(-1) == batch.tokens).float().mean()
    return {"tokens": (tokens * weights).mean(), "accuracy": accuracy}


def soft_targets(values: Tensor, n_bins: int, sigma: float) -> Tensor:
    """Return a Gaussian of ``sigma`` bins around ``values`` (...) in [-1, 1] over ``n_bins`` bins.

    There are ``n_bins`` - 1 centres: the last bin is hit by the value 1 alone (as in OpenVLA) and gets
    nothing here.
    """
    width = 2.0 / (n_bins - 1)
    centres = -1.0 + width * (torch.arange(n_bins - 1) + 0.5)
    weights = torch.exp(-0.5 * ((centres - values[..., None]) / (sigma * width)) ** 2)
    return F.pad(weights / weights.sum(-1, keepdim=True), (0, 1))


def patch_losses(predicted: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Return the class loss per patch (shares of each class as target) and the position loss on objects.

    ``predicted`` is (B, N, CLASSES + 3): class logits, and the position of the object (or gripper) that
    fills most of the patch, in units of ``SCALE``. Frames without pixel classes give zero.
    """
    shares = patch_shares(batch.classes, predicted.shape[1])
    known = shares.sum(-1) > 0
    if not known.any():
        zero = predicted.sum() * 0
        return {"patch_class": zero, "patch_position": zero}
    log_p = predicted[..., :CLASSES].log_softmax(-1)
    class_loss = (torch.xlogy(shares, shares) - shares * log_p).sum(-1)[known].mean()
    strongest = shares[..., GRIPPER:].argmax(-1)
    present = shares[..., GRIPPER:].gather(-1, strongest[..., None]).squeeze(-1) > 0.2
    things = torch.cat([batch.gripper[:, None], batch.objects], dim=1)  # row = class - GRIPPER
    wanted = things[torch.arange(len(things))[:, None], strongest]
    error = F.smooth_l1_loss(predicted[..., CLASSES:], wanted.nan_to_num(), reduction="none", beta=0.1).mean(
        -1
    )
    return {
        "patch_class": class_loss,
        "patch_position": error[present].mean() if present.any() else error.sum() * 0,
    }


def patch_shares(classes: Tensor, patches: int) -> Tensor:
    """Return the share of each class in each patch (B, N, CLASSES) from classes (B, G, G); 0 if unknown."""
    side = round(patches**0.5)
    one_hot = F.one_hot(classes.clamp(max=CLASSES), CLASSES + 1)[..., :CLASSES].float()
    one_hot = one_hot * (classes != UNKNOWN_CLASS)[..., None]
    return F.adaptive_avg_pool2d(one_hot.permute(0, 3, 1, 2), side).flatten(2).transpose(1, 2)


def geometry_losses(predicted: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Return the loss of gripper position and commanded displacements, of "held", and the errors."""
    error = F.smooth_l1_loss(predicted[..., :9], batch.geometry, beta=0.1)
    held = F.binary_cross_entropy_with_logits(predicted[..., 9], batch.held)
    distance = (predicted[..., 3:9] - batch.geometry[..., 3:9]).detach().unflatten(-1, (2, 3)).norm(dim=-1)
    return {
        "geometry": error,
        "held": held,
        "source_error": distance[..., 0].mean(),
        "target_error": distance[..., 1].mean(),
    }
