"""The two trainings that are compared: ours, as `train` runs it, and Hugging Face's Mask2Former with its own loss."""

from __future__ import annotations

import math
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import AdamW

from mtaclip_core.cli import UserError
from mtaclip_core.comparison.hugging_face import build_mask2former
from mtaclip_core.comparison.random_bundle import SEED, classes_of, full_config
from mtaclip_core.config import TrainConfig
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.losses.criterion import Criterion
from mtaclip_core.modeling.mta_clip import MTAClip, build_model
from mtaclip_core.modeling.timm_backbone import TimmBackbone
from mtaclip_core.training.preparation import prepare_execution
from mtaclip_core.training.problems import Problems
from mtaclip_core.training.run_folder import TrainingState
from mtaclip_core.training.schedule import build_optimiser
from mtaclip_core.training.step import TrainingStep

SIDES = ("hf", "ours", "ours_checkpointed")
TIMM = "resnet50"
DISTINCT_STEPS = 4


@dataclass(frozen=True)
class Setup:
    """What both sides train with.

    Attributes:
        size: (height, width) of the crops.
        precision: f32, or bf16 (autocast).
        device: cpu or cuda.
        threads: of PyTorch on the CPU; None: its choice.
        timm: name of the backbone.
        shapes: of ours (`TrainConfig.model`) and theirs (`Mask2FormerConfig`), where they are not the published ones.
    """

    size: tuple[int, int]
    batch: int = 1
    classes: int = 19
    precision: str = "f32"
    device: str = "cpu"
    threads: int | None = None
    timm: str = TIMM
    shapes: tuple[Mapping[str, Any], Mapping[str, Any]] = field(default=({}, {}))

    def config(self, *, checkpointing: bool = False) -> TrainConfig:
        """Of our training: MTA-CLIP with random text vectors, from the first step at its full rate."""
        values = {"backbone": {"kind": "timm", "name": self.timm}, **self.shapes[0]}
        config = full_config(self.size, values)
        optimiser = config.optimiser.model_copy(update={"warmup": 0})
        changes = {"optimiser": optimiser, "precision": self.precision, "checkpointing": checkpointing}
        return config.model_copy(update=changes)

    def our_model(self) -> MTAClip:
        torch.manual_seed(SEED)
        return build_model(self.config().model, classes_of(self.classes), SEED, load=False)


