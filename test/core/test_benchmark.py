"""`benchmark` with random weights: what it writes, not how fast anything is."""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from mtaclip_core import benchmark
from mtaclip_core.comparison.rounds import interleaved, ratio

DECODER = {"queries": 6, "width": 32, "layers": 1, "heads": 4, "feedforward": 32}
LIGHT = {
    "backbone": {"kind": "timm", "name": "mobilenetv4_conv_small_035"},
    "pixel_decoder": {"kind": "fpn"},
    "decoder": DECODER,
}
OURS = {
    "backbone": {"kind": "timm", "name": "resnet50", "options": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}},
    "pixel_decoder": {"layers": 1, "heads": 4, "feedforward": 32},
    "decoder": DECODER,
}
THEIRS = {
    "backbone": {"hidden_sizes": [32, 32, 32, 32], "depths": [1, 1, 1, 1]},
    "feature_size": 32,
    "mask_feature_size": 32,
    "hidden_dim": 32,
    "encoder_feedforward_dim": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "num_attention_heads": 4,
    "dim_feedforward": 32,
    "num_queries": 6,
}


def test_comparison_with_hugging_face_writes_every_ratio(tmp_path: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("transformers", reason="needs the extra bench")
    from mtaclip_core.comparison import compare_hf

    tiny = functools.partial(compare_hf.compare_hf, shapes=(OURS, THEIRS))
    monkeypatch.setattr(compare_hf, "compare_hf", tiny)
    out = tmp_path / "compare.json"
    arguments = ["--size", "64x96", "--compare", "hf", "--frames", "2", "--threads", "1", "--json", str(out)]
    assert benchmark.main(arguments) == 0
    result = json.loads(out.read_text())
    ratios = ("hf_eager_f32", "hf_openvino_f32", "hf_openvino_bf16", "hf_eager_best")
    assert all(result[f"ratio_{name}"] > 0 for name in ratios)
    stages = ("hf_eager_f32", "hf_openvino_f32", "hf_openvino_bf16", "ours_openvino_f32", "ours_openvino_bf16")
    int8 = {"ours_openvino_int8"} if importlib.util.find_spec("nncf") else set()
    assert set(result["stages"]) == {*stages, *int8} and ("int8" in result["gate"]) == bool(int8)
    assert result["best_precision"] in [precision for precision, found in result["gate"].items() if found["passed"]]
    f32 = result["stages"]["ours_openvino_f32"]["p50"]
    assert result["ratio_hf_openvino_f32"] == pytest.approx(result["stages"]["hf_openvino_f32"]["p50"] / f32, rel=0.05)
    assert result["gate"]["f32"]["passed"]
    assert 0 < result["floor"]["gmac"] < 1 and result["floor"]["f32"]["gmac_per_s"] > 0
    assert result["peak_rss_mb"] > 20 and result["fps"] > 0 and result["machine"]["cores"] >= 1
    assert (result["size"], result["classes"], result["text_tokens"]) == ("64x96", 19, "kept")
    assert result["command"].startswith("python -m mtaclip_core.benchmark --size 64x96 --compare hf")
    printed = capsys.readouterr().out
    assert "ratio_hf_openvino_f32: " in printed and "G multiply-adds at" in printed and "gate f32: passed" in printed


@pytest.fixture
def tiny_training():
    pytest.importorskip("transformers", reason="needs the extra bench")
    from mtaclip_core.comparison.training_side import Setup

    ours = {name: value for name, value in OURS.items() if name != "backbone"}
    theirs = {name: value for name, value in THEIRS.items() if name != "backbone"}
    return functools.partial(Setup, timm="resnet10t", shapes=(ours, theirs))


def test_both_trainings_start_from_one_backbone_and_train(tiny_training) -> None:
    from mtaclip_core.comparison.training_side import SIDES, build_side

    sides = [build_side(name, tiny_training((64, 96), batch=2, threads=1)) for name in SIDES]
    backbones = [list(side.backbone.state_dict().values()) for side in sides]
    assert all(torch.equal(a, b) for others in backbones[1:] for a, b in zip(backbones[0], others, strict=True))
    for side in sides:
        before = {name: p.detach().clone() for name, p in side.model.named_parameters() if p.requires_grad}
        for _ in range(2):
            side.step()
        same = {name for name, p in side.model.named_parameters() if name in before and torch.equal(p, before[name])}
        assert not any("backbone" in name or "decoder" in name for name in same), same
        assert len(side.losses) == 2 and all(loss > 0 for loss in side.losses)
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in side.parts.values())
    assert sides[1].losses == pytest.approx(sides[2].losses, rel=1e-4), "checkpointing changes no number"


