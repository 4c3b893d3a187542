"""Command line: a checkpoint becomes a bundle; `int8` and `engine` make what a bundle lacks for a certain machine."""

from __future__ import annotations

from mtaclip_core.cli import run


def main(argv: list[str]) -> int | None:
    # Each imports its own: an engine is built on a vehicle, which has no torch.
    if argv[:1] == ["engine"]:
        from mtaclip_core.deploy import engine_command

        return engine_command.main(argv[1:])
    if argv[:1] == ["int8"]:
        from mtaclip_core.deploy import int8_command

        return int8_command.main(argv[1:])
    from mtaclip_core.deploy import bundle_command

    return bundle_command.main(argv)


if __name__ == "__main__":
    run(main)
