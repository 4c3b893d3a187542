"""One optimiser step: its parts, the gradient of all processes, and what is done where numbers go wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricModule, _FabricOptimizer
from torch import Tensor, nn

from mtaclip_core.cli import UserError
from mtaclip_core.config import TrainConfig
from mtaclip_core.training.collectives import any_process, reduced
from mtaclip_core.training.problems import Problems
from mtaclip_core.training.run_folder import TrainingState
from mtaclip_core.training.schedule import rate_factor

HOPELESS = 50
"""So many steps in a row without a finite gradient end the training."""


@dataclass(frozen=True)
class StepResult:
    """Of one step, on the training's device.

    Attributes:
        terms: weighted loss terms of this process, without gradient; empty where the step was left out.
        norm: gradient norm before clipping.
    """

    terms: dict[str, Tensor]
    norm: Tensor | None = None


class TrainingStep:
    """Computes and applies the gradient of a step.

    A step's gradient depends on its samples alone, not on how they are spread over processes and parts: random points
    are keyed by sample, losses are divided by counts of the whole step. (Batch norm in training breaks this.)
    """

    def __init__(
        self,
        fabric: Fabric,
        config: TrainConfig,
        state: TrainingState,
        model: _FabricModule,
        optimiser: _FabricOptimizer,
        problems: Problems,
        name: Callable[[int], str],
    ) -> None:
        """`model`, `optimiser`: the state's, as Fabric wrapped them; `name`: of a sample by its number."""
        self.fabric, self.config, self.state = fabric, config, state
        self.model, self.optimiser = model, optimiser
        self.problems, self.name = problems, name
        self.base_rates = [group["lr"] for group in state.optimiser.param_groups]
        self.criterion = state.criterion
        # Running statistics change in the forward pass, also in a step that is left out.
        norms = [m for m in state.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self.statistics = [s for m in norms for s in (m.running_mean, m.running_var) if s is not None]
        self.failures = 0

    def __call__(self, images: Tensor, labels: Tensor, numbers: Sequence[int]) -> StepResult:
        """Take one step with this process's samples.

        Args:
            images: (b, 3, H, W) normalised; labels: (b, H, W), both on the CPU.
            numbers: (b,) the samples' numbers in the stream.

        Raises:
            UserError: the loss has not been a finite number for many steps.
        """
        step, config = self.state.step, self.config
        factor = rate_factor(step, config.steps, config.optimiser)
        for group, rate in zip(self.state.optimiser.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        labelled = (labels < len(self.state.model.space)).flatten(1).any(1)
        for number in np.asarray(numbers)[~labelled.numpy()]:
            self.problems.add("no_label", step, [self.name(int(number))])
        if not any_process(self.fabric, bool(labelled.any())):
            return StepResult({})  # nothing to learn from, in no process
        labels = labels.to(self.fabric.device, non_blocking=True)
        self.optimiser.zero_grad()
        before = [statistic.clone() for statistic in self.statistics]
        terms, sound = self._gradient(images, labels, numbers)
        norm = self._clip()
        finite = torch.stack(list(terms.values())).sum().isfinite()
        scaled = self.state.scaler is not None  # the scaler leaves steps out by itself, to find its scale
        failed = any_process(self.fabric, not bool(finite if scaled else finite & norm.isfinite()))
        if scaled or not failed:
            self.optimiser.step()
        if failed:
            for statistic, kept in zip(self.statistics, before, strict=True):
                statistic.copy_(kept)
            unsound = [n for n, fine in zip(numbers, sound.tolist(), strict=True) if not fine]
            self._failed([self.name(number) for number in unsound or numbers])
            return StepResult({})
        self.failures = 0
        if self.state.average:
            self.state.average.update(self.state.model)
        return StepResult(terms, norm)

    def _gradient(self, images: Tensor, labels: Tensor, numbers: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """Add up the gradients of all parts; -> (loss terms, (b,) bool: which predictions are finite numbers)."""
        config, parts = self.config, self.config.accumulate
        counts = reduced(self.fabric, self.criterion.counts(labels, config.model.decoder.queries))
        normalisers = self.criterion.normalisers(counts, parts, self.fabric.world_size)
        size = len(numbers) // parts
        terms: dict[str, Tensor] = {}
        sound = []
        for part in range(parts):
            rows = slice(part * size, (part + 1) * size)
            pixels = images[rows].to(self.fabric.device, non_blocking=True)
            if config.channels_last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            with self.fabric.no_backward_sync(self.model, enabled=part < parts - 1):
                prediction = self.model(pixels)
                generators = [self._generator(number) for number in numbers[rows]]
                losses = self.criterion(prediction, labels[rows], generators, normalisers)
                self.fabric.backward(torch.stack(list(losses.values())).sum())
            for name, value in losses.items():
                terms[name] = terms.get(name, 0.0) + value.detach()
            sound.append(prediction.layers[-1].class_logits.detach().isfinite().flatten(1).all(1))
            for b in sorted(self.criterion.degenerate):
                self.problems.add("degenerate_cost", self.state.step, [self.name(numbers[rows][b])])
        self._share_criterion_gradients()
        return terms, torch.cat(sound)

    def _generator(self, number: int) -> torch.Generator:
        """Keyed by the sample, so that a resumed training, or one on more processes, draws the same points."""
        key = np.random.default_rng([self.config.seed, number, 1]).integers(2**62)
        return torch.Generator().manual_seed(int(key))

    def _share_criterion_gradients(self) -> None:
        """The learned temperature belongs to no wrapped module: its gradient is averaged here."""
        for parameter in self.criterion.parameters():
            if parameter.grad is not None:
                parameter.grad = reduced(self.fabric, parameter.grad, "mean")

    def _clip(self) -> Tensor:
        largest = self.config.optimiser.clip_norm or torch.inf
        norm = self.fabric.clip_gradients(self.model, self.optimiser, max_norm=largest, error_if_nonfinite=False)
        assert norm is not None
        return norm.detach()

    def _failed(self, names: Sequence[str]) -> None:
        self.problems.add("not_a_number", self.state.step, names)
        self.failures += 1
        if self.failures == HOPELESS:
            raise UserError(
                f"the loss has not been a finite number for {HOPELESS} steps, up to step {self.state.step + 1}; resume "
                "with a smaller optimiser.lr, a smaller optimiser.clip_norm or precision=f32"
            )
