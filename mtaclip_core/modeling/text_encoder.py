"""CLIP's text transformer, frozen: it turns embedded token sequences into text embeddings, and is never updated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from torch import nn

from mtaclip_core.cli import UserError
from mtaclip_core.modeling.clip_model import build_clip


class TextEncoder(nn.Module):
    """Text tower of a CLIP model (METHOD.md 1, row 3): causal transformer, last LayerNorm, projection to E.

    No parameter requires a gradient, and `train()` leaves it in evaluation mode; gradients flow through it to the
    learned parts of its input.
    """

    causal_mask: torch.Tensor

    def __init__(self, model: open_clip.CLIP, tokenizer: Any) -> None:
        """`model`: its text tower is taken over, not copied; `tokenizer`: open_clip's, of the same model."""
        super().__init__()
        self.tokenizer = tokenizer
        self.token_embedding = model.token_embedding
        self.position_embedding = model.positional_embedding
        self.transformer = model.transformer
        self.norm = model.ln_final
        self.projection = model.text_projection
        self.register_buffer("causal_mask", model.attn_mask, persistent=False)
        self.requires_grad_(False)
        super().train(False)

    @property
    def length(self) -> int:
        """The longest token sequence, 77 for CLIP's own models."""
        return int(self.position_embedding.shape[0])

    @property
    def width(self) -> int:
        """E, the width of a text embedding."""
        return int(self.projection.shape[1])

    @property
    def token_width(self) -> int:
        """Width of an embedded token."""
        return int(self.token_embedding.embedding_dim)

    def train(self, mode: bool = True) -> TextEncoder:
        """Stays in evaluation mode whatever `mode` says."""
        return super().train(False)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of each text, start and end included, padding left out."""
        end = self.tokenizer.eot_token_id
        with torch.device("cpu"):  # whatever device the model is being built on
            rows = self.tokenizer(list(texts), context_length=self.length).tolist()
        return [row[: row.index(end) + 1] for row in rows]

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        """(...) int64 token ids -> (..., token width)."""
        return self.token_embedding(tokens)

    def forward(self, embedded: torch.Tensor, eot_index: torch.Tensor) -> torch.Tensor:
        """Encode K sequences: the output at the end-of-text token, after the last LayerNorm, times the projection.

        Args:
            embedded: (K, L, token width), L <= 77. As attention is causal, what follows the end-of-text token
                changes nothing: a shorter L gives the same result for less.
            eot_index: (K,) int64, position of each end-of-text token.

        Returns:
            (K, E), not normalised.
        """
        count, length, _ = embedded.shape
        if length > self.length:
            raise ValueError(f"{length} tokens are more than the {self.length} of this text encoder")
        x = embedded + self.position_embedding[:length].to(embedded.dtype)
        x = self.transformer(x, attn_mask=self.causal_mask[:length, :length])
        pooled = x[torch.arange(count, device=x.device), eot_index]
        return self.norm(pooled) @ self.projection


def build_text_encoder(name: str, pretrained: str | None, load: bool = True) -> TextEncoder:
    """The text tower of open_clip's model `name` with its tokenizer; arguments and errors as `build_clip`."""
    clip = build_clip(name, pretrained, load).model
    if not isinstance(clip.text_projection, torch.Tensor):
        raise UserError(f"open_clip's '{name}' has no plain text projection; take RN50, RN101 or ViT-B-16")
    return TextEncoder(clip, open_clip.get_tokenizer(name))
