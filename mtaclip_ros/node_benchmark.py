"""What the node itself costs, and what becomes of a camera's frames at 10, 30 and 60 Hz.

Own time: everything in the node but inference, from the taken message to the published label and confidence. It is
measured with a model that costs nothing, one frame at a time, and held against the inference time of a real one.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mtaclip_core.benchmark import machine
from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.files import prepare_file, write_text
from mtaclip_ros.node_case import Case, Measured, measure
from mtaclip_ros.processes import exit_on_sigterm
from mtaclip_ros.rclpy_start import import_rclpy

LARGE, SMALL = (1024, 2048), (360, 480)
RATES = (10.0, 30.0, 60.0)
_SECONDS = 6.0  # that a camera sends at a rate
MOST_OWN_MS, MOST_OWN_SHARE = 4.0, 0.05
"""The goal: own time of at most so many ms, or so large a share of the inference time."""

EPILOG = """example:
  python -m mtaclip_ros.node_benchmark --quick --json runs/node.json

--quick measures a few cases for a second or two; all of them take about four minutes. Camera and subscribers of label,
confidence and overlay run in this process, the node in one of its own, both with the transport settings that we ship.
Latency is from the header's stamp to the end of publishing, as in /diagnostics. Processor time is that of the whole
node, with the middleware's threads, which bring the images in, and the model's."""


def main(argv: list[str]) -> int | None:
    parser = Parser(prog="python -m mtaclip_ros.node_benchmark", description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "--model", default="street-tiny", metavar="BUNDLE", help="the real model (default: %(default)s)"
    )
    parser.add_argument("--quick", action="store_true", help="a few short cases")
    parser.add_argument("--json", required=True, type=Path, metavar="OUT", help="write the numbers to this file")
    args = parser.parse_args(argv)
    prepare_file(args.json)
    import_rclpy()
    exit_on_sigterm()
    own, rates = cases(args.model, args.quick)
    results: dict[Case, Measured] = {}
    with tqdm(total=len(own) + len(rates), unit="case", file=sys.stderr) as bar:
        for case in own + rates:
            bar.set_description(str(case))
            results[case] = measure(case)
            bar.update()
    measured_own, measured_rates = [results[case] for case in own], [results[case] for case in rates]
    inference = inference_ms(measured_own)
    print(own_table(measured_own, inference))
    print()
    print(rate_table(measured_rates))
    numbers = {
        "command": shlex.join(["python", "-m", "mtaclip_ros.node_benchmark", *argv]),
        "machine": machine(),
        "inference_ms": inference,
        "goal_ms": goal_ms(inference),
        "own_time": [as_json(result) for result in measured_own],
        "rates": [as_json(result) for result in measured_rates],
    }
    write_text(args.json, json.dumps(numbers, indent=1) + "\n")
    return None


def cases(model: str, quick: bool) -> tuple[list[Case], list[Case]]:
    """(for the own time, for rates)"""
    first = Case(None, *LARGE, "rgb8", None, frames=20 if quick else 300)
    real = replace(first, model=model, frames=5 if quick else 40)
    if quick:
        own = [first, replace(first, encoding="jpeg"), real]
        rates = [Case(model, *SMALL, "bgr8", 30.0, 45, overlay=True), Case(None, *LARGE, "bgr8", 30.0, 45)]
        return own, rates
    own = [replace(first, encoding=encoding) for encoding in ("rgb8", "bgr8", "jpeg")] + [real]
    rates = [
        Case(which, *size, "bgr8", rate, round(_SECONDS * rate), overlay)
        for which, size in ((model, SMALL), (None, LARGE))
        for rate in RATES
        for overlay in (False, True)
    ]
    return own, rates


def inference_ms(results: Sequence[Measured]) -> float:
    """Median inference time of the real model. Raises UserError when no case has one."""
    for result in results:
        if result.case.model is not None and "segment" in result.stages:
            return result.stages["segment"]["p50"]
    raise UserError("the real model labelled no frame")


def goal_ms(inference: float) -> float:
    return max(MOST_OWN_MS, MOST_OWN_SHARE * inference)


def own_table(results: Sequence[Measured], inference: float) -> str:
    """Markdown: medians in ms, and whether the goal is met."""
    lines = [
        "| frames | model | decode | publish | own time p50 | p99 | inference | share | goal | processor | latency |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        case, stages = result.case, result.stages
        own = result.own_ms
        if own is None:
            lines.append(f"| {case} | | | | | | | | no frame was labelled | | |")
            continue
        cells = [f"{case.encoding} {case.height}x{case.width}", case.model or "constant"]
        cells += [f"{stages[name]['p50']:.2f}" for name in ("decode", "publish")]
        cells += [f"{own:.2f}", f"{stages['own']['p99']:.2f}", f"{stages['segment']['p50']:.1f}"]
        verdict = "met" if own <= goal_ms(inference) else "missed"
        cells += [f"{own / inference:.1%} of {inference:.0f} ms", verdict, f"{result.cpu_ms:.1f}"]
        cells += [f"{stages['latency']['p50']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        f"\ngoal: at most {goal_ms(inference):.1f} ms, the larger of {MOST_OWN_MS:g} ms and {MOST_OWN_SHARE:.0%} of "
        f"{inference:.0f} ms"
    )
    return "\n".join(lines)


def rate_table(results: Sequence[Measured]) -> str:
    """Markdown: counts of frames, latency in ms."""
    lines = [
        "| size | model | Hz | overlay | sent | labelled | replaced by newer | lost | latency p50 ms | p99 ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        case = result.case
        latency = result.stages.get("latency", {})
        cells = [f"{case.height}x{case.width}", case.model or "constant", f"{case.rate:g}"]
        cells += ["yes" if case.overlay else "no", str(result.sent), str(result.labelled)]
        cells += [str(result.replaced), str(result.lost)]
        cells += [f"{latency[name]:.1f}" if latency else "-" for name in ("p50", "p99")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def as_json(result: Measured) -> Mapping[str, Any]:
    """The case, its counts and stage times, flat."""
    values = asdict(result)
    return {**values.pop("case"), **values, "replaced": result.replaced, "own_ms": result.own_ms}


if __name__ == "__main__":
    run(main)
