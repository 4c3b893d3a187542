"""Predictions in files: written by us, read back, scored like the official script does, by any number of processes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import make_colour_bundle, paint
from helpers_evaluate import evaluated, failure, official_scores, same_scores
from helpers_miniatures import write_cityscapes, write_png

from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.labels import (
    CAMVID,
    CITYSCAPES,
    CITYSCAPES_LABELS,
    LABEL_ID_TO_TRAIN_ID,
    UNLABELLED,
    numbered_space,
)
from mtaclip_core.metrics.prediction_folder import prediction_writer

SIZE = (90, 120)


@pytest.fixture
def city(tmp_path: Path) -> Path:
    return write_cityscapes(tmp_path / "city", "val", SIZE)


@pytest.fixture
def predictions(city: Path, tmp_path: Path) -> Path:
    """Label ids, half of them right, the rest of any class, the ones that are not evaluated included."""
    data, random = Cityscapes(city, "val"), np.random.default_rng(5)
    ids = np.array([r.id for r in CITYSCAPES_LABELS], np.uint8)
    for index, name in enumerate(data.names):
        truth = data.label_ids(index)
        guess = cv2.resize(random.choice(ids, (9, 12)), truth.shape[::-1], interpolation=cv2.INTER_NEAREST)
        label = np.where(random.random(truth.shape) < 0.5, truth, guess)
        write_png(tmp_path / "predictions" / "some_city" / f"{name}_leftImg8bit_mine.png", label)
    return tmp_path / "predictions"


def test_files_are_scored_as_by_the_official_script(city, predictions, tmp_path):
    truths = sorted(city.glob("gtFine/val/*/*_labelIds.png"))
    files = [next(predictions.rglob(f"{t.name.removesuffix('_gtFine_labelIds.png')}*")) for t in truths]
    expected = official_scores(files, truths)
    data = ("--data", f"cityscapes:{city}", "--split", "val")
    result = evaluated(tmp_path, "--predictions", predictions, *data, "--processes", 1)
    same_scores(result["cityscapes"], expected)
    assert result["miou"] == pytest.approx(expected["averageScoreClasses"], abs=1e-9)
    assert 0.2 < result["miou"] < 0.8


def test_threads_and_processes_give_the_same_numbers_to_the_last_bit(city, predictions, tmp_path):
    data = ("--data", f"cityscapes:{city}", "--split", "val", "--predictions", predictions)
    results = [evaluated(tmp_path, *data, *more) for more in ((), ("--processes", 1), ("--processes", 2))]
    for result in results:
        del result["seconds"], result["command"]
    assert results[0] == results[1] == results[2]
    assert np.shape(results[0]["confusion_matrix"]) == (19, 20)
    assert np.trace(results[0]["confusion_matrix"]) / np.sum(results[0]["confusion_matrix"]) == pytest.approx(
        results[0]["pixel_accuracy"]
    )


def test_two_processes_of_a_model_write_what_one_reads_back(tmp_path, capsys):
    """Painted CamVid: the model is right everywhere, and its files score as it does itself."""
    for i in range(3):
        image, label = paint(CAMVID, SIZE, seed=i)
        write_png(tmp_path / "camvid" / "val" / f"0001TP_{i}.png", image)
        write_png(tmp_path / "camvid" / "valannot" / f"0001TP_{i}.png", label)
    data = ("--data", f"camvid:{tmp_path / 'camvid'}", "--split", "val")
    model, written = make_colour_bundle(tmp_path / "colour", CAMVID, SIZE), tmp_path / "written"
    result = evaluated(tmp_path, "--model", model, *data, "--processes", 2, "--write-predictions", written)
    assert result["miou"] == 1.0 and result["model"]["name"] == "colour"
    assert sorted(p.name for p in written.iterdir()) == [f"0001TP_{i}.png" for i in range(3)]
    again = evaluated(tmp_path, "--predictions", written, *data, "--report", tmp_path / "report")
    assert again["per_class"] == result["per_class"] and again["backend"] is None
    assert "None" not in (tmp_path / "report" / "index.html").read_text()


def test_cityscapes_is_written_in_label_ids_and_read_in_train_ids_too(city, tmp_path):
    for path in city.glob("leftImg8bit/val/*/*.png"):
        name = path.name.removesuffix("_leftImg8bit.png")
        label = Cityscapes(city, "val").label(Cityscapes(city, "val").names.index(name))
        write_png(path, CITYSCAPES.palette[label])
        write_png(tmp_path / "train_ids" / f"{name}_trainIds.png", label)
    data = ("--data", f"cityscapes:{city}", "--split", "val")
    model = make_colour_bundle(tmp_path / "street", CITYSCAPES, SIZE)
    evaluated(tmp_path, "--model", model, *data, "--write-predictions", tmp_path / "written")
    written = cv2.imread(str(next((tmp_path / "written").glob("*.png"))), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8 and written.ndim == 2
    assert (LABEL_ID_TO_TRAIN_ID[written] < 19).all() and written.max() > 19
    for folder, ids in (("written", "label"), ("train_ids", "train")):
        result = evaluated(tmp_path, "--predictions", tmp_path / folder, "--prediction-ids", ids, *data)
        assert result["miou"] == 1.0


def test_submitted_files_hold_nothing_but_label_ids(city, tmp_path):
    """Pixels without a class, and those of classes that Cityscapes does not have, are `unlabeled` to its server."""
    data = Cityscapes(city, "val")
    space = numbered_space("mine", ["road", "crane", "car"])
    prediction_writer(tmp_path, data, space)(1, np.array([[0, 1, 2, UNLABELLED, 9]], np.uint8))
    written = cv2.imread(str(tmp_path / f"{data.names[1]}.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint8 and written.tolist() == [[7, 0, 26, 0, 0]]


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_files_with_a_palette_count_as_their_indices(city, tmp_path, bits):
    """As mmsegmentation writes them; the palette gives several ids one colour."""
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    data, palette = Cityscapes(city, "val"), np.zeros((2**bits, 3), np.uint8)
    palette[1::2] = (0, 200, 100)
    for i, name in enumerate(data.names):
        ids = np.minimum(data.label_ids(i), 2**bits - 1)
        indexed = image.fromarray(ids, "P")
        indexed.putpalette(palette.tobytes())
        for folder, file in (("indexed", indexed), ("plain", image.fromarray(ids))):
            (tmp_path / folder).mkdir(exist_ok=True)
            file.save(tmp_path / folder / f"{name}.png", transparency=0)
    if bits < 8:
        assert (tmp_path / "indexed" / f"{name}.png").read_bytes()[24] == bits
    arguments = ("--data", f"cityscapes:{city}", "--split", "val", "--processes", 1)
    plain, indexed = (evaluated(tmp_path, "--predictions", tmp_path / f, *arguments) for f in ("plain", "indexed"))
    assert indexed["confusion_matrix"] == plain["confusion_matrix"]
    assert indexed["miou"] == (1.0 if bits == 8 else pytest.approx(plain["miou"]))


def test_what_is_wrong_with_the_files_is_one_line(city, predictions, tmp_path, monkeypatch, capsys):
    data = ("--data", f"cityscapes:{city}", "--split", "val", "--processes", 1)
    files = sorted(predictions.rglob("*.png"))

    def error(*arguments: object) -> str:
        return failure(monkeypatch, capsys, "--predictions", predictions, *data, *arguments)

    twin = write_png(predictions / files[0].name, np.zeros(SIZE, np.uint8))
    assert "several predictions of" in error() and "some_city" in error()
    twin.unlink()
    write_png(files[0], np.full(SIZE, 77, np.uint8))
    assert "unknown label id 77" in error()
    write_png(files[0], np.zeros((45, 60), np.uint8))
    assert f"{files[0]} is 45x60 but the label of" in error()
    assert files[0].name in error("--processes", 2)
    instances = sorted(city.rglob("*_instanceIds.png"))[0]
    write_png(instances, np.zeros((45, 60), np.uint16))
    write_png(files[0], np.zeros(SIZE, np.uint8))
    assert f"{instances} is 45x60 but the label of" in error()
    files[0].unlink()
    assert "no prediction" in error() and "_leftImg8bit" not in error()
    assert "no such folder" in failure(monkeypatch, capsys, "--predictions", tmp_path / "none", *data)
    assert "not allowed with" in failure(monkeypatch, capsys, "--predictions", predictions, "--model", "x", *data)


def test_a_frame_without_instances_leaves_iiou_out_and_is_named(city, predictions, tmp_path, capsys):
    lost = sorted(city.rglob("*_instanceIds.png"))[1]
    lost.unlink()
    data = ("--data", f"cityscapes:{city}", "--split", "val")
    result = evaluated(tmp_path, "--predictions", predictions, *data)
    assert "averageScoreInstClasses" not in result["cityscapes"] and result["cityscapes"]["averageScoreClasses"] > 0
    printed = capsys.readouterr()
    assert f"no iIoU: no instanceIds file for {lost.name.removesuffix('_gtFine_instanceIds.png')}\n" in printed.err
    assert "iIoU" not in printed.out
