"""`predict` and `benchmark` on a real bundle: files that can be used, numbers that are there, errors of one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import make_colour_bundle, paint

from mtaclip_core import benchmark, predict
from mtaclip_core.cli import UserError
from mtaclip_core.labels import CAMVID

SIZE = (48, 64)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_colour_bundle(tmp_path_factory.mktemp("models") / "colour", CAMVID, SIZE)


def write_image(path: Path, seed: int) -> np.ndarray:
    image, label = paint(CAMVID, SIZE, seed)
    cv2.imwrite(str(path), image[..., ::-1])
    return label


def test_predict_writes_labels_confidences_and_overlays(bundle: Path, tmp_path: Path, capsys) -> None:
    labels = {name: write_image(tmp_path / f"{name}.png", seed) for seed, name in enumerate(("one", "two"))}
    out = tmp_path / "out"
    images = [str(tmp_path / f"{name}.png") for name in labels]
    assert predict.main(["--model", str(bundle), *images, "--out", str(out)]) == 0
    kinds = ("label", "confidence", "overlay")
    assert {p.name for p in out.iterdir()} == {f"{name}_{kind}.png" for name in labels for kind in kinds}
    for name, label in labels.items():
        np.testing.assert_array_equal(cv2.imread(str(out / f"{name}_label.png"), cv2.IMREAD_UNCHANGED), label)
        assert cv2.imread(str(out / f"{name}_confidence.png"), cv2.IMREAD_UNCHANGED).shape == SIZE
        # Image and overlay have the same colours here, so that blending changes nothing.
        np.testing.assert_allclose(
            cv2.imread(str(out / f"{name}_overlay.png"))[..., ::-1], CAMVID.palette[label], atol=1
        )
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and "one_overlay.png" in printed[0] and "%" in printed[0]


@pytest.mark.parametrize(
    ("images", "model", "message"),
    [
        (["missing.png"], "colour", "no image '.*missing.png'"),
        (["text.png"], "colour", "text.png"),
        (["one.png"], "nowhere", "no bundle 'nowhere'"),
        (["one.png", "sub/one.png"], "colour", "two images are called 'one'"),
        (["one.png", "--out", "text.png"], "colour", "text.png: cannot create this folder"),
    ],
)
def test_predict_says_what_is_wrong(bundle: Path, tmp_path: Path, images: list, model: str, message: str) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("one.png", "sub/one.png"):
        write_image(tmp_path / name, 0)
    (tmp_path / "text.png").write_text("no picture")
    chosen = str(bundle) if model == "colour" else model
    with pytest.raises(UserError, match=message) as caught:
        given = [i if i.startswith("--") else str(tmp_path / i) for i in images]
        predict.main(["--model", chosen, "--out", str(tmp_path / "out"), *given])
    assert len(str(caught.value).splitlines()) == 1


def test_a_wrong_bundle_costs_one_line_and_exit_code_2(tmp_path: Path, root: Path) -> None:
    write_image(tmp_path / "one.png", 0)
    arguments = ["--model", str(tmp_path), str(tmp_path / "one.png"), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-m", "mtaclip_core.predict", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "holds no bundle.yaml" in done.stderr


def test_benchmark_measures_what_it_says(bundle: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "numbers" / "benchmark.json"
    arguments = ["--model", str(bundle), "--size", "64x96", "--batch", "2", "--frames", "7", "--threads", "1"]
    assert benchmark.main([*arguments, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    assert result["calls"] == 7 and result["size"] == "64x96" and result["threads"] == 1
    assert (result["backend"], result["precision"], result["model"]["name"]) == ("openvino", "f32", "colour")
    for stage in ("load", "first", "segment"):
        assert 0 < result["stages"][stage]["p50"] <= result["stages"][stage]["p90"] <= result["stages"][stage]["p99"]
    assert result["fps"] > 0 and result["peak_rss_mb"] > 20
    assert result["machine"]["cores"] >= 1 and result["machine"]["cpu"]
    assert result["command"].startswith("python -m mtaclip_core.benchmark --model")
    assert "fps at 64x96" in capsys.readouterr().out


def test_benchmark_measures_for_the_time_that_was_given(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "b.json"
    benchmark.main(["--model", str(bundle), "--size", "48x64", "--seconds", "0.3", "--json", str(out)])
    result = json.loads(out.read_text())
    assert result["calls"] >= 2 and result["calls"] / result["fps"] < 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "480", "--json", "x.json"], "'480' is not a size"),
        (["--size", "48x64", "--threads", "0", "--json", "x.json"], "'0' is not a positive whole number"),
        (["--size", "48x64"], "required: --json"),
    ],
)
def test_benchmark_says_what_is_wrong(bundle: Path, arguments: list, message: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["--model", str(bundle), *arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
