"""The pieces of a self-contained HTML report: figures as data URIs, tables, one page template.

Whoever has numbers to show builds `Section`s of them and calls `write_report`; no file beside the page is needed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import jinja2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from mtaclip_core.files import write_text
from mtaclip_core.labels import LabelSpace
from mtaclip_core.metrics.confusion import Confusion, mean

_ANNOTATE_UP_TO = 24
"""Classes beyond which the cells of a confusion matrix are too small for numbers."""


@dataclass(frozen=True)
class Headline:
    """One number at the top: `mIoU`, `71.2`, `11 classes`."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An image of a section; `classes` are those that occur in it, for filters."""

    uri: str
    caption: str
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Text cells; the first column is set left, the others right. `links` are those of the first cells, if any."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    links: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """A heading with, in this order, a sentence, a table and pictures; `wide` gives each picture the full width."""

    title: str
    text: str = ""
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()
    wide: bool = False


def write_report(
    path: Path,
    title: str,
    subtitle: str,
    headline: Sequence[Headline],
    sections: Sequence[Section],
    details: Mapping[str, str] | None = None,
) -> Path:
    """Write one HTML page that needs no other file; it appears whole or not at all.

    Where pictures name their classes, the page can be narrowed to those with a chosen one.

    Args:
        path: the file to write; its folder is created.
        details: command, model, versions: what the reader needs to make the numbers again.

    Returns:
        `path`.
    """
    environment = jinja2.Environment(loader=jinja2.PackageLoader("mtaclip_core.metrics"), autoescape=True)
    classes = sorted({name for section in sections for picture in section.pictures for name in picture.classes})
    html = environment.get_template("report.html").render(
        title=title,
        subtitle=subtitle,
        headline=headline,
        sections=sections,
        details=details or {},
        classes=classes,
    )
    write_text(path, html)
    return path


def figure_uri(figure: Figure) -> str:
    """A matplotlib figure as a PNG data URI. Dollars in its texts are dollars: names of classes are no formulas."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight")
    return _uri("png", buffer.getvalue())


def image_uri(image: np.ndarray, quality: int = 85) -> str:
    """An (H, W, 3) uint8 RGB image as a JPEG data URI."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _uri("jpeg", data.tobytes())


def class_bars(per_class: Mapping[str, float | None], space: LabelSpace, title: str = "IoU by class") -> Picture:
    """Horizontal bars of scores (0-1) in the classes' colours, with their mean; absent classes have no bar."""
    rows = [(c, per_class.get(c.name)) for c in reversed(space.classes)]
    figure = Figure(figsize=(7, 0.9 + 0.3 * len(rows)))
    axes = figure.subplots()
    for y, (c, score) in enumerate(rows):
        axes.barh(y, 100 * (score or 0), color=[v / 255 for v in c.colour], edgecolor="#333", linewidth=0.6)
        text = "absent" if score is None else f"{100 * score:.1f}"
        over_line = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(100 * (score or 0) + 1, y, text, va="center", fontsize=9, bbox=over_line)
    average = mean(dict(per_class))
    if average is not None:
        axes.axvline(100 * average, color="#333", linestyle="--", linewidth=1)
        axes.set_title(f"{title}; mean {100 * average:.1f} (dashed)", fontsize=11)
    axes.set_yticks(range(len(rows)), [c.name for c, _ in rows], fontsize=9)
    axes.set_xlim(0, 108)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("%")
    axes.spines[["top", "right"]].set_visible(False)
    return Picture(figure_uri(figure), f"{title}, in per cent.")


def confusion_heatmap(confusion: Confusion) -> Picture:
    """The confusion matrix with every row (true class) normalised to 100%."""
    names, n = confusion.space.names, len(confusion.space)
    matrix = confusion.matrix if confusion.matrix[:, n].any() else confusion.matrix[:, :n]
    columns = [*names, "unlabelled"][: matrix.shape[1]]
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = 2.2 + 0.36 * n
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=8)
    axes.set_yticks(range(n), names, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if n <= _ANNOTATE_UP_TO:
        for y, x in np.argwhere(share >= 0.5):
            colour = "white" if share[y, x] > 55 else "#1c2430"
            axes.text(x, y, f"{share[y, x]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    return Picture(figure_uri(figure), "Where the pixels of every true class went, in per cent of its row.")


def class_table(confusion: Confusion, more: Mapping[str, Mapping[str, float | None]] | None = None) -> Table:
    """IoU, precision, recall and share of the true pixels by class, in per cent, then columns of `more` scores."""
    more = more or {}
    matrix, n = confusion.matrix, len(confusion.space)
    total = max(int(matrix.sum()), 1)
    rows = []
    for i, (name, iou) in enumerate(confusion.iou().items()):
        tp, true, predicted = int(matrix[i, i]), int(matrix[i].sum()), int(matrix[:, :n][:, i].sum())
        rows.append(
            (
                name,
                percent(iou),
                percent(tp / predicted if predicted else None),
                percent(tp / true if true else None),
                f"{100 * true / total:.2f}",
                *(percent(scores.get(name)) for scores in more.values()),
            )
        )
    return Table(("class", "IoU", "precision", "recall", "share of pixels", *more), tuple(rows))


def percent(score: float | None) -> str:
    """`0.7123` -> `71.2`; a dash where there is no score."""
    return "–" if score is None else f"{100 * score:.1f}"


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
