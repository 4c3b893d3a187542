"""Text sources without CLIP: free vectors, fixed orthogonal ones, none; with the interface that every source has."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import nn

NONE_NAME = "none"
"""The text for "no object", appended to the class names (METHOD.md 1, row 5)."""


class TextTable(nn.Module):
    """Gives `T: (Z, C', E)`, the text embedding of every (context, class) pair, the same for every image (row 6)."""

    def __init__(self, contexts: int, texts: int, width: int) -> None:
        """`contexts`: Z; `texts`: C' = C + 1, the class names and `none`; `width`: E. Z and E are 0 without texts."""
        super().__init__()
        if min(contexts, texts, width) < 1 and (contexts, width) != (0, 0):
            raise ValueError(f"contexts {contexts}, texts {texts} and width {width} must be 1 or more")
        self.contexts = contexts
        self.texts = texts
        self.width = width

    @abstractmethod
    def forward(self) -> torch.Tensor:
        """`T: (Z, C', E)` float32."""


class LearnedText(TextTable):
    """Free vectors, trained with everything else; they know nothing of language."""

    def __init__(self, contexts: int, texts: int, width: int, seed: int = 0) -> None:
        super().__init__(contexts, texts, width)
        generator = torch.Generator().manual_seed(seed)
        # Rows of about unit length, like a normalised CLIP text.
        self.table = nn.Parameter(torch.randn(contexts, texts, width, generator=generator, device="cpu") * width**-0.5)

    def forward(self) -> torch.Tensor:
        """`T: (Z, C', E)`, a parameter."""
        return self.table


class RandomOrthogonalText(TextTable):
    """Fixed unit vectors, mutually orthogonal wherever they fit into E dimensions, never trained.

    All Z*C' rows are orthonormal when Z*C' <= E; else each context (or as many whole contexts as fit) is; else,
    with C' > E, each run of E classes is.
    """

    table: torch.Tensor

    def __init__(self, contexts: int, texts: int, width: int, seed: int = 0) -> None:
        super().__init__(contexts, texts, width)
        generator = torch.Generator().manual_seed(seed)
        block = width // texts * texts if texts <= width else width
        rows = [
            _orthonormal(min(block, contexts * texts - start), width, generator)
            for start in range(0, contexts * texts, block)
        ]
        self.register_buffer("table", torch.cat(rows).reshape(contexts, texts, width))

    def forward(self) -> torch.Tensor:
        """`T: (Z, C', E)`, a buffer: in checkpoints, without gradient."""
        return self.table


class NoText(TextTable):
    """No contexts and no vectors: the mask queries pass the decoder alone, as in Mask2Former."""

    def __init__(self, texts: int) -> None:
        super().__init__(0, texts, 0)

    def forward(self) -> torch.Tensor:
        """(0, C', 0)."""
        return torch.empty(0, self.texts, 0)


def _orthonormal(rows: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """(rows, width) float32 with orthonormal rows; rows <= width."""
    # In float64, so that the rows are orthonormal to float32 precision.
    q, _ = torch.linalg.qr(torch.randn(width, rows, generator=generator, dtype=torch.float64, device="cpu"))
    return q.T.float()
