"""Label spaces: joined by name, many-to-one only; the Cityscapes table is the official one."""

from __future__ import annotations

import numpy as np
import pytest

from mtaclip_core.cli import UserError
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
    common_space,
    join,
)


def named(name: str, *names: str, first: int = 0) -> LabelSpace:
    return LabelSpace(name, tuple(LabelClass(first + i, n, (i, i, i)) for i, n in enumerate(names)))


def id_of(space: LabelSpace, name: str) -> int:
    return next(c.id for c in space.classes if c.name == name)


@pytest.mark.parametrize(
    ("fine", "coarse"),
    [
        ("truck", "Car"),
        ("bus", "Car"),
        ("rider", "Bicyclist"),
        ("bicycle", "Bicyclist"),
        ("traffic light", "SignSymbol"),
        ("sidewalk", "Pavement"),
        ("wall", "Building"),
        ("terrain", "Tree"),
        ("person", "Pedestrian"),
    ],
)
def test_cityscapes_classes_join_the_camvid_class_that_covers_them(fine, coarse):
    assert join(CITYSCAPES, CAMVID)[id_of(CITYSCAPES, fine)] == id_of(CAMVID, coarse)


def test_every_evaluated_cityscapes_class_has_a_camvid_class():
    table = join(CITYSCAPES, CAMVID)
    assert (table[CITYSCAPES.ids] != UNLABELLED).all()
    assert set(table[CITYSCAPES.ids]) == set(CAMVID.ids)
    assert (np.delete(table, CITYSCAPES.ids) == UNLABELLED).all()


def test_one_to_many_is_an_error_that_names_the_classes():
    with pytest.raises(UserError, match=r"'Building' of camvid covers 'building', 'wall' of cityscapes"):
        join(CAMVID, CITYSCAPES)


def test_names_decide_not_ids_nor_case_nor_underscores():
    source, target = named("a", "Traffic_Light", "road", "Sky"), named("b", "sky", "traffic light", first=7)
    assert join(source, target)[:4].tolist() == [8, UNLABELLED, 7, UNLABELLED]


def test_spaces_without_a_common_class_cannot_be_joined():
    with pytest.raises(UserError, match="no class in common"):
        join(named("a", "sofa"), CITYSCAPES)


@pytest.mark.parametrize(("model", "truth"), [(CITYSCAPES, CAMVID), (CAMVID, CITYSCAPES)])
def test_prediction_and_truth_meet_in_the_coarser_space(model, truth):
    space, of_model, of_truth = common_space(model, truth)
    assert space is CAMVID
    rider, bicyclist = id_of(CITYSCAPES, "rider"), id_of(CAMVID, "Bicyclist")
    fine, coarse = (of_model, of_truth) if model is CITYSCAPES else (of_truth, of_model)
    assert fine[rider] == coarse[bicyclist] == bicyclist
    assert of_model[UNLABELLED] == of_truth[UNLABELLED] == UNLABELLED


def test_spaces_survive_their_json_form():
    assert LabelSpace.from_list("camvid", CAMVID.to_list()) == CAMVID


@pytest.mark.parametrize("row", [{"id": 0, "name": "x"}, {"id": 0, "name": "x", "colour": [1, 2]}, {"name": "x"}])
def test_a_class_entry_that_lacks_something_is_named(row):
    with pytest.raises(UserError, match=r"needs id, name and colour"):
        LabelSpace.from_list("mine", [row])


@pytest.mark.parametrize("classes", [[("a", 0), ("A", 1)], [("a", 3), ("b", 3)], [("a", 255)], []])
def test_a_space_with_clashing_or_impossible_classes_is_refused(classes):
    with pytest.raises(UserError):
        LabelSpace("bad", tuple(LabelClass(i, name, (0, 0, 0)) for name, i in classes))


def test_the_cityscapes_table_is_the_official_one():
    official = pytest.importorskip("cityscapesscripts.helpers.labels", reason="cityscapesscripts is not installed")
    rows = [r for r in official.labels if r.id >= 0]
    ours = [(r.id, r.name, r.train_id, r.category, r.has_instances, r.colour) for r in CITYSCAPES_LABELS]
    assert ours == [(r.id, r.name, r.trainId, r.category, r.hasInstances, r.color) for r in rows]
    assert [r.trainId for r in rows] == LABEL_ID_TO_TRAIN_ID[: len(rows)].tolist()
    assert CITYSCAPES_IDS.ids == [r.id for r in rows]
    evaluated = [r for r in rows if not r.ignoreInEval]
    assert CITYSCAPES.names == [r.name for r in sorted(evaluated, key=lambda r: r.trainId)]
    assert {(c, n) for c, names in CATEGORIES.items() for n in names} == {(r.category, r.name) for r in evaluated}
