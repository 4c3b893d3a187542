"""A CLIP model of reduced size under a name of its own, so that tests run the real builders in milliseconds."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import open_clip

NAME = "tiny-resnet-for-tests"
CONFIG = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}


@cache
def register_tiny_clip() -> str:
    """Make the reduced model known to open_clip, once per process; returns its name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{NAME}.json"
        path.write_text(json.dumps(CONFIG))
        open_clip.add_model_config(path)
    return NAME
