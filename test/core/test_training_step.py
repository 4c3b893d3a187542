"""A step's gradient depends on its samples alone; what goes wrong in one is left out, counted and told by name."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers_training import SIZE, assert_same_gradients, tensors, tiny, train_run, two_processes

from mtaclip_core import train
from mtaclip_core.cli import UserError
from mtaclip_core.config import load_config
from mtaclip_core.data import transforms
from mtaclip_core.data.synthetic.writer import write
from mtaclip_core.labels import CAMVID
from mtaclip_core.modeling.mta_clip import build_model
from mtaclip_core.training.preparation import prepare_execution
from mtaclip_core.training.step import HOPELESS


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four generated images."""
    folder = tmp_path_factory.mktemp("street")
    write(folder, 4, SIZE, 7, "train", 2)
    return folder


@pytest.fixture(scope="module")
def whole(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One step of four samples by one process in one part."""
    return train_run(tmp_path_factory.mktemp("whole"), tiny(street))


def test_two_accumulated_halves_give_the_step_of_the_whole_batch(tmp_path: Path, street: Path, whole: Path) -> None:
    assert_same_gradients(train_run(tmp_path, tiny(street), "accumulate=2"), whole)


@pytest.mark.parametrize("setting", ["checkpointing=true", "channels_last=true", "compile=eager"])
def test_how_a_step_is_computed_does_not_change_it(tmp_path: Path, street: Path, whole: Path, setting: str) -> None:
    assert_same_gradients(train_run(tmp_path, tiny(street), setting), whole)


def test_two_processes_give_the_step_of_the_doubled_batch_and_wait_for_no_unused_parameter(
    tmp_path: Path, street: Path, whole: Path
) -> None:
    """The second training has a weight of 0, which leaves the heads of the contrastive loss without a gradient."""
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(tiny(street)))
    both, unused = tmp_path / "both", tmp_path / "unused"
    program = (
        "from mtaclip_core.train import main\n"
        f"main(['--config', {str(config)!r}, '--out', {str(both)!r}])\n"
        f"main(['--config', {str(config)!r}, '--out', {str(unused)!r}, 'loss.contrastive_weight=0', "
        "'loss.pixel_text_weight=0', 'loss.temperature=none', 'steps=3'])\n"
    )
    with two_processes([sys.executable, "-c", program]) as processes:
        errors = [p.communicate(timeout=240)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    assert_same_gradients(both, whole)
    assert json.loads((unused / "checkpoints" / "last.json").read_text())["step"] == 3


def test_recomputed_activations_are_not_kept(street: Path, tmp_path: Path) -> None:
    kept = {}
    for on in (False, True):
        file = tmp_path / "c.yaml"
        file.write_text(yaml.safe_dump(tiny(street, checkpointing=on)))
        config = load_config(file)
        model = build_model(config.model, CAMVID).train()
        prepare_execution(model, config)
        sizes: list[int] = []

        def pack(t: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(torch.randn(1, 3, *SIZE))
        kept[on] = sum(sizes)
    assert kept[True] < 0.6 * kept[False]


def spoil(monkeypatch: pytest.MonkeyPatch, image: float | None, label: int | None) -> None:
    """Every draw of one frame (by name) comes with broken pixels or labels."""
    original = transforms.Augmentation.__call__

    def broken(self: transforms.Augmentation, sample: object, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, labels = original(self, sample, seed)  # type: ignore[arg-type]
        if sample.name.endswith("000001_000000"):  # type: ignore[attr-defined]
            if image is not None:
                pixels[0, 0, 0] = image
            if label is not None:
                labels[:] = label
        return pixels, labels

    monkeypatch.setattr(transforms.Augmentation, "__call__", broken)


def problems(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "problems.jsonl").read_text().splitlines()]


def test_a_step_whose_loss_is_not_a_number_is_left_out_and_told_with_the_samples_name(
    tmp_path: Path, street: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With batch norm in training: its statistics must not keep the broken numbers either."""
    spoil(monkeypatch, float("nan"), None)
    settings = ("batch=1", "steps=4", "model.backbone.freeze_batch_norm=false", "ema=0.9", "precision=bf16")
    run = train_run(tmp_path, tiny(street), *settings)
    assert all(t.isfinite().all() for t in tensors(run).values())
    found = [p for p in problems(run) if p["kind"] == "not_a_number"]
    assert len(found) == 1 and "000001_000000" in found[0]["samples"][0]
    assert f"step {found[0]['step'] + 1}: {found[0]['samples'][0]}: the loss or its gradient" in capsys.readouterr().err
    steps = {float(t) for key, t in tensors(run).items() if key.endswith(".step")}
    assert steps == {3.0}, "the optimiser took the broken step"
    assert any(p["kind"] == "degenerate_cost" for p in problems(run))


def test_a_batch_without_a_label_is_left_out_and_told(
    tmp_path: Path, street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, None, 255)
    run = train_run(tmp_path, tiny(street), "batch=1", "steps=4")
    assert [p["kind"] for p in problems(run)] == ["no_label"]
    assert "000001_000000" in problems(run)[0]["samples"][0]
    assert {float(t) for key, t in tensors(run).items() if key.endswith(".step")} == {3.0}


def test_a_training_that_has_diverged_ends_with_one_line(
    tmp_path: Path, street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mtaclip_core.training.step.HOPELESS", 3)
    assert HOPELESS > 3
    with pytest.raises(UserError, match="has not been a finite number for 3 steps, up to step"):
        train_run(tmp_path, tiny(street), "steps=20", "batch=1", "optimiser.lr=1e30", "loss.orthogonal_weight=0")


def test_a_batch_that_does_not_divide_into_its_parts_is_one_line(tmp_path: Path, street: Path) -> None:
    with pytest.raises(UserError, match="batch 4 does not divide over 1 processes in 3 parts each"):
        train_run(tmp_path, tiny(street), "accumulate=3")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fp16_without_a_gpu_is_one_line(tmp_path: Path, street: Path) -> None:
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        train_run(tmp_path, tiny(street), "precision=fp16")


def test_resumed_steps_report_their_problems_once(
    tmp_path: Path, street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, None, 255)
    run = train_run(tmp_path, tiny(street), "batch=1", "steps=8")
    before = problems(run)
    with open(run / "problems.jsonl", "a") as file:
        file.write('{"step": 8, "kind": "no_label", "samples": ["of a step after the checkpoint"]}\n{"step')
    train.main(["--resume", str(run), "steps=8"])
    assert problems(run) == before and len(before) == 2
