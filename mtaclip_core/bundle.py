"""Bundles: the folder under `models/` that holds all that a vehicle needs of a trained model.

Nothing in it is trusted unseen: the manifest `bundle.yaml` names the sha256 of every file, and a file is opened only
after its hash was checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from mtaclip_core.bundle_manifest import FORMAT, NAME, FileEntry, GraphOptions, parse_manifest
from mtaclip_core.cli import UserError
from mtaclip_core.files import prepare_file
from mtaclip_core.labels import LabelSpace

MANIFEST = "bundle.yaml"
ONNX = "model.onnx"
WEIGHTS = "model.safetensors"
OPENVINO_INT8 = "openvino/int8.xml"
"""The quantised graph, where a bundle has one."""
OPENVINO_INT8_WEIGHTS = "openvino/int8.bin"

MAX_MANIFEST_BYTES = 256 * 1024
_BLOCK = 1 << 20
# The key "location" of a tensor's external_data: a protobuf string, its length in every form that is read as 8.
_EXTERNAL_DATA = re.compile(rb"(?:\x08|\x88\x80*\x00)location")
_LONGEST_KEY = 32


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest is valid and whose files all have the hashes that it names.

    Attributes:
        path: the folder.
        name: the bundle's own name.
        hash: sha256 of bundle.yaml, which names the hashes of all other files.
        space: the classes whose ids the labels hold.
        network_size: (height, width) that the graph resizes every frame to.
        text_source: `clip`, `learned`, `random_orthogonal` or `none`.
        graph: which form of the deployed graph `onnx_path` holds.
        precision: that the graph itself carries: `f32` or `fp16`.
        metadata: the whole manifest as plain values.
        onnx_path: the deployed graph.
        weights_path: the trained weights, None where the bundle ships without.
    """

    path: Path
    name: str
    hash: str
    space: LabelSpace
    network_size: tuple[int, int]
    text_source: str
    graph: GraphOptions
    precision: str
    metadata: dict[str, Any]
    onnx_path: Path
    weights_path: Path | None

    def read(self, name: str) -> bytes:
        """The content of one of the bundle's files, held against its hash again: it may have changed since.

        Raises:
            UserError: it has, or cannot be read any more.
        """
        entry = self.metadata["files"][name]
        try:
            with (self.path / name).open("rb") as stream:
                content = stream.read(entry["bytes"] + 1)
        except OSError as error:
            raise UserError(f"file '{name}' of bundle '{self.path}' cannot be read ({error.strerror})") from error
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise UserError(f"file '{name}' of bundle '{self.path}' has changed since it was checked; load it again")
        return content


def model_folders() -> list[Path]:
    """Where bundles are looked up by name: the source tree, then every installation of the package."""
    prefixes = [sys.prefix, *filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))]
    folders = [Path(__file__).resolve().parents[1] / "models"]
    return folders + [Path(p) / "share" / "mtaclip_ros" / "models" for p in prefixes]


def resolve_bundle(name_or_path: str | Path) -> Path:
    """Find a bundle: an existing folder as it is, else a name among the bundles that came with the package.

    Raises:
        UserError: neither; the text lists the names that were found.
    """
    try:
        path = Path(name_or_path).expanduser()
        is_folder, is_file = path.is_dir(), path.is_file()
    except (OSError, RuntimeError) as error:  # too long, no access, ~ of nobody
        raise UserError(f"no bundle '{str(name_or_path)[:200]}': {getattr(error, 'strerror', error)}") from error
    if is_folder:
        return path
    if is_file:
        raise UserError(f"'{name_or_path}' is a file; a bundle is the folder that holds {MANIFEST}")
    if NAME.fullmatch(str(name_or_path)):
        for folder in model_folders():
            if (folder / name_or_path / MANIFEST).is_file():
                return folder / name_or_path
    found = sorted({m.parent.name for folder in model_folders() for m in folder.glob(f"*/{MANIFEST}")})
    known = f"bundles by name: {', '.join(found)}" if found else "no bundle came with this installation"
    raise UserError(f"no bundle '{name_or_path}': expected a folder that holds {MANIFEST}, or a name ({known})")


def load_bundle(name_or_path: str | Path) -> Bundle:
    """Read and check a bundle: manifest, paths, sizes, then the sha256 of every file.

    Raises:
        UserError: no such bundle, or anything about it is not as its manifest says.
    """
    folder = resolve_bundle(name_or_path)
    try:
        return _load(folder)
    except OSError as error:
        raise UserError(f"bundle '{folder}' cannot be read ({error.strerror}: '{error.filename}')") from error


def _load(folder: Path) -> Bundle:
    if not (folder / MANIFEST).is_file():
        raise UserError(f"'{folder}' is not a bundle: it holds no {MANIFEST}; make one with mtaclip_core.export")
    # `colcon build --symlink-install` links every file: the folder of the real manifest counts.
    root = (folder / MANIFEST).resolve().parent
    raw = _read_bounded(root / MANIFEST, MAX_MANIFEST_BYTES)
    manifest = parse_manifest(raw, f"{MANIFEST} of '{folder}'")
    space = LabelSpace.from_list(manifest.space, [row.model_dump() for row in manifest.classes])
    for name, entry in manifest.files.items():
        _check_file(root, name, entry)
    if ONNX not in manifest.files:
        raise UserError(f"bundle '{folder}' has no {ONNX}; export it again")
    _refuse_external_data(root / ONNX)
    return Bundle(
        path=root,
        name=manifest.name,
        hash=hashlib.sha256(raw).hexdigest(),
        space=space,
        network_size=manifest.network_size,
        text_source=manifest.text.source,
        graph=manifest.graph,
        precision=manifest.precision,
        metadata=manifest.model_dump(mode="json"),
        onnx_path=root / ONNX,
        weights_path=root / WEIGHTS if WEIGHTS in manifest.files else None,
    )


