"""The Mask-Text Decoder against a plain reference written from METHOD's table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mtaclip_core.cli import UserError
from mtaclip_core.config import DecoderConfig, LossConfig, ModelConfig, PixelDecoderConfig, TextConfig
from mtaclip_core.deploy.graph import DeployedSegmenter
from mtaclip_core.labels import CAMVID, numbered_space
from mtaclip_core.losses.criterion import Criterion
from mtaclip_core.modeling.mask_text_decoder import DecoderLayer, MaskTextDecoder, MultiheadAttention
from mtaclip_core.modeling.mta_clip import Prediction, build_model
from mtaclip_core.modeling.pixel_features import PixelFeatures
from mtaclip_core.modeling.position_embedding import sine_position_embedding

B, C, Z, E, D, Q, LAYERS = 2, 4, 3, 24, 16, 5, 4
HEADS = 4


@pytest.fixture
def decoder() -> MaskTextDecoder:
    torch.manual_seed(0)
    return MaskTextDecoder(
        classes=C, contexts=Z, text_width=E, queries=Q, width=D, layers=LAYERS, heads=HEADS, feedforward=32
    )


@pytest.fixture
def pixels() -> PixelFeatures:
    torch.manual_seed(1)
    levels = (torch.randn(B, D, 2, 3), torch.randn(B, D, 4, 6), torch.randn(B, D, 8, 12))
    return PixelFeatures(torch.randn(B, D, 16, 24), levels)


@pytest.fixture
def text() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(Z, C + 1, E)


def reference_attention(
    module: MultiheadAttention, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None
) -> Tensor:
    """PyTorch's own multi-head attention with the same weights; `blocked` (B, N, M), True: may not look."""
    reference = torch.nn.MultiheadAttention(D, HEADS, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([module.query.weight, module.key.weight, module.value.weight]))
        reference.in_proj_bias.copy_(torch.cat([module.query.bias, module.key.bias, module.value.bias]))
        reference.out_proj.load_state_dict(module.out.state_dict())
    mask = None if blocked is None else blocked.repeat_interleave(HEADS, 0)
    return reference(query, key, value, attn_mask=mask, need_weights=False)[0]


def reference_layer(layer: DecoderLayer, x: Tensor, p: Tensor, k: Tensor, v: Tensor, blocked: Tensor) -> Tensor:
    x = layer.cross_norm(x + reference_attention(layer.cross_attention, x + p, k, v, blocked))
    x = layer.self_norm(x + reference_attention(layer.self_attention, x + p, x + p, x, None))
    return layer.feedforward_norm(x + layer.feedforward(x))


