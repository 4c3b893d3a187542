"""Training by its real command: it learns, it resumes exactly, it is stopped without loss, it says what is wrong."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers_training import tensors, two_processes

from mtaclip_core import train
from mtaclip_core.cli import UserError
from mtaclip_core.config import AugmentConfig, SourceConfig
from mtaclip_core.data.dataset import Sample, open_dataset
from mtaclip_core.data.synthetic.writer import write
from mtaclip_core.data.transforms import Augmentation, SampleStream, StepSampler, draw_scale
from mtaclip_core.labels import CAMVID, CITYSCAPES, UNLABELLED, LabelSpace, common_space, join
from mtaclip_core.training.batches import leave_signals_to_the_trainer
from mtaclip_core.training.checkpoint import load_checkpoint, load_model
from mtaclip_core.training.validation import validate

SIZE = (128, 192)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four generated images in Cityscapes layout."""
    folder = tmp_path_factory.mktemp("street")
    write(folder, 4, SIZE, 7, "train", 2)
    return folder


def tiny_config(street: Path, **changes: object) -> dict:
    return {
        "classes": "camvid",
        "model": {
            "backbone": {"kind": "timm", "name": "mobilenetv4_conv_small"},
            "pixel_decoder": {"kind": "fpn"},
            "text": {"source": "random_orthogonal", "contexts": 1, "width": 64},
            "decoder": {"queries": 16, "width": 64, "layers": 2, "heads": 4, "feedforward": 128},
        },
        "loss": {"points": 512, "ignore_aware": True, "temperature": 0.07, "pixel_text_weight": 1.0},
        "train": [{"data": f"synthetic:{street}", "split": "train"}],
        "augment": {"crop": list(SIZE), "scale": [1.0, 1.0], "flip": 0.0, "colour": False},
        "optimiser": {"lr": 2e-3, "backbone_factor": 1.0, "clip_norm": 1.0, "warmup": 10, "weight_decay": 0.0},
        "steps": 6,
        "batch": 2,
        "workers": 0,
        "ema": 0.9,
        "evaluate_every": 1000,
        "checkpoint_every": 3,
        "log_every": 2,
    } | changes


def write_config(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "mtaclip_core.train", "--config", str(config), *arguments]


def test_a_killed_training_resumes_to_the_same_weights_bit_for_bit(tmp_path: Path, street: Path) -> None:
    config = write_config(tmp_path / "c.yaml", tiny_config(street, steps=18))
    train.main(["--config", str(config), "--out", str(tmp_path / "whole")])

    # Killed without warning as soon as the checkpoint of step 3 stands.
    process = subprocess.Popen(command(config, "--out", str(tmp_path / "cut")), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "checkpoints" / "last.safetensors").exists():
        assert process.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert load_checkpoint(tmp_path / "cut")[1]["step"] < 18, "it was not cut off"
    train.main(["--resume", str(tmp_path / "cut")])

    whole, resumed = tensors(tmp_path / "whole"), tensors(tmp_path / "cut")
    assert whole.keys() == resumed.keys()
    assert any(k.startswith("optimiser.") for k in whole) and any(k.startswith("ema.") for k in whole)
    different = [k for k in whole if not torch.equal(whole[k], resumed[k])]
    assert not different


