"""What a training tells while it runs: TensorBoard scalars and pictures, the progress bar, the final result file."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from mtaclip_core.config import TrainConfig
from mtaclip_core.files import write_text
from mtaclip_core.training.problems import Problems
from mtaclip_core.training.step import StepResult
from mtaclip_core.training.validation import Validation

CELL = 24  # pixels of a value in a matrix that is shown


class RunLog:
    """Collects on every process, writes on the first one."""

    def __init__(self, folder: Path, config: TrainConfig, problems: Problems, step: int, *, writes: bool) -> None:
        """`step`: where the training goes on; what an earlier start logged after it is hidden."""
        self.folder, self.config, self.problems = folder, config, problems
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1) if writes else None
        self.bar = tqdm(total=config.steps, initial=step, desc="train", unit="step", disable=not writes)
        self.step = step
        self._start()

    def _start(self) -> None:
        self.window: dict[str, Tensor] = {}
        self.first, self.learned, self.since, self.waiting = self.step, 0, time.perf_counter(), 0.0

    def waited(self, seconds: float) -> None:
        """Count time in which the training had no data to go on with."""
        self.waiting += seconds

    def add(self, result: StepResult, rates: list[float]) -> None:
        """Count a step that was taken. Values stay on their device until a window of `log_every` steps is full."""
        self.step += 1
        self.bar.update()
        values = {f"loss/{name}": value for name, value in result.terms.items()}
        if result.terms:
            self.learned += 1
            values["loss/total"] = torch.stack(list(result.terms.values())).sum()
        if result.norm is not None:
            values["gradient_norm"] = result.norm
        for name, value in values.items():
            self.window[name] = self.window.get(name, 0.0) + value
        if self.step % self.config.log_every == 0:
            self._write(rates)
            self._start()

    def _write(self, rates: list[float]) -> None:
        if self.writer is None:
            return
        # One transfer for all values.
        sums = torch.stack([v.float() for v in self.window.values()]).tolist() if self.window else []
        means = {name: value / self.learned for name, value in zip(self.window, sums, strict=True)}
        samples, seconds = (self.step - self.first) * self.config.batch, time.perf_counter() - self.since
        others = {
            "lr": rates[-1],
            "lr_backbone": rates[0],
            "samples_per_second": samples / seconds,
            "data_wait": self.waiting / seconds,  # share of the time; near 0 where there are workers enough
            "memory_mib": memory_mib(),
            **{f"problems/{kind}": count for kind, count in self.problems.counts.items()},
        }
        for name, value in (means | others).items():
            self.writer.add_scalar(name, value, self.step)
        total = f"loss {means['loss/total']:.3f}" if means else "loss -"
        self.bar.set_postfix_str(f"{total} lr {rates[-1]:.2e}")

    def validated(self, result: Validation, text: Tensor, seconds: float) -> None:
        """Write down a validation after `step` steps.

        Args:
            text: T (Z, C', E), its contexts are compared.
            seconds: what it took, which is no part of the training's throughput.
        """
        self.since += seconds
        if self.writer is None:
            return
        iou, miou = result.confusion.iou(), result.confusion.miou() or 0.0
        self.writer.add_scalar("validation/miou", miou, self.step)
        for name, value in iou.items():
            if value is not None:
                self.writer.add_scalar(f"validation_iou/{name}", value, self.step)
        if result.panel is not None:
            self.writer.add_image("validation/image_truth_prediction", result.panel, self.step, dataformats="HWC")
        if text.shape[0] > 1:
            matrix = context_similarity(text)
            off_diagonal = matrix[~np.eye(len(matrix), dtype=bool)]
            self.writer.add_scalar("contexts/mean_cosine", float(off_diagonal.mean()), self.step)
            self.writer.add_image("contexts/cosine", matrix_picture(matrix), self.step, dataformats="HWC")
        classes = " ".join(f"{n} {v * 100:.0f}" for n, v in iou.items() if v is not None)
        tqdm.write(f"step {self.step}: mIoU {miou * 100:.2f} ({classes})", file=sys.stderr)
        if self.step == self.config.steps:
            scores = {"steps": self.step, "miou": result.confusion.miou(), "iou": iou, "problems": self.problems.counts}
            write_text(self.folder / "result.json", json.dumps(scores, indent=1))

    def close(self) -> None:
        self.bar.close()
        if self.writer is not None:
            self.writer.close()


def memory_mib() -> float:
    """Largest memory so far: of the GPU where one is used, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10  # KiB on Linux


def context_similarity(text: Tensor) -> np.ndarray:
    """(Z, C', E) -> (Z, Z) float32: the cosine of the texts of two contexts, mean over the classes."""
    unit = F.normalize(text.detach().float(), dim=-1)
    return torch.einsum("ice,jce->ij", unit, unit).div(text.shape[1]).cpu().numpy()


def matrix_picture(matrix: np.ndarray) -> np.ndarray:
    """(n, n) in -1..1 -> (n * CELL, n * CELL, 3) uint8 RGB."""
    grey = np.clip((matrix + 1) * 127.5, 0, 255).astype(np.uint8)
    large = np.kron(grey, np.ones((CELL, CELL), np.uint8))
    return cv2.cvtColor(cv2.applyColorMap(large, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
