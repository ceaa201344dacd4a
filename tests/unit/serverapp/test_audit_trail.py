from fedtrain.ledger import Completed, SecureSum, read_records
from fedtrain.report import SecureAggregation
from tests.notary import Notary


def last(notary):
    log = notary.trail.log
    assert read_records(log.envelopes, notary.server.public) == log.records
    assert isinstance(log.records[-1], Completed)
    return log.records[-1]


def test_a_round_with_single_updates_is_recorded(notary):
    notary.round(1, (0, 1, 2), silent=(1,), sealed=True)
    record = last(notary)
    assert (record.sealed, record.secagg) == (True, None)
    assert [update.client for update in record.updates] == [0, 2]


def test_a_sum_is_recorded_with_who_was_lost_when(notary):
    lost = {"lost_masking": 1, "lost_unmasking": 1}
    secagg = SecureAggregation(threshold=2, neighbours=3, bits=12, **lost)
    notary.round(1, (0, 1, 2, 3), silent=(1,), mute=(3,), secagg=secagg)
    record = last(notary)
    assert not record.sealed
    assert record.secagg == SecureSum(threshold=2, neighbours=3, bits=12, silent=(3,))
    assert [update.client for update in record.updates] == [0, 2, 3]
    assert [drop.client for drop in record.dropped] == [1]


def test_with_secret_cohorts_the_record_says_that_messages_were_sealed(private, tmp_path):
    notary = Notary(private, tmp_path / "secret", withheld=True)
    notary.round(1, (0, 1), sealed=True)
    record = last(notary)
    assert (record.sealed, record.secagg, record.updates) == (True, None, ())
