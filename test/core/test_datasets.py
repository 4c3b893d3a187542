"""CamVid and Cityscapes in their real layouts: what is read, and what is said when files are wrong."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from helpers_miniatures import CAMVID_NAMES, write_camvid, write_cityscapes, write_png

from mtaclip_core.cli import UserError
from mtaclip_core.data.camvid import CamVid
from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.data.dataset import open_dataset
from mtaclip_core.labels import CAMVID, CITYSCAPES, LABEL_ID_TO_TRAIN_ID, UNLABELLED

LABEL = np.arange(12, dtype=np.uint8).reshape(3, 4)
CITY_LABEL = "gtFine/val/lindau/lindau_000000_000019_gtFine_labelIds.png"


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    return write_camvid(tmp_path / "camvid", "train", LABEL)


@pytest.fixture
def cityscapes(tmp_path: Path) -> Path:
    return write_cityscapes(tmp_path / "cityscapes", "val")


def test_camvid_frames_come_sorted_with_eleven_as_unlabelled(camvid):
    data = open_dataset(f"camvid:{camvid}", "train")
    assert data.space is CAMVID
    assert data.names == sorted(CAMVID_NAMES)
    assert data[1].label.tolist() == [*LABEL.tolist()[:2], [8, 9, 10, UNLABELLED]]
    assert (data[1].image == 1).all()
    assert data[1].name == "0001TP_006720"


def test_camvid_images_are_rgb(camvid):
    image = np.zeros((3, 4, 3), np.uint8)
    image[..., 0] = 200
    write_png(camvid / "train" / f"{CAMVID_NAMES[0]}.png", image)
    assert (CamVid(camvid, "train")[0].image == image).all()


@pytest.mark.parametrize(
    ("split", "names"),
    [("train=0001TP", CAMVID_NAMES[:2]), ("train-0001TP", CAMVID_NAMES[2:]), ("train-0016E5", CAMVID_NAMES[:3])],
)
def test_camvid_leaves_one_drive_out(camvid, split, names):
    data = CamVid(camvid, split)
    assert data.names == list(names)
    assert data[0].name == names[0]
    assert data.drive(names[0]) in ("0001TP", "0006R0")


def test_a_camvid_folder_may_have_a_dash_in_its_name(camvid):
    write_camvid(camvid, "train-night", LABEL, CAMVID_NAMES[:1])
    assert len(CamVid(camvid, "train-night")) == 1
    assert CamVid(camvid, "train-night=0001TP").names == [CAMVID_NAMES[0]]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test", r"split 'test' needs the folders test/ and testannot/; it has train"),
        ("", r"it has train"),
        ("train=0099XX", r"no drive '0099XX' in .*; it has 0001TP, 0006R0, 0016E5"),
    ],
)
def test_a_missing_camvid_split_says_what_there_is(camvid, split, message):
    with pytest.raises(UserError, match=message):
        CamVid(camvid, split)


def test_leaving_out_the_only_drive_is_an_error(camvid):
    write_camvid(camvid, "val", LABEL, ("0016E5_07959",))
    with pytest.raises(UserError, match="no other drive"):
        CamVid(camvid, "val-0016E5")


def test_missing_camvid_labels_are_named(camvid):
    for name in CAMVID_NAMES:
        (camvid / "trainannot" / f"{name}.png").unlink()
    with pytest.raises(UserError, match=rf"missing {CAMVID_NAMES[0]}.png, .* and 1 more, .*images in .*train"):
        CamVid(camvid, "train")


def test_a_split_without_images_is_an_error(camvid):
    (camvid / "val").mkdir()
    (camvid / "valannot").mkdir()
    with pytest.raises(UserError, match=r"val: no image matches \*\.png"):
        CamVid(camvid, "val")


def test_size_mismatch_names_both_files_and_sizes(camvid):
    write_png(camvid / "trainannot" / f"{CAMVID_NAMES[0]}.png", np.zeros((5, 4), np.uint8))
    with pytest.raises(UserError, match=rf"train/{CAMVID_NAMES[0]}.png is 3x4 but its label .*annot.* is 5x4"):
        CamVid(camvid, "train")[0]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full((3, 4), 12, np.uint8), r"unknown label id 12; expected CamVid ids 0-10 and 11"),
        (np.zeros((3, 4, 3), np.uint8), r"expected a single-channel 8-bit label image of ids, found 3 channels"),
        (np.zeros((3, 4), np.uint16), r"single-channel 8-bit .* found 1 channel of uint16"),
    ],
)
def test_wrong_label_content_names_the_file(camvid, label, message):
    write_png(camvid / "trainannot" / f"{CAMVID_NAMES[0]}.png", label)
    with pytest.raises(UserError, match=rf"trainannot/{CAMVID_NAMES[0]}.png: .*{message}"):
        CamVid(camvid, "train")[0]


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_an_unreadable_image_names_the_file(camvid, content):
    path = camvid / "train" / f"{CAMVID_NAMES[0]}.png"
    data = CamVid(camvid, "train")
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{CAMVID_NAMES[0]}.png: (cannot be read|not a readable image)"):
        data[0]


def test_cityscapes_labels_are_train_ids_of_all_cities(cityscapes):
    data = open_dataset(f"cityscapes:{cityscapes}", "val")
    assert data.space is CITYSCAPES
    assert data.names == ["aachen_000000_000019", "lindau_000000_000019", "lindau_000001_000019"]
    ids = cv2.imread(str(cityscapes / CITY_LABEL), cv2.IMREAD_UNCHANGED)
    assert (data[1].label == LABEL_ID_TO_TRAIN_ID[ids]).all()
    assert set(np.unique(data[1].label)) <= {*CITYSCAPES.ids, UNLABELLED}
    assert data[1].image.shape == (*ids.shape, 3)
    assert (data.label_ids(1) == ids).all()


def test_cityscapes_gives_instances_where_they_are(cityscapes):
    path = cityscapes / CITY_LABEL.replace("labelIds", "instanceIds")
    data = Cityscapes(cityscapes, "val")
    assert data.instances_path(1) == path
    instances = data.instances(1)
    assert instances.dtype == np.uint16
    assert (np.where(instances >= 1000, instances // 1000, instances) == data.label_ids(1)).all()
    path.unlink()
    assert data.instances_path(1) is None
    assert data.instances(1) is None


def test_the_generated_street_is_read_as_cityscapes(cityscapes):
    assert isinstance(open_dataset(f"synthetic:{cityscapes}", "val"), Cityscapes)


@pytest.mark.parametrize(
    ("folder", "split", "message"),
    [("", "train", r"leftImg8bit/train: no such folder; .*it has val"), ("nowhere", "val", r"nowhere: no such folder")],
)
def test_missing_cityscapes_folders_say_what_is_expected(cityscapes, folder, split, message):
    with pytest.raises(UserError, match=message) as error:
        Cityscapes(cityscapes / folder, split)
    assert "leftImg8bit/SPLIT/CITY/" in str(error.value)


def test_missing_cityscapes_labels_are_named(cityscapes):
    (cityscapes / CITY_LABEL).unlink()
    with pytest.raises(UserError, match=rf"val: missing lindau/{Path(CITY_LABEL).name}"):
        Cityscapes(cityscapes, "val")


def test_unknown_cityscapes_ids_are_named(cityscapes):
    write_png(cityscapes / CITY_LABEL, np.array([[7, 34], [77, 8]], np.uint8))
    with pytest.raises(UserError, match=r"labelIds.png: unknown label id 34, 77; expected Cityscapes label ids 0-33"):
        Cityscapes(cityscapes, "val")[1]


def test_hidden_files_are_not_frames(cityscapes):
    write_png(cityscapes / "leftImg8bit/val/lindau/._lindau_000000_000019_leftImg8bit.png", LABEL)
    assert len(Cityscapes(cityscapes, "val")) == 3


@pytest.mark.parametrize("spec", ["camvid", "kitti:/data", ":x"])
def test_an_unknown_kind_says_which_there_are(spec):
    with pytest.raises(
        UserError, match=r"expected KIND:PATH with KIND one of camvid, cityscapes, synthetic, ade20k, or a .yaml file"
    ):
        open_dataset(spec, "val")


@pytest.mark.parametrize("kind", ["camvid", "cityscapes"])
def test_a_missing_folder_is_one_clear_error(tmp_path, kind):
    with pytest.raises(UserError, match=r"nowhere.*: no such folder"):
        open_dataset(f"{kind}:{tmp_path / 'nowhere'}", "val")


@pytest.mark.camvid
def test_real_camvid_has_its_drives_and_classes():
    folder = Path(os.environ.get("MTACLIP_CAMVID", Path(__file__).parents[2].parent / "shared" / "camvid"))
    if not folder.is_dir():
        pytest.skip(f"no CamVid at {folder}; set MTACLIP_CAMVID")
    train, val = CamVid(folder, "train"), CamVid(folder, "val")
    assert (len(train), len(val)) == (367, 101)
    assert {train.drive(n) for n in train.names} == {"0001TP", "0006R0", "0016E5"}
    assert len(CamVid(folder, "train-0001TP")) + len(CamVid(folder, "train=0001TP")) == len(train)
    sample = val[0]
    assert sample.image.shape == (360, 480, 3)
    assert set(np.unique(sample.label)) <= {*CAMVID.ids, UNLABELLED}
