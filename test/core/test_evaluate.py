"""The evaluation command: known labels give known scores, and what the user got wrong costs one line."""

from __future__ import annotations

import html.parser
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from bundles import make_colour_bundle, paint
from helpers_evaluate import evaluated, failure
from helpers_miniatures import write_camvid, write_cityscapes, write_png

from mtaclip_core import evaluate
from mtaclip_core.data.camvid import CamVid
from mtaclip_core.data.cityscapes import Cityscapes
from mtaclip_core.labels import CAMVID, CITYSCAPES, CITYSCAPES_LABELS, UNLABELLED
from mtaclip_core.metrics.evaluation import evaluate_segmenter

SIZE = (90, 120)
NAMES = ("0001TP_006690", "0006R0_f00930", "0016E5_00390")
KEYS = {"miou", "per_class", "classes", "images", "model", "backend", "precision", "command", "seconds"}
SKY, ROAD = CAMVID.names.index("Sky"), CAMVID.names.index("Road")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return make_colour_bundle(tmp_path_factory.mktemp("bundles") / "colour", CAMVID, SIZE)


@pytest.fixture
def painted(tmp_path: Path) -> Path:
    """CamVid folder whose images are painted in the colours of their labels."""
    for i, name in enumerate(NAMES):
        image, label = paint(CAMVID, SIZE, seed=i)
        write_png(tmp_path / "camvid" / "val" / f"{name}.png", image)
        write_png(tmp_path / "camvid" / "valannot" / f"{name}.png", label)
    return tmp_path / "camvid"


def painted_cityscapes(root: Path) -> Path:
    """Cityscapes miniature whose images show the true class where it is evaluated, black elsewhere."""
    write_cityscapes(root, "val", SIZE)
    data = Cityscapes(root, "val")
    for path, name in zip(sorted(root.glob("leftImg8bit/val/*/*.png")), data.names, strict=True):
        write_png(path, CITYSCAPES.palette[data[data.names.index(name)].label])
    return root


def test_painted_images_are_segmented_without_error(bundle, painted, tmp_path, capsys):
    result = evaluated(tmp_path, "--model", bundle, "--data", f"camvid:{painted}", "--split", "val")
    assert set(result) >= KEYS
    assert "cityscapes" not in result
    assert result["miou"] == 1.0
    assert result["classes"] == CAMVID.names == list(result["per_class"])
    assert result["images"] == 3
    assert result["model"]["name"] == "colour"
    assert len(result["model"]["hash"]) == 64
    assert (result["backend"], result["precision"]) == ("openvino", "f32")
    assert result["command"].startswith("python -m mtaclip_core.evaluate --model ")
    assert "mIoU 100.00 over 11 classes, 3 images" in capsys.readouterr().out


def test_known_mistakes_give_known_scores_and_absent_classes_are_null(bundle, tmp_path, capsys):
    label = np.full(SIZE, SKY, np.uint8)
    label[:, 60:] = ROAD
    label[:10] = 11
    write_camvid(tmp_path, "val", label, NAMES[:1])
    write_png(tmp_path / "val" / f"{NAMES[0]}.png", np.full((*SIZE, 3), CAMVID.palette[SKY], np.uint8))
    result = evaluated(tmp_path, "--model", bundle, "--data", f"camvid:{tmp_path}", "--split", "val")
    expected = dict.fromkeys(CAMVID.names) | {"Sky": 0.5, "Road": 0.0}
    assert result["per_class"] == expected
    assert result["miou"] == 0.25
    assert "mIoU 25.00 over 2 classes, 1 images" in capsys.readouterr().out


