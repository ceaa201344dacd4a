"""Every request is answered by a reservation, excused by the client's own word, or charged."""

from hypothesis import given
from hypothesis import strategies as st

from fedtrain.ledger import Asked, FirstRecord, LedgerEntry, Statement, unanswered
from fedtrain.privacy import SampledGaussian

A = "a" * 64
MODELS = (A, "b" * 64)
TIME = "2026-01-02T03:04:05Z"
EVENT = SampledGaussian(sampling_rate=0.1, noise_multiplier=1.0, steps=1)
FIRST_RECORD = FirstRecord(
    run="run", mode="record", config=A, plan={}, noise="seeded", roster=A, clients=3, rounds=5, fedtrain="1"
)

requests = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(MODELS)), max_size=8)
noises = st.sampled_from(["seeded", "secure"])


def asked(request, *cohort):
    return Asked(round=request[0], model=request[1], cohort=cohort, sealed=False, secagg=False)


def reserved(request, run="run"):
    return LedgerEntry(
        sequence=0,
        previous=A,
        dataset=A,
        run=run,
        round=request[0],
        plan=A,
        model=request[1],
        update=None,
        event=EVENT,
        unit="record",
        noise="seeded",
        status="reserved",
        time=TIME,
    )


def stated(round_number, sequence):
    return Statement(
        run="run",
        round=round_number,
        dataset=A,
        sequence=sequence,
        head=A,
        epsilon=8.0,
        delta=1e-5,
        refusal=None,
        time=TIME,
    )


@given(requests, requests, noises)
def test_every_request_is_answered_or_charged(sent, answered, noise):
    records = [FIRST_RECORD, *(asked(request, 0, 1) for request in sent)]
    entries = [reserved(request) for request in answered]
    charged = unanswered(1, records, entries, None, noise=noise)
    count = (lambda values: min(len(values), 1)) if noise == "seeded" else len
    for number in (1, 2, 3):
        open_requests = sum(
            max(
                count([request for request in sent if request == (number, model)])
                - len([request for request in answered if request == (number, model)]),
                0,
            )
            for model in MODELS
        )
        assert charged.count(number) == open_requests


@given(requests, requests, st.integers(0, 4), noises)
def test_the_clients_word_excuses_rounds_up_to_its_own_and_no_other(sent, answered, number, noise):
    records = [FIRST_RECORD, *(asked(request, 1) for request in sent)]
    entries = [reserved(request) for request in answered]
    without = unanswered(1, records, entries, None, noise=noise)
    covered = unanswered(1, records, entries, stated(number, len(entries)), noise=noise)
    assert covered == tuple(charged for charged in without if charged > number)
    assert unanswered(1, records, entries, stated(number, len(entries) + 1), noise=noise) == without


@given(requests, requests, noises)
def test_more_reservations_never_charge_more(sent, answered, noise):
    records = [FIRST_RECORD, *(asked(request, 1) for request in sent)]
    entries = [reserved(request) for request in answered]
    before = unanswered(1, records, entries, None, noise=noise)
    for request in sent:
        after = unanswered(1, records, [*entries, reserved(request)], None, noise=noise)
        assert len(before) - 1 <= len(after) <= len(before)


@given(requests, requests)
def test_seeded_noise_is_charged_no_more_than_secure_noise(sent, answered):
    records = [FIRST_RECORD, *(asked(request, 1) for request in sent)]
    entries = [reserved(request) for request in answered]
    seeded, secure = (unanswered(1, records, entries, None, noise=noise) for noise in ("seeded", "secure"))
    assert set(seeded) <= set(secure)
    assert len(seeded) <= len(secure)


@given(requests, noises)
def test_others_requests_and_runs_change_nothing(sent, noise):
    records = [FIRST_RECORD, *(asked(request, 0, 2) for request in sent)]
    assert unanswered(1, records, [], None, noise=noise) == ()
    foreign = [reserved(request, run="other") for request in sent]
    own = [FIRST_RECORD, *(asked(request, 1) for request in sent)]
    assert unanswered(1, own, foreign, None, noise=noise) == unanswered(1, own, [], None, noise=noise)
