import re

import pytest
from flwr.app import ArrayRecord, ConfigRecord, RecordDict

from fedtrain.crypto import Identity
from fedtrain.errors import TransportError
from fedtrain.flower.messages.introduction import Answer, ConsistencyProof, LedgerQuery, Query

LEDGER = LedgerQuery(run="a1", round_number=4, known=7)
RESERVING = LedgerQuery(run="a1", round_number=0, known=0, noise_multiplier=1.5)


@pytest.mark.parametrize(
    ("query", "records"),
    [
        (Query(), {}),
        (Query(key=True), {"key": {}}),
        (Query(ledger=LEDGER), {"ledger": {"run": "a1", "server-round": 4, "known": 7}}),
        (
            Query(key=True, ledger=RESERVING),
            {"key": {}, "ledger": {"run": "a1", "server-round": 0, "known": 0, "noise-multiplier": 1.5}},
        ),
    ],
)
def test_a_query_has_the_names_that_it_always_had_and_is_read_as_it_was_written(query, records):
    content = query.to_records()
    assert [(name, list(record.items())) for name, record in content.items()] == [
        (name, list(values.items())) for name, values in records.items()
    ]
    assert Query.from_records(content) == query


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"run": 1}, "'run' in its record 'ledger' is 1, and a text is allowed"),
        ({"server-round": -1}, "'server-round' in its record 'ledger' is -1, and a whole number of at least 0"),
        ({"known": "7"}, "'known' in its record 'ledger' is '7'"),
        ({"known": True}, "'known' in its record 'ledger' is True"),
        ({"noise-multiplier": 0.0}, "'noise-multiplier' in its record 'ledger' is 0.0, and a finite float above 0"),
    ],
)
def test_a_malformed_query_is_refused_by_name(change, reason):
    content = Query(ledger=RESERVING).to_records()
    content["ledger"].update(change)
    with pytest.raises(TransportError, match=re.escape(f"the query cannot be used: {reason}")):
        Query.from_records(content)


def test_a_query_without_a_field_or_of_another_kind_is_refused_by_name():
    content = Query(ledger=LEDGER).to_records()
    del content["ledger"]["run"]
    with pytest.raises(TransportError, match="'run' in its record 'ledger' is missing"):
        Query.from_records(content)
    with pytest.raises(TransportError, match="its record 'ledger' is of the type ArrayRecord"):
        Query.from_records(RecordDict({"ledger": ArrayRecord()}))


def test_an_answer_is_read_as_it_was_written():
    key = Identity.generate().public
    whole = Answer(client=3, key=key, ledger=ConsistencyProof(key=key, entries=(), statement=None))
    for answer in (whole, Answer(client=0), Answer(key=key)):
        assert Answer.from_records(answer.to_records()) == answer
    assert list(whole.to_records()) == ["client", "key", "ledger"]


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ({"client": ConfigRecord()}, "its answer cannot be used: 'client' in its record 'client' is missing"),
        ({"client": ConfigRecord({"client": -1})}, "'client' in its record 'client' is -1"),
        ({"client": ArrayRecord()}, "its record 'client' is of the type ArrayRecord"),
        ({"key": ConfigRecord()}, "'key' in its record 'key' is missing, and a text is allowed"),
        ({"key": ConfigRecord({"key": "no key"})}, "its key cannot be used"),
        ({"ledger": ConfigRecord({"key": "x"})}, "its answer cannot be used: the ledger record is malformed"),
        ({"ledger": ArrayRecord()}, "its record 'ledger' is of the type ArrayRecord"),
    ],
)
def test_a_malformed_answer_is_refused_by_name(records, reason):
    with pytest.raises(TransportError, match=re.escape(reason)):
        Answer.from_records(RecordDict(dict(records)))
