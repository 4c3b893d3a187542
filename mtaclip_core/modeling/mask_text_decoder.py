"""The Mask-Text Decoder: mask queries and class texts travel together through masked-attention layers (METHOD 6-12)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtaclip_core.modeling.pixel_features import PixelFeatures
from mtaclip_core.modeling.position_embedding import sine_position_embedding

GAMMA_INIT = 1e-4
CLASSIFIER_SCALE = 1 / 0.07
"""What cosines are multiplied with at first where they classify; learned from there."""

Classifier = Literal["linear", "similarity", "product"]


@dataclass  # not frozen: Fabric rebuilds it in float32 under mixed precision
class LayerPrediction:
    """What is predicted after one decoder layer. B batch, Q queries, C classes, C'=C+1, Z contexts, D width.

    Attributes:
        class_logits: (B, Q, C+1), the last one "no object"; from the decoder's `classifier`.
        mask_embed: (B, Q, D); its product with the mask features (B, D, h, w) gives the mask logits.
        text_mask_embed: (B, Z, C', D), the same for the text tokens; empty where they were dropped.
        similarity: (B, Q, Z, C') cosine of every mask with every class text; empty where it was not wanted.
    """

    class_logits: Tensor
    mask_embed: Tensor
    text_mask_embed: Tensor
    similarity: Tensor


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with separate projections; position embeddings are added by the caller."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, x.shape[-1] // self.heads)).transpose(1, 2)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, N, D), (B, M, D), (B, M, D), bool (B, N, M) or None -> (B, N, D)."""
        q, k, v = self._split(self.query(query)), self._split(self.key(key)), self._split(self.value(value))
        mask = None if allowed is None else allowed.unsqueeze(1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(out.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention over all tokens, feed-forward; each followed by LayerNorm."""

    def __init__(self, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        self.cross_attention = MultiheadAttention(width, heads)
        self.cross_norm = nn.LayerNorm(width)
        self.self_attention = MultiheadAttention(width, heads)
        self.self_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(nn.Linear(width, feedforward), nn.ReLU(), nn.Linear(feedforward, width))
        self.feedforward_norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, position: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
        """tokens, position (B, N, D); keys, values (B, M, D); allowed bool (B, N, M) -> (B, N, D)."""
        tokens = self.cross_norm(tokens + self.cross_attention(tokens + position, keys, values, allowed))
        placed = tokens + position
        tokens = self.self_norm(tokens + self.self_attention(placed, placed, tokens))
        return self.feedforward_norm(tokens + self.feedforward(tokens))


class MaskTextDecoder(nn.Module):
    """Q mask queries and the Z x C' class texts, refined together by masked attention.

    Without contexts it is the decoder of Mask2Former: queries alone, which enter the first layer as they are.

    Args:
        classes: C, without "no object".
        contexts: Z; 0: no texts.
        text_width: E, width of the text table.
        queries, width, layers, heads, feedforward: Q, D and the shape of the layers.
        classifier: where class logits come from: "linear", a head on the mask queries; "similarity", the cosine of
            the mask with the nearest context of each class, times a learned scale; "product", of both probabilities.

    Attributes:
        with_similarity: whether training wants the similarity; without, it is computed for the classifier alone.
    """

    def __init__(
        self,
        *,
        classes: int,
        contexts: int,
        text_width: int,
        queries: int = 100,
        width: int = 256,
        layers: int = 9,
        heads: int = 8,
        feedforward: int = 2048,
        classifier: Classifier = "linear",
    ) -> None:
        super().__init__()
        if classifier != "linear" and not contexts:
            raise ValueError(f"classifier {classifier} needs texts")
        self.classifier = classifier
        self.with_similarity = True
        self.queries, self.contexts, self.classes = queries, contexts, classes
        tokens = queries + contexts * (classes + 1)
        self.query_features = nn.Parameter(torch.randn(queries, width))
        self.position = nn.Parameter(torch.randn(tokens, width))
        self.level_embed = nn.Parameter(torch.randn(3, width))
        if contexts:
            self.reduce_text = nn.Linear(text_width, width)
            self.input_norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, feedforward) for _ in range(layers))

        self.output_norm = nn.LayerNorm(width)
        if classifier != "similarity":
            self.class_head = nn.Linear(width, classes + 1)
        if classifier != "linear":
            self.classifier_scale = nn.Parameter(torch.tensor(math.log(CLASSIFIER_SCALE)))
        self.mask_head = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )
        if contexts:
            self.expand_text = nn.Linear(width, text_width)
            self.expand_text_norm = nn.LayerNorm(text_width)
            self.gamma = nn.Parameter(torch.full((text_width,), GAMMA_INIT))
            self.expand_mask = nn.Linear(width, text_width)

    def initial_tokens(self, text: Tensor) -> Tensor:
        """Text table (Z, C', E) -> the N tokens (N, D) before the first layer; the same for every image."""
        if not self.contexts:
            return self.query_features
        return self.input_norm(torch.cat([self.query_features, self.reduce_text(text.flatten(0, 1))]))

    def forward(
        self, pixels: PixelFeatures, text: Tensor | None, tokens: Tensor | None = None, *, last_only: bool = False
    ) -> list[LayerPrediction]:
        """Decode one batch.

        Args:
            pixels: mask features (B, D, h, w) and three levels, strides 32, 16, 8.
            text: T (Z, C', E); None only with `last_only` and the linear classifier, which need no similarity.
            tokens: `initial_tokens(text)` where the caller has it folded, (N, D); its first Q rows alone drop the text
                tokens, which needs `last_only`.
            last_only: predict after the last layer only (test time).

        Returns:
            One prediction per layer (the one before the first layer only makes the first attention mask).
        """
        if tokens is None:
            assert text is not None, "give the text table or the folded tokens"
            tokens = self.initial_tokens(text)
        x = tokens.expand(pixels.mask_features.shape[0], -1, -1)
        position = self.position[: tokens.shape[0]].unsqueeze(0)
        keys, values, small = self._memory(pixels)
        predictions = []
        for i, layer in enumerate(self.layers):
            level = i % len(keys)
            allowed = self._attention_mask(self.mask_head(self.output_norm(x)), small[level])
            x = layer(x, position, keys[level], values[level], allowed)
            if not last_only:
                predictions.append(self._predict(x, text))
        return [self._predict(x, None if self.classifier == "linear" else text)] if last_only else predictions

    def _memory(self, pixels: PixelFeatures) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
        """Keys and values (B, M, D) of each level, and the mask features resized to it, (B, D, M).

        Bilinear resizing and the product with the mask embeddings commute, so that resizing the features once a
        level replaces resizing N masks in every layer (METHOD, exact speed-ups).
        """
        keys, values, small = [], [], []
        for level, feature in enumerate(pixels.levels):
            value = feature.flatten(2).transpose(1, 2) + self.level_embed[level]
            place = sine_position_embedding(feature.shape[-2:], feature.shape[1], feature.device, value.dtype)
            keys.append(value + place.flatten(1).transpose(0, 1))
            values.append(value)
            resized = F.interpolate(
                pixels.mask_features.detach().float(), size=feature.shape[-2:], mode="bilinear", align_corners=False
            )
            small.append(resized.flatten(2))
        return keys, values, small

    @staticmethod
    def _attention_mask(mask_embed: Tensor, small: Tensor) -> Tensor:
        """Where each token may look: sigmoid(mask) >= 0.5; a token blocked everywhere looks everywhere.

        (B, N, D) x (B, D, M) -> bool (B, N, M), detached.
        """
        with torch.no_grad(), torch.autocast(small.device.type, enabled=False):
            inside = (mask_embed.detach().float() @ small) >= 0
            return inside | ~inside.any(dim=-1, keepdim=True)

    def _predict(self, x: Tensor, text: Tensor | None) -> LayerPrediction:
        """Heads after the shared norm; class and similarity from the first Q tokens, text masks from the rest."""
        y = self.output_norm(x)
        masks, texts = y[:, : self.queries], y[:, self.queries :]
        embed = self.mask_head(y)
        shape = (self.contexts, self.classes + 1)
        similarity = x.new_empty(0)
        if text is not None and self.contexts and (self.with_similarity or self.classifier != "linear"):
            similarity = self._similarity(masks, texts.unflatten(1, shape), text)
        return LayerPrediction(
            class_logits=self._classify(masks, similarity),
            mask_embed=embed[:, : self.queries],
            text_mask_embed=embed[:, self.queries :].unflatten(1, shape) if texts.shape[1] else embed.new_empty(0),
            similarity=similarity,
        )

    def _classify(self, masks: Tensor, similarity: Tensor) -> Tensor:
        """Logits (B, Q, C+1); those of a product of probabilities are a sum."""
        if self.classifier == "linear":
            return self.class_head(masks)
        cosine = similarity.amax(2) * self.classifier_scale.exp()
        return cosine if self.classifier == "similarity" else self.class_head(masks) + cosine

    def _similarity(self, masks: Tensor, texts: Tensor, text: Tensor) -> Tensor:
        """s[q, z, c] = cos(mask_q, T~[z, c]) with T~ = T + gamma * LN(Linear(text token)) (METHOD 11, 12)."""
        with torch.autocast(masks.device.type, enabled=False):
            enriched = text.float() + self.gamma * self.expand_text_norm(self.expand_text(texts.float()))
            mask_side = F.normalize(self.expand_mask(masks.float()), dim=-1)
            return torch.einsum("bqe,bzce->bqzc", mask_side, F.normalize(enriched, dim=-1))
