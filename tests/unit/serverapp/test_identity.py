"""A resumed run goes on with the records, the model and the task that it began with."""

import importlib
import sys
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from fedtrain.data import Split, open_simulated
from fedtrain.errors import ConfigError, StorageError
from fedtrain.serverapp.events import Notice
from fedtrain.serverapp.identity import RunIdentity, source_digest
from fedtrain.serverapp.run import run_experiment
from fedtrain.serverapp.run_folder import RunFolder
from fedtrain.tasks import CallerObjects
from tests.fakes import digits_experiment, federation, private_experiment


@pytest.fixture
def folder(cache, tmp_path):
    return RunFolder.open(digits_experiment(cache, output__directory=str(tmp_path / "run")))


@pytest.fixture
def begun(plain, folder):
    assert folder.check_identity(RunIdentity.of(plain, folder.data_key)) == ""
    return folder


def changed(preparation, which, **arrays):
    """Return the preparation with other training or test records."""
    split = getattr(preparation.store, which)
    fields = {name: getattr(split, name) for name in ("features", "targets", "owners", "groups")} | arrays
    return replace(preparation, store=replace(preparation.store, **{which: Split(**fields)}))


def exchanged(preparation, which):
    """Return the preparation with the labels 0 and 1 exchanged."""
    targets = np.array(getattr(preparation.store, which).targets)
    return changed(preparation, which, targets=np.where(targets < 2, 1 - targets, targets))


def with_a_pixel(preparation, which):
    features = np.array(getattr(preparation.store, which).features)
    features[3] ^= 1
    return changed(preparation, which, features=features)


def test_the_same_is_the_same(plain, begun):
    assert begun.check_identity(RunIdentity.of(plain, begun.data_key)) == ""
    copied = changed(plain, "train", features=np.array(plain.store.train.features))
    assert begun.check_identity(RunIdentity.of(copied, begun.data_key)) == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda plain: exchanged(plain, "train"), "the training records, or whom they belong to changed"),
        (lambda plain: exchanged(plain, "test"), "the test records or their groups changed"),
        (lambda plain: with_a_pixel(plain, "test"), "the test records or their groups changed"),
        (
            lambda plain: changed(plain, "train", owners=np.zeros(len(plain.store.train), np.int64)),
            "the training records, or whom they belong to changed",
        ),
        (
            lambda plain: exchanged(exchanged(plain, "train"), "test"),
            "belong to; the test records or their groups changed",
        ),
        (lambda plain: replace(plain, store=replace(plain.store, owners=("a", "b"))), "whom they belong to changed"),
        (
            lambda plain: replace(plain, model=nn.Sequential(nn.Linear(64, 10))),
            r"the model \(0.weight was float32\[\d+.*\] and is float32\[10, 64\]",
        ),
        (
            lambda plain: replace(plain, model=plain.task.model().half()),
            r"the model \(0.weight was float32\[.*\] and is float16\[.*, and \d+ more\) changed",
        ),
    ],
)
def test_what_changed_is_named_and_what_to_do(plain, begun, change, words):
    with pytest.raises(ConfigError, match=words) as caught:
        begun.check_identity(RunIdentity.of(change(plain), begun.data_key))
    assert str(caught.value).startswith(f"the run in {begun.path} cannot be resumed, since it would go on with")
    assert str(caught.value).endswith("Put back what it was, or begin another run in another folder (--out)")


def test_a_digest_without_the_key_says_nothing(plain, begun, tmp_path):
    ours = RunIdentity.of(plain, begun.data_key)
    theirs = RunIdentity.of(plain, tmp_path / "other.key")
    assert (ours.train, ours.test) != (theirs.train, theirs.test)
    assert begun.data_key.stat().st_mode & 0o777 == 0o600


def test_a_run_of_an_earlier_version_is_told_and_noted(plain, folder, make_state):
    folder.save_checkpoint(make_state())
    identity = RunIdentity.of(plain, folder.data_key)
    assert "earlier version, which noted no digests of its records, model and task" in folder.check_identity(identity)
    assert folder.check_identity(identity) == ""


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format": "fedtrain.identity/1", "train": "a"}', b"\xff"])
def test_a_note_that_is_none_is_refused(plain, begun, data):
    (begun.path / "identity.json").write_bytes(data)
    with pytest.raises(StorageError, match=r"identity.json, which says what the run is about"):
        begun.check_identity(RunIdentity.of(plain, begun.data_key))