class Side(ABC):
    """One training. Step n of every side sees the same images and labels.

    Attributes:
        model, backbone: as they are trained.
        losses: of every step so far.
        parts: seconds of every step so far: `backbone_forward`; `decoder_losses`: pixel decoder, decoder, matching
            and losses, forwards and backwards.
    """

    def __init__(self, name: str, setup: Setup, model: nn.Module, backbone: nn.Module) -> None:
        self.name, self.setup, self.model, self.backbone = name, setup, model, backbone
        self.device = torch.device(setup.device)
        self.losses: list[float] = []
        self.parts: dict[str, list[float]] = {"backbone_forward": [], "decoder_losses": []}
        self._marks: dict[str, float] = {}
        backbone.register_forward_pre_hook(lambda *_: self._mark("start"))
        backbone.register_forward_hook(self._features)

    def step(self) -> None:
        """Take one step and wait for its end. UserError where the loss is not a finite number."""
        self._marks.clear()
        loss = self._step(len(self.losses) % DISTINCT_STEPS)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        if not math.isfinite(loss):
            raise UserError(f"the loss of {self.name} in {self.setup.precision} is {loss}; nothing can be compared")
        self.losses.append(loss)
        start, features, gradient = (self._marks[name] for name in ("start", "features", "gradient"))
        self.parts["backbone_forward"].append(features - start)
        self.parts["decoder_losses"].append(gradient - features)

    @abstractmethod
    def _step(self, number: int) -> float:
        """Step with the data of this number; the loss."""

    def _features(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._mark("features")
        # The backward pass goes through everything that was computed later, the decoders and losses, before it comes
        # to the deepest map.
        maps = output if isinstance(output, list) else output.feature_maps
        maps[-1].register_hook(lambda gradient: self._mark("gradient"))

    def _mark(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self._marks[name] = time.perf_counter()


class Ours(Side):
    """`TrainingStep` of `train`, the labels made into targets included."""

    def __init__(self, setup: Setup, *, checkpointing: bool) -> None:
        config = setup.config(checkpointing=checkpointing)
        precision: Any = {"f32": "32-true", "bf16": "bf16-mixed"}[setup.precision]
        fabric = Fabric(accelerator=setup.device, devices=1, precision=precision)
        model = setup.our_model().to(fabric.device)
        criterion = Criterion(config.loss, model.space).to(fabric.device)
        optimiser = build_optimiser(model, criterion, config.optimiser)
        prepare_execution(model, config)
        state = TrainingState(model, criterion, optimiser, None)
        wrapped, wrapped_optimiser = fabric.setup(model, optimiser)
        wrapped.train()
        super().__init__("ours_checkpointed" if checkpointing else "ours", setup, model, model.backbone)
        self._folder = tempfile.TemporaryDirectory()
        problems = Problems(Path(self._folder.name))
        self._train = TrainingStep(fabric, config, state, wrapped, wrapped_optimiser, problems, str)
        self._batches = _batches(setup, model.mean, model.std)

    def _step(self, number: int) -> float:
        state = self._train.state
        first = state.step * self.setup.batch
        result = self._train(*self._batches[number], range(first, first + self.setup.batch))
        state.step += 1
        return float(torch.stack(list(result.terms.values())).sum()) if result.terms else math.nan


class Theirs(Side):
    """The usual loop around their model; the labels are masks already, as their image processor makes them."""

    def __init__(self, setup: Setup) -> None:
        model = build_mask2former(setup.classes, setup.shapes[1], timm=setup.timm).to(setup.device).train()
        backbone = model.model.pixel_level_module.encoder
        ours = setup.our_model()
        assert isinstance(ours.backbone, TimmBackbone)
        backbone._backbone.load_state_dict(ours.backbone.model.state_dict())
        super().__init__("hf", setup, model, backbone)
        self._batches = []
        for images, labels in _batches(setup, ours.mean, ours.std):
            classes = [label[label < setup.classes].unique().long() for label in labels]
            pairs = zip(labels, classes, strict=True)
            self._batches.append((images, [(label == found[:, None, None]).float() for label, found in pairs], classes))
        config = setup.config().optimiser
        mine = {id(p) for p in backbone.parameters()}
        groups = [
            {"params": [p for p in model.parameters() if id(p) not in mine], "lr": config.lr},
            {"params": list(backbone.parameters()), "lr": config.lr * config.backbone_factor},
        ]
        self._optimiser = AdamW(groups, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
        self._clip_norm = config.clip_norm

    def _step(self, number: int) -> float:
        images, masks, classes = self._batches[number]
        self._optimiser.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.setup.precision == "bf16"):
            loss = self.model(
                pixel_values=images.to(self.device),
                mask_labels=[mask.to(self.device) for mask in masks],
                class_labels=[found.to(self.device) for found in classes],
            ).loss.sum()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._clip_norm)
        self._optimiser.step()
        return float(loss.detach())


def build_side(name: str, setup: Setup) -> Side:
    """One of `SIDES`."""
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    return Theirs(setup) if name == "hf" else Ours(setup, checkpointing=name == "ours_checkpointed")


def _batches(setup: Setup, mean: tuple[float, ...], std: tuple[float, ...]) -> list[tuple[Tensor, Tensor]]:
    """Images (B, 3, H, W) normalised and labels (B, H, W) of generated streets, for `DISTINCT_STEPS` steps."""
    drive = StreetDrive(setup.size, seed=1)
    found = []
    for start in range(DISTINCT_STEPS):
        samples = [drive.frame(10 * (start * setup.batch + i)) for i in range(setup.batch)]
        images = torch.stack([torch.from_numpy(sample.image) for sample in samples]).permute(0, 3, 1, 2).float() / 255
        images = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        found.append((images.contiguous(), torch.stack([torch.from_numpy(sample.label) for sample in samples])))
    return found
