"""Sliding windows, scales and mirroring against loops written out, on a small network."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtaclip_core.labels import CAMVID
from mtaclip_core.runtime.averaging import Averaging, starts

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
from torch.nn import functional as F  # noqa: E402

from mtaclip_core.deploy.graph import DeployedSegmenter  # noqa: E402
from mtaclip_core.training.averaged_segmenter import AveragedSegmenter  # noqa: E402

NETWORK = (64, 96)
FRAME = np.random.default_rng(0).integers(0, 256, (75, 130, 3), np.uint8)


class Network(torch.nn.Module):
    """Class maps at stride 4 that depend on a neighbourhood and on the place in the window."""

    space, mean, std = CAMVID, (0.4, 0.5, 0.6), (0.2, 0.3, 0.2)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kernel = torch.nn.Conv2d(3, len(CAMVID), 8, 4, 2)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.kernel(images)
        place = torch.linspace(0, 1, maps.shape[2])[:, None] * torch.linspace(0.5, 1, maps.shape[3])
        return (maps + place).sigmoid()


@pytest.fixture(scope="module")
def graph() -> DeployedSegmenter:
    return DeployedSegmenter(Network(), NETWORK).eval()


def averaged(graph: DeployedSegmenter, **averaging: object) -> AveragedSegmenter:
    plain = SimpleNamespace(name="x", model_hash="y", space=CAMVID, network_size=NETWORK, graph=graph)
    return AveragedSegmenter(plain, Averaging(**averaging))


def maps_of(graph: DeployedSegmenter, **averaging: object) -> torch.Tensor:
    with torch.inference_mode():
        return averaged(graph, **averaging).class_maps(torch.from_numpy(FRAME))[0]


def bilinear(planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(planes, size=size, mode="bilinear", align_corners=False)


def normalised(size: tuple[int, int]) -> torch.Tensor:
    planes = bilinear(torch.from_numpy(FRAME).float().permute(2, 0, 1)[None], size)
    mean, std = (torch.tensor(v)[:, None, None] for v in (Network.mean, Network.std))
    return (planes / 255 - mean) / std


def close(ours: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=0)


@given(st.integers(1, 300), st.integers(1, 100), st.data())
@settings(max_examples=100, deadline=None)
def test_windows_cover_every_pixel_and_stay_inside(length, window, data):
    first = starts(length, window, data.draw(st.integers(1, window)))
    covered = np.zeros(max(length, window), int)
    for start in first:
        assert 0 <= start <= max(length, window) - window
        covered[start : start + window] += 1
    assert covered.all() and len(set(first)) == len(first)


def test_one_whole_view_is_what_the_deployed_graph_does(graph):
    with torch.inference_mode():
        label, confidence = graph(torch.from_numpy(FRAME)[None])
    ours = averaged(graph).segment([FRAME])[0]
    assert (ours.label == label[0].numpy()).mean() > 0.999
    assert np.abs(ours.confidence.astype(int) - confidence[0].numpy()).max() <= 1
    turned = averaged(graph).segment([FRAME[..., ::-1]], "bgr")[0]
    assert (turned.label == ours.label).all()


def test_scales_are_of_the_network_size_in_steps_of_32(graph):
    views = []
    for size in ((32, 64), (64, 96), (96, 128)):  # 0.6, 1.0 and 1.4 times 64x96
        maps = graph.model.class_maps(normalised(size))
        views.append(bilinear(maps, FRAME.shape[:2])[0])
    close(maps_of(graph, scales=(0.6, 1.0, 1.4)), sum(views) / 3)


def test_with_mirroring_a_mirrored_frame_has_the_mirrored_answer(graph):
    for averaging in ({}, {"window": (32, 64), "stride": (32, 64)}):
        straight = averaged(graph, flip=True, **averaging)
        with torch.inference_mode():
            maps = straight.class_maps(torch.from_numpy(FRAME[:64, :128].copy()))
            mirrored = straight.class_maps(torch.from_numpy(FRAME[:64, :128][:, ::-1].copy()))
        close(mirrored.flip(3), maps)
    assert not torch.allclose(maps_of(graph, flip=True), maps_of(graph), atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 1.5, 0.3])
def test_windows_are_averaged_where_they_overlap(graph, scale):
    (height, width), window, stride = (round(75 * scale), round(130 * scale)), (32, 64), (20, 64)
    images = torch.zeros(1, 3, max(height, 32), max(width, 64))
    images[:, :, :height, :width] = normalised((height, width))
    total, count = torch.zeros(1, len(CAMVID), *images.shape[2:]), torch.zeros(images.shape[2:])
    for top in {min(t, images.shape[2] - 32) for t in range(0, images.shape[2] - 32 + 20, 20)}:
        for left in {min(x, images.shape[3] - 64) for x in range(0, images.shape[3] - 64 + 64, 64)}:
            maps = graph.model.class_maps(images[:, :, top : top + 32, left : left + 64])
            total[:, :, top : top + 32, left : left + 64] += bilinear(maps, window)
            count[top : top + 32, left : left + 64] += 1
    expected = bilinear((total / count)[:, :, :height, :width], FRAME.shape[:2])[0]
    close(maps_of(graph, window=window, stride=stride, scales=(scale,)), expected)