def reference_decoder(m: MaskTextDecoder, pixels: PixelFeatures, text: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(class logits, full-size masks of the queries, similarity) per layer, masks resized for every token and layer."""
    tokens = torch.cat([m.query_features, torch.cat([m.reduce_text(text[z]) for z in range(Z)])])
    x = m.input_norm(tokens).expand(B, -1, -1)
    p = m.position.expand(B, -1, -1)
    results = []
    for i, layer in enumerate(m.layers):
        level = pixels.levels[i % 3]
        h, w = level.shape[-2:]
        masks = torch.einsum("bnd,bdhw->bnhw", m.mask_head(m.output_norm(x)), pixels.mask_features)
        small = F.interpolate(masks, size=(h, w), mode="bilinear", align_corners=False).flatten(2)
        blocked = small.sigmoid() < 0.5
        blocked[blocked.all(-1)] = False
        value = level.flatten(2).transpose(1, 2) + m.level_embed[i % 3]
        place = sine_position_embedding((h, w), D, "cpu", torch.float32).flatten(1).T
        x = reference_layer(layer, x, p, value + place, value, blocked)
        y = m.output_norm(x)
        enriched = text + m.gamma * m.expand_text_norm(m.expand_text(y[:, Q:])).reshape(B, Z, C + 1, E)
        mask_side = m.expand_mask(y[:, :Q])
        similarity = torch.zeros(B, Q, Z, C + 1)
        for z in range(Z):
            for c in range(C + 1):
                similarity[:, :, z, c] = F.cosine_similarity(mask_side, enriched[:, z, c].unsqueeze(1), dim=-1)
        full = torch.einsum("bqd,bdhw->bqhw", m.mask_head(y[:, :Q]), pixels.mask_features)
        results.append((m.class_head(y[:, :Q]), full, similarity))
    return results


def test_decoder_equals_the_plain_reference(decoder: MaskTextDecoder, pixels: PixelFeatures, text: Tensor) -> None:
    predictions = decoder(pixels, text)
    expected = reference_decoder(decoder, pixels, text)
    assert len(predictions) == LAYERS
    for got, (class_logits, masks, similarity) in zip(predictions, expected, strict=True):
        torch.testing.assert_close(got.class_logits, class_logits, atol=1e-4, rtol=1e-4)
        got_masks = torch.einsum("bqd,bdhw->bqhw", got.mask_embed, pixels.mask_features)
        torch.testing.assert_close(got_masks, masks, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(got.similarity, similarity, atol=1e-5, rtol=1e-4)


def test_similarity_is_computed_in_float32_whatever_the_models_precision(
    decoder: MaskTextDecoder, pixels: PixelFeatures, text: Tensor
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        layer = decoder(pixels, text)[-1]
    assert layer.mask_embed.dtype == torch.bfloat16 and layer.similarity.dtype == torch.float32


def waves(shape: Sequence[int], number: int) -> Tensor:
    """Values in -1..1 without order that no random generator decides."""
    return torch.sin(torch.arange(math.prod(shape)).double() ** 1.5 + number).float().reshape(tuple(shape))


def test_decoder_and_losses_give_the_stored_numbers(decoder: MaskTextDecoder) -> None:
    """The release's objective; what changes these numbers changes every training."""
    with torch.no_grad():
        for number, parameter in enumerate(decoder.parameters()):
            parameter.copy_(waves(parameter.shape, number) * 0.4)
    sizes = ((2, 3), (4, 6), (8, 12), (16, 24))
    *levels, mask_features = (waves((B, D, *size), number) for number, size in enumerate(sizes))
    layers = decoder(PixelFeatures(mask_features, tuple(levels)), waves((Z, C + 1, E), 4))
    labels = torch.arange(B * 8 * 12).reshape(B, 8, 12).div(31, rounding_mode="floor").remainder(5).to(torch.uint8)
    labels[labels == 4] = 255
    criterion = Criterion(LossConfig(points=256, mask_normaliser="weighted"), numbered_space("few", list("abcd")))
    generators = [torch.Generator().manual_seed(b) for b in range(B)]
    terms = criterion(Prediction(mask_features, layers), labels, generators)
    stored = {"class": 13.51628, "mask": 13.934652, "dice": 13.53145, "contrastive": 10.282652}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(stored, rel=1e-4)


def test_folded_tokens_and_last_layer_alone_give_the_same_answer(
    decoder: MaskTextDecoder, pixels: PixelFeatures, text: Tensor
) -> None:
    plain = decoder(pixels, text)[-1]
    folded = decoder(pixels, None, decoder.initial_tokens(text), last_only=True)[-1]
    torch.testing.assert_close(folded.class_logits, plain.class_logits)
    torch.testing.assert_close(folded.mask_embed, plain.mask_embed)


def test_text_starts_unchanged_and_the_decoder_learns_to_change_it(
    decoder: MaskTextDecoder, pixels: PixelFeatures, text: Tensor
) -> None:
    """gamma starts at 1e-4: T~ is T within a whisker, and has a gradient."""
    decoder(pixels, text)[-1].similarity.sum().backward()
    assert decoder.gamma.shape == (E,)
    assert torch.equal(decoder.gamma.detach(), torch.full((E,), 1e-4))
    assert decoder.gamma.grad is not None and decoder.gamma.grad.abs().max() > 0


def test_attention_mask_is_detached_and_never_blocks_a_token_everywhere(decoder: MaskTextDecoder) -> None:
    features = torch.randn(1, D, 6, requires_grad=True)
    embed = torch.cat([-100 * features.detach().mean(2, keepdim=True).transpose(1, 2), torch.randn(1, 3, D)], 1)
    allowed = decoder._attention_mask(embed, features)
    assert not allowed.requires_grad
    assert allowed.any(-1).all()
    assert decoder._attention_mask(-torch.ones(1, 1, D), torch.ones(1, D, 6)).all()


def tiny_config(**changes: object) -> ModelConfig:
    values = {
        "backbone": {"kind": "timm", "name": "mobilenetv4_conv_small"},
        "pixel_decoder": PixelDecoderConfig(kind="fpn"),
        "text": TextConfig(source="random_orthogonal", contexts=2, width=64),
        "decoder": DecoderConfig(queries=8, width=32, layers=2, heads=4, feedforward=32),
    }
    return ModelConfig.model_validate(values | changes)


def test_class_maps_are_the_sum_of_class_probability_times_mask() -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config(), CAMVID).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        prediction = model(images)
        last = prediction.layers[-1]
        maps = model.class_maps(images)
        expected = torch.zeros(1, len(CAMVID), 16, 24)
        probability = last.class_logits.softmax(-1)
        for q in range(8):
            mask = (last.mask_embed[0, q][:, None, None] * prediction.mask_features[0]).sum(0).sigmoid()
            for c in range(len(CAMVID)):
                expected[0, c] += probability[0, q, c] * mask
    torch.testing.assert_close(maps, expected, atol=1e-4, rtol=1e-4)
    model.fold_text()
    with torch.no_grad():
        torch.testing.assert_close(model.class_maps(images), maps, atol=1e-5, rtol=1e-5)


