"""The bundle that ships: small enough, the same answers everywhere, and good at streets it never saw."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mtaclip_core.bundle import load_bundle, resolve_bundle
from mtaclip_core.data.camvid import CamVid
from mtaclip_core.data.synthetic import StreetDrive
from mtaclip_core.labels import CAMVID, CITYSCAPES, join
from mtaclip_core.metrics.confusion import Confusion
from mtaclip_core.runtime.segmenter import load_segmenter

MODEL = "street-tiny"


def test_it_is_small_and_its_card_names_the_licence_of_the_data() -> None:
    folder = resolve_bundle(MODEL)
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 12_000_000
    assert load_bundle(folder).space.names == CAMVID.names
    assert "CC BY-NC" in (folder / "LICENSE").read_text()
    assert "CC BY-NC" in (folder / "README.md").read_text()


@pytest.mark.camvid
def test_openvino_and_torch_agree_on_real_streets(camvid: Path) -> None:
    data = CamVid(camvid, "val")
    frames = [data[i].image for i in range(0, len(data), 20)]
    with load_segmenter(MODEL, "openvino") as first, load_segmenter(MODEL, "torch") as second:
        same = [(a.label == b.label).mean() for a, b in zip(first.segment(frames), second.segment(frames), strict=True)]
    assert min(same) >= 0.999


def test_it_segments_generated_drives_of_unseen_seeds() -> None:
    """A floor well below what the model card states; it falls only where the model or its use broke."""
    table = join(CITYSCAPES, CAMVID)
    score = Confusion(CAMVID)
    with load_segmenter(MODEL) as segmenter:
        for seed in (70_001, 70_002, 70_003, 70_004):
            drive = StreetDrive(size=(360, 480), seed=seed)
            for index in (0, 60):
                sample = drive.frame(index)
                score.update(table[sample.label], segmenter.segment([sample.image])[0].label)
    miou = score.miou()
    assert miou is not None and miou > 0.5


@pytest.mark.camvid
def test_channel_order_is_told_not_guessed(camvid: Path) -> None:
    sample = CamVid(camvid, "val")[0]
    with load_segmenter(MODEL) as segmenter:
        rgb = segmenter.segment([sample.image], "rgb")[0].label
        bgr = segmenter.segment([np.ascontiguousarray(sample.image[:, :, ::-1])], "bgr")[0].label
    assert (rgb == bgr).mean() > 0.999


def test_models_that_come_and_go_leave_signals_alone() -> None:
    """Loaded, freed and loaded again as the node does; then Ctrl-C, which must be a KeyboardInterrupt and no crash."""
    program = (
        "import faulthandler, os, signal\n"
        "from mtaclip_core.runtime.segmenter import load_segmenter\n"
        "faulthandler.enable()  # has the interpreter handle signals on an alternate stack\n"
        "first = load_segmenter('street-tiny', 'openvino', verify=False)\n"
        "second = load_segmenter('street-tiny', 'openvino', verify=False)\n"
        "first.close(); del first; second.close(); del second\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT); print('not interrupted')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
