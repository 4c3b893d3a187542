"""MTA-CLIP as a whole: backbone, pixel decoder, text table, Mask-Text Decoder, and its class maps at test time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtaclip_core.cli import UserError
from mtaclip_core.config import ModelConfig
from mtaclip_core.labels import LabelSpace
from mtaclip_core.modeling.backbone import TimmShape, build_image_backbone
from mtaclip_core.modeling.mask_text_decoder import LayerPrediction, MaskTextDecoder
from mtaclip_core.modeling.pixel_decoder import build_pixel_decoder
from mtaclip_core.modeling.prompts import build_text


@dataclass  # not frozen: Fabric rebuilds it in float32 under mixed precision
class Prediction:
    """Training-time output.

    Attributes:
        mask_features: (B, D, h, w), h, w = H/4, W/4.
        layers: one prediction per decoder layer, the last one is the model's answer.
        text: T (Z, C', E), the class texts that the decoder was given.
    """

    mask_features: Tensor
    layers: list[LayerPrediction]
    text: Tensor | None = None


class MTAClip(nn.Module):
    """Segment images with masks that are aligned to class texts (arXiv 2407.21654).

    Attributes:
        space: the C classes, in the order of the logits.
        mean, std: RGB statistics (0-1 scale) that images must be normalised with.
    """

    _folded: Tensor | None
    _folded_text: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        pixel_decoder: nn.Module,
        text: nn.Module,
        decoder: MaskTextDecoder,
        space: LabelSpace,
        *,
        text_map_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.text = text
        self.decoder = decoder
        self.space = space
        self.text_map_weight = text_map_weight
        self.mean: tuple[float, float, float] = backbone.mean  # type: ignore[assignment]
        self.std: tuple[float, float, float] = backbone.std  # type: ignore[assignment]
        self.register_buffer("_folded", None, persistent=False)
        self.register_buffer("_folded_text", None, persistent=False)
        self.frozen_norms: list[nn.Module] = []

    def forward(self, images: Tensor) -> Prediction:
        """(B, 3, H, W) normalised, H and W multiples of 32 -> predictions of all decoder layers."""
        pixels = self.pixel_decoder(self.backbone(images))
        text = self.text()
        return Prediction(pixels.mask_features, self.decoder(pixels, text), text)

    def freeze_batch_norm(self) -> None:
        """Leave the batch norms of the backbone as they are from now on: statistics, scale and shift."""
        self.frozen_norms = [m for m in self.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for module in self.frozen_norms:
            module.requires_grad_(False).eval()

    def fold_text(self, *, keep_tokens: bool = True) -> None:
        """Compute the decoder's initial tokens once; they do not depend on the image.

        `train()` undoes it, `eval()` does not; call it again after the weights changed.

        Args:
            keep_tokens: False drops the text tokens, so that the mask queries pass the decoder alone.

        Raises:
            UserError: text tokens are to be dropped, but the class maps hold their masks or need their similarity.
        """
        if not keep_tokens and self.decoder.classifier != "linear":
            raise UserError(
                f"text tokens cannot be dropped: this model classifies by similarity to them (model.classifier "
                f"{self.decoder.classifier})"
            )
        if not keep_tokens and self.text_map_weight > 0:
            raise UserError(
                f"text tokens cannot be dropped: the class maps of this model hold {self.text_map_weight:.0%} of their "
                f"masks (model.text_map_weight)"
            )
        with torch.no_grad():
            text = self.text()
            tokens = self.decoder.initial_tokens(text).detach()
        if self.decoder.classifier != "linear":
            self._folded_text = text.detach()
        self._folded = tokens if keep_tokens else tokens[: self.decoder.queries].clone()

    def train(self, mode: bool = True) -> MTAClip:
        if mode:
            self._folded = self._folded_text = None
        super().train(mode)
        for module in self.frozen_norms:
            module.eval()
        return self

    def class_maps(self, images: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Class maps at stride 4: `sum_q softmax(class_q)[:C] * sigmoid(mask_q)` (METHOD 14).

        With `text_map_weight` w > 0: `(1 - w)` times that, plus w times the softmax over the classes of the text
        tokens' own masks (mean over contexts).

        Args:
            images: (B, 3, H, W) normalised, H and W multiples of 32.
            size: where given, mask logits are resized to this (h, w), bilinear, before the maps are made of them.

        Returns:
            (B, C, H/4, W/4) or (B, C, *size) float32, >= 0.
        """
        pixels = self.pixel_decoder(self.backbone(images))
        text, tokens = self._folded_text, self._folded
        if tokens is None:
            text = self.text()
            tokens = self.decoder.initial_tokens(text)
        last = self.decoder(pixels, text, tokens, last_only=True)[-1]
        return combine_maps(last, pixels.mask_features, len(self.space), self.text_map_weight, size)


def combine_maps(
    prediction: LayerPrediction,
    mask_features: Tensor,
    classes: int,
    text_map_weight: float,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """The class maps of one decoder layer, (B, C, h, w) float32; see `MTAClip.class_maps`."""
    features = mask_features.float()
    masks = _resized(torch.einsum("bqd,bdhw->bqhw", prediction.mask_embed.float(), features), size).sigmoid()
    probability = prediction.class_logits.float().softmax(-1)[..., :classes]
    maps = torch.einsum("bqc,bqhw->bchw", probability, masks)
    if text_map_weight == 0.0:
        return maps
    texts = _resized(text_mask_logits(prediction.text_mask_embed, features, classes), size)
    return maps * (1.0 - text_map_weight) + texts.softmax(1) * text_map_weight


def _resized(logits: Tensor, size: tuple[int, int] | None) -> Tensor:
    return logits if size is None else F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def text_mask_logits(text_mask_embed: Tensor, mask_features: Tensor, classes: int) -> Tensor:
    """Mask logits of the text tokens, mean over contexts, `none` left out.

    (B, Z, C', D), (B, D, h, w) -> (B, C, h, w) float32.
    """
    return torch.einsum("bcd,bdhw->bchw", text_mask_embed.float().mean(1)[:, :classes], mask_features.float())


def build_model(config: ModelConfig, space: LabelSpace, seed: int = 0, *, load: bool = True) -> MTAClip:
    """Put the parts together that the configuration names.

    Args:
        load: False where a checkpoint fills the model: pretrained weights need not be at hand, but their tags still
            decide activation and image statistics.

    Raises:
        UserError: weights that cannot be loaded, an unknown backbone.
    """
    b = config.backbone
    shape = TimmShape(b.options, b.map_norms, b.pad_first, b.stride_in_first)
    backbone = build_image_backbone(b.kind, b.name, b.pretrained, load, shape)
    backbone.mean, backbone.std = b.mean or backbone.mean, b.std or backbone.std
    width = config.decoder.width
    text = build_text(
        config.text.source,
        space.names,
        contexts=config.text.contexts,
        clip_name=config.text.clip_name,
        clip_pretrained=config.text.clip_pretrained,
        width=config.text.width,
        seed=seed,
        load=load,
        learn_contexts=config.text.learn_contexts,
    )
    decoder = MaskTextDecoder(
        classes=len(space),
        contexts=text.contexts,
        text_width=text.width,
        queries=config.decoder.queries,
        width=width,
        layers=config.decoder.layers,
        heads=config.decoder.heads,
        feedforward=config.decoder.feedforward,
        classifier=config.classifier,
    )
    pixel_decoder = build_pixel_decoder(config.pixel_decoder, backbone.channels, width)
    model = MTAClip(backbone, pixel_decoder, text, decoder, space, text_map_weight=config.text_map_weight)
    if b.freeze_batch_norm:
        model.freeze_batch_norm()
    return model
