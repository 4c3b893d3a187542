"""The model card (`README.md`) of a bundle, and the measured numbers in it, read from the JSON of our commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtaclip_core.cli import UserError
from mtaclip_core.labels import LabelSpace

_TEXT_SOURCES = {
    "clip": "CLIP text embeddings of the class names behind learned contexts; the bundle does not hold the text tower.",
    "learned": "Free learned vectors. No language model was involved: nothing here generalises from words.",
    "random_orthogonal": (
        "Fixed random orthogonal vectors. No language model was involved: nothing here generalises from words."
    ),
    "none": "No class texts: mask queries alone and a linear classifier, as in Mask2Former (arXiv 2112.01527).",
}

_BACKENDS = ("backend", "precision", "size", "batch", "threads")


@dataclass(frozen=True)
class Card:
    """What a model card tells."""

    name: str
    space: LabelSpace
    network_size: tuple[int, int]
    text_source: str
    config: Mapping[str, Any]
    revision: str
    steps: int | None
    parameters: int
    measured: Sequence[Mapping[str, Any]]
    notes: str
    origin: str = ""
    """Whose weights these are, where they were not trained here."""


def model_card(card: Card) -> str:
    """The card as Markdown."""
    height, width = card.network_size
    model, names = card.config["model"], ", ".join(card.space.names)
    sections = [
        f"# {card.name}",
        f"{_what(card)} {len(card.space)} classes of `{card.space.name}`: {names}.",
        "## Use",
        f"```\npython -m mtaclip_core.predict --model models/{card.name} IMAGE... --out runs/predict\n```",
        f"Frames of any size; inside the graph they are stretched to {height}x{width} and the class maps are resized "
        "back. Label values are the ids in `bundle.yaml`, 255 is unlabelled.",
        "## Model",
        _table(
            ("part", "what"),
            [
                ("image backbone", _backbone(model["backbone"], card.origin)),
                ("pixel decoder", model["pixel_decoder"]["kind"]),
                ("text source", f"`{card.text_source}`. {_TEXT_SOURCES[card.text_source]}"),
                ("mask-text decoder", _decoder(model)),
                ("parameters", f"{card.parameters / 1e6:.2f} million, all that is needed to run"),
            ],
        ),
        "## Training",
        *(
            [f"Not trained here: see {card.origin}. `training.config` in `bundle.yaml` holds the shape of the model."]
            if card.origin
            else [
                _table(("setting", "value"), _training(card)),
                "The whole configuration stands in `bundle.yaml` under `training.config`.",
            ]
        ),
    ]
    if card.notes:
        sections.append(card.notes.strip())
    sections.append("## Measured")
    rows = [(row["what"], _number(row["value"]), f"`{row['command']}`") for row in card.measured]
    sections.append(
        _table(("what", "value", "command"), rows) if rows else "Nothing was measured when this was exported."
    )
    sections += [
        "## Files",
        "`model.onnx` (uint8 image in, uint8 label and confidence out; weights stored as float16 where that loses "
        "nothing, computed in float32), `model.safetensors` (the same weights for PyTorch), `reference/` (generated "
        "images with the answers that every backend must give), `bundle.yaml` (classes, configuration, sha256 of every "
        "file), `LICENSE` (of the weights).",
    ]
    return "\n\n".join(sections) + "\n"


def read_measured(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Rows {what, value, command} from JSON files of `evaluate`, `replay`, `evaluate_live` and `benchmark`.

    A file may also hold such rows itself, one or a list.

    Raises:
        UserError: a file that is none of these.
    """
    return [row for path in paths for row in _rows(path)]


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"measured numbers '{path}': {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"measured numbers '{path}' are not JSON ({error})") from error
    rows = []
    for entry in content if isinstance(content, list) else [content]:
        if not isinstance(entry, dict) or not isinstance(entry.get("command"), str):
            raise UserError(
                f"measured numbers '{path}' do not name the command that gives them; expected a key 'command'"
            )
        rows += [{"what": w, "value": v, "command": entry["command"]} for w, v in _values(entry, path)]
    return rows


def _values(entry: Mapping[str, Any], path: Path) -> list[tuple[str, float | int | str]]:
    if "what" in entry and isinstance(entry.get("value"), int | float | str):
        return [(str(entry["what"]), entry["value"])]
    how = ", ".join(f"{entry[key]}" for key in _BACKENDS if entry.get(key) is not None)
    found: list[tuple[str, float | int | str]] = []
    if isinstance(entry.get("miou"), int | float):
        where = str(entry.get("data", "bag")).partition(":")[0]  # the kind alone: the folder is one machine's
        split = f" {entry['split']}" if "split" in entry else ""
        found.append((f"mIoU on {where}{split} ({how})", round(float(entry["miou"]), 4)))
    if isinstance(entry.get("fps"), int | float):
        found.append((f"frames per second ({how})", round(float(entry["fps"]), 1)))
    for name, stage in (entry.get("stages") or {"latency": entry.get("latency_ms")}).items():
        if isinstance(stage, Mapping) and {"p50", "p99"} <= set(stage):
            found.append((f"{name} p50 / p99 in ms ({how})", f"{stage['p50']:.1f} / {stage['p99']:.1f}"))
    if not found:
        raise UserError(
            f"'{path}' holds neither miou nor fps nor {{what, value}}; expected JSON of evaluate or benchmark"
        )
    return found


def _what(card: Card) -> str:
    if card.origin:
        return (
            f"Semantic segmentation with the weights of {card.origin}, turned into a bundle by the mtaclip_ros project."
        )
    return (
        "Semantic segmentation with MTA-CLIP (arXiv 2407.21654), written and trained by the mtaclip_ros project; not a "
        "release of the paper's authors."
    )


def _backbone(backbone: Mapping[str, Any], origin: str) -> str:
    name, pretrained = f"{backbone['kind']} `{backbone['name']}`", backbone["pretrained"]
    if origin:
        options = ", ".join(f"{key} {value}" for key, value in backbone["options"].items())
        return f"{name} with {options}" if options else name
    return f"{name}, " + (f"from `{pretrained}`" if pretrained else "from random weights")


def _decoder(model: Mapping[str, Any]) -> str:
    d = model["decoder"]
    count = 0 if model["text"]["source"] == "none" else model["text"]["contexts"]
    contexts = "1 text context" if count == 1 else f"{count} text contexts"
    share = model["text_map_weight"]
    maps = f"; class maps hold {share:.0%} of the text tokens' own masks (an addition of ours)" if share else ""
    return f"{d['layers']} layers, {d['queries']} queries, {contexts}, width {d['width']}{maps}"


def _training(card: Card) -> list[tuple[str, str]]:
    config = card.config
    sources = [
        f"{source['data'].partition(':')[0]} `{source['split']}` (weight {source['weight']:g})"
        for source in config["train"]
    ]
    rows = [("data", "; ".join(sources) or "none")]
    if config.get("validation"):
        picked = config["validation"]
        rows.append(
            ("chosen by", f"best mIoU on {picked['data'].partition(':')[0]} `{picked['split']}` while training")
        )
    crop = config["augment"]["crop"]
    steps = config["steps"] if card.steps is None else f"{card.steps} of {config['steps']}"
    return [
        *rows,
        ("steps", f"{steps}, batch {config['batch']}, crops {crop[0]}x{crop[1]}, {config['precision']}"),
        ("optimiser", f"AdamW, lr {config['optimiser']['lr']:g}, weight decay {config['optimiser']['weight_decay']:g}"),
        ("averaged weights", f"decay {config['ema']:g}" if config["ema"] else "no"),
        ("git revision", card.revision),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: float | int | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"
