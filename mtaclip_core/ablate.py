"""`python -m mtaclip_core.ablate`: train the rungs of a ladder over seeds and folds, and write one table."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from mtaclip_core.ablation_table import markdown, summarise
from mtaclip_core.cli import Parser, UserError, run
from mtaclip_core.config import TrainConfig, differences, load_config
from mtaclip_core.config_file import read_values
from mtaclip_core.files import prepare_file, write_text


@dataclass(frozen=True)
class Ladder:
    """A base config, and the overrides of every fold and rung, in order.

    Attributes:
        against: what the table compares a rung with, the `previous` or the `first` one.
    """

    config: Path
    overrides: list[str]
    folds: dict[str, list[str]]
    rungs: dict[str, list[str]]
    against: str


@dataclass
class Runs:
    """The trainings under way, so that they can be ended."""

    processes: set[subprocess.Popen] = field(default_factory=set)
    stopped: bool = False

    def stop(self) -> None:
        """Ask all of them to save and end."""
        self.stopped = True
        for process in list(self.processes):
            process.terminate()


@dataclass(frozen=True)
class Job:
    """One training: a rung, a fold and a seed."""

    rung: str
    fold: str
    seed: int
    folder: Path
    config: TrainConfig
    arguments: list[str]


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="python -m mtaclip_core.ablate",
        description="Train every rung of a ladder with every seed on every fold, and write table.md and table.json. "
        "Started again it goes on where it was: finished runs are skipped, others are resumed.",
        epilog="example: python -m mtaclip_core.ablate --ladder config/train/ladder_camvid.yaml --seeds 3 "
        "--out runs/ablation steps=400",
    )
    parser.add_argument("--ladder", required=True, help="YAML file with config, folds and rungs")
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--out", required=True, help="folder of the runs and the table")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at the same time (default: 1)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all runs")
    args = parser.parse_args(argv)
    if args.seeds < 1 or args.jobs < 1:
        raise UserError(f"--seeds {args.seeds} --jobs {args.jobs}: both must be 1 or more")
    out = Path(args.out)
    prepare_file(out / "table.md")
    ladder = load_ladder(args.ladder)
    jobs = plan(ladder, args.seeds, out, args.overrides)
    _run_all([job for job in jobs if not finished(job)], len(jobs), args.jobs)

    scores = {(j.rung, j.fold, j.seed): float(_result(j.folder)["miou"]) for j in jobs}
    texts = {job.rung: job.config.model.text for job in jobs}
    summary = summarise(scores, texts, list(ladder.folds), args.seeds, ladder.against)
    command = shlex.join(["python", "-m", "mtaclip_core.ablate", *argv])
    runs = [
        {"rung": j.rung, "fold": j.fold, "seed": j.seed, "folder": str(j.folder), **_result(j.folder)} for j in jobs
    ]
    write_text(out / "table.json", json.dumps({"command": command, **summary, "runs": runs}, indent=1))
    table = markdown(summary, command, Path(args.ladder).name)
    write_text(out / "table.md", table)
    print(table, end="")
    return 0


def load_ladder(path: str | Path) -> Ladder:
    """Read a ladder: `config` (relative to the file), `rungs`, and maybe `folds`, `overrides` of all runs, `against`.

    Raises:
        UserError: unreadable, an unknown key, or something that is no list of `key=value` texts.
    """
    values = read_values(Path(path))
    unknown = sorted(set(values) - {"config", "overrides", "folds", "rungs", "against"})
    if unknown:
        raise UserError(
            f"ladder '{path}': unknown key '{unknown[0]}'; expected config, overrides, folds, rungs, against"
        )
    if not isinstance(values.get("config"), str) or not isinstance(values.get("rungs"), dict) or not values["rungs"]:
        raise UserError(f"ladder '{path}': expected `config: FILE` and `rungs: {{NAME: [key=value, ...]}}`")
    against = values.get("against", "previous")
    if against not in ("previous", "first"):
        raise UserError(f"ladder '{path}': against is {against!r}; expected previous or first")
    folds = values.get("folds", {"all": []})
    return Ladder(
        Path(path).parent / values["config"],
        _texts(values.get("overrides", []), f"ladder '{path}': overrides"),
        _lists(folds, f"ladder '{path}': folds"),
        _lists(values["rungs"], f"ladder '{path}': rungs"),
        against,
    )


def plan(ladder: Ladder, seeds: int, out: Path, overrides: Sequence[str]) -> list[Job]:
    """All trainings; a seed goes through all rungs before the next one starts.

    Raises:
        UserError: a config that is not valid, or without validation data.
    """
    jobs = []
    for seed in range(seeds):
        for rung, own in ladder.rungs.items():
            for fold, data in ladder.folds.items():
                settings = [*ladder.overrides, *data, *own, *overrides, f"seed={seed}"]
                config = load_config(ladder.config, settings)
                if config.validation is None:
                    raise UserError(f"{ladder.config}: rung {rung} names no validation data to be scored on")
                folder = out / _file_name(rung) / _file_name(fold) / f"seed{seed}"
                jobs.append(Job(rung, fold, seed, folder, config, ["--config", str(ladder.config), *settings]))
    if len({job.folder for job in jobs}) < len(jobs):
        raise UserError("two rungs or folds of the ladder have the same name but for signs; give them other names")
    return jobs


def finished(job: Job) -> bool:
    """Whether the job's run is done. UserError where its folder holds a training with other settings."""
    own = job.folder / "config.yaml"
    if own.exists():
        changed = differences(load_config(own), job.config)
        if changed:
            raise UserError(f"{job.folder} was trained with another {changed[0]}; use another --out")
    return (job.folder / "result.json").exists()


