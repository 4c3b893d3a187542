"""Bundles: found by path or name, checked to the last byte, written whole; what is wrong with one costs one line."""

from __future__ import annotations

import copy
import hashlib
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import openvino
import pytest
from bundles import make_colour_bundle
from helpers_bundle import edit, replace_file
from onnx.external_data_helper import convert_model_to_external_data

from mtaclip_core import bundle as bundles_module
from mtaclip_core.bundle import check_destination, load_bundle, model_folders, resolve_bundle, write_bundle
from mtaclip_core.cli import UserError
from mtaclip_core.deploy.engine_graph import engine_onnx
from mtaclip_core.deploy.reference import load_reference
from mtaclip_core.labels import CAMVID, LabelClass, LabelSpace
from mtaclip_core.runtime.openvino_backend import shared_core
from mtaclip_core.runtime.segmenter import load_segmenter

SIZE = (32, 48)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_colour_bundle(tmp_path / "models" / "colour", CAMVID, SIZE)


def failure(folder: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        load_bundle(folder)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_bundle_gives_back_what_was_written(bundle: Path) -> None:
    loaded = load_bundle(bundle)
    assert (loaded.name, loaded.space, loaded.network_size) == ("colour", CAMVID, SIZE)
    assert loaded.text_source == "learned"
    assert loaded.hash == hashlib.sha256((bundle / "bundle.yaml").read_bytes()).hexdigest()
    assert loaded.onnx_path.read_bytes() == (bundle / "model.onnx").read_bytes()
    assert loaded.weights_path is None
    assert loaded.metadata["training"]["revision"] == "none"
    files = {str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file()} - {"bundle.yaml"}
    assert set(loaded.metadata["files"]) == files


def test_a_bundle_is_found_by_its_name_in_an_installation(bundle: Path, tmp_path: Path, monkeypatch) -> None:
    installed = tmp_path / "ws" / "share" / "mtaclip_ros" / "models"
    installed.parent.mkdir(parents=True)
    bundle.parent.rename(installed)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'other'}:{tmp_path / 'ws'}")
    assert resolve_bundle("colour") == installed / "colour"
    assert load_bundle("colour").name == "colour"
    with pytest.raises(UserError, match=r"no bundle 'color'.*bundles by name: .*colour"):
        resolve_bundle("color")


def test_the_source_tree_comes_first(root: Path) -> None:
    assert model_folders()[0] == root / "models"


@pytest.mark.parametrize("name", ["../colour", "models/nothing", "", "/no/such/bundle"])
def test_a_path_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UserError, match=r"expected a folder that holds bundle\.yaml"):
        load_bundle(name or "no such name")


def test_a_file_or_an_empty_folder_is_no_bundle(bundle: Path, tmp_path: Path) -> None:
    assert "is a file" in failure(bundle / "model.onnx")
    assert "holds no bundle.yaml" in failure(tmp_path)


