"""Changes to a bundle on disk, as damage or harm would make them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest in place."""
    manifest = yaml.safe_load((folder / "bundle.yaml").read_text())
    change(manifest)
    (folder / "bundle.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Put other content into a bundle and its hash into the manifest, as someone would who means harm."""
    (folder / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    edit(folder, lambda m: m["files"].update({name: entry}))