def test_cityscapes_data_adds_the_official_keys(tmp_path):
    root = painted_cityscapes(tmp_path / "cityscapes")
    model = make_colour_bundle(tmp_path / "street", CITYSCAPES, SIZE)
    result = evaluated(tmp_path, "--model", model, "--data", f"cityscapes:{root}", "--split", "val")
    official = result["cityscapes"]
    assert result["miou"] == official["averageScoreClasses"] == 1.0
    assert official["averageScoreCategories"] == official["averageScoreInstClasses"] == 1.0
    assert official["categoryScores"]["void"] is None
    assert set(official["classScores"]) == {r.name for r in CITYSCAPES_LABELS}


def test_a_coarse_model_is_compared_in_its_own_classes(bundle, tmp_path):
    root = write_cityscapes(tmp_path / "cityscapes", "val", SIZE)
    result = evaluated(tmp_path, "--model", bundle, "--data", f"synthetic:{root}", "--split", "val")
    assert result["classes"] == CAMVID.names
    assert "cityscapes" not in result


def test_a_fine_model_is_compared_in_the_classes_of_the_data(painted):
    rider, sidewalk = CITYSCAPES.names.index("rider"), CITYSCAPES.names.index("sidewalk")
    fine = np.full(256, UNLABELLED, np.uint8)
    fine[CAMVID.names.index("Bicyclist")], fine[CAMVID.names.index("Pavement")] = rider, sidewalk
    labels = iter([CamVid(painted, "val")[i].label for i in range(3)])
    result = evaluate_segmenter(lambda image: fine[next(labels)], CamVid(painted, "val"), False, space=CITYSCAPES)
    assert result.space is CAMVID
    right = {name for name, score in result.confusion.iou().items() if score == 1.0}
    assert right == {"Bicyclist", "Pavement"}


def test_a_function_is_enough_and_every_frame_gets_its_score(painted):
    data = CamVid(painted, "val")
    truth = {data[i].image.tobytes(): data[i].label for i in range(3)}

    def second_frame_wrong(image: np.ndarray) -> np.ndarray:
        label = truth[image.tobytes()]
        return np.full_like(label, UNLABELLED) if image.tobytes() == data[1].image.tobytes() else label

    result = evaluate_segmenter(second_frame_wrong, data, progress=False)
    assert [(i.name, i.miou) for i in result.images] == list(zip(NAMES, [1.0, 0.0, 1.0], strict=True))
    assert result.confusion.matrix[:, -1].sum() == SIZE[0] * SIZE[1]


def test_the_next_frame_is_read_while_a_model_works(painted):
    second_was_read = threading.Event()

    class Watched(CamVid):
        def __getitem__(self, index):
            if index == 1:
                second_was_read.set()
            return super().__getitem__(index)

    def model(image: np.ndarray) -> np.ndarray:
        assert second_was_read.wait(60)
        return np.zeros(image.shape[:2], np.uint8)

    result = evaluate_segmenter(model, Watched(painted, "val"), progress=False)
    assert [score.name for score in result.images] == list(NAMES)


def test_labels_that_lost_their_image_are_told(bundle, painted, capsys):
    (painted / "val" / f"{NAMES[1]}.png").unlink()
    evaluate.main(["--model", str(bundle), "--data", f"camvid:{painted}", "--split", "val"])
    lost = painted / "valannot" / f"{NAMES[1]}.png"
    assert f"warning: not scored, for want of the image: {lost}\n" in capsys.readouterr().err


def test_limit_takes_the_first_frames(bundle, painted, tmp_path):
    result = evaluated(tmp_path, "--model", bundle, "--data", f"camvid:{painted}", "--split", "val", "--limit", 2)
    assert result["images"] == 2


def test_progress_goes_to_stderr_and_the_table_to_stdout(bundle, painted, capsys):
    evaluate.main(["--model", str(bundle), "--data", f"camvid:{painted}", "--split", "val"])
    out, err = capsys.readouterr()
    assert "3/3" in err
    assert "frame" not in out
    assert [line.split()[0] for line in out.splitlines()[2:13]] == CAMVID.names


