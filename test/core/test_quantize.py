"""`export int8`: a bundle with an int8 graph for the CPU, that says what it costs and is held to the gate."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import make_colour_bundle, paint
from helpers_bundle import edit

from mtaclip_core.bundle import OPENVINO_INT8, Bundle, load_bundle
from mtaclip_core.cli import UserError
from mtaclip_core.export import main
from mtaclip_core.labels import CAMVID
from mtaclip_core.runtime.segmenter import load_segmenter

SIZE = (48, 64)


@pytest.fixture(scope="module")
def colour(tmp_path_factory) -> Path:
    return make_colour_bundle(tmp_path_factory.mktemp("models") / "colour", CAMVID, SIZE)


@pytest.fixture(scope="module")
def streets(tmp_path_factory) -> str:
    """A CamVid folder of images in the classes' own colours."""
    folder = tmp_path_factory.mktemp("streets")
    for split in ("train", "val"):
        for part in (split, f"{split}annot"):
            (folder / part).mkdir()
        for seed in range(4):
            image, label = paint(CAMVID, SIZE, seed + (50 if split == "val" else 0))
            cv2.imwrite(str(folder / split / f"{seed}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            cv2.imwrite(str(folder / f"{split}annot" / f"{seed}.png"), label)
    return f"camvid:{folder}"


@pytest.fixture(scope="module")
def quantised(colour: Path, streets: str) -> Bundle:
    pytest.importorskip("nncf")
    out = colour.parent / "colour-int8"
    arguments = ["--frames", "4", "--limit", "3", "--max-drop", "0.05", "--out", str(out)]
    assert main(["int8", str(colour), "--data", streets, *arguments]) == 0
    return load_bundle(out)


def test_the_bundle_holds_both_graphs_and_the_report(quantised: Bundle, colour: Path) -> None:
    assert OPENVINO_INT8 in quantised.metadata["files"]
    assert quantised.onnx_path.read_bytes() == (colour / "model.onnx").read_bytes()
    rows = {row["what"]: row for row in quantised.metadata["measured"]}
    before, after = (
        rows["mIoU on camvid val before int8 (openvino, f32)"],
        rows["mIoU on camvid val (openvino, int8)"],
    )
    assert before["value"] == pytest.approx(1, abs=0.01) and after["value"] == pytest.approx(1, abs=0.05)
    assert after["command"].startswith("python -m mtaclip_core.export int8 ")
    card = (quantised.path / "README.md").read_text()
    assert "## int8" in card and str(after["value"]) in card and card.startswith("Nearest class colour")


def test_precision_is_asked_for_and_reported(quantised: Bundle) -> None:
    frames = [CAMVID.palette[np.full(SIZE, i, np.uint8)] for i in (0, 10, 2)]
    with load_segmenter(quantised.path, "openvino", precision="int8") as int8, load_segmenter(quantised.path) as exact:
        assert (int8.precision, exact.precision) == ("int8", "f32")
        for batch in (frames[:1], frames):
            for a, b in zip(int8.segment(batch), exact.segment(batch), strict=True):
                assert (a.label == b.label).mean() > 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nothing:here"], "nothing"),
        (["--data", "STREETS", "--split", "no-such"], "no-such"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(
    colour: Path, streets: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    given = [streets if argument == "STREETS" else argument for argument in arguments]
    with pytest.raises(UserError, match=message) as caught:
        main(["int8", str(colour), *given, "--out", str(tmp_path / "out")])
    assert len(str(caught.value).splitlines()) == 1 and not (tmp_path / "out").exists()


def test_a_graph_that_is_not_float_any_more_is_refused(streets: str, tmp_path: Path) -> None:
    half = make_colour_bundle(tmp_path / "half", CAMVID, SIZE)
    edit(half, lambda manifest: manifest.update(precision="fp16"))
    with pytest.raises(UserError, match="is fp16 already; start from one in f32"):
        main(["int8", str(half), "--data", streets, "--out", str(tmp_path / "out")])
