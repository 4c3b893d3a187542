"""Every loss against a loop written from METHOD's equations."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from mtaclip_core.config import LossConfig
from mtaclip_core.labels import CAMVID
from mtaclip_core.losses.contrastive import contrastive_loss, orthogonality
from mtaclip_core.losses.criterion import Criterion
from mtaclip_core.losses.mask import binary_cross_entropy, dice, pairwise_binary_cross_entropy, pairwise_dice
from mtaclip_core.losses.matcher import match
from mtaclip_core.losses.points import (
    SegmentTargets,
    sample_points,
    segment_targets,
    uncertain_points,
    uniform_points,
)
from mtaclip_core.modeling.mask_text_decoder import LayerPrediction
from mtaclip_core.modeling.mta_clip import Prediction

B, Q, Z, C = 2, 6, 3, 4


def naive_contrastive(s: Tensor, y: Tensor, negatives: str, scale: float) -> float:
    total = weight = 0.0
    for b in range(B):
        for q in range(Q):
            label = int(y[b, q])
            v = (s[b, q] * scale).tolist()
            best = max(range(Z), key=lambda z: v[z][label])
            everything = sum(math.exp(v[z][c]) for z in range(Z) for c in range(C + 1))
            if negatives == "mix":
                loss = -math.log(math.exp(v[best][label]) / everything)
            elif negatives == "separate":
                others = sum(math.exp(v[z][c]) for z in range(Z) for c in range(C + 1) if c != label)
                loss = -math.log(math.exp(v[best][label]) / (math.exp(v[best][label]) + others))
            else:
                loss = sum(-math.log(math.exp(v[z][label]) / everything) for z in range(Z)) / Z
            w = 0.1 if label == C else 1.0
            total, weight = total + w * loss, weight + w
    return total / weight


@pytest.mark.parametrize("negatives", ["mix", "separate", "all_positive"])
@pytest.mark.parametrize("scale", [1.0, 1 / 0.07])
def test_contrastive_loss_equals_the_equations(negatives: str, scale: float) -> None:
    torch.manual_seed(0)
    similarity = torch.rand(B, Q, Z, C + 1) * 2 - 1
    classes = torch.randint(0, C + 1, (B, Q))
    got = contrastive_loss(similarity, classes, negatives, scale=scale)
    assert got.item() == pytest.approx(naive_contrastive(similarity, classes, negatives, scale), rel=1e-5)


def test_contrastive_loss_does_not_differentiate_the_choice_of_context() -> None:
    """Only the nearest context of the mask's class is pulled; with `separate` its other contexts feel nothing."""
    similarity = torch.zeros(1, 1, Z, C + 1)
    similarity[0, 0, 1, 2] = 0.5
    similarity.requires_grad_(True)
    contrastive_loss(similarity, torch.tensor([[2]]), "separate").backward()
    assert similarity.grad is not None
    assert similarity.grad[0, 0, 1, 2] < 0
    assert similarity.grad[0, 0, 0, 2] == 0 and similarity.grad[0, 0, 2, 2] == 0
    assert (similarity.grad[0, 0, :, 0] > 0).all()


