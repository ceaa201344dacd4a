import pytest

from fedtrain.ledger import Asked, Completed, Opened, SecureSum
from fedtrain.report import Dropped, RoundEntry, SecureAggregation
from fedtrain.report.transport import Transport, summary

A = "a" * 64
OPENED = Opened(
    run="run", mode="record", config=A, plan={}, noise="secure", roster=A, clients=3, rounds=2, fedtrain="0.1.0"
)
SUM = SecureSum(threshold=2, neighbours=2, bits=16, silent=())


def asked(number):
    return Asked(round=number, cohort=(0, 1, 2), model=A)


def completed(number, *, sealed=True, secagg=SUM):
    return Completed(
        round=number, model=A, updates=(), dropped=(), sealed=sealed, secagg=secagg, aggregate=A, clip_norm=1.0
    )


def run(*rounds):
    return [OPENED, *(record for last in rounds for record in (asked(last.round), last))]


@pytest.mark.parametrize(
    ("records", "sealed", "summed", "only_sums"),
    [
        (run(completed(1), completed(2)), True, True, True),
        (run(completed(1), completed(2, secagg=None)), True, True, False),
        (run(completed(1, sealed=False), completed(2)), False, True, True),
        (run(completed(1, secagg=None), completed(2, secagg=None)), True, False, False),
        (run(completed(1)), False, True, False),
        (run(completed(1), completed(1)), False, True, False),
        (run(completed(1), completed(2), completed(2)), True, True, True),
        (run(completed(1), completed(2), completed(2, secagg=None)), True, True, False),
        ([*run(completed(1), completed(2)), asked(2)], False, True, False),
        ([OPENED], False, False, False),
        ([], False, False, False),
    ],
    ids=[
        *("whole", "one seen", "one open", "all seen", "unfinished", "twice the same", "repeated", "repeated and seen"),
        *("lost", "no rounds", "nothing"),
    ],
)
def test_what_held_in_every_round_is_said_of_a_whole_run_alone(records, sealed, summed, only_sums):
    assert Transport.of(records) == Transport(sealed=sealed, summed=summed, only_sums=only_sums)


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
