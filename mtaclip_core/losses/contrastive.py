"""Mask-to-text contrastive losses (METHOD `Contrastive loss`).

Letters: B batch, Q queries, Z contexts, C' classes with `none`. For a mask q of class y, k* is the context whose text
of class y is nearest, not differentiated.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Negatives = Literal["mix", "separate", "all_positive"]


def contrastive_loss(
    similarity: Tensor,
    classes: Tensor,
    negatives: Negatives,
    *,
    scale: Tensor | float = 1.0,
    no_object: float = 0.1,
    normaliser: Tensor | None = None,
) -> Tensor:
    """Weighted mean over all masks of the loss of each.

    Args:
        similarity: (B, Q, Z, C') cosines s; the last class is `none`.
        classes: (B, Q) int64 matched class y of every mask, C'-1 where unmatched.
        negatives: `mix`: -log(e^s[k*,y] / sum over all z, c); `separate`: other contexts of y leave the denominator;
            `all_positive`: mean over z of -log softmax with every context of y a positive.
        scale: inverse temperature, 1 is the release.
        no_object: weight of unmatched masks; matched ones have 1.
        normaliser: divides in place of `sum_q w`, where these masks are a part of the step's.

    Returns:
        Scalar, `sum_q w L_q / sum_q w`.
    """
    logits = similarity.float() * scale
    z, c = logits.shape[2:]
    index = classes[..., None, None].expand(-1, -1, z, 1)
    own = logits.gather(3, index).squeeze(3)  # (B, Q, Z): every context's text of the mask's class
    best = own.detach().argmax(-1, keepdim=True)
    positive = own.gather(2, best).squeeze(2)
    everything = logits.flatten(2).logsumexp(-1)
    if negatives == "mix":
        loss = everything - positive
    elif negatives == "separate":
        others = logits.masked_fill(_one_hot(classes, c).unsqueeze(2), -torch.inf).flatten(2)
        loss = torch.cat([positive.unsqueeze(-1), others], -1).logsumexp(-1) - positive
    else:
        loss = everything - own.mean(-1)
    weight = torch.where(classes == c - 1, no_object, 1.0)
    return (loss * weight).sum() / (weight.sum() if normaliser is None else normaliser)


def orthogonality(text: Tensor) -> Tensor:
    """MVP-SEG's constraint on the contexts: `1/(Z(Z-1)) sum_{i != j} mean_c |cos(t_ic, t_jc)|`.

    Args:
        text: T (Z, C', E), Z >= 2.

    Returns:
        Scalar in 0..1: 0 where the texts of every class are orthogonal over the contexts, 1 where they are equal.
    """
    contexts = text.shape[0]
    unit = F.normalize(text.float(), dim=-1)
    cosine = torch.einsum("ice,jce->ijc", unit, unit).abs().mean(-1)
    return (cosine.sum() - cosine.diagonal().sum()) / (contexts * (contexts - 1))


def _one_hot(classes: Tensor, count: int) -> Tensor:
    return classes.unsqueeze(-1) == torch.arange(count, device=classes.device)