def test_a_truncated_file_is_named(bundle: Path) -> None:
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(content[: len(content) // 2])
    assert "'model.onnx'" in failure(bundle) and "truncated" in failure(bundle)


def test_a_changed_byte_is_noticed_in_every_file(bundle: Path) -> None:
    for name in load_bundle(bundle).metadata["files"]:
        content = (bundle / name).read_bytes()
        (bundle / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert f"'{name}'" in failure(bundle) and "sha256" in failure(bundle)
        (bundle / name).write_bytes(content)
    load_bundle(bundle)


def test_a_missing_file_is_named(bundle: Path) -> None:
    (bundle / "reference/2_label.png").unlink()
    assert "lacks the file 'reference/2_label.png'" in failure(bundle)


@pytest.mark.parametrize(
    "name", ["../outside", "reference/../../outside", "/etc/hostname", "a\\..\\b", "c:/x", "./model.onnx", "a//b", "."]
)
def test_paths_cannot_leave_the_bundle(bundle: Path, name: str) -> None:
    (bundle.parent / "outside").write_bytes(b"")
    edit(bundle, lambda m: m["files"].update({name: {"sha256": hashlib.sha256(b"").hexdigest(), "bytes": 0}}))
    assert "is not a path inside a bundle" in failure(bundle)


def test_links_cannot_leave_the_bundle(bundle: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    (bundle / "LICENSE").rename(outside)
    (bundle / "LICENSE").symlink_to(outside)
    assert "link that leaves the bundle" in failure(bundle)


def test_an_installation_made_of_links_works(bundle: Path, tmp_path: Path) -> None:
    linked = tmp_path / "install" / "colour"
    for file in (p for p in bundle.rglob("*") if p.is_file()):
        (linked / file.relative_to(bundle)).parent.mkdir(parents=True, exist_ok=True)
        (linked / file.relative_to(bundle)).symlink_to(file)
    assert load_bundle(linked).hash == load_bundle(bundle).hash


# A protobuf string may follow its value, and have a length with zeros ahead.
@pytest.mark.parametrize(
    "written",
    [
        b"\x0a\x08location\x12\x06secret",
        b"\x12\x06secret\x0a\x08location",
        b"\x0a\x88\x80\x00location\x12\x06secret",
    ],
)
@pytest.mark.parametrize("padding", [0, (1 << 20) - 150, (1 << 20) - 10])
def test_weights_in_other_files_are_refused(bundle: Path, written: bytes, padding: int) -> None:
    model = onnx.load(bundle / "model.onnx")
    convert_model_to_external_data(model, location="secret", size_threshold=0)
    content = model.SerializeToString()
    usual = b"\x0a\x08location\x12\x06secret"
    assert content.count(usual)
    content = b"\x32" + varint(padding) + b"." * padding + content.replace(usual, written)  # after a doc string
    (bundle / "secret").write_bytes(bytes(10**4))
    replace_file(bundle, "model.onnx", content)
    assert "keeps its weights in other files" in failure(bundle)


def varint(value: int) -> bytes:
    return bytes([value & 127 | 128, value >> 7 & 127 | 128, value >> 14])


def test_a_graph_in_a_format_that_takes_its_weights_from_elsewhere_is_refused(bundle: Path) -> None:
    """OpenVINO would read its own format under any name, and the weights beside it, which no hash covers."""
    graph = shared_core().read_model(bundle / "model.onnx")
    openvino.save_model(graph, bundle / "model.xml", compress_to_fp16=False)
    replace_file(bundle, "model.onnx", (bundle / "model.xml").read_bytes())
    assert (bundle / "model.bin").is_file()
    with pytest.raises(UserError, match="OpenVINO cannot read") as caught:
        load_segmenter(bundle, "openvino")
    assert len(str(caught.value).splitlines()) == 1


def test_int8_weights_that_the_manifest_does_not_name_are_not_read(bundle: Path) -> None:
    (bundle / "openvino").mkdir()
    replace_file(bundle, "openvino/int8.xml", b"<net/>")
    (bundle / "openvino" / "int8.bin").write_bytes(b"")
    with pytest.raises(UserError, match="holds no int8 graph for openvino"):
        load_segmenter(bundle, "openvino", precision="int8")


def test_files_that_vanish_or_change_after_the_check_are_one_line(bundle: Path, monkeypatch) -> None:
    loaded = load_bundle(bundle)
    (bundle / "reference/1_label.png").write_bytes((bundle / "reference/2_label.png").read_bytes())
    with pytest.raises(UserError, match=r"'reference/1_label\.png' of bundle '.*' has changed since it was checked"):
        load_reference(loaded)
    (bundle / "reference/1_label.png").unlink()
    with pytest.raises(UserError, match=r"'reference/1_label\.png' of bundle '.*' cannot be read \(No such file"):
        load_reference(loaded)
    (bundle / "model.onnx").unlink()
    with pytest.raises(UserError, match=r"'model\.onnx' of bundle '.*' cannot be read \(No such file"):
        engine_onnx(loaded, "f32")


def test_a_file_that_vanishes_during_the_check_is_one_line(bundle: Path, monkeypatch) -> None:
    whole = bundles_module.file_sha256
    monkeypatch.setattr(bundles_module, "file_sha256", lambda path: path.unlink() or whole(path))
    assert "cannot be read (No such file or directory: '" in failure(bundle)


@pytest.mark.parametrize("name", ["a" * 5000, "~nobody-of-this-name/x", "a\0b"])
def test_a_path_that_cannot_be_is_one_short_line(name: str) -> None:
    assert len(failure(name)) < 500


@pytest.mark.parametrize("folder", ["model.onnx/new", "no name", ".", "reference"])
def test_where_no_bundle_can_be_written_is_told_before_the_work(bundle: Path, folder: str) -> None:
    before = sorted(path.name for path in bundle.parent.rglob("*"))
    with pytest.raises(UserError, match=r"cannot create this folder|is no name for a bundle|is not a bundle") as caught:
        check_destination(bundle / folder if folder != "." else Path("."))
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(path.name for path in bundle.parent.rglob("*")) == before


def test_a_full_disk_leaves_the_old_bundle(bundle: Path, monkeypatch) -> None:
    """And so does Ctrl-C in the moment when one takes the other's place."""
    before = load_bundle(bundle).hash
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            make_colour_bundle(bundle, CAMVID, (64, 64))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    replace = os.replace

    def interrupted(source: Path, target: Path) -> None:
        replace(source, target)
        if Path(target).name == "old":
            monkeypatch.setattr(os, "replace", second)

    def second(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "replace", replace)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_colour_bundle(bundle, CAMVID, (64, 64))
    assert load_bundle(bundle).hash == before
    assert [p.name for p in bundle.parent.iterdir()] == ["colour"]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "another version": (lambda m: m.update(format=2), "has format 2; this version reads format 1"),
    "no version": (lambda m: m.pop("format"), "has format None"),
    "a key that nobody knows": (lambda m: m.update(colour="red"), "colour: Extra inputs"),
    "no network size": (lambda m: m.pop("network_size"), "network_size: Field required"),
    "a size without bounds": (lambda m: m.update(network_size=[10**9, 10**9]), "network_size.0"),
    "a hash that is none": (lambda m: m["files"]["LICENSE"].update(sha256="0" * 63), "files.LICENSE.sha256"),
    "a file of a terabyte": (lambda m: m["files"]["LICENSE"].update(bytes=10**12), "files.LICENSE.bytes"),
    "an unknown text source": (lambda m: m["text"].update(source="gpt"), "text.source"),
    "a name that is a path": (lambda m: m.update(name="../x"), "name: String should match"),
    "no graph": (lambda m: m["files"].pop("model.onnx"), "has no model.onnx"),
    "a class twice": (lambda m: m["classes"].append(copy.deepcopy(m["classes"][0])), "names a class or an id twice"),
    "the id of unlabelled": (lambda m: m["classes"][0].update(id=255), "classes.0.id"),
    "a value that is no number": (
        lambda m: m["measured"].append({"what": "mIoU", "value": float("nan"), "command": "x"}),
        "measured.0.value",
    ),
    "a side that is no number": (lambda m: m.update(network_size=[float("inf"), 64]), "network_size.0"),
    "a size in words": (lambda m: m["files"]["LICENSE"].update(bytes="many"), "files.LICENSE.bytes"),
    "a size below nothing": (lambda m: m["files"]["LICENSE"].update(bytes=-1), "files.LICENSE.bytes"),
    "files in a list": (lambda m: m.update(files=["model.onnx"]), "files: Input should be a valid dictionary"),
    "a colour of two": (lambda m: m["classes"][0].update(colour=[1, 2]), "classes.0.colour"),
    "too many classes": (
        lambda m: m.update(classes=[{"id": i % 254, "name": f"c{i}", "colour": [0, 0, 0]} for i in range(255)]),
        "classes: List should have at most 254 items",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_wrong_manifest_says_what_is_wrong(bundle: Path, case: str) -> None:
    change, message = CHANGES[case]
    edit(bundle, change)
    assert message in failure(bundle)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"format: [1\n", "not readable YAML"),
        (b"\xff\xfe\x00", "not readable YAML"),
        (b"- 1\n", "not a table"),
        (b"", "not a table"),
        (b"[" * 1000, "not readable YAML"),
        (b"format: !!python/object/apply:os.system [exit]\n", "not readable YAML"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nformat: 1\n", "aliases"),
        (b"#" * 300_000, "larger than 256 KiB"),
    ],
)
def test_a_manifest_that_is_none_is_one_line(bundle: Path, text: bytes, message: str) -> None:
    (bundle / "bundle.yaml").write_bytes(text)
    assert message in failure(bundle)


@pytest.mark.parametrize("kind", ["text", "nothing", "half"])
def test_a_graph_that_is_none_is_one_line(bundle: Path, kind: str) -> None:
    whole = (bundle / "model.onnx").read_bytes()
    replace_file(bundle, "model.onnx", {"text": b"no graph", "nothing": b"", "half": whole[: len(whole) // 2]}[kind])
    with pytest.raises(UserError, match="OpenVINO cannot read") as caught:
        load_segmenter(bundle, "openvino")
    assert len(str(caught.value).splitlines()) == 1


def test_writing_replaces_a_bundle_but_nothing_else(bundle: Path, tmp_path: Path) -> None:
    first = load_bundle(bundle).hash
    (bundle / "left_over").write_text("x")
    make_colour_bundle(bundle, CAMVID, (64, 64))
    assert load_bundle(bundle).hash != first and not (bundle / "left_over").exists()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="exists and is not a bundle"):
        make_colour_bundle(precious)
    assert (precious / "thesis.txt").read_text() == "x"


def test_a_bundle_that_is_not_accepted_leaves_the_old_one(bundle: Path) -> None:
    before = load_bundle(bundle).hash

    def refuse(folder: Path) -> None:
        assert load_bundle(folder).name == "colour"
        raise UserError("refused")

    space = LabelSpace("one", (LabelClass(0, "road", (1, 2, 3)),))
    with pytest.raises(UserError, match="refused"):
        write_bundle(
            bundle,
            space=space,
            network_size=SIZE,
            text_source="learned",
            training_config={},
            revision="none",
            files={"model.onnx": b"x"},
            accept=refuse,
        )
    assert load_bundle(bundle).hash == before
    assert [p.name for p in bundle.parent.iterdir()] == ["colour"]
