"""Checkpoints: one `.safetensors` file of all tensors with everything else as JSON in its header, whole or not at all.

A copy of the JSON stands beside it (`NAME.json`) for people and scripts. No pickle is written or read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mtaclip_core.cli import UserError
from mtaclip_core.config import TrainConfig, parse_config
from mtaclip_core.files import write_text
from mtaclip_core.labels import LabelSpace
from mtaclip_core.modeling.mta_clip import MTAClip, build_model

FORMAT = 1


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write `path` (.safetensors) and its JSON twin atomically.

    Args:
        tensors: flat names; shared or strided memory is copied.
        meta: JSON-able; read back by `load_checkpoint`.

    Raises:
        UserError: no room; what stood at `path` before stands there still.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": FORMAT, **meta}, indent=1)
    temporary = path.with_suffix(".tmp")
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        save_file(plain, str(temporary), metadata={"mtaclip": text})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:
        raise UserError(f"checkpoint '{path}' cannot be written ({error}); make room and resume the training") from None
    finally:
        temporary.unlink(missing_ok=True)
    write_text(path.with_suffix(".json"), text)


def load_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a checkpoint: (tensors by name, meta).

    Args:
        path: a `.safetensors` file, or a run folder (its `best`, else its `last` checkpoint).

    Raises:
        UserError: nothing there, truncated, or not one of ours.
    """
    file = find_checkpoint(path)
    try:
        with safe_open(str(file), framework="pt") as opened:
            text = (opened.metadata() or {}).get("mtaclip")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise UserError(f"checkpoint '{file}' cannot be read ({error}); is it complete?") from None
    if text is None:
        raise UserError(f"checkpoint '{file}' was not written by mtaclip_core.train (it has no training config)")
    meta = json.loads(text)
    if meta.get("format") != FORMAT:
        raise UserError(f"checkpoint '{file}' has format {meta.get('format')}; this version reads format {FORMAT}")
    return tensors, meta


def find_checkpoint(path: str | Path) -> Path:
    """The `.safetensors` file that `path` means. Raises UserError where there is none."""
    path = Path(path)
    if path.is_file():
        return path
    for name in ("best", "last"):
        if (path / "checkpoints" / f"{name}.safetensors").is_file():
            return path / "checkpoints" / f"{name}.safetensors"
    raise UserError(f"no checkpoint at '{path}'; expected a .safetensors file or a run folder with checkpoints/")


def load_model(path: str | Path) -> tuple[MTAClip, TrainConfig]:
    """Rebuild the model of a checkpoint, averaged weights where it has them, in evaluation mode.

    Raises:
        UserError: as `load_checkpoint`, or weights that do not fit the stored configuration.
    """
    tensors, meta = load_checkpoint(path)
    config = parse_config(meta["config"], str(path))
    space = LabelSpace.from_list(meta["space"]["name"], meta["space"]["classes"])
    model = build_model(config.model, space, config.seed, load=False)
    weights: dict[str, Tensor] = {}
    for prefix in ("model.", "ema."):  # averaged weights lack those that were not trained
        weights |= {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"checkpoint '{path}' does not fit its own config: {str(error).splitlines()[-1]}") from None
    return model.eval(), config
