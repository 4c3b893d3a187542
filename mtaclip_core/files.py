"""Result files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from mtaclip_core.cli import UserError


def prepare_file(path: Path) -> None:
    """Make sure, before the work starts, that its result can be written to `path`; creates the folder.

    Raises:
        UserError: `path` is a folder, or its folder cannot be created or written to.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: cannot create this folder ({error.strerror})") from error
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path.parent}: no permission to write here")


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write under a temporary name in the same folder, then rename; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