def _run_all(jobs: list[Job], total: int, parallel: int) -> None:
    runs = Runs()
    bar = tqdm(total=total, initial=total - len(jobs), desc="ablation", unit="run")

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        with ThreadPoolExecutor(parallel) as pool:
            try:
                for done in as_completed([pool.submit(_train, job, parallel, runs) for job in jobs]):
                    done.result()
                    bar.update()
            except BaseException:
                runs.stop()  # before the pool waits for them
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        signal.signal(signal.SIGTERM, previous)
        bar.close()


def _train(job: Job, parallel: int, runs: Runs) -> None:
    """Run one training to its end, as a process of its own."""
    if runs.stopped:
        return
    job.folder.mkdir(parents=True, exist_ok=True)
    log = job.folder / "train.log"
    command = [sys.executable, "-m", "mtaclip_core.train", "--out", str(job.folder), "--resume", "auto"]
    threads = str(max(1, (os.cpu_count() or 1) // parallel))
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    with open(log, "a") as file:
        # A session of its own: Ctrl-C reaches this process, which then asks each training once.
        process = subprocess.Popen(
            [*command, *job.arguments], stdout=file, stderr=file, env=environment, start_new_session=True
        )
        runs.processes.add(process)
        code = process.wait()
        runs.processes.discard(process)
    if code and not runs.stopped:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise UserError(f"rung {job.rung}, fold {job.fold}, seed {job.seed} failed ({log}): {lines[-1]}")
    if not code and not (job.folder / "result.json").exists():
        raise UserError(f"{job.folder} holds a finished training without result.json; remove it, it is run again then")


def _result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", name).strip("_.") or "_"


def _lists(values: Any, where: str) -> dict[str, list[str]]:
    if not isinstance(values, Mapping) or not values:
        raise UserError(f"{where}: expected names with lists of key=value")
    return {str(name): _texts(texts, f"{where}: {name}") for name, texts in values.items()}


def _texts(values: Any, where: str) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(v, str) and "=" in v for v in values):
        raise UserError(f"{where}: expected a list of key=value texts, got {values!r}")
    return values


if __name__ == "__main__":
    run(main)