class Page(html.parser.HTMLParser):
    """What a page refers to, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_is_one_page_that_needs_no_other_file(bundle, painted, tmp_path):
    write_png(painted / "val" / f"{NAMES[2]}.png", np.zeros((*SIZE, 3), np.uint8))
    report = tmp_path / "report"
    evaluated(tmp_path, "--model", bundle, "--data", f"camvid:{painted}", "--split", "val", "--report", report)
    assert [p.name for p in report.iterdir()] == ["index.html"]
    page = Page((report / "index.html").read_text(encoding="utf-8"))
    assert page.links
    assert all(link.startswith("data:") for link in page.links)
    text = " ".join(page.words)
    worst, best = (text.index(title) for title in ("Worst images", "Best images"))
    assert min((text.index(name, worst), name) for name in NAMES if name in text[worst:best])[1] == NAMES[2]
    assert NAMES[2] not in text[best:].partition("mIoU")[0]
    assert all(name in text for name in CAMVID.names)
    assert f"--data camvid:{painted}" in text


def test_a_bundle_is_evaluated_with_torch_blocked(bundle, painted):
    code = (
        "import sys; sys.modules['torch'] = None; from mtaclip_core.evaluate import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["--model", str(bundle), "--data", f"camvid:{painted}", "--split", "val", "--limit", "1"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "mIoU 100.00" in done.stdout


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """Run folder of a tiny untrained model."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    from mtaclip_core.config import parse_config
    from mtaclip_core.modeling.mta_clip import build_model
    from mtaclip_core.training.checkpoint import save_checkpoint

    config = parse_config(
        {
            "classes": "camvid",
            "model": {
                "backbone": {"kind": "timm", "name": "mobilenetv4_conv_small"},
                "pixel_decoder": {"kind": "fpn"},
                "text": {"source": "learned", "contexts": 1, "width": 32},
                "decoder": {"queries": 8, "width": 32, "layers": 1, "heads": 4, "feedforward": 32},
            },
            "network_size": [64, 96],
        },
        "test",
    )
    model = build_model(config.model, CAMVID, seed=3)
    weights = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    meta = {
        "config": config.model_dump(mode="json"),
        "space": {"name": CAMVID.name, "classes": CAMVID.to_list()},
        "step": 0,
    }
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    save_checkpoint(folder / "checkpoints" / "best.safetensors", weights, meta)
    return folder


def test_a_run_folder_is_evaluated_through_its_deployed_graph(run_folder, painted, tmp_path):
    import torch

    from mtaclip_core.deploy.graph import DeployedSegmenter
    from mtaclip_core.training.checkpoint import load_model

    result = evaluated(tmp_path, "--model", run_folder, "--data", f"camvid:{painted}", "--split", "val")
    assert result["model"]["name"] == "tiny/best"
    assert (result["backend"], result["precision"]) == ("torch", "f32")
    graph = DeployedSegmenter(load_model(run_folder)[0], (64, 96))
    with torch.inference_mode():
        by_hand = evaluate_segmenter(
            lambda image: graph(torch.from_numpy(image)[None])[0][0].numpy(), CamVid(painted, "val"), progress=False
        )
    assert by_hand.confusion.iou() == pytest.approx(result["per_class"])
    checkpoint = run_folder / "checkpoints" / "best.safetensors"
    same = evaluated(tmp_path, "--model", checkpoint, "--data", f"camvid:{painted}", "--split", "val")
    assert same["miou"] == result["miou"]


