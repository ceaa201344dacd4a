import pytest

from fedtrain.ledger import Asked, Completed, FirstRecord, LedgerEntry, Statement, unanswered
from fedtrain.privacy import SampledGaussian

A, B = "a" * 64, "b" * 64
FIRST_RECORD = FirstRecord(
    run="run",
    mode="record",
    config=A,
    plan={},
    noise="seeded",
    roster=A,
    clients=3,
    rounds=5,
    fedtrain="1",
)


def asked(round_number, *cohort, model=A):
    return Asked(round=round_number, cohort=cohort, model=model, sealed=False, secagg=False)


def entry(round_number, *, model=A, run="run", status="reserved", steps=10):
    return LedgerEntry(
        sequence=0,
        previous=A,
        dataset=A,
        run=run,
        round=round_number,
        plan=A,
        model=model,
        update=B if status == "settled" else None,
        event=SampledGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=steps),
        unit="record",
        noise="seeded",
        status=status,
        time="2026-01-02T03:04:05Z",
    )


def statement(round_number, sequence, *, run="run", refusal=None):
    return Statement(
        run=run,
        round=round_number,
        dataset=A,
        sequence=sequence,
        head=A,
        epsilon=8.0,
        delta=1e-5,
        refusal=refusal,
        time="2026-01-02T03:04:05Z",
    )


def charged(records, entries=(), stated=None, *, noise="seeded", client=1):
    return unanswered(client, [FIRST_RECORD, *records], entries, stated, noise=noise)


@pytest.fixture(params=["seeded", "secure"])
def noise(request):
    return request.param


def test_a_client_that_does_not_answer_is_charged(noise):
    records = [asked(1, 0, 1), asked(2, 1, 2), asked(3, 0, 2)]
    assert charged(records, noise=noise) == (1, 2)
    assert charged(records, [entry(1)], noise=noise) == (2,)
    assert charged(records, [entry(1), entry(2)], noise=noise) == ()
    assert charged(records, noise=noise, client=3) == ()


def test_only_this_runs_reservation_of_this_round_and_model_answers(noise):
    for other in (entry(2), entry(1, model=B), entry(1, run="other"), entry(1, status="settled")):
        assert charged([asked(1, 1)], [other], noise=noise) == (1,)


def test_a_client_that_states_that_it_did_not_train_is_not_charged(noise):
    records = [asked(1, 1), asked(2, 1), asked(3, 1)]
    for refusal in (None, "budget"):
        assert charged(records, [entry(1)], statement(3, 1, refusal=refusal), noise=noise) == ()
        assert charged(records, [entry(1)], statement(2, 1, refusal=refusal), noise=noise) == (3,)
        assert charged(records, [entry(1)], statement(0, 1, refusal=refusal), noise=noise) == (2, 3)


def test_a_statement_of_another_run_or_length_is_no_excuse(noise):
    assert charged([asked(1, 1)], [], statement(1, 0, run="other"), noise=noise) == (1,)
    assert charged([asked(1, 1)], [entry(9)], statement(1, 0), noise=noise) == (1,)
    assert charged([asked(1, 1)], [], statement(1, 1), noise=noise) == (1,)


def test_a_repeated_request_counts_once_with_seeded_noise_alone():
    records = [asked(1, 1), asked(1, 1), asked(1, 1)]
    assert charged(records, noise="seeded") == (1,)
    assert charged(records, [entry(1)], noise="seeded") == ()
    assert charged(records, noise="secure") == (1, 1, 1)
    assert charged(records, [entry(1)], noise="secure") == (1, 1)
    assert charged(records, [entry(1), entry(1)], noise="secure") == (1,)


def test_the_same_round_with_another_model_is_another_request(noise):
    assert charged([asked(1, 1), asked(1, 1, model=B)], [entry(1)], noise=noise) == (1,)
    assert charged([asked(1, 1), asked(1, 1, model=B)], noise=noise) == (1, 1)


def test_rounds_are_in_order_however_they_were_asked():
    assert charged([asked(3, 1), asked(1, 1), asked(2, 1)]) == (1, 2, 3)


def test_other_records_charge_nothing(noise):
    completed = Completed(
        round=1, model=A, updates=(), dropped=(), sealed=True, secagg=None, aggregate=A, clip_norm=1.0
    )
    assert charged([completed], noise=noise) == ()


def test_a_record_of_no_run_or_of_two_is_refused():
    for records in ([], [FIRST_RECORD, FIRST_RECORD], [asked(1, 1)]):
        with pytest.raises(ValueError, match="a record is of one run"):
            unanswered(1, records, [], None, noise="seeded")
