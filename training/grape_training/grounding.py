"""Words to places: losses that teach the decoder to look at the object that a word of the instruction names.

From the action loss alone the decoder needs far longer to find out that "carrot" means the orange patches
than to see them. So, in training only, one attention head of the first layer is told where to look from a
naming word, and the state of that word two layers on must tell where the object is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from grape_episodes import contract
from grape_policy.vla.model import OpenVla
from torch import Tensor

from grape_training.batches import CENTRE, SCALE, Batch

READ_LAYER = 2  # the naming word's state after this many layers holds the object's position
_SIGMA = 0.6  # width of the place to look at, in patches


def attention_loss(
    model: OpenVla, embedded: Tensor, positions: Tensor, words: Tensor, places: Tensor
) -> Tensor:
    """Return the cross-entropy of where the first head of the first layer looks from the naming words.

    embedded (B, S, D) decoder input; positions (B, S) ids; words (B, W) indices of naming words in the
    sequence; places (B, W, N) the share of attention each patch should get.
    """
    decoder = model.language_model.model
    layer = decoder.layers[0]
    width = decoder.config.hidden_size // decoder.config.num_attention_heads
    normed = layer.input_layernorm(embedded)
    cosine, sine = decoder.rotary_emb(embedded, positions)
    prefix = 1 + places.shape[2]
    rows = torch.arange(len(words))[:, None]
    keys = _rotate(
        (normed[:, :prefix] @ layer.self_attn.k_proj.weight[:width].T), cosine[:, :prefix], sine[:, :prefix]
    )
    queries = normed[rows, words] @ layer.self_attn.q_proj.weight[:width].T
    queries = _rotate(queries, cosine[rows, words], sine[rows, words])
    scores = queries @ keys.transpose(1, 2) / width**0.5
    return -(places * scores.log_softmax(-1)[..., 1:]).sum(-1).mean()


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Apply rotary position embedding as Llama does."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def read_out_loss(predicted: Tensor, batch: Batch) -> Tensor:
    """Return the loss of the named objects' positions (B, W, 3), read from the states of the naming words."""
    return F.smooth_l1_loss(predicted, named_objects(batch), beta=0.1)


def named_objects(batch: Batch) -> Tensor:
    """Return the position (B, W, 3) of the object each naming word stands for, in units of ``SCALE``."""
    rows = torch.arange(len(batch.objects))[:, None]
    return batch.objects[rows, batch.named.flatten(1)]


def places(batch: Batch, patches: int) -> Tensor:
    """Return a Gaussian over patches (B, W, N) around the image of each named object."""
    side = round(patches**0.5)
    whole = patch_coordinates(named_objects(batch) * SCALE + torch.from_numpy(CENTRE), side)
    window = batch.windows[:, None]
    pixels = (whole - side * window[..., :2]) / window[..., 2:]
    centres = torch.arange(side) + 0.5
    row = -0.5 * ((pixels[..., 1:] - centres) / _SIGMA) ** 2
    column = -0.5 * ((pixels[..., :1] - centres) / _SIGMA) ** 2
    return (row[..., :, None] + column[..., None, :]).flatten(2).softmax(-1)


def patch_coordinates(points: Tensor, side: int) -> Tensor:
    """Project points (..., 3) m of the base frame to column and row (..., 2) in patches of the crop."""
    camera = contract.camera()
    from_base = torch.from_numpy(camera.base_from_camera).float().inverse()
    seen = points @ from_base[:3, :3].T + from_base[:3, 3]
    image = seen @ torch.from_numpy(camera.intrinsics).float().T
    pixels = image[..., :2] / image[..., 2:]
    crop = min(camera.width, camera.height)
    margin = torch.tensor([(camera.width - crop) / 2, (camera.height - crop) / 2])
    return (pixels + 0.5 - margin) * side / crop
