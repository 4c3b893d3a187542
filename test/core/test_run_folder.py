"""What a training leaves behind: events, pictures, the result; checkpoints hold nothing twice and the scaler too."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import open_clip
import pytest
import torch
from helpers_clip import register_tiny_clip
from helpers_miniatures import write_cityscapes
from helpers_training import SIZE, tensors, tiny, train_run
from huggingface_hub import constants
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtaclip_core import train
from mtaclip_core.cli import UserError
from mtaclip_core.config import TrainConfig
from mtaclip_core.data.synthetic.writer import write
from mtaclip_core.labels import CAMVID
from mtaclip_core.losses.criterion import Criterion
from mtaclip_core.modeling.mta_clip import build_model
from mtaclip_core.training.checkpoint import load_checkpoint, load_model, save_checkpoint
from mtaclip_core.training.run_folder import TrainingState
from mtaclip_core.training.run_log import context_similarity

RN50 = Path(__file__).parents[2] / "config" / "train" / "cityscapes_rn50.yaml"


def test_a_run_logs_losses_scores_panels_and_contexts(tmp_path: Path) -> None:
    write(tmp_path / "street", 2, SIZE, 7, "train", 2)
    values = tiny(tmp_path / "street", steps=4, batch=2, log_every=2, evaluate_every=2)
    values["validation"] = values["train"][0]
    run = train_run(tmp_path / "run", values)
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"loss/class", "loss/mask", "loss/dice", "loss/contrastive", "loss/pixel_text", "loss/orthogonal"} <= scalars
    assert {"loss/total", "lr", "lr_backbone", "gradient_norm", "samples_per_second", "memory_mib"} <= scalars
    assert {"validation/miou", "validation_iou/Road", "contexts/mean_cosine"} <= scalars
    assert [e.step for e in events.Scalars("loss/total")] == [2, 4]
    terms = sum(events.Scalars(f"loss/{n}")[0].value for n in ("class", "mask", "dice", "contrastive"))
    terms += events.Scalars("loss/pixel_text")[0].value + events.Scalars("loss/orthogonal")[0].value
    assert events.Scalars("loss/total")[0].value == pytest.approx(terms, rel=1e-4)
    assert set(events.Tags()["images"]) == {"validation/image_truth_prediction", "contexts/cosine"}
    assert all(0 < e.value < 1 for e in events.Scalars("data_wait"))
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 4 and result["miou"] == pytest.approx(events.Scalars("validation/miou")[-1].value)
    train.main(["--resume", str(run), "steps=6"])
    events.Reload()
    for name in ("loss/total", "validation/miou"):
        assert [e.step for e in events.Scalars(name)] == [2, 4, 6], "what was logged before the resume is hidden"


def test_another_loss_from_a_resume_on_leaves_each_parameter_its_own_moments(tmp_path: Path) -> None:
    """Without a contrastive loss its heads are not trained: the optimiser has fewer parameters than before."""
    write(tmp_path / "street", 2, SIZE, 7, "train", 2)
    run = train_run(tmp_path / "run", tiny(tmp_path / "street", batch=2))
    before = tensors(run)
    train.main(["--resume", str(run), "steps=2", "optimiser.lr=1e-9", "loss.contrastive_weight=0"])
    after = tensors(run)
    moments = [key for key in after if key.endswith(".exp_avg_sq")]
    assert 50 < len(moments) < sum(key.endswith(".exp_avg_sq") for key in before)
    for key in moments:
        parameter = key.removeprefix("optimiser.").removesuffix(".exp_avg_sq")
        assert after[key].shape == after.get(f"model.{parameter}", after.get(parameter, torch.empty(()))).shape
        assert (after[key] >= before[key] * 0.99).all(), "AdamW keeps 0.999 of the squares of a step"


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.safetensors"
    save_checkpoint(path, {"a": torch.ones(4)}, {"step": 1})
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(UserError, match=r"last.safetensors' cannot be written .* make room"):
            save_checkpoint(path, {"a": torch.ones(100_000)}, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert load_checkpoint(path)[1]["step"] == 1
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.json", "last.safetensors"]


def test_context_similarity_is_the_mean_cosine_over_classes() -> None:
    text = torch.zeros(2, 3, 4)
    text[:, :, 0] = torch.tensor([2.0, 5.0])[:, None]
    text[1, 2] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert context_similarity(text) == pytest.approx(torch.tensor([[1, 2 / 3], [2 / 3, 1]]).numpy())


def test_cityscapes_rn50_trains_on_a_folder_in_cityscapes_layout_and_keeps_clip_once(tmp_path: Path) -> None:
    """The file itself, with another CLIP: one of reduced size from a local weights file."""
    write_cityscapes(tmp_path / "data", "train", (64, 128))
    name = register_tiny_clip()
    torch.manual_seed(0)
    weights = tmp_path / "clip.safetensors"
    save_file({n: t.contiguous() for n, t in open_clip.create_model(name).state_dict().items()}, weights)
    run = tmp_path / "run"
    overrides = [
        f"train.0.data=cityscapes:{tmp_path / 'data'}", f"validation.data=cityscapes:{tmp_path / 'data'}",
        "validation.split=train", f"model.backbone.name={name}", f"model.backbone.pretrained={weights}",
        f"model.text.clip_name={name}", f"model.text.clip_pretrained={weights}", "augment.crop=[64, 128]",
        "network_size=[64, 128]", "model.decoder.width=32", "model.decoder.layers=2", "model.decoder.feedforward=32",
        "model.pixel_decoder.layers=1", "loss.points=64", "steps=2", "batch=2", "workers=0", "ema=0.9", "log_every=1",
    ]  # fmt: skip
    train.main(["--config", str(RN50), "--out", str(run), *overrides])
    assert json.loads((run / "checkpoints" / "last.json").read_text())["step"] == 2
    stored = tensors(run)
    assert any(key.startswith("model.text.encoder.") for key in stored)
    assert "ema.text.prompts" in stored and not any(key.startswith("ema.text.encoder.") for key in stored)
    model, _ = load_model(run / "checkpoints" / "last.safetensors")
    assert torch.equal(model.text.prompts, stored["ema.text.prompts"])
    train.main(["--resume", str(run), "steps=3"])
    after = tensors(run)
    frozen = [key for key in stored if key.startswith("model.text.encoder.")]
    assert all(torch.equal(after[key], stored[key]) for key in frozen)


def test_cityscapes_rn50_without_clip_weights_says_how_to_get_them_or_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # a dead end
    monkeypatch.setenv("HOME", str(tmp_path))
    write_cityscapes(tmp_path / "data", "train")
    data = f"cityscapes:{tmp_path / 'data'}"
    with pytest.raises(UserError) as error:
        train.main(["--config", str(RN50), "--out", str(tmp_path / "run"), f"train.0.data={data}", "precision=f32"])
    message = str(error.value)
    assert "\n" not in message
    assert "model.text.clip_pretrained=FILE" in message and "model.text.source=learned" in message


def test_the_scaler_of_fp16_is_resumed(tmp_path: Path) -> None:
    config = TrainConfig.model_validate(tiny(tmp_path))

    def state(scale: float) -> TrainingState:
        model = build_model(config.model, CAMVID)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimiser = torch.optim.AdamW(model.parameters())
        return TrainingState(model, Criterion(config.loss, CAMVID), optimiser, None, scaler)

    first, second = state(1024.0), state(2.0)
    assert first.scaler is not None and second.scaler is not None
    first.scaler.scale(torch.ones(1))
    first.save(tmp_path / "a.safetensors", config, CAMVID, resumable=True)
    second.restore(tmp_path / "a.safetensors")
    assert second.scaler.state_dict() == first.scaler.state_dict()
    assert second.scaler.get_scale() == 1024.0
