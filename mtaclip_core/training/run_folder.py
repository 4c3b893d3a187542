"""What stands in a run folder, and the resumable state of a training."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.optim import Optimizer

from mtaclip_core.cli import UserError
from mtaclip_core.config import TrainConfig
from mtaclip_core.files import write_text
from mtaclip_core.labels import LabelSpace
from mtaclip_core.losses.criterion import Criterion
from mtaclip_core.modeling.mta_clip import MTAClip
from mtaclip_core.training.checkpoint import load_checkpoint, save_checkpoint
from mtaclip_core.training.ema import WeightAverage


@dataclass
class TrainingState:
    """Everything that changes while training."""

    model: MTAClip
    criterion: Criterion
    optimiser: Optimizer
    average: WeightAverage | None
    scaler: torch.amp.GradScaler | None = None  # of fp16
    step: int = 0
    best_miou: float = -1.0
    unvalidated: bool = False  # a validation of this step is due

    def save(self, path: Path, config: TrainConfig, space: LabelSpace, *, resumable: bool) -> None:
        """Write a checkpoint; one that is not resumable holds the weights that would be used (averaged ones if any)."""
        weights = self.average.model if self.average and not resumable else self.model
        tensors = _prefixed("model", weights.state_dict())
        if resumable:
            tensors |= _prefixed("criterion", self.criterion.state_dict())
            if self.average:
                tensors |= _prefixed("ema", self.average.state_dict())
            names = self._trained()
            for index, entry in self.optimiser.state_dict()["state"].items():
                tensors |= _prefixed(f"optimiser.{names[index]}", entry)
            tensors["random.cpu"] = torch.get_rng_state()
            if torch.cuda.is_available():
                tensors["random.cuda"] = torch.cuda.get_rng_state()
        meta: dict[str, Any] = {
            "config": config.model_dump(mode="json"),
            "space": {"name": space.name, "classes": space.to_list()},
            "step": self.step,
            "best_miou": self.best_miou,
            "unvalidated": self.unvalidated,
            "ema_updates": self.average.updates if self.average else 0,
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "versions": versions(),
        }
        save_checkpoint(path, tensors, meta)

    def restore(self, path: Path) -> None:
        """Continue from a resumable checkpoint, exactly.

        Where other parameters are trained than before, those that are new start as they do in a new training.

        Raises:
            UserError: unreadable, or of another model.
        """
        tensors, meta = load_checkpoint(path)
        if "random.cpu" not in tensors:
            raise UserError(f"checkpoint '{path}' holds weights only and cannot be resumed; use the run's last one")
        try:
            self.model.load_state_dict(_part("model", tensors))
            self.criterion.load_state_dict(_part("criterion", tensors))
            if self.average:
                self.average.load_state_dict(_part("ema", tensors), _part("model", tensors))
                self.average.updates = meta["ema_updates"]
        except RuntimeError as error:
            raise UserError(f"checkpoint '{path}' is of another model: {str(error).splitlines()[-1].strip()}") from None
        trained = self._trained()
        index_of = {name: index for index, name in enumerate(trained)}
        state: dict[int, dict[str, Tensor]] = {}
        for entry, tensor in _part("optimiser", tensors).items():
            name, key = entry.rsplit(".", 1)
            index = int(name) if name.isdigit() else index_of.get(name)  # older checkpoints number them
            if index is not None:
                state.setdefault(index, {})[key] = tensor
        self.optimiser.load_state_dict({"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]})
        if self.scaler and meta.get("scaler"):
            self.scaler.load_state_dict(meta["scaler"])
        torch.set_rng_state(tensors["random.cpu"])
        if torch.cuda.is_available() and "random.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random.cuda"])
        self.step, self.best_miou = meta["step"], meta["best_miou"]
        self.unvalidated = meta.get("unvalidated", False)

    def _trained(self) -> list[str]:
        """Names of the optimiser's parameters, in its order."""
        owners = {"": self.model, "criterion.": self.criterion}
        names = {id(p): prefix + name for prefix, owner in owners.items() for name, p in owner.named_parameters()}
        return [names[id(p)] for group in self.optimiser.param_groups for p in group["params"]]


def write_run_files(folder: Path, config: TrainConfig) -> None:
    """The resolved config, versions and git revision, for whoever finds the folder later."""
    write_text(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    write_text(folder / "versions.json", json.dumps(versions(), indent=1))


def versions() -> dict[str, str]:
    """Versions of what decides the numbers, and the revision of this code ("-dirty" where it was changed)."""
    names = ("torch", "torchvision", "open_clip_torch", "timm", "lightning-fabric", "numpy", "opencv-python-headless")
    found = {"python": platform.python_version(), "git": git_revision()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_revision() -> str:
    """Revision of the source tree, "unknown" outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _prefixed(prefix: str, tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": torch.as_tensor(tensor) for name, tensor in tensors.items()}


def _part(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) + 1 :]: t for name, t in tensors.items() if name.startswith(prefix + ".")}
