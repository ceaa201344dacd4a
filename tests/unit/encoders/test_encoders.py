import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedtrain.config.sections import TaskConfig
from fedtrain.data import ClassTarget, Columns, DataInfo, Image, Split
from fedtrain.encoders import encoded, open_encoder
from fedtrain.encoders.base import digest_of
from fedtrain.errors import TaskError

INFO = DataInfo(features=Columns(shape=(3,)), target=ClassTarget(names=("a", "b")))
MODULE = '''
import torch
from torch import nn

class Doubled(nn.Module):
    """Twice the features, in calls that are counted where a file says so."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))
        self.dropout = nn.Dropout()

    def forward(self, features):
        type(self).calls += 1
        return self.dropout(features) * self.factor

class Counting(Doubled):
    def forward(self, features):
        return features + Doubled.forward(self, features) * 0 + Counting.calls

class Drawing(nn.Module):
    def forward(self, features):
        return features + torch.rand(3)

class Longer(nn.Module):
    def forward(self, features):
        return torch.ones(1, 1 + int(features.sum()))

def build(info):
    return Doubled()

def counting(info):
    return Counting()

def drawing(info):
    return Drawing()

def longer(info):
    return Longer()

def failing(info):
    raise LookupError("no weights")

def number(info):
    return 3

def infinite(info):
    return nn.Sequential(nn.Linear(3, 2), nn.Threshold(float("inf"), float("inf")))

def pair(info):
    return nn.LSTM(3, 3)

def flat(info):
    return nn.Flatten(0)
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_encoder.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield lambda name="build", **settings: TaskConfig(
        encoder=f"own_encoder:{name}", encoder_origin="a formula", **settings
    )
    sys.modules.pop("own_encoder", None)


def records(count=5):
    features = np.random.default_rng(0).random((count, 3)).astype(np.float32)
    return Split(features=features, targets=np.zeros(count, np.int64))


def test_without_an_encoder_records_are_as_they_are_stored(tmp_path):
    split = records()
    assert open_encoder(TaskConfig(), INFO) is None
    assert encoded(split, None, tmp_path) is split


def test_features_are_computed_in_evaluation_mode_and_have_a_schema_of_their_own(own, tmp_path):
    encoder = open_encoder(own(), INFO)
    assert (encoder.info.kind, encoder.info.shape, encoder.info.target) == ("encoded", (3,), INFO.target)
    split = records()
    found = encoded(split, encoder, tmp_path)
    np.testing.assert_array_equal(found.features, 2 * split.features)
    assert found.features.dtype == np.float32
    assert found.targets is split.targets
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())


@pytest.mark.parametrize("place", ["shared", "own"])
def test_features_are_computed_once_and_anew_for_other_records_or_another_encoder(own, tmp_path, place):
    encoder, split = open_encoder(own(), INFO), records()
    kind, folder = type(encoder.module), tmp_path / "cache"

    def calls(split, encoder):
        before = kind.calls
        encoded(split, encoder, folder, own=place == "own")
        return kind.calls - before

    assert calls(split, encoder) > len(split)
    assert calls(split, encoder) == 0
    assert calls(records(4), encoder) > 0
    assert calls(split, open_encoder(own(), INFO)) == 0
    with torch.no_grad():
        encoder.module.factor.fill_(3)
    assert calls(split, replace(encoder, digest=digest_of(encoder.module))) > len(split)


def test_every_record_is_encoded_by_itself(own, tmp_path):
    encoder, split = open_encoder(own(), INFO), records(70)
    seen = []
    encoder.module.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    encoded(split, encoder, tmp_path)
    assert set(seen) == {(1, 3)}


@pytest.mark.parametrize("name", ["counting", "drawing"])
def test_features_that_depend_on_other_records_or_chance_are_refused(own, tmp_path, name):
    encoder = open_encoder(own(name), INFO)
    with pytest.raises(TaskError, match="other features for a record after it has seen other records"):
        encoded(records(), encoder, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".npy"]


def test_features_of_another_length_for_another_record_are_refused(own, tmp_path):
    with pytest.raises(TaskError, match="another shape for one record"):
        encoded(records(), open_encoder(own("longer"), INFO), tmp_path)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("failing", r"raised LookupError: no weights \(own_encoder.py, line"),
        ("number", "is to return a torch.nn.Module, and returned a int"),
        ("infinite", "not finite"),
        ("pair", "returned a tuple"),
        ("flat", r"returned a tensor of torch.float32 and shape \(3,\)"),
        ("missing", 'has no "missing"; it defines: Doubled'),
    ],
)
def test_what_is_no_encoder_is_refused_by_name(own, name, problem):
    with pytest.raises(TaskError, match=problem):
        open_encoder(own(name), INFO)


def test_another_digest_than_the_declared_one_is_refused_and_a_deployment_needs_one(own):
    digest = open_encoder(own(), INFO).digest
    assert open_encoder(own(encoder_digest=digest), INFO, deployed=True).digest == digest
    with pytest.raises(TaskError, match=f"its digest is {digest}, and task.encoder_digest is {'0' * 64}"):
        open_encoder(own(encoder_digest="0" * 64), INFO)
    with pytest.raises(TaskError, match=f'the digest here is "{digest}"'):
        open_encoder(own(), INFO, deployed=True)


def test_the_digest_follows_weights_buffers_and_source(own, tmp_path):
    module = open_encoder(own(), INFO).module
    digest = digest_of(module)
    module.register_buffer("hidden", torch.zeros(2), persistent=False)
    with_buffer = digest_of(module)
    module.hidden[0] = 1
    assert len({digest, with_buffer, digest_of(module)}) == 3
    sys.modules.pop("own_encoder")
    (tmp_path / "own_encoder.py").write_text(MODULE.replace("* self.factor", "+ self.factor"))
    assert open_encoder(own(), INFO).digest != digest


def test_a_class_without_source_has_no_digest():
    made = type("Made", (nn.Module,), {"__module__": "nowhere"})
    with pytest.raises(TaskError, match=r"nowhere\.Made, whose source cannot be read"):
        digest_of(made())


def test_the_scattering_has_the_same_digest_at_every_call():
    info = DataInfo(features=Image(shape=(3, 32, 32)), target=INFO.target)
    one, other = (open_encoder(TaskConfig(encoder="scattering"), info) for _ in range(2))
    assert one.digest == other.digest
    assert one.info.shape == (243, 8, 8)
    assert one.origin.startswith("no records at all")