def write_bundle(
    out: str | Path,
    *,
    space: LabelSpace,
    network_size: tuple[int, int],
    text_source: str,
    training_config: Mapping[str, Any],
    revision: str,
    files: Mapping[str, Path | bytes],
    measured: Sequence[Mapping[str, Any]] = (),
    confidence_floor: int = 0,
    graph: GraphOptions | None = None,
    precision: str = "f32",
    accept: Callable[[Path], object] | None = None,
) -> Path:
    """Write a bundle folder, whole or not at all; an older bundle of that name is replaced.

    Args:
        out: the folder to write; its last part is the name.
        files: content, or a file to copy, by its path inside the bundle ("model.onnx", "reference/0_image.png").
        measured: rows {what, value, command}.
        graph, precision: form of the deployed graph, and the precision that stands in it.
        accept: called with the finished folder under its temporary name; what it raises leaves `out` as it was.

    Raises:
        UserError: `out` is something else than a bundle, or the result would not be a valid bundle.
    """
    out = Path(out)
    check_destination(out)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        staging.chmod(0o755)
        entries = {inside: _add_file(staging, inside, content) for inside, content in sorted(files.items())}
        manifest = {
            "format": FORMAT,
            "name": out.name,
            "space": space.name,
            "classes": space.to_list(),
            "network_size": list(network_size),
            "confidence_floor": confidence_floor,
            "text": {"source": text_source},
            "graph": (graph or GraphOptions()).model_dump(),
            "precision": precision,
            "training": {"config": dict(training_config), "revision": revision},
            "measured": [dict(row) for row in measured],
            "files": entries,
        }
        plain = json.loads(json.dumps(manifest))  # nothing shared, so that YAML needs no aliases
        text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=120, allow_unicode=True)
        (staging / MANIFEST).write_text(text, encoding="utf-8")
        load_bundle(staging)
        if accept is not None:
            accept(staging)
        if out.exists():
            with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
                old = Path(aside) / "old"
                os.replace(out, old)
                try:
                    os.replace(staging, out)
                except BaseException:  # Ctrl-C too
                    os.replace(old, out)
                    raise
        else:
            os.replace(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return out


def check_destination(out: Path) -> None:
    """Make sure, before the work starts, that a bundle can be written there; creates the folder that it will lie in.

    Raises:
        UserError: `out` is something else than a bundle, has no name for one, or cannot be written.
    """
    if not NAME.fullmatch(out.name):
        raise UserError(f"'{out.name}' is no name for a bundle; take letters, digits and . _ - (at most 64)")
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"'{out}' exists and is not a bundle; give another --out or remove it")
    prepare_file(out.with_name(f".{out.name}"))


def _check_file(root: Path, name: str, entry: FileEntry) -> None:
    path = root / _inside(name)
    if not path.is_file():
        raise UserError(f"bundle '{root}' lacks the file '{name}' that its {MANIFEST} names; copy or export it again")
    if root not in path.resolve().parents:
        raise UserError(f"file '{name}' of bundle '{root}' is a link that leaves the bundle; replace it by the file")
    actual = path.stat().st_size
    if actual != entry.bytes:
        raise UserError(
            f"file '{name}' of bundle '{root}' has {actual} bytes, {MANIFEST} says {entry.bytes}: truncated or "
            f"changed; copy or export it again"
        )
    if file_sha256(path) != entry.sha256:
        raise UserError(
            f"file '{name}' of bundle '{root}' does not have the sha256 that {MANIFEST} names: damaged or changed; "
            f"copy or export it again"
        )


def _inside(name: str) -> PurePosixPath:
    """A path that stays below the folder it is joined to, by its words alone."""
    path = PurePosixPath(name)
    bad = path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or "\0" in name
    if bad or str(path) != name or name in (".", MANIFEST):
        raise UserError(f"'{name[:200]}' is not a path inside a bundle; expected something like reference/0_image.png")
    return path


def _add_file(root: Path, inside: str, content: Path | bytes) -> dict[str, Any]:
    path = root / _inside(inside)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        shutil.copyfile(content, path)
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size}


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _read_bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as stream:
        raw = stream.read(limit + 1)
    if len(raw) > limit:
        raise UserError(f"'{path}' is larger than {limit // 1024} KiB, so it is not the {path.name} of a bundle")
    return raw


def _refuse_external_data(path: Path) -> None:
    """An ONNX file can name other files on the disk as the source of its weights; a bundle's may not."""
    end = b""
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            if _EXTERNAL_DATA.search(end + block):
                raise UserError(
                    f"'{path}' keeps its weights in other files, which the bundle's hashes do not cover; "
                    f"export it again"
                )
            end = block[-_LONGEST_KEY:]