def test_sigterm_saves_the_current_step_and_leaves(tmp_path: Path, street: Path) -> None:
    """The whole process group gets the signal, as from a terminal or a job scheduler: its data worker too."""
    values = tiny_config(street, steps=100_000, checkpoint_every=100_000, workers=1)
    process = subprocess.Popen(
        command(write_config(tmp_path / "c.yaml", values), "--out", str(tmp_path / "run")),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    text = ""
    while "loss" not in text:  # the progress bar after the first steps
        text += process.stderr.read(64)
    os.killpg(process.pid, signal.SIGTERM)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in rest and "Traceback" not in rest
    meta = json.loads((tmp_path / "run" / "checkpoints" / "last.json").read_text())
    assert meta["step"] >= 2


def test_a_validation_that_is_broken_off_is_made_on_resume(
    tmp_path: Path, street: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validation may take longer than the system waits after SIGTERM. Even SIGKILL in it costs no step."""
    values = tiny_config(street, steps=2, log_every=1)
    values["validation"] = values["train"][0]
    run, saved = tmp_path / "run", []

    def asked_to_end(*spaces: LabelSpace) -> object:
        saved.append(load_checkpoint(run / "checkpoints" / "last.safetensors")[1]["step"])
        os.kill(os.getpid(), signal.SIGTERM)
        return common_space(*spaces)

    with monkeypatch.context() as patch:
        patch.setattr("mtaclip_core.training.validation.common_space", asked_to_end)
        with pytest.raises(KeyboardInterrupt):
            train.main(["--config", str(write_config(tmp_path / "c.yaml", values)), "--out", str(run)])
    assert saved == [2]
    assert not (run / "result.json").exists() and not (run / "checkpoints" / "best.json").exists()
    before = tensors(run)
    train.main(["--resume", str(run)])
    result = json.loads((run / "result.json").read_text())
    best = json.loads((run / "checkpoints" / "best.json").read_text())["best_miou"]
    assert result["steps"] == 2 and result["miou"] == best
    assert all(torch.equal(tensor, before[key]) for key, tensor in tensors(run).items())


def test_a_data_worker_outlives_sigterm_until_the_trainer_leaves() -> None:
    context = multiprocessing.get_context("fork")
    leaving, ready = context.Value("b", False, lock=False), context.Event()

    def work() -> None:
        leave_signals_to_the_trainer(leaving, 0)
        ready.set()
        while True:
            time.sleep(0.01)

    worker = context.Process(target=work, daemon=True)
    worker.start()
    assert ready.wait(60)
    worker.terminate()
    worker.join(0.2)
    assert worker.is_alive()
    leaving.value = True
    worker.terminate()
    worker.join(60)
    assert worker.exitcode == 0


def test_classes_that_validation_cannot_score_are_told_before_the_first_step(tmp_path: Path, street: Path) -> None:
    patterns = {
        "images": "leftImg8bit/{split}/{name}_leftImg8bit.png",
        "labels": "gtFine/{split}/{name}_gtFine_labelIds.png",
    }
    crane = {"name": "crane", "values": list(range(256))}
    cranes = write_config(tmp_path / "cranes.yaml", {**patterns, "root": str(street), "classes": [crane]})
    values = tiny_config(street, validation={"data": str(cranes), "split": "train"}, steps=1)
    with pytest.raises(UserError, match="cranes"):
        train.main(["--config", str(write_config(tmp_path / "c.yaml", values)), "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run" / "config.yaml").exists(), "it was told when the training had begun"


def test_two_processes_share_a_training_and_stop_after_the_same_step(tmp_path: Path, street: Path) -> None:
    """One of them is asked to end: the other would wait for its gradients for ever. Each has validated its own part."""
    values = tiny_config(street, steps=100_000, checkpoint_every=100_000, evaluate_every=2)
    values["validation"] = values["train"][0]
    config = write_config(tmp_path / "c.yaml", values)
    with two_processes(command(config, "--out", str(tmp_path / "run"))) as processes:
        deadline = time.monotonic() + 240
        while not (tmp_path / "run" / "checkpoints" / "best.json").exists():
            assert processes[0].poll() is None and time.monotonic() < deadline, "no validation was made"
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        assert [p.communicate(timeout=60)[1].count("Traceback") for p in processes] == [0, 0]
    assert [p.returncode for p in processes] == [130, 130]
    assert json.loads((tmp_path / "run" / "checkpoints" / "last.json").read_text())["step"] >= 2
    model, trained = load_model(tmp_path / "run" / "checkpoints" / "best.safetensors")
    alone = validate(model, open_dataset(f"synthetic:{street}", "train"), trained.size, torch.device("cpu"))
    best = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())["best_miou"]
    assert alone.confusion.matrix.sum() > 3 * SIZE[0] * SIZE[1] and alone.confusion.miou() == pytest.approx(best)
    assert len(list((tmp_path / "run" / "tensorboard").glob("events*"))) == 1


@pytest.mark.timeout(900)
def test_four_generated_images_are_learned_by_heart(tmp_path: Path) -> None:
    """> 90 mIoU within 150 steps on the CPU, validated through the deployed graph."""
    write(tmp_path / "small", 4, (48, 64), 7, "train", 2)
    values = tiny_config(
        tmp_path / "small",
        steps=150,
        batch=4,
        ema=0.0,
        evaluate_every=150,
        checkpoint_every=1000,
        network_size=[192, 256],
    )
    values["augment"] |= {"crop": [192, 256], "scale": [4.0, 4.0]}
    values["optimiser"]["lr"] = 3e-3
    values["validation"] = values["train"][0]
    train.main(["--config", str(write_config(tmp_path / "c.yaml", values)), "--out", str(tmp_path / "run")])
    meta = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())
    assert meta["best_miou"] > 0.9


def test_run_folder_tells_how_it_was_made(tmp_path: Path, street: Path) -> None:
    run = tmp_path / "run"
    train.main(["--config", str(write_config(tmp_path / "c.yaml", tiny_config(street, steps=2))), "--out", str(run)])
    assert yaml.safe_load((run / "config.yaml").read_text())["optimiser"]["lr"] == 2e-3
    assert "torch" in json.loads((run / "versions.json").read_text())
    assert list((run / "tensorboard").glob("events*"))
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({"train": []}, [], "names no training data"),
        ({"train": [{"data": "camvid:/nowhere"}]}, [], "/nowhere"),
        ({"model": {"text": {"source": "clip"}}}, [], "clip_pretrained"),
        ({}, ["--resume", "/nowhere"], "/nowhere"),
        ({}, ["stepz=1"], "did you mean 'steps'"),
        ({}, ["loss.pixel_class_weights.Poel=3"], "no class 'Poel'"),
        ({}, ["--out", "/proc/nowhere"], "/proc/nowhere/checkpoints: cannot create"),
    ],
)
def test_what_the_user_got_wrong_is_one_line(
    tmp_path: Path, street: Path, changes: dict, arguments: list[str], message: str
) -> None:
    config = write_config(tmp_path / "c.yaml", tiny_config(street, **changes))
    out = [] if {"--resume", "--out"} & set(arguments) else ["--out", str(tmp_path / "run")]
    with pytest.raises(UserError, match=message):
        train.main(["--config", str(config), *out, *arguments])


def test_an_image_that_a_worker_process_cannot_read_is_one_line_and_costs_no_step(tmp_path: Path) -> None:
    """Its first bytes, which are looked at before the training starts, are sound."""
    write(tmp_path / "street", 2, SIZE, 7, "train", 1)
    config = write_config(tmp_path / "c.yaml", tiny_config(tmp_path / "street", workers=1, batch=1))
    samples = stream(tmp_path / "street", 1.0)
    samples.seed = 0
    image = samples.datasets[0].files(samples.locate(1)[1])[0]
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=rf"^\S+{image.name}: not a readable image") as error:
        train.main(["--config", str(config), "--out", str(tmp_path / "run")])
    assert len(str(error.value).splitlines()) == 1
    assert multiprocessing.active_children() == [], "Python would wait for them at its exit, for ever"
    assert load_checkpoint(tmp_path / "run")[1]["step"] == 1
    image.write_bytes(whole)
    train.main(["--resume", str(tmp_path / "run"), "steps=3"])
    assert load_checkpoint(tmp_path / "run")[1]["step"] == 3


def test_a_used_run_folder_is_not_overwritten(tmp_path: Path, street: Path) -> None:
    config = write_config(tmp_path / "c.yaml", tiny_config(street, steps=1))
    arguments = ["--config", str(config), "--out", str(tmp_path / "run")]
    train.main(arguments)
    with pytest.raises(UserError, match="--resume"):
        train.main(arguments)


def test_a_resumed_training_keeps_its_own_settings(
    tmp_path: Path, street: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = write_config(tmp_path / "c.yaml", tiny_config(street, steps=1)), str(tmp_path / "run")
    train.main(["--config", str(config), "--resume", "auto", "--out", run, "optimiser.lr=1e-3"])
    with pytest.raises(UserError, match=r"optimiser\.lr is not what this run was started with"):
        train.main(["--config", str(config), "--resume", run])
    train.main(["--config", str(config), "--resume", "auto", "--out", run, "optimiser.lr=1e-3", "steps=2"])
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["optimiser"]["lr"] == 1e-3
    assert load_checkpoint(run)[1]["step"] == 2
    train.main(["--resume", run, "optimiser.lr=5e-4", "steps=3"])
    assert "other settings: optimiser.lr, steps" in capsys.readouterr().err
    assert load_checkpoint(run)[1]["config"]["optimiser"]["lr"] == 5e-4
    with pytest.raises(UserError, match="has 3 steps already; steps=2 is less"):
        train.main(["--resume", run, "steps=2"])


def test_wrong_path_exits_with_two_and_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path / "none.yaml"), capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and "none.yaml" in done.stderr


def stream(street: Path, *weights: float) -> SampleStream:
    sources = [SourceConfig(data=f"synthetic:{street}", split="train", weight=w) for w in weights]
    augment = Augmentation(AugmentConfig(crop=(64, 96)), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    return SampleStream(sources, CAMVID, augment, seed=3, cache=True)


def test_a_sample_depends_on_its_number_alone(street: Path) -> None:
    first, second = stream(street, 1.0), stream(street, 1.0)
    for n in (5, 2, 9):
        second[n]
    image, label = first[7]
    again_image, again_label = second[7]
    assert torch.equal(image, again_image) and torch.equal(label, again_label)
    assert not torch.equal(image, first[11][0])
    assert image.shape == (3, 64, 96) and label.shape == (64, 96)


def test_every_frame_comes_once_before_any_comes_twice_and_weights_are_kept(street: Path) -> None:
    samples = stream(street, 3.0, 1.0)
    located = [samples.locate(n) for n in range(400)]
    assert sum(source == 0 for source, _ in located) == 300
    frames = [frame for source, frame in located if source == 0]
    assert all(sorted(frames[i : i + 4]) == [0, 1, 2, 3] for i in range(0, 300, 4))
    assert samples.name(0).endswith(f" of synthetic:{street} train"), "frames of several sources may share a name"


def test_processes_share_the_samples_of_a_step() -> None:
    whole = list(StepSampler(2, 5, 4, 0, 1))
    parts = [list(StepSampler(2, 5, 4, rank, 2)) for rank in range(2)]
    assert whole == list(range(8, 20))
    assert sorted(parts[0] + parts[1]) == whole
    assert sorted(parts[0][:2] + parts[1][:2]) == whole[:4]  # the first step


def test_labels_are_joined_and_augmented_with_their_image(street: Path) -> None:
    """Without randomness a sample is the frame itself, its 19 classes mapped to CamVid's 11."""
    sources = [SourceConfig(data=f"synthetic:{street}", split="train")]
    plain = AugmentConfig(crop=SIZE, scale=(1.0, 1.0), flip=0.0, colour=False)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)
    samples = SampleStream(sources, CAMVID, Augmentation(plain, mean, std), seed=0, cache=False)
    frame = open_dataset(f"synthetic:{street}", "train")[samples.locate(0)[1]]
    image, label = samples[0]
    pixels = (image.permute(1, 2, 0).numpy() * std + mean) * 255
    np.testing.assert_allclose(pixels, frame.image, atol=0.01)
    np.testing.assert_array_equal(label.numpy(), join(CITYSCAPES, CAMVID)[frame.label])


def test_scales_and_colours_are_drawn_as_in_mask2former() -> None:
    """Short sides of 512 to 2048 pixels of Cityscapes' 1024 in steps of 102; red stays the strongest channel."""
    config = AugmentConfig(scale=(0.5, 2.0), scale_steps=16, crop=(32, 32), swap_channels=False)
    rng = np.random.default_rng(0)
    sides = [round(draw_scale(config, rng) * 1024) for _ in range(2000)]
    assert sorted(set(sides)) == [round(102.4 * n) for n in range(5, 21)]
    assert np.mean(sides) == pytest.approx(1280, rel=0.03)
    red = Sample(np.full((32, 32, 3), (180, 60, 40), np.uint8), np.zeros((32, 32), np.uint8), "red")
    for swap in (False, True):
        augment = Augmentation(config.model_copy(update={"swap_channels": swap}), (0, 0, 0), (1, 1, 1))
        strongest = [augment(red, seed)[0].mean((1, 2)).argmax().item() for seed in range(40)]
        assert (set(strongest) == {0}) != swap
    looks = {tuple(augment(red, seed)[0][:, 0, 0].tolist()) for seed in range(40)}
    assert len(looks) > 20


def test_a_crop_larger_than_the_scaled_image_is_padded_as_unlabelled(street: Path) -> None:
    sources = [SourceConfig(data=f"synthetic:{street}", split="train")]
    small = AugmentConfig(crop=SIZE, scale=(0.5, 0.5), flip=0.0, colour=False)
    samples = SampleStream(sources, CAMVID, Augmentation(small, (0, 0, 0), (1, 1, 1)), seed=0, cache=False)
    _, label = samples[0]
    assert label.shape == SIZE
    assert (label[64:] == UNLABELLED).all() and (label[:, 96:] == UNLABELLED).all()
    assert (label[:64, :96] != UNLABELLED).any()


@pytest.mark.parametrize("corner", [(0, 0), (95, 127), (50, 7)])
def test_a_class_balanced_crop_holds_the_rare_class_and_is_anywhere_around_it(corner: tuple[int, int]) -> None:
    """One pixel in 12,288: most plain crops, a sixth of the frame, miss it; every second balanced one holds it."""
    label = np.full((96, 128), UNLABELLED, np.uint8)
    label[10:80, 10:120] = 0
    label[corner] = 1
    image = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)

    def share(balanced: float) -> float:
        config = AugmentConfig(crop=(32, 64), scale=(1.0, 1.0), flip=0.0, colour=False, class_balanced=balanced)
        augment = Augmentation(config, (0, 0, 0), (1, 1, 1))
        crops = [augment(Sample(image, label, "frame"), seed)[1] for seed in range(200)]
        assert {tuple(crop.shape) for crop in crops} == {(32, 64)}
        return float(np.mean([(crop == 1).any() for crop in crops]))

    assert share(0.0) < 0.25
    assert 0.4 < share(1.0) < 0.8


def test_a_class_balanced_crop_of_a_frame_without_labels_is_a_plain_one() -> None:
    config = AugmentConfig(crop=(32, 64), class_balanced=1.0)
    blank = Sample(np.zeros((96, 128, 3), np.uint8), np.full((96, 128), UNLABELLED, np.uint8), "frame")
    _, label = Augmentation(config, (0, 0, 0), (1, 1, 1))(blank, 0)
    assert (label == UNLABELLED).all()