def test_a_checkpoint_runs_in_torch_only(run_folder, painted, monkeypatch, capsys):
    arguments = ("--model", run_folder, "--data", f"camvid:{painted}", "--split", "val", "--backend", "openvino")
    assert "is a checkpoint: it runs in torch in f32" in failure(monkeypatch, capsys, *arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--model": "no/such/bundle"}, "no bundle 'no/such/bundle'"),
        ({"--model": "run/best.safetensors"}, "no checkpoint at 'run/best.safetensors'"),
        ({"--data": "camvid:no/such/folder"}, "no/such/folder: no such folder"),
        ({"--data": "cityscapes:no/such/folder"}, "no/such/folder: no such folder"),
        ({"--data": "kitti:x"}, "expected KIND:PATH"),
        ({"--split": "test"}, "split 'test' needs the folders test/ and testannot/; it has val"),
        ({"--limit": "0"}, "'0' is not a positive whole number"),
        ({"--limit": "²"}, "'²' is not a positive whole number"),
        ({"--backend": "tpu"}, "invalid choice: 'tpu'"),
        ({"--json": "."}, ". is a folder; name a file in it"),
    ],
)
def test_what_the_user_got_wrong_costs_one_line(bundle, painted, monkeypatch, capsys, change, message):
    arguments = {"--model": bundle, "--data": f"camvid:{painted}", "--split": "val"} | change
    line = failure(monkeypatch, capsys, *(a for pair in arguments.items() for a in pair))
    assert line.startswith("error: ")
    assert message in line


def test_a_label_of_another_size_stops_the_evaluation_and_writes_nothing(
    bundle, painted, tmp_path, monkeypatch, capsys
):
    write_png(painted / "valannot" / f"{NAMES[1]}.png", np.zeros((9, 9), np.uint8))
    out = tmp_path / "out" / "result.json"
    arguments = ("--model", bundle, "--data", f"camvid:{painted}", "--split", "val", "--json", out)
    line = failure(monkeypatch, capsys, *arguments)
    assert f"{NAMES[1]}.png is 90x120 but its label" in line
    assert list(out.parent.iterdir()) == []


def test_views_of_a_checkpoint_are_averaged_and_named(run_folder, painted, tmp_path, monkeypatch):
    """That they are averaged rightly is `test_averaging`'s; an untrained model labels most pixels alike anyway."""
    from mtaclip_core.training import averaged_segmenter

    averaged = []

    class Watched(averaged_segmenter.AveragedSegmenter):
        def segment(self, frames, channel_order="rgb"):
            averaged.append(len(frames))
            return super().segment(frames, channel_order)

    monkeypatch.setattr(averaged_segmenter, "AveragedSegmenter", Watched)
    data = ("--model", run_folder, "--data", f"camvid:{painted}", "--split", "val")
    plain = evaluated(tmp_path, *data)
    assert plain["views"] == {"mode": "whole", "scales": [1.0], "flip": False}
    assert averaged == []
    several = evaluated(tmp_path, *data, "--scales", "0.5,1.0", "--flip")
    assert several["views"] == {"mode": "whole", "scales": [0.5, 1.0], "flip": True}
    assert averaged == [1, 1, 1]
    slide = evaluated(tmp_path, *data, "--mode", "slide", "--window", "64x64")
    assert slide["views"] == {"mode": "slide", "window": [64, 64], "stride": [42, 42], "scales": [1.0], "flip": False}
    assert len(averaged) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--window", "64x64"], "--window and --stride are of --mode slide"),
        (["--mode", "slide", "--window", "60x64"], "--window 60x64: both sides must be multiples of 32"),
        (["--mode", "slide", "--stride", "65x64"], "--stride 65x64 is larger than the window"),
        (["--scales", "1,x"], "'1,x' are not scales"),
        (["--scales", "0"], "'0' are not scales"),
    ],
)
def test_impossible_views_cost_one_line(run_folder, painted, monkeypatch, capsys, arguments, message):
    data = ("--model", run_folder, "--data", f"camvid:{painted}", "--split", "val")
    assert message in failure(monkeypatch, capsys, *data, *arguments)


def test_a_bundle_that_gives_labels_alone_says_what_averaging_needs(bundle, painted, monkeypatch, capsys):
    data = ("--data", f"camvid:{painted}", "--split", "val", "--flip")
    assert "give a checkpoint, or --backend torch" in failure(monkeypatch, capsys, "--model", bundle, *data)
    assert "are for --model" in failure(monkeypatch, capsys, "--predictions", painted, *data)
