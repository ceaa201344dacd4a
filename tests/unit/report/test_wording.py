import pytest

from fedtrain.ledger import Asked, Closed, Completed, FirstRecord, SecureSum
from fedtrain.report import Dropped, RoundEntry, SecureAggregation
from fedtrain.report.wording import Transport, called, cause, not_covered, summary
from tests.plans import capped_plan

A = "a" * 64
FIRST_RECORD = FirstRecord(
    run="run", mode="record", config=A, plan={}, noise="secure", roster=A, clients=3, rounds=2, fedtrain="0.1.0"
)
SUM = SecureSum(threshold=2, neighbours=2, bits=16, silent=())


def asked(number, *, sealed=True, secagg=True):
    return Asked(round=number, cohort=(0, 1, 2), model=A, sealed=sealed, secagg=secagg)


def done(number, *, sealed=True, secagg=True):
    end = Completed(
        round=number,
        model=A,
        updates=(),
        dropped=(),
        sealed=sealed,
        secagg=SUM if secagg else None,
        aggregate=A,
        clip_norm=1.0,
    )
    return [asked(number, sealed=sealed, secagg=secagg), end]


def closed(rounds):
    return Closed(status="interrupted", rounds=rounds, report=A)


@pytest.mark.parametrize(
    ("records", "sealed", "summed", "only_sums"),
    [
        ([*done(1), *done(2)], True, True, True),
        ([*done(1), *done(2, secagg=False)], True, True, False),
        ([*done(1, sealed=False), *done(2)], False, True, True),
        ([*done(1, secagg=False), *done(2, secagg=False)], True, False, False),
        ([*done(1, sealed=False, secagg=False), *done(2, sealed=False, secagg=False)], False, False, False),
        ([*done(1), closed(1)], True, True, True),
        ([*done(1), asked(2), closed(1)], True, True, True),
        ([asked(1), closed(0)], True, True, True),
        ([asked(1), closed(0), *done(1), *done(2)], True, True, True),
        ([asked(1, secagg=False), closed(0), *done(1), *done(2)], True, True, False),
        ([*done(1), asked(2, sealed=False), closed(1), *done(2)], False, True, True),
        ([*done(1, secagg=False), asked(2), closed(1)], True, True, False),
        ([], False, False, False),
    ],
    ids=[
        *("whole", "one seen", "one open", "all seen", "nothing", "unfinished", "lost for good", "lost at once"),
        *("lost", "lost and seen", "lost and open", "lost and summed", "no rounds"),
    ],
)
def test_what_held_in_every_round_that_was_asked_is_said(records, sealed, summed, only_sums):
    assert Transport.of([FIRST_RECORD, *records]) == Transport(sealed=sealed, summed=summed, only_sums=only_sums)


def entry(number, *, sealed=True, secagg=None, dropped=()):
    return RoundEntry(
        round=number,
        cohort=(0, 1, 2, 3),
        completed=tuple(client for client in range(4) if client not in dropped),
        dropped=tuple(Dropped(client=client, reason="late") for client in dropped),
        sealed=sealed,
        secagg=secagg,
        clip_norm=None,
        learning_rate=0.1,
        seconds=1.0,
    )


def aggregation(masking, unmasking):
    return SecureAggregation(threshold=2, neighbours=2, bits=16, lost_masking=masking, lost_unmasking=unmasking)


@pytest.mark.parametrize(
    ("rounds", "line"),
    [
        ((), "no round was completed"),
        ((entry(1, sealed=False),), "encrypted end to end in no round; the server saw single updates"),
        ((entry(1), entry(2)), "encrypted end to end in every round; the server saw single updates"),
        (
            (entry(1, secagg=aggregation(0, 0)),),
            (
                "encrypted end to end in every round; the server saw the sum of the updates alone in every round; "
                "no client was lost"
            ),
        ),
        (
            (entry(1, secagg=aggregation(1, 1), dropped=(3,)), entry(2, secagg=aggregation(2, 0), dropped=(0, 1))),
            (
                "encrypted end to end in every round; the server saw the sum of the updates alone in every round; "
                "clients lost before their update was in the sum: 3, after: 1"
            ),
        ),
        (
            (entry(1, secagg=aggregation(0, 2)), entry(2, sealed=False, dropped=(1,))),
            (
                "encrypted end to end in 1 of 2 rounds; the server saw the sum of the updates alone in 1 of 2 rounds; "
                "clients lost before their update was in the sum: 0, after: 2"
            ),
        ),
    ],
)
def test_one_line_says_what_the_transport_was(rounds, line):
    assert summary(rounds) == line


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("Traceback (most recent call last):\n  File x\nValueError: bad\n", "ValueError: bad"),
        (
            "client did not answer within 3 s: it was here:\n  File x\n  File y",
            "client did not answer within 3 s: it was here:",
        ),
        ("no answer", "no answer"),
        ("", ""),
    ],
)
def test_the_cause_of_a_reason_is_one_line(reason, line):
    assert cause(reason) == line


def test_clients_are_called_by_number_and_name():
    assert called([3], ()) == "client 3"
    assert called([3], ("a", "b", "c", "Mercy")) == "client 3 (Mercy)"
    assert called(range(11), ("a",)) == "clients 0 (a), 1, 2, 3, 4, 5, 6, 7 and 3 more"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"task.model": "minilm-lora"},
            ["What the frozen weights of the model minilm-lora were fitted on, which adapters"],
        ),
        ({"task.model": "bag"}, []),
        ({}, []),
    ],
)
def test_what_frozen_weights_were_fitted_on_is_not_covered(config, said):
    seen = Transport(sealed=False, summed=False, only_sums=False)
    plan = capped_plan(4, clip_norm=1.0, noise_multiplier=1.0)
    found = [gap for gap in not_covered(plan, seen, config) if "frozen weights" in gap]
    assert [gap[: len(said[0])] for gap in found] == said
    assert all("over a billion pairs of sentences" in gap for gap in found)
