"""Command line: a local Hugging Face Mask2Former becomes one of our bundles."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mtaclip_core import export
from mtaclip_core.bundle import check_destination
from mtaclip_core.cli import Parser, UserError, run, size
from mtaclip_core.config import TrainConfig
from mtaclip_core.deploy.bundle_command import add_shared_options
from mtaclip_core.modeling.hf_config import describe
from mtaclip_core.modeling.hf_weights import read_weights
from mtaclip_core.modeling.mta_clip import MTAClip, build_model
from mtaclip_core.runtime.torch_backend import check_fit
from mtaclip_core.training.checkpoint import save_checkpoint

EPILOG = """example:
  python -m mtaclip_core.import_hf mask2former-swin-large-cityscapes-semantic --out models/swin-large \\
      --network-size 512x1024

PATH is a downloaded checkpoint of a Mask2Former with a ResNet or Swin backbone: config.json, *.safetensors and
preprocessor_config.json, such as facebook/mask2former-swin-large-cityscapes-semantic. Nothing is downloaded and no
pickle is loaded. The network size decides speed and accuracy: Cityscapes models are at their best near 1024x2048."""


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_core.import_hf", description=__doc__, epilog=EPILOG)
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of the checkpoint")
    parser.add_argument("--out", required=True, type=Path, metavar="models/NAME", help="folder to write")
    parser.add_argument("--network-size", type=size, metavar="HxW", help="default: as in preprocessor_config.json")
    add_shared_options(parser)
    args = parser.parse_args(argv)

    check_destination(args.out)
    model, config = load_hf(args.path, args.network_size)
    origin = f"the Hugging Face Mask2Former `{args.path.resolve().name}`"
    options = [part for name in ("weights", "resize", "deformable") for part in (f"--{name}", getattr(args, name))]
    if args.license_file:
        options += ["--license-file", str(args.license_file)]
    with tempfile.TemporaryDirectory(prefix=".import-", dir=args.out.parent) as folder:
        checkpoint = Path(folder) / "imported.safetensors"
        save_checkpoint(
            checkpoint,
            {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
            {
                "config": config.model_dump(mode="json"),
                "space": {"name": model.space.name, "classes": model.space.to_list()},
                "origin": origin,
            },
        )
        del model
        return export.main([str(checkpoint), "--out", str(args.out), *options])


def load_hf(path: Path, network_size: tuple[int, int] | None = None) -> tuple[MTAClip, TrainConfig]:
    """Build our model of a Hugging Face checkpoint, in evaluation mode, and the configuration that describes it.

    Args:
        path: its folder.
        network_size: (height, width), multiples of 32; None: as its preprocessor says.

    Raises:
        UserError: not such a folder, a model of another shape, weights that do not fit its config.
    """
    described = describe(path)
    wanted = network_size or described.network_size
    if wanted is None:
        raise UserError(f"'{path}' fixes no image size; give --network-size HxW, for example 512x1024")
    if any(side % 32 for side in wanted):
        raise UserError(f"network size {wanted[0]}x{wanted[1]}: both sides must be multiples of 32")
    config = TrainConfig(model=described.model, network_size=wanted)
    weights = read_weights(path)
    check_fit(config.model, described.space, weights, f"the weights in '{path}' do not fit its config.json")
    model = build_model(config.model, described.space)
    counters = {k: t for k, t in model.state_dict().items() if k.endswith("num_batches_tracked")}
    model.load_state_dict(counters | weights)
    return model.eval(), config


if __name__ == "__main__":
    run(main)
