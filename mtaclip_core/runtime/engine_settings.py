"""How TensorRT engines are built and kept: settings, their environment variables, and shapes in words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

from mtaclip_core.bundle_manifest import MAX_SIDE
from mtaclip_core.cli import UserError

Shape = tuple[int, int, int]
"""(B, H, W): frames a batch, height and width of a frame."""
Build = Literal["auto", "never"]
Mismatch = Literal["rebuild", "refuse"]

MAX_BATCH = 64
FIRST_SHAPE = (1080, 1920)
"""Least height and width of the frames that an engine is built for where nobody names a shape."""


@dataclass(frozen=True)
class EngineSettings:
    """
    Attributes:
        cache: folder of engines; variable MTACLIP_ENGINE_CACHE, `~/.cache/mtaclip/engines` by default.
        shapes: to have engines for, from the start; MTACLIP_ENGINE_SHAPES, "1x1024x2048 4x720x1280". Empty: for those
            in the cache, or else for frames of any size up to `FIRST_SHAPE` or the network's size.
        build: MTACLIP_ENGINE_BUILD: `auto` builds what is missing; `never`: backend `tensorrt` refuses to start without
            an engine, and backend `auto` takes another one.
        on_mismatch: MTACLIP_ENGINE_MISMATCH: what to do with an engine that was built for something else.
        device: CUDA device id; MTACLIP_CUDA_DEVICE.
        workspace_mb: most scratch memory of a layer, MiB, None for TensorRT's own limit; MTACLIP_ENGINE_WORKSPACE_MB.
    """

    cache: Path
    shapes: tuple[Shape, ...] = ()
    build: Build = "auto"
    on_mismatch: Mismatch = "rebuild"
    device: int = 0
    workspace_mb: int | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> EngineSettings:
        """The settings of the environment variables (of `os.environ` by default).

        Raises:
            UserError: a variable has a value that is not to be understood.
        """
        env = os.environ if environment is None else environment
        home = env.get("XDG_CACHE_HOME") or str(Path(env.get("HOME") or "~").expanduser() / ".cache")
        settings = cls(cache=Path(env.get("MTACLIP_ENGINE_CACHE") or Path(home) / "mtaclip" / "engines"))
        if words := env.get("MTACLIP_ENGINE_SHAPES", "").replace(",", " ").split():
            settings = replace(settings, shapes=tuple(parse_shape(word) for word in words))
        build = env.get("MTACLIP_ENGINE_BUILD") or settings.build
        mismatch = env.get("MTACLIP_ENGINE_MISMATCH") or settings.on_mismatch
        _one_of("MTACLIP_ENGINE_BUILD", build, ("auto", "never"))
        _one_of("MTACLIP_ENGINE_MISMATCH", mismatch, ("rebuild", "refuse"))
        return replace(
            settings,
            build=cast(Build, build),
            on_mismatch=cast(Mismatch, mismatch),
            device=_whole("MTACLIP_CUDA_DEVICE", env, 0) or 0,
            workspace_mb=_whole("MTACLIP_ENGINE_WORKSPACE_MB", env, 1),
        )


def parse_shape(text: str) -> Shape:
    """`1x1024x2048` -> (1, 1024, 2048).

    Raises:
        UserError: not three whole numbers, or out of bounds.
    """
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(_is_whole(part) for part in parts):
        raise UserError(f"'{text}' is not a shape; write BATCHxHEIGHTxWIDTH, for example 1x1024x2048")
    batch, height, width = (int(part) for part in parts)
    if not (1 <= batch <= MAX_BATCH and 8 <= height <= MAX_SIDE and 8 <= width <= MAX_SIDE):
        raise UserError(f"shape '{text}': the batch must be 1 to {MAX_BATCH}, height and width 8 to {MAX_SIDE}")
    return batch, height, width


def shape_text(shape: Shape) -> str:
    """(1, 1024, 2048) -> `1x1024x2048`."""
    return "x".join(map(str, shape))


def _is_whole(text: str) -> bool:
    return text.isdecimal() and len(text) < 10  # `isdigit` is true of raised digits too, which are no number


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"{name}='{value}'; expected one of {', '.join(known)}")


def _whole(name: str, env: Mapping[str, str], least: int) -> int | None:
    text = env.get(name) or ""
    if not text:
        return None
    if not _is_whole(text) or int(text) < least:
        raise UserError(f"{name}='{text}' is not a whole number from {least} on")
    return int(text)
