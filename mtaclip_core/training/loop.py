"""The training loop: steps, logging, evaluation, checkpoints."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from torch import Tensor
from tqdm import tqdm

from mtaclip_core.cli import UserError
from mtaclip_core.config import TrainConfig
from mtaclip_core.data.check import require_sound
from mtaclip_core.data.dataset import SegmentationDataset, label_space, open_dataset
from mtaclip_core.data.transforms import Augmentation, SampleStream
from mtaclip_core.files import prepare_file
from mtaclip_core.labels import LabelSpace, common_space
from mtaclip_core.losses.criterion import Criterion
from mtaclip_core.modeling.mta_clip import build_model
from mtaclip_core.training.batches import batch_loader
from mtaclip_core.training.collectives import any_process, reduced, take_from_first
from mtaclip_core.training.ema import WeightAverage
from mtaclip_core.training.preparation import freeze_unused, prepare_execution
from mtaclip_core.training.problems import Problems
from mtaclip_core.training.run_folder import TrainingState, write_run_files
from mtaclip_core.training.run_log import RunLog
from mtaclip_core.training.schedule import build_optimiser
from mtaclip_core.training.step import TrainingStep
from mtaclip_core.training.validation import validate


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
        scaler = None
        if config.precision == "fp16":
            if not torch.cuda.is_available():
                raise UserError("precision fp16 needs a GPU, and there is none; use bf16 or f32")
            scaler = torch.amp.GradScaler("cuda")
        self.fabric = Fabric(devices=local, num_nodes=world // local, **_precision(config.precision, scaler))
        self.fabric.launch()
        parts = self.fabric.world_size * config.accumulate
        if config.batch % parts:
            raise UserError(
                f"batch {config.batch} does not divide over {self.fabric.world_size} processes in {config.accumulate} "
                f"parts each; set batch to a multiple of {parts}"
            )
        self.space: LabelSpace = label_space(config.classes)
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
            common_space(self.space, self.validation.space)  # told now, not after the first thousands of steps
        if self.fabric.is_global_zero:
            require_sound([*self.stream.datasets, *([self.validation] if self.validation else [])])
        self.stream.fill_cache()  # after the check, which names all wrong files and not only the first
        model = model.to(self.fabric.device)
        freeze_unused(model, config)
        optimiser = build_optimiser(model, criterion, config.optimiser)
        average = WeightAverage(model, config.ema) if config.ema else None
        prepare_execution(model, config)
        self.state = TrainingState(model, criterion, optimiser, average, scaler)
        if resume:
            self.state.restore(self.last)
            self.state.unvalidated &= self.validation is not None
            if self.state.step > config.steps:
                raise UserError(f"'{folder}' has {self.state.step} steps already; steps={config.steps} is less")
        self.wrapped, self.wrapped_optimiser = self.fabric.setup(model, optimiser)
        self.stop_signal: int | None = None
        self.leaving = multiprocessing.Value("b", False, lock=False)

    def run(self) -> float | None:
        """Train to the last step; returns the best validation mIoU (0-1), None where nothing was validated.

        Ctrl-C and SIGTERM save a checkpoint after the current step and leave by KeyboardInterrupt; a validation that
        they break off is made again on resume.

        Raises:
            UserError: a file that was changed since it was checked, a diverged training, a killed data worker.
        """
        if self.fabric.is_global_zero:
            write_run_files(self.folder, self.config)
        config, state, fabric = self.config, self.state, self.fabric
        previous = [signal.signal(s, self._request_stop) for s in (signal.SIGINT, signal.SIGTERM)]
        problems = Problems(self.folder, fabric.global_rank, state.step)
        step = TrainingStep(fabric, config, state, self.wrapped, self.wrapped_optimiser, problems, self.stream.name)
        log = RunLog(self.folder, config, problems, state.step, writes=fabric.is_global_zero)
        self.wrapped.train()
        batches = self._batches()
        try:
            if state.unvalidated:  # the training was ended in the validation of its last step
                self._after_step(log)
            asked = time.perf_counter()
            for images, labels in batches:
                log.waited(time.perf_counter() - asked)
                first = state.step * config.batch + fabric.global_rank
                numbers = range(first, (state.step + 1) * config.batch, fabric.world_size)  # those of StepSampler
                result = step(images, labels, numbers)
                state.step += 1
                log.add(result, [group["lr"] for group in state.optimiser.param_groups])
                due = state.step == config.steps or state.step % config.evaluate_every == 0
                state.unvalidated = due and self.validation is not None
                self._after_step(log)
                asked = time.perf_counter()
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                "a process that reads training data was killed, perhaps for want of memory; "
                f"continue with --resume {self.folder} workers={max(0, config.workers - 1)}"
            ) from None
        finally:
            self.leaving.value = True
            batches.close()
            log.close()
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), previous, strict=True):
                signal.signal(number, handler)
        return state.best_miou if state.best_miou >= 0 else None

    def _after_step(self, log: RunLog) -> None:
        """Validate where it is due, save, and leave if that was asked for.

        A validation may take longer than the system waits for a process that it told to end: the steps before it are
        saved first, and it is broken off.

        Raises:
            KeyboardInterrupt: as `run`.
        """
        state, config = self.state, self.config
        validating = state.unvalidated
        if validating:
            self._save(self.last, resumable=True)
            self._validate(log)
        stopping = self._stopping()
        if validating or stopping or state.step == config.steps or state.step % config.checkpoint_every == 0:
            self._save(self.last, resumable=True)
        if stopping:
            tqdm.write(f"stopped at step {state.step}; continue with --resume {self.folder}", file=sys.stderr)
            raise KeyboardInterrupt

    def _batches(self) -> Generator[tuple[Tensor, Tensor]]:
        begin = self.state.step
        loader = batch_loader(self.stream, self.config, self.fabric, begin, self.leaving)
        try:
            yield from loader
            return
        except UserError as error:
            # A worker process sends its whole traceback as the text; the user needs the last line.
            wrong = str(error).strip().splitlines()[-1].partition("UserError: ")[2] or str(error)
        # Out here nothing holds the loader any more, and its processes have ended.
        if self.state.step > begin:  # what was trained until here is not lost with the file
            self._save(self.last, resumable=True)
        raise UserError(wrong)

    def _validate(self, log: RunLog) -> None:
        assert self.validation is not None
        begin = time.perf_counter()
        model = self.state.average.model if self.state.average else self.state.model
        keep = self.config.model.text_tokens == "kept"
        rank, world = self.fabric.global_rank, self.fabric.world_size
        # The statistics of batch norm are each process's own; the checkpoint holds those of the first.
        take_from_first(self.fabric, model.buffers())
        result = validate(
            model,
            self.validation,
            self.config.size,
            self.fabric.device,
            keep_tokens=keep,
            part=slice(rank, None, world),
            stop=lambda: self.stop_signal is not None,
        )
        self.wrapped.train()
        if self._stopping():
            return  # it may be of a few frames only, and comes again
        counts = reduced(self.fabric, torch.from_numpy(result.confusion.matrix).to(self.fabric.device))
        result.confusion.matrix[:] = counts.cpu().numpy()
        with torch.no_grad():
            text = model.text()
        self.state.unvalidated = False
        miou = result.confusion.miou() or 0.0
        if miou > self.state.best_miou:
            self.state.best_miou = miou
            self._save(self.folder / "checkpoints" / "best.safetensors", resumable=False)
        log.validated(result, text, time.perf_counter() - begin)

    def _save(self, path: Path, *, resumable: bool) -> None:
        if self.fabric.is_global_zero:
            self.state.save(path, self.config, self.space, resumable=resumable)

    def _stopping(self) -> bool:
        """Whether any process was asked to end: all leave after the same step."""
        return any_process(self.fabric, self.stop_signal is not None)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        """The first signal asks for an end after this step; a second one ends at once."""
        if self.stop_signal:
            raise KeyboardInterrupt
        self.stop_signal = number


def _precision(name: str, scaler: torch.amp.GradScaler | None) -> dict[str, Any]:
    """Fabric's settings; its fp16 is given its scaler, which the checkpoints hold."""
    if scaler is not None:
        return {"plugins": MixedPrecision("16-mixed", "cuda", scaler)}
    return {"precision": {"f32": "32-true", "bf16": "bf16-mixed"}[name]}
