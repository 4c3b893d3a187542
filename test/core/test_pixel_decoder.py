"""Pixel decoders: shapes at every stride, deformable attention against a naive loop, both sampling forms, ONNX."""

from __future__ import annotations

import functools
import io
import math

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from mtaclip_core.config import PixelDecoderConfig
from mtaclip_core.modeling.deformable_attention import (
    DeformableAttention,
    _by_grid_sample,
    _head_by_head,
    deformable_attention,
    reference_points,
    set_sampling,
)
from mtaclip_core.modeling.pixel_decoder import (
    FPNPixelDecoder,
    MSDeformAttnPixelDecoder,
    build_pixel_decoder,
    sine_position_embedding,
)

CHANNELS = (8, 12, 16, 24)
FORMS = ("grid_sample", "gather")
SIZES = [(2, 3), (4, 6), (5, 7)]


def backbone_maps(height: int, width: int, batch: int = 1) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, c, height // s, width // s, generator=generator)
        for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def sampling_problem(
    seed: int = 0, batch: int = 2, queries: int = 5, heads: int = 2, channels: int = 3, points: int = 4
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Values, locations (many outside, some exactly on borders and pixel centres, some far away) and weights."""
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(batch, sum(h * w for h, w in SIZES), heads, channels, generator=generator)
    shape = (batch, queries, heads, len(SIZES), points)
    locations = torch.rand(*shape, 2, generator=generator) * 1.8 - 0.4
    locations[0, 0, 0, 0] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5 / 3, 0.5 / 2], [1e9, -1e9]])
    return value, locations, torch.rand(shape, generator=generator)


def by_loop(value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The definition, one point and one pixel at a time, in Python floats."""
    batch, queries, heads, _, points, _ = locations.shape
    out = torch.zeros(batch, queries, heads, value.shape[3], dtype=torch.float64)
    for b, n, m in np.ndindex(batch, queries, heads):
        start = 0
        for level, (height, width) in enumerate(SIZES):
            for p in range(points):
                x = float(locations[b, n, m, level, p, 0]) * width - 0.5
                y = float(locations[b, n, m, level, p, 1]) * height - 0.5
                for row in (math.floor(y), math.floor(y) + 1):
                    for column in (math.floor(x), math.floor(x) + 1):
                        if 0 <= row < height and 0 <= column < width:
                            share = (1 - abs(x - column)) * (1 - abs(y - row)) * float(weights[b, n, m, level, p])
                            out[b, n, m] += share * value[b, start + row * width + column, m].double()
            start += height * width
    return out.flatten(2)


@pytest.mark.parametrize("form", FORMS)
def test_deformable_attention_equals_a_naive_loop_with_points_outside(form: str) -> None:
    value, locations, weights = sampling_problem()
    out = deformable_attention(value, SIZES, locations, weights, form)  # type: ignore[arg-type]
    torch.testing.assert_close(out.double(), by_loop(value, locations, weights), atol=1e-5, rtol=1e-5)


def test_all_sampling_forms_have_the_same_values_and_gradients() -> None:
    """On the CPU `grid_sample` is a sparse product; the operator itself is for graphs and other devices."""
    forms = [functools.partial(deformable_attention, sampling=form) for form in FORMS]  # type: ignore[arg-type]
    found = []
    for attend in (*forms, _by_grid_sample, _head_by_head):
        inputs = [t.clone().requires_grad_() for t in sampling_problem(seed=1)]
        inputs[1].data[0, 0, 0, 0] = 0.4123  # a bilinear kernel has no derivative on a pixel centre
        out = attend(inputs[0], SIZES, inputs[1], inputs[2])
        out.square().sum().backward()
        found.append([out.detach(), *(t.grad for t in inputs)])
    for others in found[1:]:
        for expected, other in zip(found[0], others, strict=True):
            torch.testing.assert_close(other, expected, atol=1e-4, rtol=1e-4)


def test_a_location_that_is_not_a_number_stops_nothing() -> None:
    """A diverging training is to be noticed by its loss, not by a crash, and the other samples stay as they are."""
    value, locations, weights = (t.requires_grad_() for t in sampling_problem())
    expected = deformable_attention(value, SIZES, locations, weights)
    broken = locations.detach().clone()
    broken[1, 2, 1, 0, 3] = torch.nan
    out = deformable_attention(value, SIZES, broken.requires_grad_(), weights)
    out.sum().backward()
    assert out[1, 2, 3:].isnan().all() and out.isnan().sum() == 3
    torch.testing.assert_close(out.nan_to_num(0.0), expected.masked_fill(out.isnan(), 0.0))
    assert broken.grad is not None and broken.grad[0].isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_values_keep_float32_positions(form: str) -> None:
    """A 0-1 location in float16 is off by pixels on a wide map; only the values may be rounded."""
    height, width = 1, 4096
    value = torch.arange(width).reshape(1, width, 1, 1) / width
    locations = torch.tensor([3000.7 / width, 0.5]).reshape(1, 1, 1, 1, 1, 2)
    weights = torch.ones(1, 1, 1, 1, 1)
    out = deformable_attention(value.half(), [(height, width)], locations, weights, form)  # type: ignore[arg-type]
    assert out.dtype == torch.float16
    assert abs(float(out) - 3000.2 / width) < 5e-4


def test_a_fresh_attention_looks_in_eight_directions_with_equal_weights() -> None:
    attention = DeformableAttention(width=32, heads=8, levels=3, points=4)
    offsets = attention.sampling_offsets(torch.randn(1, 32)).reshape(8, 3, 4, 2)
    directions = torch.tensor([[1, 0], [1, 1], [0, 1], [-1, 1], [-1, 0], [-1, -1], [0, -1], [1, -1]])
    for step in range(4):
        torch.testing.assert_close(
            offsets[:, 2, step], directions * (step + 1.0), atol=1e-5, rtol=0, msg=f"point {step}"
        )
    assert attention.attention_weights(torch.randn(1, 32)).abs().max() == 0


def test_reference_points_are_pixel_centres_in_the_order_of_the_values() -> None:
    points = reference_points([(1, 2), (2, 2)], "cpu")
    expected = [[0.25, 0.5], [0.75, 0.5], [0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    torch.testing.assert_close(points, torch.tensor(expected))


@pytest.mark.parametrize("form", FORMS)
def test_deformable_attention_exported_to_onnx_agrees_at_any_batch_size(form: str) -> None:
    torch.manual_seed(0)
    attention = DeformableAttention(width=16, heads=2, levels=3, points=2).eval()
    with torch.no_grad():  # offsets that leave the maps
        attention.sampling_offsets.weight.normal_(std=0.5)
        attention.attention_weights.weight.normal_(std=0.5)
    set_sampling(attention, form)  # type: ignore[arg-type]
    positions = sum(h * w for h, w in SIZES)

    class Deployed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.attention(x, x, reference_points(SIZES, x.device), SIZES)

    x = torch.randn(2, positions, 16)
    batch = {"x": {0: torch.export.Dim.DYNAMIC}}
    program = torch.onnx.export(
        Deployed().eval(), (x,), dynamo=True, opset_version=18, verbose=False, dynamic_shapes=batch
    )
    assert program is not None
    operators = {node.op_type for node in program.model_proto.graph.node}
    assert ("GridSample" in operators) == (form == "grid_sample")
    buffer = io.BytesIO()
    program.save(buffer)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(buffer.getvalue(), options, providers=["CPUExecutionProvider"])
    for images in (torch.randn(1, positions, 16), torch.randn(3, positions, 16)):
        (out,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        expected = attention(images, images, reference_points(SIZES, "cpu"), SIZES).detach()
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_position_embedding_follows_the_published_formula() -> None:
    width, (height, columns) = 8, (3, 5)
    table = sine_position_embedding((height, columns), width, "cpu", torch.float32)
    assert table.shape == (width, height, columns)
    for channel, row, column in np.ndindex(*table.shape):
        half = width // 2
        along, length = (row, height) if channel < half else (column, columns)
        i = channel % half
        angle = 2 * math.pi * (along + 1) / length / 10000 ** (2 * (i // 2) / half)
        expected = math.sin(angle) if i % 2 == 0 else math.cos(angle)
        assert abs(float(table[channel, row, column]) - expected) < 1e-4


@pytest.mark.parametrize(
    "decoder",
    [
        FPNPixelDecoder(CHANNELS, 32),
        FPNPixelDecoder(CHANNELS, 16, separable=False, norm="group"),
        MSDeformAttnPixelDecoder(CHANNELS, 32, layers=1, feedforward=32),
    ],
    ids=["fpn", "fpn-dense-group", "deformable"],
)
def test_every_decoder_gives_mask_features_and_three_levels(decoder: FPNPixelDecoder) -> None:
    pixels = decoder(backbone_maps(64, 96, batch=2))
    assert pixels.mask_features.shape == (2, decoder.width, 16, 24)
    assert [tuple(level.shape) for level in pixels.levels] == [
        (2, decoder.width, 2, 3),
        (2, decoder.width, 4, 6),
        (2, decoder.width, 8, 12),
    ]
    (pixels.mask_features.sum() + sum(level.square().sum() for level in pixels.levels)).backward()
    assert all(p.grad is not None for p in decoder.parameters())


def test_the_deformable_decoder_is_the_same_in_both_forms() -> None:
    torch.manual_seed(0)
    decoder = MSDeformAttnPixelDecoder(CHANNELS, 32, layers=2, feedforward=32).eval()
    features = backbone_maps(64, 96)
    with torch.inference_mode():
        expected = decoder(features)
        set_sampling(decoder, "gather")
        pixels = decoder(features)
    torch.testing.assert_close(pixels.mask_features, expected.mask_features, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(pixels.levels, expected.levels, atol=1e-5, rtol=1e-4)


def test_the_deformable_decoder_has_the_size_of_mask2former() -> None:
    """Six layers at width 256 on ResNet-50: as many parameters as the published decoder, counted piece by piece."""
    decoder = build_pixel_decoder(PixelDecoderConfig(kind="deformable", layers=6), (256, 512, 1024, 2048), 256)
    attention = 2 * (256 * 256 + 256) + (256 * 192 + 192) + (256 * 96 + 96)
    layer = attention + (256 * 1024 + 1024) + (1024 * 256 + 256) + 2 * 512
    projections = sum(c * 256 + 256 + 512 for c in (512, 1024, 2048))
    pyramid = 256 * 256 + 512 + 9 * 256 * 256 + 512 + 256 * 256 + 256
    assert sum(p.numel() for p in decoder.parameters()) == 6 * layer + projections + pyramid + 3 * 256


def test_light_features_reach_across_the_image() -> None:
    """The pooled context lets the far corner of a large image change the prediction here."""
    torch.manual_seed(0)
    decoder = FPNPixelDecoder(CHANNELS, 16).eval()
    features = backbone_maps(32, 640)
    changed = [f.clone() for f in features]
    changed[3][..., -1] += 5.0
    with torch.inference_mode():
        difference = decoder(changed).mask_features - decoder(features).mask_features
    assert difference[..., 0].abs().max() > 1e-4


def test_a_width_that_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="width 100"):
        build_pixel_decoder(PixelDecoderConfig(kind="deformable"), CHANNELS, 100)
    with pytest.raises(ValueError, match="width 100"):
        build_pixel_decoder(PixelDecoderConfig(kind="fpn"), CHANNELS, 100)
