"""Downloading pretrained weights without long retries where there is no network."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants

PROBE_SECONDS = 5.0


@contextmanager
def hub_access() -> Iterator[None]:
    """While this is open, the hub client answers from its cache alone if the hub cannot be reached.

    Without it, open_clip and timm retry for a minute, one warning per try, before they fail.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        return True  # it answered
    except OSError:
        return False
    return True
