"""Data sets of one's own, ADE20K, and the check of all files before a training."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from helpers_miniatures import CAMVID_NAMES, noise, write_camvid, write_cityscapes, write_png

from mtaclip_core.ade20k_labels import ADE20K
from mtaclip_core.cli import UserError, run
from mtaclip_core.data import check
from mtaclip_core.data.check import check_dataset, require_sound
from mtaclip_core.data.dataset import label_space, open_dataset
from mtaclip_core.data.image_files import MissingLabelsError, header_size
from mtaclip_core.labels import CITYSCAPES, UNLABELLED, common_space, numbered_space

YARD = {
    "images": "images/{split}/{name}.png",
    "labels": "labels/{split}/{name}_label.png",
    "classes": [
        {"name": "road", "colour": [128, 64, 128], "values": 7},
        {"name": "person", "values": [24, 25]},
        "crane",
    ],
    "ignored": [0, 255],
}
FEW = numbered_space("few", ["crane", "car", "person", "road"])
VALUES = np.array([[0, 7, 24], [25, 2, 255]], np.uint8)


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name in ("a/000", "a/001", "b_000"):
        write_png(tmp_path / "images" / "train" / f"{name}.png", noise(random, VALUES.shape))
        write_png(tmp_path / "labels" / "train" / f"{name}_label.png", VALUES)
    return described(tmp_path, YARD)


def described(folder: Path, content: dict) -> Path:
    path = folder / "yard.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_values_become_the_ids_that_the_file_says(yard):
    data = open_dataset(str(yard), "train")
    assert data.names == ["a_000", "a_001", "b_000"]
    assert (data.space.name, data.space.names, data.space.ids) == ("yard", ["road", "person", "crane"], [0, 1, 2])
    assert data.space.classes[0].colour == (128, 64, 128) and data.space.classes[2].colour != (0, 0, 0)
    assert data[1].label.tolist() == [[UNLABELLED, 0, 1], [1, 2, UNLABELLED]]
    assert data[1].name == "a_001" and data[1].image.shape == (2, 3, 3)
    assert label_space(str(yard)) == data.space


def test_another_root_may_be_named(yard, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    with pytest.raises(UserError, match=r"elsewhere: no image matches images/train/\{name\}.png"):
        open_dataset(f"{yard}:{other}", "train")
    assert len(open_dataset(f"{yard}:{tmp_path}", "train")) == 3


def test_labels_in_colours_and_indexed_files_are_read(yard, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    colours = {"road": [128, 64, 128], "person": [220, 20, 60], "crane": [255, 255, 0]}
    rows = [{"name": n, "colour": c} for n, c in colours.items()]
    rows[2]["values"] = [[255, 255, 0], [0, 0, 9]]
    described(tmp_path, YARD | {"classes": rows, "ignored": [[0, 0, 0]], "label_files": "colours"})
    palette = np.array([[0, 0, 0], *colours.values(), [0, 0, 9]], np.uint8)
    indices = np.array([[0, 1, 2], [3, 4, 1]], np.uint8)
    write_png(tmp_path / "labels/train/a/000_label.png", palette[indices])
    indexed = image.fromarray(indices, "P")
    indexed.putpalette(palette.tobytes())
    indexed.save(tmp_path / "labels/train/a/001_label.png")
    data = open_dataset(str(yard), "train")
    for i in range(2):
        assert data.label(i).tolist() == [[UNLABELLED, 0, 1], [2, 2, 0]]
    with pytest.raises(UserError, match=r"b_000_label.png: unknown label colour \(2, 2, 2\), \(7, 7, 7\)"):
        data.label(2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"imges": "x"}, r"yard.yaml: imges: Extra inputs"),
        ({"images": "images/{name}/{name}.png"}, r"images: '.*' needs \{name\} once"),
        ({"labels": "labels/{city}/{name}.png"}, r"labels: '.*' needs \{name\} once"),
        ({"ignored": [7]}, r"class 'road': the value 7 has another meaning"),
        ({"ignored": [[1, 2, 3]]}, r"ignored: \(1, 2, 3\) is not what label_files hold; expected a value 0-255"),
        ({"label_files": "colours"}, r"ignored: 0 is not what label_files hold; expected a colour"),
        ({"classes": []}, r"classes: List should have at least 1 item"),
        ({"classes": ["road", "Road"]}, r"names a class or an id twice"),
        ({"classes": [{"name": "road", "values": 256}]}, r"less than or equal to 255"),
        ({"root": "nowhere"}, r"nowhere: no such folder, the root of .*yard.yaml"),
    ],
)
def test_what_is_wrong_with_a_description_is_named(yard, change, message):
    described(yard.parent, YARD | change)
    with pytest.raises(UserError, match=message):
        open_dataset(str(yard), "train")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not readable as YAML"), ("", "the file: "), (None, "cannot be read")]
)
def test_a_file_that_is_no_description_is_named(yard, text, message):
    yard.unlink() if text is None else yard.write_text(text)
    with pytest.raises(UserError, match=message):
        open_dataset(str(yard), "train")


def test_missing_labels_and_splits_are_named(yard, tmp_path):
    for name in ("a/000", "b_000"):
        (tmp_path / "labels" / "train" / f"{name}_label.png").unlink()
    with pytest.raises(UserError, match=r"missing labels/train/a/000_label.png, labels/train/b_000_label.png"):
        open_dataset(str(yard), "train")
    with pytest.raises(UserError, match=r"no image matches images/val/"):
        open_dataset(str(yard), "val")
    with pytest.raises(UserError, match=r"split '../x' .* name of a folder"):
        open_dataset(str(yard), "../x")


def ade20k(root: Path) -> Path:
    label = np.arange(151, dtype=np.uint8)[None].repeat(4, 0)
    for name in ("ADE_val_00000001", "ADE_val_00000002"):
        write_png(root / "annotations" / "validation" / f"{name}.png", label)
        write_png(root / "images" / "validation" / f"{name}.jpg", noise(np.random.default_rng(1), label.shape))
    return root


@pytest.mark.parametrize("inside", ["", "ADEChallengeData2016"])
def test_ade20k_counts_its_classes_from_zero(tmp_path, inside):
    ade20k(tmp_path / inside)
    data = open_dataset(f"ade20k:{tmp_path}", "validation")
    assert data.names == ["ADE_val_00000001", "ADE_val_00000002"]
    assert data[0].label[0].tolist() == [UNLABELLED, *range(150)]
    assert data.space is label_space("ade20k") is ADE20K
    assert check_dataset(data, progress=False) == []
    with pytest.raises(UserError, match=r"train: no such folder; .*it has validation"):
        open_dataset(f"ade20k:{tmp_path}", "train")


def test_ade20k_has_its_150_classes_and_joins_cityscapes():
    assert len(ADE20K) == 150 and len({c.colour for c in ADE20K.classes}) == 150
    known = {0: "wall", 12: "person", 20: "car", 43: "signboard", 80: "bus", 127: "bicycle", 136: "traffic light"}
    assert {i: ADE20K.names[i] for i in known} == known and ADE20K.names[149] == "flag"
    space, of_model, of_truth = common_space(ADE20K, CITYSCAPES)
    assert space is ADE20K and of_truth[CITYSCAPES.names.index("car")] == of_model[20] == 20


def test_every_frame_with_a_wrong_file_is_named_at_once(tmp_path, capsys, monkeypatch):
    root = write_camvid(tmp_path, "train", np.arange(12, dtype=np.uint8).reshape(3, 4))
    data = open_dataset(f"camvid:{root}", "train")
    assert check_dataset(data, progress=False) == []
    names = sorted(CAMVID_NAMES)
    write_png(root / "trainannot" / f"{names[0]}.png", np.full((3, 4), 77, np.uint8))
    write_png(root / "trainannot" / f"{names[1]}.png", np.zeros((5, 4), np.uint8))
    (root / "train" / f"{names[3]}.png").write_bytes(b"")
    problems = check_dataset(data, progress=False)
    assert len(problems) == 3
    assert "unknown label id 77" in problems[0] and names[0] in problems[0]
    assert "is 3x4 but its label" in problems[1] and names[3] in problems[2]
    with pytest.raises(UserError, match=rf"{names[0]}.*{names[1]}.*{names[3]}") as error:
        require_sound([data], progress=False)
    assert "\n" not in str(error.value)
    monkeypatch.setattr(sys, "argv", ["check", "--data", f"camvid:{root}", "--split", "train"])
    with pytest.raises(SystemExit) as stopped:
        run(check.main)
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 3 and "3 problems with 4 frames" in err


def test_the_check_names_every_missing_label(tmp_path, capsys):
    root = write_camvid(tmp_path, "train", np.zeros((3, 4), np.uint8))
    for name in CAMVID_NAMES:
        (root / "trainannot" / f"{name}.png").unlink()
    with pytest.raises(MissingLabelsError, match="and 1 more"):
        check.main(["--data", f"camvid:{root}", "--split", "train"])
    lines = capsys.readouterr().out.splitlines()
    assert [Path(line.partition(":")[0]).stem for line in lines] == sorted(CAMVID_NAMES)
    assert all("missing, the label of an image" in line for line in lines)


def test_labels_that_lost_their_image_are_named_before_a_training(yard, tmp_path, capsys):
    """A half-copied data set would train on what is there, and nobody would know."""
    camvid = write_camvid(tmp_path / "camvid", "train", np.zeros((3, 4), np.uint8))
    city, ade = write_cityscapes(tmp_path / "city", "val"), ade20k(tmp_path / "ade")
    specs = {f"camvid:{camvid}": "train-0006R0", f"cityscapes:{city}": "val", f"ade20k:{ade}": "validation"}
    specs[str(yard)] = "train"
    for spec, split in specs.items():
        whole = open_dataset(spec, split)
        assert whole.labels_without_image() == []
        image, label = whole.files(1)
        image.unlink()
        data = open_dataset(spec, split)
        assert len(data) == len(whole) - 1 and data.labels_without_image() == [label]
        with pytest.raises(UserError, match=f"{label}: the image of this label is missing"):
            require_sound([data], progress=False)
    with pytest.raises(UserError, match="1 problem with 2 frames"):
        check.main(["--data", str(yard), "--split", "train"])
    assert capsys.readouterr().out == f"{label}: the image of this label is missing\n"
    described(tmp_path, YARD | {"labels": "labels/train/{name}_label.png"})
    assert open_dataset(str(yard), "train").labels_without_image() == [], "labels of other splits may lie there"


def test_patterns_may_be_absolute_or_begin_with_a_dot(yard, tmp_path):
    described(tmp_path, YARD | {"images": f"{tmp_path}/images/{{split}}/{{name}}.png", "labels": f"./{YARD['labels']}"})
    data = open_dataset(str(yard), "train")
    assert data.names == ["a_000", "a_001", "b_000"] and data[1].label.shape == (2, 3)


def test_sets_with_different_classes_are_joined_by_name_in_one_training(yard, tmp_path):
    """Decoded frames may be kept; files are looked at before they are decoded."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from mtaclip_core.config import AugmentConfig, SourceConfig
    from mtaclip_core.data.transforms import Augmentation, SampleStream

    camvid = write_camvid(tmp_path / "camvid", "train", np.arange(12, dtype=np.uint8).reshape(2, 6))
    city = write_cityscapes(tmp_path / "city", "train", (32, 32))
    plain = Augmentation(AugmentConfig(crop=(32, 32), scale=(1.0, 1.0), flip=0.0, colour=False), (0, 0, 0), (1, 1, 1))
    specs = {f"camvid:{camvid}": 1.0, f"cityscapes:{city}": 2.0, str(yard): 1.0}
    sources = [SourceConfig(data=data, split="train", weight=weight) for data, weight in specs.items()]
    seen = set()
    for cache in (False, True):
        samples = SampleStream(sources, FEW, plain, seed=0, cache=cache)
        samples.fill_cache()
        for n in range(12):
            source, frame = samples.locate(n)
            data = samples.datasets[source]
            label, joined = data[frame].label, samples[n][1].numpy()[: data[frame].label.shape[0]]
            for target in FEW.classes:
                names = {target.name, "pedestrian"} if target.name == "person" else {target.name}  # as CamVid says it
                theirs = [c.id for c in data.space.classes if c.name.lower() in names]
                assert ((joined[:, : label.shape[1]] == target.id) == np.isin(label, theirs)).all()
                seen |= {(source, target.name)} if np.isin(label, theirs).any() else set()
    assert {(0, "road"), (0, "person"), (1, "person"), (2, "road"), (2, "person"), (2, "crane")} <= seen
    for name in CAMVID_NAMES[:2]:
        (camvid / "train" / f"{name}.png").write_bytes(b"")
    samples = SampleStream(sources, FEW, plain, seed=0, cache=True)
    with pytest.raises(UserError, match=f"{CAMVID_NAMES[0]}.*{CAMVID_NAMES[1]}"):
        require_sound(samples.datasets, progress=False)


def test_the_check_of_a_sound_split_says_so(yard, capsys):
    assert check.main(["--data", str(yard), "--split", "train", "--decode"]) == 0
    assert "3 frames, 3 classes, nothing wrong" in capsys.readouterr().out


def test_a_cut_off_image_is_found_when_images_are_decoded(yard, tmp_path):
    path = tmp_path / "images/train/b_000.png"
    path.write_bytes(path.read_bytes()[:40])
    data = open_dataset(str(yard), "train")
    assert check_dataset(data, progress=False) == []
    assert "b_000.png" in check_dataset(data, decode=True, progress=False)[0]


@pytest.mark.parametrize("length", [0, 10, 40])
def test_a_cut_off_label_is_named(yard, tmp_path, length):
    path = tmp_path / "labels/train/b_000_label.png"
    path.write_bytes(path.read_bytes()[:length])
    problems = check_dataset(open_dataset(str(yard), "train"), progress=False)
    assert len(problems) == 1 and "b_000_label.png: not a readable image" in problems[0]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_the_size_in_the_first_bytes_is_the_decoded_one(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    assert cv2.imwrite(str(path), np.zeros((37, 61, 3), np.uint8))
    assert header_size(path) == (None if suffix == ".bmp" else (37, 61))
