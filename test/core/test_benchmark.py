"""`benchmark` with random weights: what it writes, not how fast anything is."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

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
    assert set(result["stages"]) == set(stages)
    f32 = result["stages"]["ours_openvino_f32"]["p50"]
    assert result["ratio_hf_openvino_f32"] == pytest.approx(result["stages"]["hf_openvino_f32"]["p50"] / f32, rel=0.05)
    assert result["gate"]["f32"]["passed"] and result["best_precision"] in ("f32", "bf16")
    assert 0 < result["floor"]["gmac"] < 1 and result["floor"]["f32"]["gmac_per_s"] > 0
    assert result["peak_rss_mb"] > 20 and result["fps"] > 0 and result["machine"]["cores"] >= 1
    assert (result["size"], result["classes"], result["text_tokens"]) == ("64x96", 19, "kept")
    assert result["command"].startswith("python -m mtaclip_core.benchmark --size 64x96 --compare hf")
    printed = capsys.readouterr().out
    assert "ratio_hf_openvino_f32: " in printed and "G multiply-adds at" in printed and "gate f32: passed" in printed


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
        (["--compare", "hf", "--precision", "bf16"], "runs f32 and bf16 in any case"),
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

    monkeypatch.setattr(compare_cityscapes, "FRAMES", 12)
    out = tmp_path / "compare.json"
    arguments = ["--size", "64x96", "--compare", "cityscapes", "--frames", "1", "--threads", "1", "--json", str(out)]
    assert benchmark.main(arguments) == 0
    result = json.loads(out.read_text())
    assert result["ratio_cityscapesscripts"] > 0 and result["ratio_cityscapesscripts_decoded"] > 0
    assert set(result["stages"]) == {"theirs", "ours", "their_decoding", "our_counting"}
