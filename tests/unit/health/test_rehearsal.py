import numpy as np
import pytest

from fedtrain.data import ClassTarget, Columns, DataInfo, Image, LabelsTarget, NumberTarget, Split, Text, TextTarget
from fedtrain.data.types import stored_shape
from fedtrain.health.rehearsal import MOST_RECORDS, rehearse, task_names
from fedtrain.ledger import SitePolicy

IMAGES = DataInfo(features=Image(shape=(1, 8, 8)), target=ClassTarget(names=("0", "1", "2")))
TABLE = DataInfo(features=Columns(shape=(5,)), target=ClassTarget(names=("no", "yes")))


def images(count, classes=3):
    generator = np.random.default_rng(0)
    features = generator.integers(256, size=(count, 1, 8, 8), dtype=np.uint8)
    return Split(features=features, targets=generator.integers(classes, size=count))


def table(count):
    generator = np.random.default_rng(0)
    features = generator.standard_normal((count, 5)).astype(np.float32)
    return Split(features=features, targets=generator.integers(2, size=count))


def test_a_step_on_images_of_which_nothing_stays():
    train = images(500)
    before = train.features.copy()
    check = rehearse("vision", IMAGES, train)
    assert (check.name, check.status) == ("train vision", "ok")
    assert f"a private step on {MOST_RECORDS} records" in check.detail
    assert "nothing was written, charged or sent" in check.detail
    assert np.array_equal(train.features, before)


def test_a_step_on_a_table():
    assert rehearse("tabular", TABLE, table(100)).status == "ok"


def test_a_site_with_one_record_of_the_only_class_that_it_holds():
    info = DataInfo(features=Image(shape=(1, 8, 8)), target=ClassTarget(names=("0",)))
    check = rehearse("vision", info, images(1, classes=1))
    assert check.status == "ok"
    assert "on 1 record took" in check.detail


def test_a_task_that_does_not_fit_the_data():
    check = rehearse("tabular", IMAGES, images(10))
    assert check.status == "fails"
    assert "vision" in check.detail


def test_a_task_that_nobody_knows():
    assert "is not known" in rehearse("visoin", IMAGES, images(10)).detail


def test_a_task_whose_code_comes_with_the_app():
    check = rehearse("own_task:build", IMAGES, images(10))
    assert check.status == "warns"
    assert "not rehearsed" in check.detail


def test_records_that_the_model_cannot_take():
    check = rehearse(
        "vision", DataInfo(features=Image(shape=(3, 8, 8)), target=ClassTarget(names=("0", "1", "2"))), images(10)
    )
    assert check.status == "fails"
    assert "torch cannot train" in check.detail


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_record_that_is_not_finite_is_silenced_as_in_a_run(value):
    train = table(20)
    train.features[3, 2] = value
    assert rehearse("tabular", TABLE, train).status == "ok"


@pytest.mark.parametrize(
    "target", [ClassTarget(names=("no", "yes")), NumberTarget(), LabelsTarget(names=("a",)), TextTarget()]
)
def test_a_site_with_texts_is_told_that_the_encoder_is_the_experiments(target):
    info = DataInfo(features=Text(shape=(8,)), target=target)
    train = Split(features=np.zeros((4, 8), np.uint8), targets=np.zeros(stored_shape(target, 4), target.dtype))
    (name,) = task_names(SitePolicy(epsilon=1.0, delta=1e-5), info)
    check = rehearse(name, info, train)
    assert check.status == "warns"
    assert check.detail.endswith("which an experiment names")
    (name,) = task_names(SitePolicy(epsilon=1.0, delta=1e-5, tasks=("vision",)), info)
    wanted = {"class": "text", "number": "regression", "labels": "multilabel", "text": "language"}[target.kind]
    assert f'The task of these texts is "{wanted}"' in rehearse(name, info, train).detail


def test_statistics_are_not_rehearsed_and_of_no_table_refused():
    (name,) = task_names(SitePolicy(epsilon=1.0, delta=1e-5, tasks=("statistics",)), TABLE)
    check = rehearse(name, TABLE, table(20))
    assert check.status == "warns"
    assert check.detail == "not rehearsed: an experiment names the columns, and their public bounds"
    assert rehearse(name, IMAGES, images(10)).status == "fails"
