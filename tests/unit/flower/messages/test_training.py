import math
import re

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedtrain.crypto import Identity
from fedtrain.errors import ForgeryError, TransportError
from fedtrain.flower.messages.introduction import ConsistencyProof
from fedtrain.flower.messages.training import PrivateTerms, TrainReply, TrainRequest, train_settings

TERMS = PrivateTerms(run="a1", noise_multiplier=1.5, clip_norm=0.25)
ABSENT = object()


def model():
    return ArrayRecord({"w": Array(np.zeros(2, np.float32))})


def content(record="config", **changes):
    """Return a private request; changes are to one of its records, by name with _ for the hyphen."""
    records = {
        "arrays": model(),
        "config": train_settings(learning_rate=0.1, terms=TERMS),
        "ledger": ConfigRecord({"known": 3}),
    }
    records["config"]["server-round"] = 2
    for name, value in changes.items():
        if value is ABSENT:
            del records[record][name.replace("_", "-")]
        else:
            records[record][name.replace("_", "-")] = value
    return RecordDict(records)


def test_the_settings_of_a_round_have_the_names_and_the_order_that_they_always_had():
    assert list(train_settings(learning_rate=0.1).items()) == [("learning-rate", 0.1)]
    assert list(train_settings(learning_rate=0.1, terms=TERMS).items()) == [
        ("learning-rate", 0.1),
        ("run", "a1"),
        ("noise-multiplier", 1.5),
        ("clip-norm", 0.25),
    ]


@pytest.mark.parametrize("record", [ArrayRecord({}), MetricRecord({"a": 1})], ids=["arrays", "metrics"])
def test_a_record_that_asks_for_no_sum_does_not_say_that_the_update_is_masked(record):
    """The mods pass it by: nothing masks the update."""
    assert not TrainRequest.from_records(RecordDict({**content(), "secagg": record})).masked


def test_a_private_request_is_read_with_its_terms():
    request = TrainRequest.from_records(content(proximal_mu=0.5))
    assert request.arrays == model()
    assert (request.round_number, request.learning_rate, request.proximal_mu) == (2, 0.1, 0.5)
    assert (request.required_terms(), request.known, request.masked) == (TERMS, 3, False)


def test_a_request_without_privacy_has_no_terms():
    config = ConfigRecord({"learning-rate": 0.0, "server-round": 1, "of-the-strategy": "x"})
    request = TrainRequest.from_records(
        RecordDict({"arrays": model(), "config": config, "secagg": ConfigRecord({"round": 1})})
    )
    assert (request.terms, request.known, request.proximal_mu, request.masked) == (None, None, 0.0, True)
    assert request.settings["of-the-strategy"] == "x"
    with pytest.raises(TransportError, match="has no terms of a private run"):
        request.required_terms()


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("server_round", ABSENT, "'server-round' in its record 'config' is missing, and a whole number of at least 1"),
        ("server_round", 0, "'server-round' in its record 'config' is 0, and a whole number of at least 1 is allowed"),
        ("server_round", True, "'server-round' in its record 'config' is True"),
        ("server_round", 1.0, "'server-round' in its record 'config' is 1.0"),
        (
            "learning_rate",
            ABSENT,
            "'learning-rate' in its record 'config' is missing, and a finite float of at",
        ),
        ("learning_rate", "0.1", "'learning-rate' in its record 'config' is '0.1'"),
        ("learning_rate", -0.1, "'learning-rate' in its record 'config' is -0.1"),
        ("learning_rate", math.nan, "'learning-rate' in its record 'config' is nan"),
        ("learning_rate", math.inf, "'learning-rate' in its record 'config' is inf"),
        ("learning_rate", [0.1], "'learning-rate' in its record 'config' is [0.1]"),
        ("proximal_mu", "x" * 500, "'proximal-mu' in its record 'config' is 'xxx"),
        ("run", 5, "'run' in its record 'config' is 5, and a text is allowed"),
        ("noise_multiplier", 0.0, "'noise-multiplier' in its record 'config' is 0.0, and a finite float above 0"),
        ("noise_multiplier", ABSENT, "'noise-multiplier' in its record 'config' is missing"),
        ("clip_norm", math.inf, "'clip-norm' in its record 'config' is inf, and a finite float above 0 is allowed"),
    ],
)
def test_a_malformed_setting_is_refused_by_name(name, value, reason):
    with pytest.raises(TransportError, match=re.escape(f"the request for training cannot be used: {reason}")) as caught:
        TrainRequest.from_records(content(**{name: value}))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("known", [ABSENT, -1, "3", 3.0])
def test_a_malformed_count_of_known_entries_is_refused_by_name(known):
    with pytest.raises(TransportError, match="'known' in its record 'ledger' is"):
        TrainRequest.from_records(content("ledger", known=known))


@pytest.mark.parametrize("name", ["arrays", "config", "ledger"])
@pytest.mark.parametrize("instead", [None, MetricRecord({"w": 1.0}), ArrayRecord()])
def test_a_record_that_is_missing_or_of_another_kind_is_refused_by_name(name, instead):
    request = content()
    del request[name]
    if instead is not None:
        request[name] = instead
    if (name, type(instead)) == ("arrays", ArrayRecord):
        assert TrainRequest.from_records(request).arrays == ArrayRecord()
        return
    with pytest.raises(TransportError, match=f"the request for training cannot be used: .*{name}"):
        TrainRequest.from_records(request)


def shown():
    return ConsistencyProof(key=Identity.generate().public, entries=(), statement=None, nonce=b"n")


def test_a_reply_is_read_as_it_was_written():
    replies = [
        TrainReply(arrays=model(), metrics={"num-examples": 1.0, "within-clip": 0.0}, ledger=shown()),
        TrainReply(arrays=model(), metrics={"num-examples": 3.0, "train_loss": -0.5}),
        TrainReply(ledger=shown()),
    ]
    for reply in replies:
        assert TrainReply.from_records(reply.to_records()) == reply
    assert [list(reply.to_records()) for reply in replies] == [
        ["arrays", "metrics", "ledger"],
        ["arrays", "metrics"],
        ["ledger"],
    ]


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ({}, "the reply of training cannot be used: its record 'arrays' is missing"),
        ({"arrays": ConfigRecord()}, "its record 'arrays' is of the type ConfigRecord, and arrays are allowed"),
        ({"arrays": model()}, "its record 'metrics' is missing, and values by name are allowed"),
        (
            {"arrays": model(), "metrics": MetricRecord({"loss": math.nan})},
            "'loss' in its record 'metrics' is nan, and a finite float is",
        ),
        ({"arrays": model(), "metrics": MetricRecord({"loss": [1.0]})}, "'loss' in its record 'metrics' is [1.0]"),
    ],
)
def test_a_malformed_reply_is_refused_by_name(records, reason):
    with pytest.raises(TransportError, match=re.escape(reason)):
        TrainReply.from_records(RecordDict(dict(records)))


def test_a_reply_whose_ledger_is_malformed_is_a_forgery():
    with pytest.raises(ForgeryError, match="it has a key, entries, a statement and a nonce"):
        TrainReply.from_records(RecordDict({"ledger": ConfigRecord({"key": "x"})}))
