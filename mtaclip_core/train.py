"""`python -m mtaclip_core.train`: train a model from a config file."""

from __future__ import annotations

import json
from pathlib import Path

from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.config import load_config


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="python -m mtaclip_core.train",
        description="Train MTA-CLIP. Writes checkpoints, TensorBoard events and the resolved config to a run folder.",
        epilog="example: python -m mtaclip_core.train --config config/train/street_tiny.yaml steps=2000 batch=4",
    )
    parser.add_argument("--config", required=True, help="YAML file, for example config/train/street_tiny.yaml")
    parser.add_argument("--out", help="run folder (default: runs/ plus the config's name)")
    parser.add_argument("--resume", metavar="RUN", help="continue the training of this run folder, exactly")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="change single settings of the config")
    args = parser.parse_args(argv)
    if args.resume and args.out and Path(args.resume) != Path(args.out):
        raise UserError("--resume names the run folder already; leave --out away")
    config = load_config(args.config, args.overrides)
    folder = Path(args.resume or args.out or Path("runs") / Path(args.config).stem)

    from mtaclip_core.training.loop import Trainer  # torch takes seconds: wrong settings are told before

    trainer = Trainer(config, folder, resume=bool(args.resume))
    best = trainer.run()
    if trainer.fabric.is_global_zero:
        print(json.dumps({"run": str(folder), "steps": config.steps, "best_miou": best}))
    return 0


if __name__ == "__main__":
    run(main)
