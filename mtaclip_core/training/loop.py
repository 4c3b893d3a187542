"""The training loop: steps, logging, evaluation, checkpoints."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from mtaclip_core.cli import UserError
from mtaclip_core.config import TrainConfig
from mtaclip_core.data.dataset import SegmentationDataset, open_dataset
from mtaclip_core.data.transforms import Augmentation, SampleStream, StepSampler
from mtaclip_core.files import prepare_file
from mtaclip_core.labels import CAMVID, CITYSCAPES, LabelSpace
from mtaclip_core.losses.criterion import Criterion
from mtaclip_core.modeling.mta_clip import build_model
from mtaclip_core.training.ema import WeightAverage
from mtaclip_core.training.run_folder import TrainingState, write_run_files
from mtaclip_core.training.schedule import build_optimiser, rate_factor
from mtaclip_core.training.validation import validate

SPACES = {"cityscapes": CITYSCAPES, "camvid": CAMVID}
FABRIC_PRECISION: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "f32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


class Trainer:
    """One training from its configuration to its last checkpoint.

    Args:
        config: the experiment.
        folder: run folder; `checkpoints/last` and `checkpoints/best`, TensorBoard events, config and versions.
        resume: continue from `checkpoints/last`.

    Raises:
        UserError: data or weights that cannot be read, a folder that already holds a training, nothing to resume.
    """

    def __init__(self, config: TrainConfig, folder: Path, *, resume: bool) -> None:
        if not config.train:
            raise UserError("the config names no training data; give train.0.data=KIND:PATH or a `train:` list")
        if config.model.text.source == "clip" and config.model.text.clip_pretrained is None:
            raise UserError(
                "text.source is clip but model.text.clip_pretrained is not set; give an open_clip tag or a weights "
                "file, or train with model.text.source=learned or random_orthogonal"
            )
        self.config, self.folder = config, folder
        self.last = folder / "checkpoints" / "last.safetensors"
        if self.last.exists() and not resume:
            raise UserError(
                f"'{folder}' already holds a training; continue it with --resume {folder} or use another --out"
            )
        if resume and not self.last.exists():
            raise UserError(f"'{folder}' has no checkpoints/last.safetensors to resume from")
        prepare_file(self.last)
        # What torchrun started, no more: without it one process, on however many GPUs lie idle.
        local, world = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
        self.fabric = Fabric(precision=FABRIC_PRECISION[config.precision], devices=local, num_nodes=world // local)
        self.fabric.launch()
        if config.batch % self.fabric.world_size:
            raise UserError(f"batch {config.batch} does not divide over {self.fabric.world_size} processes")
        self.space: LabelSpace = SPACES[config.classes]
        torch.manual_seed(config.seed)
        model = build_model(config.model, self.space, config.seed)
        criterion = Criterion(config.loss, self.space).to(self.fabric.device)
        self.stream = SampleStream(
            config.train,
            self.space,
            Augmentation(config.augment, model.mean, model.std),
            seed=config.seed,
            cache=config.cache,
        )
        self.validation: SegmentationDataset | None = None
        if config.validation is not None:
            self.validation = open_dataset(config.validation.data, config.validation.split)
        model = model.to(self.fabric.device)
        optimiser = build_optimiser(model, criterion, config.optimiser)
        self.base_rates = [group["lr"] for group in optimiser.param_groups]
        average = WeightAverage(model, config.ema) if config.ema else None
        self.state = TrainingState(model, criterion, optimiser, average)
        if resume:
            self.state.restore(self.last)
        self.wrapped, self.wrapped_optimiser = self.fabric.setup(model, optimiser)
        self.stop_signal: int | None = None

    def run(self) -> float | None:
        """Train to the last step; returns the best validation mIoU (0-1), None where nothing was validated.

        Ctrl-C and SIGTERM save a checkpoint after the current step and leave by KeyboardInterrupt.
        """
        if self.fabric.is_global_zero:
            write_run_files(self.folder, self.config)
        config, state = self.config, self.state
        previous = [signal.signal(s, self._request_stop) for s in (signal.SIGINT, signal.SIGTERM)]
        writer = None
        if self.fabric.is_global_zero:
            writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=state.step or None)
        bar = tqdm(
            total=config.steps, initial=state.step, desc="train", unit="step", disable=not self.fabric.is_global_zero
        )
        self.wrapped.train()
        batches = self._batches()
        try:
            window: dict[str, float] = {}
            since, first = time.perf_counter(), state.step
            for images, labels in batches:
                losses = self._step(images, labels)
                state.step += 1
                for name, value in losses.items():
                    window[name] = window.get(name, 0.0) + value.item()
                bar.update()
                if state.step % config.log_every == 0:
                    if writer is not None:
                        self._log(writer, bar, window, state.step - first, time.perf_counter() - since)
                    window, since, first = {}, time.perf_counter(), state.step
                finished = state.step == config.steps
                if self.validation is not None and (finished or state.step % config.evaluate_every == 0):
                    self._validate(writer)
                    since = time.perf_counter()
                stopping = self._stopping()
                if finished or stopping or state.step % config.checkpoint_every == 0:
                    self._save(self.last, resumable=True)
                if stopping:
                    tqdm.write(f"stopped at step {state.step}; continue with --resume {self.folder}", file=sys.stderr)
                    raise KeyboardInterrupt
        finally:
            batches.close()
            bar.close()
            if writer is not None:
                writer.close()
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
                signal.signal(number, handler)
        return state.best_miou if state.best_miou >= 0 else None

    def _batches(self) -> Generator[tuple[Tensor, Tensor]]:
        c, f = self.config, self.fabric
        sampler = StepSampler(self.state.step, c.steps, c.batch, f.global_rank, f.world_size)
        loader: DataLoader = DataLoader(
            self.stream,
            batch_size=c.batch // f.world_size,
            sampler=sampler,
            num_workers=c.workers,
            pin_memory=f.device.type == "cuda",
            generator=torch.Generator().manual_seed(c.seed),  # else it would draw from the state that resume restores
            worker_init_fn=_leave_signals_to_the_trainer,
        )
        try:
            for images, labels in loader:
                yield images.to(f.device, non_blocking=True), labels.to(f.device, non_blocking=True)
        except UserError as error:
            # A worker process sends its whole traceback as the text; the user needs the last line.
            raise UserError(str(error).strip().splitlines()[-1].partition("UserError: ")[2] or str(error)) from None

    def _step(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        config, state = self.config, self.state
        factor = rate_factor(state.step, config.steps, config.optimiser)
        for group, rate in zip(state.optimiser.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        # Keyed by step and process, so that a resumed training draws the same points.
        key = np.random.default_rng([config.seed, state.step, self.fabric.global_rank]).integers(2**62)
        generator = torch.Generator().manual_seed(int(key))
        losses = state.criterion(self.wrapped(images), labels, generator)
        loss = torch.stack(list(losses.values())).sum()
        self.wrapped_optimiser.zero_grad()
        self.fabric.backward(loss)
        if config.optimiser.clip_norm:
            self.fabric.clip_gradients(self.wrapped, self.wrapped_optimiser, max_norm=config.optimiser.clip_norm)
        self.wrapped_optimiser.step()
        if state.average:
            state.average.update(state.model)
        return losses

    def _log(self, writer: SummaryWriter, bar: tqdm, window: dict[str, float], steps: int, seconds: float) -> None:
        """Means over the last `steps` steps, which took `seconds`."""
        step = self.state.step
        terms = {name: value / steps for name, value in window.items()}
        total = sum(terms.values())
        rate = self.state.optimiser.param_groups[-1]["lr"]
        writer.add_scalar("loss/total", total, step)
        for name, value in terms.items():
            writer.add_scalar(f"loss/{name}", value, step)
        writer.add_scalar("lr", rate, step)
        writer.add_scalar("samples_per_second", steps * self.config.batch / seconds, step)
        bar.set_postfix_str(f"loss {total:.3f} lr {rate:.2e}")

    def _validate(self, writer: SummaryWriter | None) -> None:
        assert self.validation is not None
        model = self.state.average.model if self.state.average else self.state.model
        result = validate(model, self.validation, self.config.size, self.fabric.device)
        self.wrapped.train()
        miou = result.miou() or 0.0
        if miou > self.state.best_miou:
            self.state.best_miou = miou
            self._save(self.folder / "checkpoints" / "best.safetensors", resumable=False)
        if writer is not None:
            writer.add_scalar("validation/miou", miou, self.state.step)
            for name, value in result.iou().items():
                if value is not None:
                    writer.add_scalar(f"validation_iou/{name}", value, self.state.step)
            classes = " ".join(f"{n} {v * 100:.0f}" for n, v in result.iou().items() if v is not None)
            tqdm.write(f"step {self.state.step}: mIoU {miou * 100:.2f} ({classes})", file=sys.stderr)

    def _save(self, path: Path, *, resumable: bool) -> None:
        if self.fabric.is_global_zero:
            self.state.save(path, self.config, self.space, resumable=resumable)

    def _stopping(self) -> bool:
        """Whether any process was asked to end: all leave after the same step, or the others would wait for ever."""
        if self.fabric.world_size == 1:
            return self.stop_signal is not None
        asked = torch.tensor(float(self.stop_signal is not None), device=self.fabric.device)
        total = self.fabric.all_reduce(asked, reduce_op="sum")
        assert isinstance(total, Tensor)
        return total.item() > 0

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        """The first signal asks for an end after this step; a second one ends at once."""
        if self.stop_signal:
            raise KeyboardInterrupt
        self.stop_signal = number


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C and `kill -- -GROUP` reach every process; a dead worker would end the training before it is saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