def naive_point_losses(logits: Tensor, targets: Tensor, weights: Tensor) -> tuple[float, float]:
    entropy = overlap = size = total = 0.0
    for x, t, w in zip(logits.tolist(), targets.tolist(), weights.tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        entropy += -w * (t * math.log(p) + (1 - t) * math.log(1 - p))
        overlap += w * p * t
        size += w * (p + t)
        total += w
    return entropy / max(total, 1.0), 1 - (2 * overlap + 1) / (size + 1)


@pytest.mark.parametrize("weighted", [False, True])
def test_mask_and_dice_losses_equal_the_equations(weighted: bool) -> None:
    torch.manual_seed(1)
    logits, targets = torch.randn(3, 50), (torch.rand(3, 50) > 0.5).float()
    weights = (torch.rand(3, 50) > 0.3).float() if weighted else torch.ones(3, 50)
    for m in range(3):
        entropy, overlap = naive_point_losses(logits[m], targets[m], weights[m])
        assert binary_cross_entropy(logits, targets, weights)[m].item() == pytest.approx(entropy, rel=1e-5)
        assert dice(logits, targets, weights)[m].item() == pytest.approx(overlap, rel=1e-5)


def test_pairwise_costs_equal_the_losses_of_every_pair() -> None:
    torch.manual_seed(2)
    logits, targets, weights = torch.randn(Q, 40), (torch.rand(3, 40) > 0.5).float(), torch.rand(40)
    entropy, overlap = (
        pairwise_binary_cross_entropy(logits, targets, weights),
        pairwise_dice(logits, targets, weights),
    )
    for q, m in itertools.product(range(Q), range(3)):
        expected = naive_point_losses(logits[q], targets[m], weights)
        assert entropy[q, m].item() == pytest.approx(expected[0], rel=1e-4)
        assert overlap[q, m].item() == pytest.approx(expected[1], rel=1e-4)


def test_matcher_finds_the_cheapest_of_all_assignments() -> None:
    torch.manual_seed(3)
    targets = segment_targets(torch.randint(0, C, (1, 16, 16)), C)[0]
    points = uniform_points(200, torch.device("cpu"), None)
    class_logits, mask_logits = torch.randn(Q, C + 1), torch.randn(Q, 200)
    found = match(class_logits, mask_logits, targets, points)

    truth = sample_points(targets.masks.unsqueeze(0), points).squeeze(0)
    probability = class_logits.softmax(-1)

    def cost(q: int, m: int) -> float:
        entropy, overlap = naive_point_losses(mask_logits[q], truth[m], torch.ones(200))
        return -2 * probability[q, targets.classes[m]].item() + 5 * entropy + 5 * overlap

    table = [[cost(q, m) for m in range(C)] for q in range(Q)]
    best = min(itertools.permutations(range(Q), C), key=lambda p: sum(table[q][m] for m, q in enumerate(p)))
    pairs = dict(zip(found.segments.tolist(), found.queries.tolist(), strict=True))
    assert [pairs[m] for m in range(C)] == list(best)


def test_a_query_that_is_not_a_number_is_matched_last_and_stops_nothing() -> None:
    targets = segment_targets(torch.zeros(1, 8, 8), C)[0]
    points = uniform_points(20, torch.device("cpu"), None)
    mask_logits = torch.randn(Q, 20)
    mask_logits[0] = torch.nan
    assert match(torch.randn(Q, C + 1), mask_logits, targets, points).queries.item() != 0


def test_sampling_features_before_the_product_equals_sampling_the_masks() -> None:
    torch.manual_seed(4)
    features, embed = torch.randn(1, 8, 12, 20), torch.randn(Q, 8)
    points = uniform_points(300, torch.device("cpu"), None)
    masks = torch.einsum("qd,bdhw->bqhw", embed, features)
    torch.testing.assert_close(
        sample_points(masks, points)[0], embed @ sample_points(features, points)[0], atol=1e-5, rtol=1e-5
    )


def test_uncertain_points_lie_where_the_mask_is_undecided() -> None:
    logits = torch.linspace(-8, 8, 64).expand(1, 32, 64)  # undecided at x = 0.5
    points = uncertain_points(logits, 400, 3.0, 0.75, torch.Generator().manual_seed(0))
    near = ((points[0, :, 0] - 0.5).abs() < 0.2).float()
    assert points.shape == (1, 400, 2)
    assert near[:300].mean() > 0.9  # by uncertainty
    assert 0.2 < near[300:].mean() < 0.6  # uniform


def random_prediction(masks: Tensor | None = None) -> tuple[Prediction, Tensor]:
    torch.manual_seed(5)
    d, h, w = 8, 8, 12
    classes = len(CAMVID)
    layers = [
        LayerPrediction(
            class_logits=torch.randn(B, Q, classes + 1),
            mask_embed=torch.randn(B, Q, d),
            text_mask_embed=torch.randn(B, Z, classes + 1, d),
            similarity=torch.rand(B, Q, Z, classes + 1) * 2 - 1,
        )
        for _ in range(2)
    ]
    labels = torch.randint(0, 3, (B, 4, 6)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    labels[0, :8, :8] = 255
    return Prediction(torch.randn(B, d, h, w), layers), labels


def keyed(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def naive_criterion(prediction: Prediction, labels: Tensor, config: LossConfig, seed: int) -> float:
    """The plain way: full masks of all queries, then points; each image draws its random points in the same order."""
    generators = keyed(seed, seed + 1)
    classes = len(CAMVID)
    targets = segment_targets(labels, classes)
    shared = [uniform_points(config.points, labels.device, g) for g in generators]
    segments = sum(len(t.classes) for t in targets)
    total = 0.0
    for layer in prediction.layers:
        masks = torch.einsum("bqd,bdhw->bqhw", layer.mask_embed, prediction.mask_features)
        matched = torch.full((B, Q), classes)
        entropy = overlap = 0.0
        pairs = []
        for b, target in enumerate(targets):
            at_points = sample_points(masks[b].unsqueeze(0), shared[b])[0]
            found = match(layer.class_logits[b], at_points, target, shared[b], ignore_aware=config.ignore_aware)
            matched[b, found.queries] = target.classes[found.segments]
            pairs.append(found)
        for b, target in enumerate(targets):
            own = masks[b, pairs[b].queries]
            points = uncertain_points(own, config.points, config.oversample, config.importance, generators[b])
            logits = sample_points(own.unsqueeze(1), points)[:, 0]
            truth = sample_points(target.masks[pairs[b].segments].unsqueeze(1), points)[:, 0]
            for m in range(len(own)):
                weights = torch.ones(config.points)
                if config.ignore_aware:
                    weights = sample_points(target.valid.unsqueeze(0), points[m : m + 1])[0, 0]
                e, o = naive_point_losses(logits[m], truth[m], weights)
                entropy, overlap = entropy + e, overlap + o
        log_probability = layer.class_logits.log_softmax(-1)
        weighted = norm = 0.0
        for b, q in itertools.product(range(B), range(Q)):
            w = 0.1 if matched[b, q] == classes else 1.0
            weighted -= w * log_probability[b, q, matched[b, q]].item()
            norm += w
        total += 2 * weighted / norm + 5 * entropy / segments + 5 * overlap / segments
        total += contrastive_loss(layer.similarity, matched, "mix").item()
    return total


@pytest.mark.parametrize("ignore_aware", [False, True])
def test_criterion_equals_the_plain_way(ignore_aware: bool) -> None:
    prediction, labels = random_prediction()
    config = LossConfig(points=64, ignore_aware=ignore_aware)
    terms = Criterion(config, CAMVID)(prediction, labels, keyed(9, 10))
    assert set(terms) == {"class", "mask", "dice", "contrastive"}
    assert sum(v.item() for v in terms.values()) == pytest.approx(
        naive_criterion(prediction, labels, config, 9), rel=1e-4
    )


def test_batch_without_a_valid_label_gives_a_finite_loss_and_gradient() -> None:
    prediction, labels = random_prediction()
    for layer in prediction.layers:
        layer.mask_embed.requires_grad_(True)
    prediction.mask_features.requires_grad_(True)
    terms = Criterion(LossConfig(points=32), CAMVID)(prediction, torch.full_like(labels, 255))
    torch.stack(list(terms.values())).sum().backward()
    # Processes wait for the gradient of every parameter, those behind the mask features too.
    assert prediction.mask_features.grad is not None and (prediction.mask_features.grad == 0).all()
    assert all(torch.isfinite(v) for v in terms.values())
    assert terms["mask"] == 0 and terms["dice"] == 0
    with_pixels = Criterion(LossConfig(points=32, pixel_text_weight=1.0), CAMVID)
    assert with_pixels(prediction, torch.full_like(labels, 255))["pixel_text"] == 0


def test_the_release_divides_mask_losses_by_all_queries_weighted() -> None:
    """Matched masks plus 0.1 for each of the others, instead of matched masks."""
    prediction, labels = random_prediction()
    plain, release = (
        Criterion(LossConfig(points=64, mask_normaliser=kind), CAMVID)(prediction, labels, keyed(1, 2))
        for kind in ("matched", "weighted")
    )
    matched = sum(len(t.classes) for t in segment_targets(labels, len(CAMVID)))
    for name in ("mask", "dice"):
        expected = plain[name].item() * matched / (matched + 0.1 * (B * Q - matched))
        assert release[name].item() == pytest.approx(expected, rel=1e-5)
    assert release["class"] == plain["class"]


@pytest.mark.parametrize("negatives", ["mix", "separate", "all_positive"])
def test_the_losses_of_two_halves_add_up_to_those_of_the_whole(negatives: str) -> None:
    prediction, labels = random_prediction()
    labels[1] = labels[1].clamp(max=1)  # another number of segments than the first image
    config = LossConfig(points=64, negatives=negatives, pixel_text_weight=1.0, pixel_class_weights={"Building": 3.0})
    criterion = Criterion(config, CAMVID)
    whole = criterion(prediction, labels, keyed(1, 2))
    normalisers = criterion.normalisers(criterion.counts(labels, Q), parts=2)
    parts = []
    for b in range(B):
        rows = slice(b, b + 1)
        layers = [
            LayerPrediction(**{n: value[rows] for n, value in vars(layer).items()}) for layer in prediction.layers
        ]
        half = Prediction(prediction.mask_features[rows], layers)
        parts.append(criterion(half, labels[rows], keyed(b + 1), normalisers))
    for name, value in whole.items():
        assert sum(part[name].item() for part in parts) == pytest.approx(value.item(), rel=1e-5)


def test_orthogonality_equals_the_equation_and_counts_once_a_step() -> None:
    torch.manual_seed(7)
    text = torch.randn(Z, C + 1, 5)
    pairs = [(i, j) for i in range(Z) for j in range(Z) if i != j]
    expected = sum(torch.cosine_similarity(text[i], text[j], dim=-1).abs().mean().item() for i, j in pairs) / len(pairs)
    assert orthogonality(text).item() == pytest.approx(expected, rel=1e-5)
    assert orthogonality(text[:1].expand(2, -1, -1)).item() == pytest.approx(1.0, rel=1e-5)
    prediction, labels = random_prediction()
    prediction.text = text
    criterion = Criterion(LossConfig(points=32, orthogonal_weight=2.0), CAMVID)
    assert criterion(prediction, labels)["orthogonal"].item() == pytest.approx(2 * expected, rel=1e-5)
    normalisers = criterion.normalisers(criterion.counts(labels, Q), parts=4)
    assert criterion(prediction, labels, None, normalisers)["orthogonal"].item() == pytest.approx(
        expected / 2, rel=1e-5
    )


def test_an_image_whose_matching_costs_are_not_numbers_is_known_afterwards() -> None:
    prediction, labels = random_prediction()
    criterion = Criterion(LossConfig(points=32), CAMVID)
    criterion(prediction, labels)
    assert criterion.degenerate == set()
    prediction.layers[0].mask_embed[1, 2] = torch.nan
    criterion(prediction, labels)
    assert criterion.degenerate == {1}


def test_more_segments_than_queries_leave_the_dearest_without() -> None:
    targets = segment_targets(torch.arange(C).repeat_interleave(16).view(1, 8, 8), C)[0]
    points = uniform_points(20, torch.device("cpu"), None)
    found = match(torch.randn(2, C + 1), torch.randn(2, 20), targets, points)
    assert sorted(found.queries.tolist()) == [0, 1] and len(set(found.segments.tolist())) == 2


def test_ignored_pixels_do_not_move_ignore_aware_losses() -> None:
    """Changing what the masks say inside void pixels changes nothing."""
    torch.manual_seed(6)
    valid = torch.ones(1, 8, 8)
    valid[:, :4] = 0
    target = SegmentTargets(torch.tensor([0]), torch.zeros(1, 8, 8), valid)
    points = uniform_points(100, torch.device("cpu"), None)
    weights = sample_points(target.valid.unsqueeze(0), points).flatten()
    inside_void = weights == 0
    logits = torch.randn(1, 100)
    changed = torch.where(inside_void, logits + 5, logits)
    truth = torch.zeros(1, 100)
    assert inside_void.any()
    for loss in (binary_cross_entropy, dice):
        assert loss(logits, truth, weights[None]).item() == loss(changed, truth, weights[None]).item()


def test_losses_are_computed_in_float32_whatever_the_models_precision() -> None:
    prediction, labels = random_prediction()
    criterion = Criterion(LossConfig(points=64, pixel_text_weight=1.0), CAMVID)
    plain = criterion(prediction, labels, keyed(1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        assert criterion(prediction, labels, keyed(1, 2)) == plain


def test_learned_temperature_receives_a_gradient_and_fixed_one_scales_the_cosine() -> None:
    prediction, labels = random_prediction()
    learned = Criterion(LossConfig(points=32, temperature="learned"), CAMVID)
    learned(prediction, labels)["contrastive"].backward()
    assert learned.log_scale.grad is not None and learned.log_scale.grad != 0
    assert learned.scale.item() == pytest.approx(1 / 0.07)
    assert Criterion(LossConfig(temperature=0.5), CAMVID).scale == 2.0


def test_pixel_text_loss_is_the_weighted_cross_entropy_of_the_text_masks() -> None:
    prediction, labels = random_prediction()
    config = LossConfig(points=32, pixel_text_weight=2.0, pixel_class_weights={"Building": 3.0})
    got = Criterion(config, CAMVID)(prediction, labels, keyed(0, 1))["pixel_text"].item()
    weight = torch.ones(len(CAMVID))
    weight[1] = 3.0
    expected = 0.0
    for layer in prediction.layers:
        kernels = layer.text_mask_embed.mean(1)[:, :-1]
        logits = torch.einsum("bcd,bdhw->bchw", kernels, prediction.mask_features)
        logits = torch.nn.functional.interpolate(logits, size=labels.shape[-2:], mode="bilinear")
        expected += torch.nn.functional.cross_entropy(logits, labels.long(), weight, ignore_index=255).item()
    assert got == pytest.approx(2.0 * expected, rel=1e-5)
