"""Label images as runs of equal pixels: a few per cent of the pixels, from which all that is counted follows.

A label image is flat almost everywhere. Where it changes is found by comparing neighbours, eight results to a machine
word; tables and histograms then cost as much as there are outlines, not areas.
"""

from __future__ import annotations

import numpy as np

_SHIFT = 3
_WORD = 1 << _SHIFT
_BLOCK = 1 << 19
"""Pixels worked on at once, a multiple of a word: what is known of them stays in the processor's cache."""


def runs(*images: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Cut images of one shape, read row by row as one line of pixels, wherever any of them changes.

    Returns:
        The value of every run in each image, (n,) of its type, and the runs' lengths, (n,) int64, in pixels.

    Raises:
        ValueError: the shapes differ.
    """
    if len({image.shape for image in images}) > 1:
        raise ValueError(f"expected images of one shape, got {', '.join(str(image.shape) for image in images)}")
    lines = [np.ravel(image) for image in images]
    size = lines[0].size
    changes, other = np.empty((2, min(_BLOCK, -(-size // _WORD) * _WORD)), bool)
    words, other_words = changes.view(np.uint64), other.view(np.uint64)
    values: list[list[np.ndarray]] = [[line[:0]] for line in lines]
    ends = [np.array([-1])]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size - 1)
        count = stop - start
        np.not_equal(lines[0][start + 1 : stop + 1], lines[0][start:stop], out=changes[:count])
        for line in lines[1:]:
            np.not_equal(line[start + 1 : stop + 1], line[start:stop], out=other[:count])
            np.bitwise_or(words, other_words, out=words)
        changes[count:] = False
        changes[count : count + 1] = True  # the very last pixel, which no other follows
        changed = np.flatnonzero(words != 0)
        inside = np.flatnonzero(words.take(changed).view(bool))
        changed = (changed << _SHIFT) + start
        end = changed.take(inside >> _SHIFT)
        end += inside & (_WORD - 1)
        for found, line in zip(values, lines, strict=True):
            found.append(line.take(end))
        ends.append(end)
    return [np.concatenate(found) for found in values], np.diff(np.concatenate(ends))
