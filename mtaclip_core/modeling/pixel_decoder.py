"""The choice of pixel decoder, and the names that its users need."""

from __future__ import annotations

from collections.abc import Sequence

from mtaclip_core.config import PixelDecoderConfig
from mtaclip_core.modeling.deformable_pixel_decoder import MSDeformAttnPixelDecoder
from mtaclip_core.modeling.fpn_pixel_decoder import FPNPixelDecoder
from mtaclip_core.modeling.pixel_features import PixelFeatures
from mtaclip_core.modeling.position_embedding import sine_position_embedding

__all__ = [
    "FPNPixelDecoder",
    "MSDeformAttnPixelDecoder",
    "PixelFeatures",
    "build_pixel_decoder",
    "sine_position_embedding",
]


def build_pixel_decoder(
    config: PixelDecoderConfig, channels: Sequence[int], width: int
) -> MSDeformAttnPixelDecoder | FPNPixelDecoder:
    """The pixel decoder that `config.kind` names, at decoder width D = `width`.

    `channels`: of the backbone's four maps, stride 4 first. Raises ValueError for a width that it cannot have: a
    multiple of 32 for `deformable`, of 8 for `fpn`.
    """
    if config.kind == "deformable":
        return MSDeformAttnPixelDecoder(
            channels, width, layers=config.layers, heads=config.heads, feedforward=config.feedforward
        )
    return FPNPixelDecoder(channels, width, norm=config.norm)