OWN = """
from torch import nn
from fedtrain.tasks import ClassificationMetrics, Task
from torch.nn import functional

WIDTH = 10

class Own(Task):
    def __init__(self, info):
        self.info = info

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTH))

    def collate(self, records, generator):
        return {"inputs": records.features.float() / 16, "targets": records.targets}

    def losses(self, outputs, batch):
        return functional.cross_entropy(outputs, batch["targets"], reduction="none")

    def metrics(self):
        return ClassificationMetrics(10)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Give a function that writes and imports the module of a task, and returns the digest of its source."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def digest(source, **helpers):
        for name, text in {"own_task_of_test": source, **helpers}.items():
            file = tmp_path / f"{name.replace('__', '/')}.py"
            file.parent.mkdir(exist_ok=True)
            file.write_text(text)
        for name in [name for name in sys.modules if name.partition(".")[0].endswith("_of_test")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        import linecache

        linecache.clearcache()
        module = importlib.import_module("own_task_of_test")
        task = module.Own(None)
        return source_digest(task, task.model())

    yield digest
    sys.modules.pop("own_task_of_test", None)


def test_the_source_of_a_task_is_part_of_it_and_its_layout_is_not(own):
    before = own(OWN)
    assert len(before) == 64
    assert (
        own(OWN.replace("    def metrics", "\n    # a comment\n    def metrics").replace("(64, WIDTH)", "(64,  WIDTH)"))
        == before
    )
    assert own(OWN.replace("/ 16", "/ 17")) != before
    assert own(OWN.replace('reduction="none"', 'reduction="none", label_smoothing=0.1')) != before


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from helper_of_test import SCALE", "helper_of_test"),
        ("import helper_of_test as helper; SCALE = helper.SCALE", "helper_of_test"),
        ("from helpers_of_test import scales; SCALE = scales.SCALE", "helpers_of_test__scales"),
        ("from helpers_of_test.first import SCALE", "helpers_of_test__scales"),
    ],
)
def test_the_modules_that_a_task_imports_are_part_of_it(own, line, name):
    source = OWN.replace("WIDTH = 10", f"WIDTH = 10\n{line}").replace("/ 16", "* SCALE")
    others = {"helpers_of_test__first": "from .scales import SCALE"}

    def digest(text):
        return own(source, **others, **{name: text})

    before = digest("SCALE = 1 / 16")
    assert digest("# a comment\nSCALE = 1 / 16") == before
    assert digest("SCALE = 1 / 8") != before


def test_a_task_of_fedtrain_has_no_source_of_its_own(plain):
    assert source_digest(plain.task, plain.model) == ""


def of_a_cell(factor):
    """Make a task as a notebook does, whose source is in no file."""
    names = {"__name__": "__main__"}
    exec(OWN.replace("/ 16", f"/ {factor}"), names)
    return names["Own"](None)


def test_a_task_of_a_notebook_is_known_by_what_it_does():
    digests = [source_digest(task, task.model()) for task in (of_a_cell(16), of_a_cell(16), of_a_cell(17))]
    assert digests[0] == digests[1] != digests[2]


def test_the_groups_of_test_records_are_part_of_it_by_code_and_name(plain, begun):
    codes = np.arange(len(plain.store.test)) % 2

    def grouped(codes, names):
        found = changed(plain, "test", groups=codes)
        return RunIdentity.of(replace(found, store=replace(found.store, groups=names)), begun.data_key)

    before = grouped(codes, ("north", "south"))
    assert before == grouped(codes, ("north", "south"))
    assert before.differences(grouped(1 - codes, ("north", "south"))) == ["the test records or their groups"]
    assert before.differences(grouped(codes, ("east", "south"))) == ["the test records or their groups"]


@pytest.mark.parametrize("kind", [digits_experiment, private_experiment])
def test_a_run_with_other_records_is_not_resumed(cache, tmp_path, kind):
    """The labels of the test records change between two starts: one history would have two test sets."""
    settings = {"output__directory": str(tmp_path / "run"), "output__screen": "none", "federation__rounds": 2}
    first = kind(cache, **settings)

    def stopped(message):
        if message.content["config"]["server-round"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_experiment(federation(first, stopped), first)
    again = kind(cache, **settings, output__resume=True)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    store, partitions = open_simulated(again.data, clients=4, seed=again.seed)
    records = (replace(store, test=replace(store.test, targets=np.roll(store.test.targets, 1))), partitions)
    with pytest.raises(ConfigError, match="the test records or their groups changed since it began"):
        run_experiment(federation(again), again, objects=CallerObjects(records=records))
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before
    told = []
    run_experiment(federation(again), again, on_event=told.append)
    assert not any("earlier version" in event.text for event in told if isinstance(event, Notice))