def test_training_comparison_writes_times_memory_and_goals(tiny_training, tmp_path: Path, monkeypatch, capsys) -> None:
    from mtaclip_core.comparison import compare_train

    alone = compare_train.alone  # a process for one side is enough here

    def measured(name: str, setup: compare_train.Setup) -> float:
        return alone(name, setup) if name == "ours" else compare_train.peak_memory(name, setup)

    monkeypatch.setattr(compare_train, "alone", measured)
    monkeypatch.setattr(compare_train, "Setup", tiny_training)
    out = tmp_path / "train.json"
    arguments = ["--train", "--compare", "hf", "--size", "64x96", "--frames", "1", "--threads", "1", "--device", "cpu"]
    assert benchmark.main([*arguments, "--json", str(out)]) == 0
    result = json.loads(out.read_text())
    sides = ("hf", "ours", "ours_checkpointed")
    parts = ("backbone_forward", "decoder_losses", "step")
    assert set(result["stages"]) == {f"{side}_{part}" for side in sides for part in parts}
    for side in sides:
        times = [result["stages"][f"{side}_{part}"]["p50"] for part in parts]
        assert 0 < times[0] + times[1] < times[2]
        assert result["peak_memory_mb"][side] > 0
        assert len(result["loss"][side]) == 2
    assert len({result["parameters"][side]["backbone"] for side in sides}) == 1
    states = sum(result["parameters"]["ours"].values()) * 16 / 2**20  # weights, gradients, two moments, in float32
    assert states < result["peak_memory_mb"]["ours"] < 20 * states
    for shares in result["share_of_hf"].values():
        assert set(shares) == {*parts, "peak_memory"} and all(share > 0 for share in shares.values())
    assert (result["text_source"], result["device"], result["batch"]) == ("random_orthogonal", "cpu", 1)
    assert "ours decoder_losses: " in (printed := capsys.readouterr().out) and "goal at most 0.6" in printed


def test_without_a_model_a_network_with_random_weights_is_timed(tmp_path: Path, monkeypatch) -> None:
    from mtaclip_core.comparison import random_bundle

    monkeypatch.setattr(random_bundle, "full_config", functools.partial(random_bundle.full_config, model=LIGHT))
    out = tmp_path / "random.json"
    arguments = ["--size", "60x90", "--classes", "25", "--drop-text-tokens", "--frames", "2", "--json", str(out)]
    assert benchmark.main(arguments) == 0
    result = json.loads(out.read_text())
    assert result["model"]["name"] == "rn50-random" and result["network_size"] == "64x96"
    assert result["stages"]["segment"]["p50"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "street-tiny", "--compare", "hf"], "are for random weights; leave --model out"),
        (["--size", "50x64", "--compare", "hf"], "both sides must be multiples of 32"),
        (["--classes", "300"], "--classes 300: at most 254"),
        (["--compare", "classes", "--backend", "torch"], "leave --backend and --batch out"),
        (["--compare", "hf", "--precision", "bf16"], "leave --precision out"),
        (["--train"], "add --compare hf"),
        (["--train", "--compare", "hf", "--precision", "int8"], "runs in f32 or bf16"),
        (["--model", "street-tiny", "--device", "cpu"], "--device is for --train"),
    ],
)
def test_comparison_says_what_is_wrong(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(benchmark.UserError, match=message):
        benchmark.main(["--size", "64x64", *arguments, "--json", str(tmp_path / "x.json")])


def test_everything_runs_once_a_round() -> None:
    order: list[str] = []
    taken = interleaved({name: functools.partial(order.append, name) for name in "abc"}, rounds=3, warm_up=1)
    rounds = [order[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds) and len({names[0] for names in rounds}) == 3
    assert [len(seconds) for seconds in taken.values()] == [3, 3, 3]
    assert ratio([3.0, 1.0, 30.0], [2.0, 2.0, 2.0]) == 1.5


def test_comparison_with_the_official_script_scores_alike_and_writes_both_ratios(tmp_path: Path, monkeypatch) -> None:
    """It ends with an error where a score differs by more than 1e-9."""
    pytest.importorskip(
        "cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling",
        reason="cityscapesscripts, or pyquaternion for it, is not installed",
    )
    from mtaclip_core.comparison import compare_cityscapes

    monkeypatch.setattr(compare_cityscapes, "FRAMES", 20)
    out = tmp_path / "compare.json"
    arguments = ["--size", "64x96", "--compare", "cityscapes", "--frames", "1", "--threads", "1", "--json", str(out)]
    assert benchmark.main(arguments) == 0
    result = json.loads(out.read_text())
    assert result["ratio_cityscapesscripts"] > 0 and result["ratio_cityscapesscripts_decoded"] > 0
    stages = {"theirs", "ours", "their_decoding", "our_decoding", "their_counting", "our_counting"}
    assert set(result["stages"]) == stages and result["workers"] == "1 processes"
