"""Scores against naive loops, against properties that any score has, and against the official Cityscapes script."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_evaluate import official_scores, same_scores
from helpers_miniatures import blocks, instances_of, write_png
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mtaclip_core.labels import (
    CAMVID,
    CATEGORIES,
    CITYSCAPES,
    CITYSCAPES_IDS,
    CITYSCAPES_LABELS,
    LABEL_ID_TO_TRAIN_ID,
    UNLABELLED,
    LabelClass,
    LabelSpace,
    join,
)
from mtaclip_core.metrics import runs as runs_module
from mtaclip_core.metrics.cityscapes_score import CityscapesScore
from mtaclip_core.metrics.confusion import Confusion, category_iou
from mtaclip_core.metrics.runs import runs

SPARSE = LabelSpace("sparse", tuple(LabelClass(i, f"c{i}", (i, i, i)) for i in (9, 0, 200)))
VALUES = st.sampled_from([*SPARSE.ids, 5, UNLABELLED])
MAPS = hnp.arrays(np.uint8, (4, 5), elements=VALUES)


def naive_iou(pairs: list[tuple[np.ndarray, np.ndarray]], space: LabelSpace) -> dict[str, float | None]:
    """Pixel by pixel: ground truth outside the space is ignored, a prediction outside it is a miss."""
    scores: dict[str, float | None] = {}
    for c in space.classes:
        both = either = 0
        for truth, prediction in pairs:
            for t, p in zip(truth.ravel().tolist(), prediction.ravel().tolist(), strict=True):
                if t in space.ids:
                    both += t == c.id and p == c.id
                    either += t == c.id or p == c.id
        scores[c.name] = both / either if either else None
    return scores


def counted(*pairs: tuple[np.ndarray, np.ndarray], space: LabelSpace = SPARSE) -> Confusion:
    confusion = Confusion(space)
    for truth, prediction in pairs:
        confusion.update(truth, prediction)
    return confusion


@given(st.lists(st.tuples(MAPS, MAPS), max_size=3))
@settings(max_examples=60, deadline=None)
def test_iou_equals_a_naive_loop(pairs):
    confusion, naive = counted(*pairs), naive_iou(pairs, SPARSE)
    assert confusion.iou() == pytest.approx(naive, abs=1e-12)
    present = [s for s in naive.values() if s is not None]
    assert confusion.miou() == (pytest.approx(sum(present) / len(present)) if present else None)
    assert confusion.pixels == sum(int(np.isin(t, SPARSE.ids).sum()) for t, _ in pairs)


@given(MAPS, MAPS, MAPS, MAPS)
@settings(max_examples=40, deadline=None)
def test_merged_parts_equal_the_whole_in_any_order(a, b, c, d):
    first, second = counted((a, b)), counted((c, d))
    whole = counted((a, b), (c, d))
    assert ((first + second).matrix == whole.matrix).all()
    assert ((second + first).matrix == whole.matrix).all()
    assert (counted((np.vstack([a, c]), np.vstack([b, d]))).matrix == whole.matrix).all()


@given(MAPS, MAPS)
@settings(max_examples=40, deadline=None)
def test_scores_stay_in_range_and_truth_scores_one(truth, prediction):
    assert all(s is None or 0 <= s <= 1 for s in counted((truth, prediction)).iou().values())
    assert set(counted((truth, truth)).iou().values()) <= {1.0, None}


@given(MAPS, MAPS)
@settings(max_examples=40, deadline=None)
def test_what_is_predicted_on_ignored_truth_does_not_matter(truth, prediction):
    changed = prediction.copy()
    changed[~np.isin(truth, SPARSE.ids)] = SPARSE.ids[0]
    assert (counted((truth, prediction)).matrix == counted((truth, changed)).matrix).all()


def test_rows_are_truth_columns_prediction_last_column_unlabelled():
    truth = np.array([[9, 9, 0, UNLABELLED]], np.uint8)
    prediction = np.array([[0, UNLABELLED, 0, 9]], np.uint8)
    assert counted((truth, prediction)).matrix.tolist() == [[0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]
    assert counted((truth, prediction)).pixel_accuracy() == pytest.approx(1 / 3)
    assert counted((truth, prediction)).iou() == {"c9": 0.0, "c0": 0.5, "c200": None}


def test_nothing_counted_has_no_scores():
    empty = Confusion(SPARSE)
    empty.update(np.full((2, 2), UNLABELLED, np.uint8), np.zeros((2, 2), np.uint8))
    assert (empty.miou(), empty.pixel_accuracy(), empty.pixels) == (None, None, 0)


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 9999))
@settings(max_examples=100, deadline=None)
def test_runs_put_together_again_are_the_images(height, width, seed):
    """Of any length, in blocks: where an image ends with a word or a block, or changes there, nothing is lost."""
    random = np.random.default_rng(seed)
    images = [np.sort(random.integers(0, high, height * width)).reshape(height, width) for high in (3, 4, 70000)]
    images = [image.astype(kind) for image, kind in zip(images, (np.uint8, np.uint8, np.int32), strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_module, "_BLOCK", 32)
        values, lengths = runs(*images)
    assert (lengths > 0).all() and lengths.sum() == height * width
    for image, of_runs in zip(images, values, strict=True):
        assert of_runs.dtype == image.dtype
        assert (np.repeat(of_runs, lengths) == image.ravel()).all()
    stay = np.logical_and.reduce([v[1:] == v[:-1] for v in values])
    assert not stay.any(), "a run ends where something changes, and nowhere else"
    with pytest.raises(ValueError, match="images of one shape"):
        runs(images[0], images[1].T.reshape(-1))


def test_strided_labels_are_counted_like_contiguous_ones():
    random = np.random.default_rng(1)
    truth, prediction = random.choice(CAMVID.ids, (2, 20, 30)).astype(np.uint8)
    plain = counted((truth[::2, ::-3].copy(), prediction[::2, ::-3].copy()), space=CAMVID)
    assert (counted((truth[::2, ::-3], prediction[::2, ::-3]), space=CAMVID).matrix == plain.matrix).all()


@pytest.mark.parametrize("prediction", [np.zeros((2, 3), np.uint8), np.zeros((2, 2), np.int64)])
def test_labels_of_another_shape_or_type_are_refused(prediction):
    with pytest.raises(ValueError, match="two uint8 label images of one shape"):
        Confusion(SPARSE).update(np.zeros((2, 2), np.uint8), prediction)


def test_counts_of_different_spaces_do_not_merge():
    with pytest.raises(ValueError, match="cannot merge counts over sparse and camvid"):
        Confusion(SPARSE) + Confusion(CAMVID)


def test_regrouped_counts_equal_counts_of_regrouped_labels():
    random = np.random.default_rng(2)
    truth, prediction = random.choice([*CITYSCAPES.ids, UNLABELLED], (2, 30, 40)).astype(np.uint8)
    table = join(CITYSCAPES, CAMVID)
    regrouped = counted((truth, prediction), space=CITYSCAPES).regroup(table, CAMVID)
    assert (regrouped.matrix == counted((table[truth], table[prediction]), space=CAMVID).matrix).all()


def test_a_confusion_inside_a_category_is_right_for_the_category():
    car, bus, road = (CITYSCAPES.names.index(n) for n in ("car", "bus", "road"))
    truth = np.array([[car, car, car, road]], np.uint8)
    scores = category_iou(counted((truth, np.array([[bus, car, road, road]], np.uint8)), space=CITYSCAPES))
    assert scores["vehicle"] == pytest.approx(2 / 3)
    assert scores["flat"] == pytest.approx(1 / 2)
    assert scores["sky"] is None
    assert list(scores) == list(CATEGORIES)


def test_instances_weigh_the_same_whatever_their_size():
    truth = np.full((10, 10), 26, np.uint8)
    instances = np.full((10, 10), 26000, np.uint16)
    instances[0, 0] = 26001
    instances += 1
    missed_small, missed_large = truth.copy(), truth.copy()
    missed_small[0, 0] = 7
    missed_large[instances == 26001] = 7
    for prediction in (missed_small, missed_large):
        score = CityscapesScore()
        score.update(truth, prediction, instances)
        assert score.result()["classInstScores"]["car"] == pytest.approx(0.5)


def test_instances_of_ids_that_are_no_class_do_not_count():
    truth = np.full((4, 4), 26, np.uint8)
    instances = np.full((4, 4), 26001, np.uint16)
    instances[0] = [1001, 23999, 34000, 65535]
    score = CityscapesScore()
    score.update(truth, np.where(instances == 26001, 26, 7).astype(np.uint8), instances)
    assert score.result()["classInstScores"]["car"] == score.result()["categoryInstScores"]["vehicle"] == 1.0


def test_one_image_without_instances_drops_the_instance_scores_only():
    truth = np.full((4, 4), 26, np.uint8)
    with_instances, without = CityscapesScore(), CityscapesScore()
    with_instances.update(truth, truth, np.full((4, 4), 26001, np.uint16))
    without.update(truth, truth, None)
    assert with_instances.result()["averageScoreInstClasses"] == 1.0
    merged = (with_instances + without).result()
    assert "averageScoreInstClasses" not in merged
    assert merged["averageScoreClasses"] == 1.0


# What `official` removes from truth and prediction: a class, a whole category with instances, all but ignored regions.
ABSENT = {"all there": [], "no train": [31], "no vehicles": list(range(26, 34)), "only void": list(range(7, 34))}


@pytest.mark.parametrize("absent", ABSENT.values(), ids=ABSENT)
@pytest.mark.parametrize("ids_predicted", ["label ids", "train classes only"])
def test_every_score_equals_the_official_script(tmp_path: Path, absent, ids_predicted):
    random = np.random.default_rng(len(absent))
    truth_ids = [r.id for r in CITYSCAPES_LABELS if r.id not in absent]
    predicted_ids = [i for i in truth_ids if ids_predicted == "label ids" or LABEL_ID_TO_TRAIN_ID[i] != UNLABELLED]
    ours, truths, predictions = [CityscapesScore(), CityscapesScore()], [], []
    plain = Confusion(CITYSCAPES)
    for i in range(4):
        truth = blocks(random, (64, 96), truth_ids, cell=5)
        guess = blocks(random, (64, 96), predicted_ids or [0], cell=3)
        keep = (random.random((64, 96)) < 0.6) & np.isin(truth, predicted_ids)
        prediction = np.where(keep, truth, guess).astype(np.uint8)
        instances = instances_of(random, truth)
        base = tmp_path / f"city_{i:06d}_000019_gtFine"
        truths.append(write_png(base.with_name(f"{base.name}_labelIds.png"), truth))
        write_png(base.with_name(f"{base.name}_instanceIds.png"), instances)
        predictions.append(write_png(tmp_path / f"prediction_{i}.png", prediction))
        ours[i % 2].update(truth, prediction, instances)
        plain.update(LABEL_ID_TO_TRAIN_ID[truth], LABEL_ID_TO_TRAIN_ID[prediction])
    expected = official_scores(predictions, truths)
    same_scores((ours[0] + ours[1]).result(), expected)
    # Predicting train ids and ignoring the rest gives the same class and category scores.
    for scores, key in ((plain.iou(), "classScores"), (category_iou(plain), "categoryScores")):
        same_scores(scores, {name: expected[key][name] for name in scores})


LABEL_IDS = st.sampled_from([0, 4, 7, 24, 25, 26, 29, 31, 33])
INSTANCES = st.sampled_from([0, 7, 24, 26, 1000, 24000, 24001, 24002, 25000, 26000, 26001, 29000, 31000, 33999])


@given(st.lists(st.tuples(*(hnp.arrays(np.uint8, (3, 7), elements=LABEL_IDS),) * 2, st.data()), min_size=1, max_size=2))
@settings(max_examples=25, deadline=None)
def test_random_maps_score_as_by_the_official_script(tmp_path_factory, frames):
    """Instances need not agree with the labels, nor with anything."""
    folder = tmp_path_factory.mktemp("maps")
    ours, predictions, truths = CityscapesScore(), [], []
    for i, (truth, prediction, data) in enumerate(frames):
        instances = data.draw(hnp.arrays(np.uint16, truth.shape, elements=INSTANCES))
        truths.append(write_png(folder / f"city_{i:06d}_000019_gtFine_labelIds.png", truth))
        write_png(folder / f"city_{i:06d}_000019_gtFine_instanceIds.png", instances)
        predictions.append(write_png(folder / f"prediction_{i}.png", prediction))
        ours.update(truth, prediction, instances)
    same_scores(ours.result(), official_scores(predictions, truths))


def test_category_scores_need_the_evaluated_classes():
    with pytest.raises(ValueError, match="no Cityscapes category"):
        category_iou(Confusion(CITYSCAPES_IDS))
