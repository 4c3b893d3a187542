"""Learned prompts for CLIP's text encoder, and the choice of text source (`text.source`)."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

from mtaclip_core.cli import UserError
from mtaclip_core.modeling.text_encoder import TextEncoder, build_text_encoder
from mtaclip_core.modeling.text_table import NONE_NAME, LearnedText, NoText, RandomOrthogonalText, TextTable

__all__ = [
    "CONTEXT_TOKENS",
    "NONE_NAME",
    "ClipPromptText",
    "LearnedText",
    "NoText",
    "RandomOrthogonalText",
    "TextTable",
    "build_text",
    "readable",
]

CONTEXT_TOKENS = 8
INITIAL_STD = 0.02


def readable(name: str) -> str:
    """A class name as English text: `SignSymbol` -> `sign symbol`, `traffic_light` -> `traffic light`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\-]+", " ", name)
    return " ".join(spaced.lower().split())


class ClipPromptText(TextTable):
    """Z learned contexts of 8 tokens, shared by all classes, before each class name (METHOD.md 1, rows 3 to 6).

    A sequence is start, 8 learned tokens, the class name's tokens, end, padding; there are no template words. Without
    learned contexts it is the bare class name.
    """

    tokens: torch.Tensor
    eot_index: torch.Tensor

    def __init__(
        self, encoder: TextEncoder, class_names: Sequence[str], contexts: int, seed: int = 0, learn: bool = True
    ) -> None:
        """
        Args:
            class_names: the C classes without `none`, which is appended.
            learn: False leaves the learned tokens out.

        Raises:
            UserError: a name that is too long.
        """
        texts = [*(readable(name) for name in class_names), NONE_NAME]
        super().__init__(contexts, len(texts), encoder.width)
        self.encoder = encoder
        generator = torch.Generator().manual_seed(seed)
        learned = CONTEXT_TOKENS if learn else 0
        prompts = torch.randn(contexts, learned, encoder.token_width, generator=generator, device="cpu") * INITIAL_STD
        self.prompts = nn.Parameter(prompts, requires_grad=learn)
        rows = encoder.tokenize(texts)
        longest = max(len(row) for row in rows)
        if longest + learned > encoder.length:
            name = texts[max(range(len(rows)), key=lambda i: len(rows[i]))]
            raise UserError(
                f"class name '{name}' has {longest - 2} tokens; at most {encoder.length - 2 - learned} fit "
                f"beside {learned} learned ones"
            )
        # Padding only up to the longest name: what follows the end token changes nothing (causal attention).
        padded = [row + [0] * (longest - len(row)) for row in rows]
        self.register_buffer("tokens", torch.tensor(padded), persistent=False)  # (C', longest)
        ends = [len(row) - 1 + learned for row in rows]
        self.register_buffer("eot_index", torch.tensor(ends), persistent=False)  # (C',)

    def forward(self) -> torch.Tensor:
        """`T: (Z, C', E)`, with gradients to the learned contexts alone."""
        names = self.encoder.embed(self.tokens).expand(self.contexts, -1, -1, -1)  # (Z, C', longest, token width)
        prompts = self.prompts[:, None].expand(-1, self.texts, -1, -1)
        embedded = torch.cat([names[:, :, :1], prompts, names[:, :, 1:]], 2).flatten(0, 1)
        return self.encoder(embedded, self.eot_index.repeat(self.contexts)).unflatten(0, (self.contexts, self.texts))


def build_text(
    source: str,
    class_names: Sequence[str],
    contexts: int,
    clip_name: str,
    clip_pretrained: str | None,
    width: int,
    seed: int = 0,
    load: bool = True,
    learn_contexts: bool = True,
) -> TextTable:
    """The text table of C classes and `none`.

    Args:
        source: "clip", "learned", "random_orthogonal" or "none".
        class_names: the C names, without `none`.
        contexts: Z.
        clip_name, clip_pretrained: for "clip", as `build_clip`; None for random weights, which is only good for
            tests and timing.
        width: E for the other sources; a CLIP model has its own.
        seed: of the initial values.
        load: as `build_clip`.
        learn_contexts: for "clip"; False: bare class names.

    Raises:
        UserError: CLIP weights that cannot be had, a class name that is too long for CLIP.
    """
    if source == "clip":
        encoder = build_text_encoder(clip_name, clip_pretrained, load)
        return ClipPromptText(encoder, class_names, contexts, seed, learn_contexts)
    texts = len(class_names) + 1
    if source == "learned":
        return LearnedText(contexts, texts, width, seed)
    if source == "random_orthogonal":
        return RandomOrthogonalText(contexts, texts, width, seed)
    if source == "none":
        return NoText(texts)
    raise ValueError(f"text source '{source}' is not one of clip, learned, random_orthogonal, none")