def test_text_maps_replace_the_queries_where_the_config_says_so() -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config(text_map_weight=1.0), CAMVID).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = model.class_maps(images)
        prediction = model(images)
    kernels = prediction.layers[-1].text_mask_embed.mean(1)[:, :-1]
    expected = torch.einsum("bcd,bdhw->bchw", kernels, prediction.mask_features).softmax(1)
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(maps.sum(1), torch.ones(1, 16, 24))


def test_the_deployed_graph_does_not_compute_the_text_again() -> None:
    model = build_model(tiny_config(), CAMVID).eval()
    model.fold_text()
    graph = DeployedSegmenter(model, (32, 64)).eval()
    del model.text
    with torch.no_grad():
        assert graph(torch.zeros(1, 20, 30, 3, dtype=torch.uint8))[0].shape == (1, 20, 30)


def test_training_mode_forgets_the_folded_text() -> None:
    model = build_model(tiny_config(text=TextConfig(source="learned", contexts=1, width=32)), CAMVID).eval()
    images = torch.randn(1, 3, 32, 32)
    model.fold_text()
    with torch.no_grad():
        before = model.class_maps(images)
        model.train()
        model.eval()
        model.text.table.add_(1.0)
        assert not torch.allclose(model.class_maps(images), before)


@pytest.mark.parametrize("classifier", ["similarity", "product"])
def test_class_logits_by_similarity_are_the_scaled_cosine_of_the_nearest_context(classifier: str) -> None:
    torch.manual_seed(0)
    model = build_model(tiny_config(classifier=classifier), CAMVID).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        last = model(images).layers[-1]
        maps = model.class_maps(images)
        model.fold_text()
        torch.testing.assert_close(model.class_maps(images), maps, atol=1e-5, rtol=1e-5)
        cosine = last.similarity.max(2).values / 0.07
        model.decoder.classifier_scale.fill_(-30.0)
        linear = model(images).layers[-1].class_logits
    expected = cosine if classifier == "similarity" else linear + cosine
    torch.testing.assert_close(last.class_logits, expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(UserError, match="classifies by similarity"):
        model.fold_text(keep_tokens=False)


def test_frozen_batch_norms_stay_as_they_are_in_training_mode() -> None:
    backbone = {"kind": "timm", "name": "mobilenetv4_conv_small", "freeze_batch_norm": True}
    model = build_model(tiny_config(backbone=backbone), CAMVID).train()
    before = {n: b.clone() for n, b in model.backbone.named_buffers() if "running" in n}
    prediction = model(torch.randn(2, 3, 64, 64))
    prediction.mask_features.sum().backward()
    assert before and all(torch.equal(before[n], b) for n, b in model.backbone.named_buffers() if n in before)
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert all(m.weight.grad is None and m.bias.grad is None for m in norms)
    assert model.decoder.training
