"""`python -m mtaclip_core.train`: train a model from a config file."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.config import TrainConfig, differences, load_config

# What a config file may differ in when a training is resumed with it: how far it goes, what it tells, where data lies.
_FREE = ("steps", "workers", "cache", "log_every", "evaluate_every", "checkpoint_every", "validation")


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="python -m mtaclip_core.train",
        description="Train MTA-CLIP. Writes checkpoints, TensorBoard events and the resolved config to a run folder.",
        epilog="example: python -m mtaclip_core.train --config config/train/street_tiny.yaml steps=2000 batch=4",
    )
    parser.add_argument(
        "--config", help="YAML file, for example config/train/street_tiny.yaml; --resume RUN has its own"
    )
    parser.add_argument("--out", help="run folder (default: runs/ plus the config's name)")
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="continue this run folder's training, exactly; auto: that of --out, if it has one",
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change single settings of the config")
    args = parser.parse_args(argv)
    if args.resume not in (None, "auto") and args.out and Path(args.resume) != Path(args.out):
        raise UserError("--resume names the run folder already; leave --out away")
    if args.config is None and args.resume in (None, "auto"):
        raise UserError("--config is missing: name a YAML file, for example config/train/street_tiny.yaml")
    if args.resume in (None, "auto"):
        folder = Path(args.out or Path("runs") / Path(args.config).stem)
    else:
        folder = Path(args.resume)
    resume = (folder / "checkpoints" / "last.safetensors").exists() if args.resume == "auto" else bool(args.resume)
    config = _resumed(folder, args.config, args.overrides) if resume else load_config(args.config, args.overrides)

    from mtaclip_core.training.loop import Trainer  # torch takes seconds: wrong settings are told before

    trainer = Trainer(config, folder, resume=resume)
    best = trainer.run()
    if trainer.fabric.is_global_zero:
        print(json.dumps({"run": str(folder), "steps": config.steps, "best_miou": best}))
    return 0


def _resumed(folder: Path, path: str | None, overrides: list[str]) -> TrainConfig:
    """The run's own config, and what is meant to change from here on.

    Overrides without a config file are meant. A config file that differs is most likely one whose overrides of the
    first start were forgotten: refused, or the rest of the run would silently follow another schedule.
    """
    own = folder / "config.yaml"
    if not own.exists():
        raise UserError(f"'{folder}' is no run folder to resume: it has no config.yaml")
    before = load_config(own)
    config = load_config(path or own, overrides)
    changed = differences(before, config)
    if path is None:
        if changed:
            print(f"note: from here on this run has other settings: {', '.join(changed)}", file=sys.stderr)
        return config
    other = [key for key in changed if key.split(".")[0] not in _FREE and not key.endswith(".data")]
    if other:
        raise UserError(
            f"--resume {folder}: {other[0]} is not what this run was started with (see {own}); leave --config away, "
            "and name only what is to change from here on"
        )
    return config


if __name__ == "__main__":
    run(main)
