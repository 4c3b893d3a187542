"""The objective: class, mask, dice and contrastive terms after every decoder layer (METHOD `Objective and recipe`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mtaclip_core.cli import UserError
from mtaclip_core.config import LossConfig
from mtaclip_core.labels import LabelSpace
from mtaclip_core.losses.contrastive import contrastive_loss, orthogonality
from mtaclip_core.losses.mask import binary_cross_entropy, dice
from mtaclip_core.losses.matcher import Match, match
from mtaclip_core.losses.normaliser import Normalisers, step_normalisers, target_counts
from mtaclip_core.losses.points import SegmentTargets, sample_points, segment_targets, uncertain_points, uniform_points
from mtaclip_core.modeling.mask_text_decoder import LayerPrediction
from mtaclip_core.modeling.mta_clip import Prediction, text_mask_logits

CLIP_SCALE = 1 / 0.07
MAX_SCALE = 100.0


class Criterion(nn.Module):
    """Weighted losses of a batch. Holds the learned temperature, where there is one.

    Numbers run in float32 whatever the model's precision.

    Attributes:
        degenerate: images (indices into the last batch) of which matching costs were not numbers.
    """

    class_weight: Tensor
    pixel_weight: Tensor

    def __init__(self, config: LossConfig, space: LabelSpace) -> None:
        """Raises UserError where a weight names a class that the space does not have."""
        super().__init__()
        self.config = config
        self.classes = len(space)
        weight = torch.ones(self.classes + 1)
        weight[-1] = config.no_object
        self.register_buffer("class_weight", weight, persistent=False)
        unknown = sorted(set(config.pixel_class_weights) - set(space.names))
        if unknown:
            raise UserError(f"loss.pixel_class_weights: no class '{unknown[0]}'; expected of {', '.join(space.names)}")
        pixel = torch.tensor([config.pixel_class_weights.get(name, 1.0) for name in space.names])
        self.register_buffer("pixel_weight", pixel, persistent=False)
        if config.temperature == "learned":
            self.log_scale = nn.Parameter(torch.tensor(math.log(CLIP_SCALE)))
        self.degenerate: set[int] = set()

    @property
    def scale(self) -> Tensor | float:
        """Inverse temperature of the contrastive loss."""
        if self.config.temperature == "learned":
            return self.log_scale.exp().clamp(max=MAX_SCALE)
        return 1.0 if self.config.temperature == "none" else 1.0 / self.config.temperature

    def counts(self, labels: Tensor, queries: int) -> Tensor:
        """`target_counts` of labels for this objective."""
        return target_counts(labels, self.pixel_weight, queries, self.config.no_object)

    def normalisers(self, counts: Tensor, parts: int = 1, processes: int = 1) -> Normalisers:
        """`step_normalisers` for this objective."""
        weighted = self.config.mask_normaliser == "weighted"
        return step_normalisers(counts, weighted=weighted, parts=parts, processes=processes)

    def forward(
        self,
        prediction: Prediction,
        labels: Tensor,
        generators: Sequence[torch.Generator] | None = None,
        normalisers: Normalisers | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms, already weighted and summed over layers; their sum is the loss.

        Args:
            prediction: what the model gave for B images.
            labels: (B, H, W) class indices, 255 unlabelled.
            generators: source of each image's random points, so that they do not depend on who shares its batch.
            normalisers: of the step that this batch is a part of; its own where it is the whole step.
        """
        with torch.autocast(labels.device.type, enabled=False):
            features = prediction.mask_features.float()
            targets = segment_targets(labels, self.classes)
            sources = [None] * len(targets) if generators is None else list(generators)
            points = [uniform_points(self.config.points, features.device, source) for source in sources]
            at_points = [
                sample_points(f.unsqueeze(0), p).squeeze(0) for f, p in zip(features.detach(), points, strict=True)
            ]
            if normalisers is None:
                normalisers = self.normalisers(self.counts(labels, prediction.layers[0].class_logits.shape[1]))
            total: dict[str, Tensor] = {}
            matched = [
                [self._match(layer, b, targets[b], points[b], at_points[b]) for b in range(len(targets))]
                for layer in prediction.layers
            ]
            self.degenerate = {b for matches in matched for b, found in enumerate(matches) if found.degenerate}
            masks = matched_masks(prediction.layers, features, matched)
            for layer, matches, logits in zip(prediction.layers, matched, masks, strict=True):
                terms = self._layer(layer, features, labels, targets, matches, logits, normalisers, sources)
                for name, value in terms.items():
                    total[name] = total.get(name, 0.0) + value
            if self.config.orthogonal_weight > 0 and prediction.text is not None:
                # Once a step, not once a part.
                weight = self.config.orthogonal_weight / normalisers.parts
                total["orthogonal"] = weight * orthogonality(prediction.text)
        return total

    def _match(
        self, layer: LayerPrediction, b: int, targets: SegmentTargets, points: Tensor, at_points: Tensor
    ) -> Match:
        """Masks at the points are products with the sampled features: no full-size mask is needed (METHOD)."""
        c = self.config
        return match(
            layer.class_logits[b],
            layer.mask_embed[b].detach().float() @ at_points,
            targets,
            points,
            class_weight=c.class_weight,
            mask_weight=c.mask_weight,
            dice_weight=c.dice_weight,
            ignore_aware=c.ignore_aware,
        )

    def _layer(
        self,
        layer: LayerPrediction,
        features: Tensor,
        labels: Tensor,
        targets: list[SegmentTargets],
        matches: list[Match],
        masks: list[Tensor],
        normalisers: Normalisers,
        sources: Sequence[torch.Generator | None],
    ) -> dict[str, Tensor]:
        """`masks`: logits of the matched masks of each image, (M, h, w)."""
        c = self.config
        classes = torch.full(layer.class_logits.shape[:2], self.classes, device=features.device)
        for b, found in enumerate(matches):
            classes[b, found.queries] = targets[b].classes[found.segments]
        logits = layer.class_logits.float()
        wrong = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), self.class_weight, reduction="sum")
        losses = {"class": c.class_weight * wrong / normalisers.queries}
        cross_entropy, overlap = self._masks(layer, targets, matches, masks, sources)
        losses["mask"] = c.mask_weight * cross_entropy / normalisers.masks
        losses["dice"] = c.dice_weight * overlap / normalisers.masks
        if c.contrastive_weight > 0 and layer.similarity.numel() > 0:  # without class texts there is none
            losses["contrastive"] = c.contrastive_weight * contrastive_loss(
                layer.similarity,
                classes,
                c.negatives,
                scale=self.scale,
                no_object=c.no_object,
                normaliser=normalisers.queries,
            )
        if c.pixel_text_weight > 0:
            losses["pixel_text"] = c.pixel_text_weight * self._pixels(layer, features, labels) / normalisers.pixels
        return losses

    def _masks(
        self,
        layer: LayerPrediction,
        targets: list[SegmentTargets],
        matches: list[Match],
        masks: list[Tensor],
        sources: Sequence[torch.Generator | None],
    ) -> tuple[Tensor, Tensor]:
        """Sums over all matched masks of cross entropy and dice."""
        c = self.config
        # Zero, but in the graph: DDP waits for every parameter, also in a batch without a label.
        cross_entropy = overlap = layer.mask_embed.float().sum() * 0.0 + sum(m.sum() for m in masks if not len(m))
        for b, found in enumerate(matches):
            if len(found.queries) == 0:
                continue
            with torch.no_grad():
                points = uncertain_points(masks[b], c.points, c.oversample, c.importance, sources[b])
                truth = _sample_segments(targets[b].masks, found.segments, points)
                weights = torch.ones_like(truth)
                if c.ignore_aware:
                    valid = targets[b].valid.expand(len(truth), 1, -1, -1)
                    weights = sample_points(valid, points).squeeze(1)
            logits = sample_points(masks[b].unsqueeze(1), points).squeeze(1)
            cross_entropy = cross_entropy + binary_cross_entropy(logits, truth, weights).sum()
            overlap = overlap + dice(logits, truth, weights).sum()
        return cross_entropy, overlap

    def _pixels(self, layer: LayerPrediction, features: Tensor, labels: Tensor) -> Tensor:
        """Weighted sum over pixels of the text masks' cross entropy over the classes, at the labels' size."""
        logits = text_mask_logits(layer.text_mask_embed, features, self.classes)
        logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=False)
        target = labels.long()
        weight = self.pixel_weight[target.clamp(max=self.classes - 1)] * (target < self.classes)
        loss = F.cross_entropy(logits, target.masked_fill(target >= self.classes, -100), reduction="none")
        return (loss * weight).sum()


def matched_masks(
    layers: Sequence[LayerPrediction], features: Tensor, matched: Sequence[Sequence[Match]]
) -> list[list[Tensor]]:
    """Mask logits (M, h, w) of the matched queries alone, by layer and image; one product an image, over all layers.

    Args:
        features: mask features (B, D, h, w) float32.
        matched: by layer and image.
    """
    by_image = []
    for b, feature in enumerate(features):
        embeds = [layer.mask_embed[b, found[b].queries].float() for layer, found in zip(layers, matched, strict=True)]
        masks = torch.einsum("md,dhw->mhw", torch.cat(embeds), feature)
        by_image.append(masks.split([len(embed) for embed in embeds]))
    return [list(masks) for masks in zip(*by_image, strict=True)]


def _sample_segments(masks: Tensor, segments: Tensor, points: Tensor) -> Tensor:
    """`masks[segments]` at the points of each, (M, P); whole masks are not copied where each is asked for once."""
    if len(segments) < len(masks):
        return sample_points(masks[segments].unsqueeze(1), points).squeeze(1)
    order = segments.argsort()
    return sample_points(masks.unsqueeze(1), points[order]).squeeze(1)[segments]
