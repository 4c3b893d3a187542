"""A hundred thousand frames, a million hostile messages, a thousand transitions: does the real node stay as it was?

The node runs in a process of its own, with a model that labels every pixel alike; all messages go to it over DDS.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from mtaclip_core.benchmark import machine
from mtaclip_core.bundle import resolve_bundle
from mtaclip_core.cli import Parser, UserError, run, size
from mtaclip_core.files import prepare_file, write_text
from mtaclip_ros.constant_node import LABEL
from mtaclip_ros.driven_node import DrivenNode
from mtaclip_ros.processes import exit_on_sigterm
from mtaclip_ros.rclpy_start import import_rclpy
from mtaclip_ros.soak_phases import PARAMETERS, WINDOW, Phase, Soak

_COMPRESSED_SHARE = 0.3
_SEED = 20
_LEAST = 40  # of each: below, nothing could be said

EPILOG = f"""example:
  python -m mtaclip_ros.soak --frames 5000 --hostile 20000 --transitions 80 --json runs/soak.json

frames: each is sent when the one before is labelled; none may be dropped. hostile: {WINDOW} messages at once, then a
good frame that must be labelled; first raw ones, then compressed. transitions: four, and a frame that must be labelled.
In every phase memory, threads and file handles may not grow after the first fifth, and the counts of /diagnostics must
be those of what was sent: the node looks at the newest message alone, so hostile ones are bad or dropped. Every hostile
message is decoded in this process too, and has to be refused for the right reason.

exit status: 1 with one line when a check fails."""


def main(argv: list[str]) -> int | None:
    """Returns 1 when a check fails."""
    parser = Parser(prog="python -m mtaclip_ros.soak", description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "--frames", type=_count, default=100_000, metavar="N", help="good frames (default: %(default)s)"
    )
    parser.add_argument(
        "--hostile", type=_count, default=1_000_000, metavar="N", help="hostile messages (default: %(default)s)"
    )
    parser.add_argument(
        "--transitions", type=_count, default=1000, metavar="N", help="four make a cycle (default: %(default)s)"
    )
    parser.add_argument("--size", type=size, default=(48, 64), metavar="HxW", help="of good frames (default: 48x64)")
    parser.add_argument(
        "--model", metavar="BUNDLE", help="folder or name of a bundle (default: one that costs nothing)"
    )
    parser.add_argument(
        "--max-growth",
        type=float,
        default=8.0,
        metavar="MIB",
        help="most memory that a phase may add (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the numbers to this file")
    args = parser.parse_args(argv)
    if args.model is not None:
        args.model = str(resolve_bundle(args.model))
    if args.json is not None:
        prepare_file(args.json)
    import_rclpy()
    exit_on_sigterm()
    phases: list[Phase] = []
    complaints: list[str] = []
    try:
        _soak(args, phases)
    except UserError as error:  # the node's fault: the arguments were good
        complaints.append(" ".join(str(error).split()))
    complaints += [clause for phase in phases for clause in phase.complaints(args.max_growth)]
    print(table(phases))
    if args.json is not None:
        numbers = {
            "command": shlex.join(["python", "-m", "mtaclip_ros.soak", *argv]),
            "machine": machine(),
            "size": f"{args.size[0]}x{args.size[1]}",
            "phases": [asdict(phase) for phase in phases],
            "complaints": complaints,
        }
        write_text(args.json, json.dumps(numbers, indent=1) + "\n")
    if complaints:
        print(f"failed: {'; '.join(complaints)}", file=sys.stderr)
        return 1
    return None


def _soak(args: argparse.Namespace, phases: list[Phase]) -> None:
    """Run all phases, each added to `phases` as it ends. Raises UserError when the node does not do what it must."""
    compressed = round(_COMPRESSED_SHARE * args.hostile)
    driven = DrivenNode(args.model, PARAMETERS)
    total = args.frames + args.hostile + args.transitions
    with driven, tqdm(total=total, unit="message", file=sys.stderr, smoothing=0.05) as bar:
        soak = Soak(driven, args.size, None if args.model else LABEL, bar.update)
        for name, part in (
            ("frames", lambda: soak.frames(args.frames)),
            ("hostile raw", lambda: soak.hostile(args.hostile - compressed, _SEED, compressed=False)),
            ("hostile compressed", lambda: soak.hostile(compressed, _SEED, compressed=True)),
            ("transitions", lambda: soak.transitions(args.transitions)),
        ):
            bar.set_description(name)
            phases.append(part())
        faults = [line for line in driven.log() if "Traceback" in line]
    if driven.status != 0 or faults:
        raise UserError(f"the node ended with status {driven.status}, {len(faults)} tracebacks in its log")


def table(phases: Sequence[Phase]) -> str:
    """Markdown: a row for each phase; below, which hostile message went which way."""
    lines = [
        "| phase | good frames | hostile | received | labelled | bad | dropped | log lines | memory MiB | bytes each "
        "| threads | handles | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for phase in phases:
        told = phase.told or {}
        early, late = phase.early, phase.late
        cells = [phase.name, phase.good, sum(phase.hostile.values()) or "", told.get("received", "")]
        cells += [told.get("labelled", ""), sum(phase.bad.values()) or "", told.get("dropped", ""), phase.log_lines]
        cells += [f"{early.rss_mb:.1f} -> {late.rss_mb:.1f}", f"{phase.growth_mb * 2**20 / max(1, phase.messages):.1f}"]
        cells += [f"{early.threads} -> {late.threads}", f"{early.handles} -> {late.handles}", f"{phase.seconds:.0f}"]
        lines.append(f"| {' | '.join(str(cell) for cell in cells)} |")
    for phase in phases:
        if phase.hostile:
            sent = sum(phase.hostile.values())
            refused = ", ".join(f"{phase.bad.get(r, 0)} of {n} {r}" for r, n in sorted(phase.hostile.items()))
            lines.append(
                f"\n{phase.name}: {sent} messages, all sent over DDS and decoded in this process too; the node refused "
                f"{sum(phase.bad.values())} ({refused}) and replaced the others by newer ones unseen"
            )
    return "\n".join(lines)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < _LEAST:
        raise argparse.ArgumentTypeError(f"'{text}': expected a whole number of at least {_LEAST}")
    return int(text)


if __name__ == "__main__":
    run(main)
