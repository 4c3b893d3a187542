"""The table of an ablation: rungs, seeds and folds to medians and ranges, as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from mtaclip_core.config import TextConfig

Scores = Mapping[tuple[str, str, int], float]
"""mIoU (0-1) by rung, fold and seed."""


def text_name(text: TextConfig) -> str:
    """How the table names a text source."""
    if text.source == "clip":
        return f"clip ({text.clip_name}, {text.clip_pretrained or 'random weights'})"
    return text.source


def summarise(
    scores: Scores, rungs: Mapping[str, TextConfig], folds: Sequence[str], seeds: int, against: str = "previous"
) -> dict[str, Any]:
    """Numbers of the table, in percent; a seed's score is its mean over the folds.

    `gain` compares with the `against` rung, previous or first, run by run: the same fold and seed.
    """
    rows: list[dict[str, Any]] = []
    before = None
    for name, text in rungs.items():
        own = {(fold, seed): scores[name, fold, seed] * 100 for fold in folds for seed in range(seeds)}
        by_seed = [mean(own[fold, seed] for fold in folds) for seed in range(seeds)]
        row: dict[str, Any] = {"rung": name, "text": text_name(text), "contexts": text.contexts, "seeds": by_seed}
        row |= {"median": median(by_seed), "min": min(by_seed), "max": max(by_seed)}
        row["folds"] = {fold: median(own[fold, seed] for seed in range(seeds)) for fold in folds}
        if before is not None:
            gains = [own[key] - before[key] for key in own]
            row["gain"] = {"median": median(gains), "better": sum(g > 0 for g in gains), "of": len(gains)}
        if before is None or against == "previous":
            before = own
        rows.append(row)
    return {"seeds": seeds, "folds": list(folds), "against": against, "rungs": rows}


def markdown(summary: Mapping[str, Any], command: str, ladder: str) -> str:
    """The table for people, headed by the text sources and the command."""
    rows, folds, seeds = summary["rungs"], summary["folds"], summary["seeds"]
    used = {text: [r["rung"] for r in rows if r["text"] == text] for text in dict.fromkeys(r["text"] for r in rows)}
    sources = "; ".join(f"{text}: {', '.join(names)}" for text, names in used.items())
    head = [
        "rung",
        "text",
        "Z",
        "median",
        "min",
        "max",
        *(f"{fold}" for fold in folds),
        f"against the {summary['against']} rung",
    ]
    lines = [
        f"**Text source** - {sources}.",
        "",
        f"mIoU in percent of `{ladder}`: {seeds} seeds, each its mean over {len(folds)} folds "
        f"({', '.join(folds)}); median, min and max are over the seeds, the columns of the folds are medians. The last "
        "column compares the same fold and seed: median difference, and how often it was better.",
        "",
        f"```\n{command}\n```",
        "",
        f"| {' | '.join(head)} |",
        f"|{'---|' * 3}{'---:|' * (len(head) - 3)}",
    ]
    for row in rows:
        gain = row.get("gain")
        change = f"{gain['median']:+.2f} ({gain['better']} of {gain['of']})" if gain else ""
        contexts = "" if row["text"] == "none" else str(row["contexts"])
        values = [row["median"], row["min"], row["max"], *(row["folds"][fold] for fold in folds)]
        cells = [row["rung"], row["text"], contexts, *(f"{value:.2f}" for value in values), change]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
