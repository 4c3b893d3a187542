"""Configurations: short files, overrides, and errors that name the nearest valid key."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mtaclip_core.ablate import load_ladder, plan
from mtaclip_core.cli import UserError
from mtaclip_core.config import load_config
from mtaclip_core.labels import CAMVID
from mtaclip_core.modeling.mta_clip import build_model

FOLDER = Path(__file__).parents[2] / "config" / "train"
LADDERS = sorted(FOLDER.glob("ladder_*.yaml"))
TRAIN_CONFIGS = [path for path in sorted(FOLDER.glob("*.yaml")) if path not in LADDERS]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", TRAIN_CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_config_loads_and_builds(path: Path) -> None:
    config = load_config(path)
    assert config.train, "names no training data"
    with torch.device("meta"):  # shapes without values
        model = build_model(config.model, CAMVID, load=False)
    assert sum(p.numel() for p in model.parameters()) > 1e6


@pytest.mark.parametrize("path", LADDERS, ids=lambda p: p.stem)
def test_every_rung_of_a_shipped_ladder_is_a_valid_config(path: Path, tmp_path: Path) -> None:
    ladder = load_ladder(path)
    jobs = plan(ladder, 2, tmp_path, [])
    assert len(jobs) == 2 * len(ladder.rungs) * len(ladder.folds)
    assert len({str(job.config.model_dump(exclude={"seed"})) for job in jobs}) == len(jobs) / 2, "two rungs are equal"


def test_faithful_is_the_release_in_decoder_and_losses() -> None:
    for path in LADDERS:
        faithful = [job.config for job in plan(load_ladder(path), 1, Path(), []) if job.rung == "faithful"]
        for config in faithful:
            loss = config.loss
            assert (loss.temperature, loss.negatives, loss.mask_normaliser) == ("none", "mix", "weighted")
            assert not loss.ignore_aware and loss.orthogonal_weight == loss.pixel_text_weight == 0
            assert (config.model.classifier, config.model.text_map_weight, config.model.text.contexts) == (
                "linear",
                0,
                3,
            )


def test_overrides_reach_nested_keys_and_list_entries(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "train: [{data: 'camvid:x', split: train}]\noptimiser: {lr: 1e-3}\n")
    config = load_config(file, ["optimiser.lr=2e-4", "train.0.data=camvid:y", "model.text.contexts=2", "ema=0.9"])
    assert config.optimiser.lr == 2e-4
    assert config.train[0].data == "camvid:y" and config.train[0].split == "train"
    assert config.model.text.contexts == 2
    assert config.ema == 0.9


def test_a_file_may_start_from_another(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "batch: 4\noptimiser: {lr: 1e-3, warmup: 7}\n")
    config = load_config(write(tmp_path / "b.yaml", "base: base.yaml\noptimiser: {lr: 5e-4}\n"))
    assert (config.batch, config.optimiser.lr, config.optimiser.warmup) == (4, 5e-4, 7)


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("stepz: 3", [], "unknown key 'stepz'; did you mean 'steps'"),
        ("optimiser: {learning_rate: 1}", [], "unknown key 'optimiser.learning_rate'"),
        ("", ["model.decoder.querys=3"], "unknown key 'model.decoder.querys'; did you mean 'queries'"),
        ("train: [{dta: x}]", [], "train.0"),
        ("steps: many", [], "steps"),
        ("loss: {negatives: some}", [], "loss.negatives"),
        ("", ["steps"], "expected key=value"),
        ("", ["train.0.data=x"], "train"),
        ("steps: [", [], "not valid YAML"),
        ("", ["steps=["], "not a valid YAML value"),
        ("train: [{data: x, splitt: y}]", [], "unknown key 'train.0.splitt'; did you mean 'split'"),
        ("augment: {crop: [100, 128]}", [], "augment.crop.0: Input should be a multiple of 32 (got 100)"),
        ("network_size: [360, 480]", [], "network_size.0: Input should be a multiple of 32"),
        ("model: {decoder: {width: 72, heads: 5}}", [], "width 72 is not a multiple of decoder.heads 5"),
        ("model: {decoder: {width: 72}}", [], "72 is not a multiple of 32, which the deformable pixel decoder needs"),
        ("loss: {temperature: 0}", [], "greater than 0"),
        ("seed: -1", [], "seed: Input should be greater than or equal to 0"),
        ("optimiser: {betas: [0.9, 1.5]}", [], "optimiser.betas.1: Input should be less than 1"),
        ("loss: {pixel_class_weights: {Car: -1}}", [], "loss.pixel_class_weights.Car: Input should be greater"),
        ("optimiser: {weight_decay: .inf}", [], "optimiser.weight_decay: Input should be a finite number"),
        ("model: {text: {source: none}, classifier: product}", [], "classifier product needs class texts"),
        ("model: {classifier: similarity, text_tokens: dropped}", [], "need the text tokens"),
        ("model: {text: {learn_contexts: false}}", [], "text.contexts 3 would be equal"),
        ("loss: {orthogonal_weight: 1}\nmodel: {text: {contexts: 1}}", [], "two or more trained contexts"),
        ("- 1", [], "key: value"),
    ],
)
def test_a_wrong_config_is_one_line_that_names_the_key(
    tmp_path: Path, text: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError) as error:
        load_config(write(tmp_path / "c.yaml", text), overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value).strip()


def test_missing_file_and_circular_bases_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="circle"):
        load_config(write(tmp_path / "self.yaml", "base: self.yaml"))
