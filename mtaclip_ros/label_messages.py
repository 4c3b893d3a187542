"""What a label topic says: the ids of an image message, the classes of the text beside it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mtaclip_core.cli import UserError
from mtaclip_core.labels import CAMVID, CITYSCAPES, CITYSCAPES_IDS, LabelSpace


def label_array(message: Any, topic: str) -> np.ndarray:
    """The ids in a label message: (H, W) uint8, a view of the message's bytes, row padding left out.

    Raises:
        UserError: not 8 bits in one channel, or its bytes do not fit its size.
    """
    height, width, step = int(message.height), int(message.width), int(message.step)
    if message.encoding not in ("mono8", "8UC1"):
        raise UserError(f"labels on {topic} have encoding '{message.encoding}'; expected mono8, one id per pixel")
    data = np.frombuffer(message.data, np.uint8)
    if height < 1 or width < 1 or step < width or data.size < step * height:
        raise UserError(f"a label on {topic} says {height}x{width} with step {step}, but holds {data.size} bytes")
    return data[: step * height].reshape(height, step)[:, :width]


def parse_classes(text: str, source: str) -> LabelSpace:
    """A label space from the JSON `[{"id": 0, "name": "road", "colour": [r, g, b]}, ...]` of a classes topic.

    A list with the ids and names of a known space carries that space's name, so that the joins between known spaces
    (19 Cityscapes -> 11 CamVid classes) hold for messages too.

    Raises:
        UserError: not such a list; `source` says where the text came from.
    """
    try:
        rows = json.loads(text)
    except ValueError as error:
        raise UserError(f"{source}: not JSON ({error}); expected a list of {{id, name, colour}}") from error
    if not isinstance(rows, list):
        raise UserError(f"{source}: expected a JSON list of {{id, name, colour}}, got {type(rows).__name__}")
    space = LabelSpace.from_list(source, rows)
    for known in (CAMVID, CITYSCAPES, CITYSCAPES_IDS):
        if space.ids == known.ids and [n.lower() for n in space.names] == [n.lower() for n in known.names]:
            return LabelSpace(known.name, space.classes)
    return space
