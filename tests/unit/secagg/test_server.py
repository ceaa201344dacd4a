from dataclasses import replace

import numpy as np
import pytest

from fedtrain.errors import AggregationError, ConfigError, TransportError
from fedtrain.secagg import MaskedVector, UnmaskedShares
from tests.unit.secagg.federation import Federation, aggregate, plain_sum, vectors_of

FEDERATION = Federation(10)
NUMBERS = FEDERATION.numbers
PARAMETERS = FEDERATION.parameters(6)
VECTORS = vectors_of(PARAMETERS, NUMBERS)
THRESHOLD = 7


def masks(server, clients, lost=()):
    sent = {}
    for number in NUMBERS:
        if number not in lost:
            clients[number].begin(server.request)
            sent[number] = clients[number].mask(VECTORS[number].copy())
    return sent


def opened(lost=()):
    """Return a round in its second exchange, and the shares that its clients give."""
    server, clients = FEDERATION.round(PARAMETERS), FEDERATION.clients()
    for number, masked in masks(server, clients, lost).items():
        server.receive(number, masked)
    return server, {number: clients[number].unmask(request) for number, request in server.close().items()}


def wrong(shares, place=0, error=0x5A):
    data = bytearray(shares.own)
    data[place] ^= error
    return replace(shares, own=bytes(data))


def test_the_parameters_are_for_the_cohort():
    with pytest.raises(ConfigError, match="parameters for 10 members, and a cohort of 9"):
        FEDERATION.round(PARAMETERS, announcements=dict(list(FEDERATION.announcements.items())[1:]))


def test_announcements_are_sent_in_order():
    backwards = dict(reversed(FEDERATION.announcements.items()))
    assert FEDERATION.round(PARAMETERS, announcements=backwards).request == FEDERATION.round(PARAMETERS).request


def test_answers_may_come_in_any_order():
    server, clients = FEDERATION.round(PARAMETERS), FEDERATION.clients()
    for number, masked in reversed(masks(server, clients).items()):
        server.receive(number, masked)
    requests = server.close()
    assert not server.enough
    for place, number in enumerate(reversed(NUMBERS)):
        server.receive_shares(number, clients[number].unmask(requests[number]))
        assert server.enough == (place >= THRESHOLD - 1)
    result = server.finish()
    np.testing.assert_array_equal(result.total, plain_sum(VECTORS.values()))
    assert (result.survivors, result.silent, result.doubts) == (NUMBERS, (), ())


def test_an_answer_counts_once_in_its_exchange_and_from_the_cohort():
    server, clients = FEDERATION.round(PARAMETERS), FEDERATION.clients()
    sent = masks(server, clients)
    first, *others, last = NUMBERS
    with pytest.raises(TransportError, match="client 1 was not asked in exchange 1 of round 1"):
        server.receive(1, sent[first])
    with pytest.raises(TransportError, match="client 0 answered exchange 2 of round 1, which is not under way"):
        server.receive_shares(first, UnmaskedShares(own=b"", pairs=b"", unreadable=()))
    with pytest.raises(TransportError, match="round 1 is not in its second exchange"):
        server.finish()
    assert not server.enough
    for number in (first, *others):
        server.receive(number, sent[number])
    with pytest.raises(TransportError, match="client 0 answered exchange 1 of round 1 twice"):
        server.receive(first, sent[first])
    requests = server.close()
    with pytest.raises(TransportError, match="client 27 answered exchange 1 of round 1, which is not under way"):
        server.receive(last, sent[last])
    with pytest.raises(TransportError, match="the first exchange of round 1 was ended before"):
        server.close()
    for number, request in requests.items():
        server.receive_shares(number, clients[number].unmask(request))
    with pytest.raises(TransportError, match="client 0 answered exchange 2 of round 1 twice"):
        server.receive_shares(first, UnmaskedShares(own=b"", pairs=b"", unreadable=()))
    with pytest.raises(TransportError, match="client 27 was not asked in exchange 2 of round 1"):
        server.receive_shares(last, UnmaskedShares(own=b"", pairs=b"", unreadable=()))
    np.testing.assert_array_equal(server.finish().total, plain_sum(VECTORS[number] for number in (first, *others)))
    with pytest.raises(TransportError, match="round 1 is not in its second exchange"):
        server.finish()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: {"words": m.words[:-1]}, "client 0 sent 17 bytes of masked words, and 18 are expected"),
        (lambda m: {"words": np.append(m.words, m.words[:1])}, "19 bytes of masked words"),
        (lambda m: {"bundles": m.bundles[:-1]}, "client 0 sent 9 bundles of shares, and 10 are expected"),
        (lambda m: {"bundles": (*m.bundles[:-1], b"")}, "0 bytes in a bundle of shares, and 192 are expected"),
        (lambda m: {"commitments": m.commitments[:-1]}, "319 bytes of commitments, and 320 are expected"),
    ],
)
def test_a_masked_vector_of_another_size_is_refused(change, why):
    server, clients = FEDERATION.round(PARAMETERS), FEDERATION.clients()
    sent = masks(server, clients)
    with pytest.raises(TransportError, match=why):
        server.receive(0, replace(sent[0], **change(sent[0])))
    for number, masked in sent.items():
        server.receive(number, masked)
    for number, request in server.close().items():
        server.receive_shares(number, clients[number].unmask(request))
    np.testing.assert_array_equal(server.finish().total, plain_sum(VECTORS.values()))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: {"own": s.own[:-1]}, "client 0 sent 287 bytes of shares of self-masks, and 288 are expected"),
        (lambda s: {"pairs": s.pairs + b"1"}, "client 0 sent 145 bytes of shares of pair masks, and 144 are expected"),
    ],
)
def test_shares_of_another_size_are_refused(change, why):
    server, given = opened(lost=NUMBERS[-1:])
    with pytest.raises(TransportError, match=why):
        server.receive_shares(0, replace(given[0], **change(given[0])))
    server.receive_shares(0, given[0])


def test_too_few_masked_vectors_end_a_round():
    server, clients = FEDERATION.round(PARAMETERS), FEDERATION.clients()
    for number, masked in masks(server, clients, lost=NUMBERS[:4]).items():
        server.receive(number, masked)
    why = "^round 1 has no sum: 6 of 10 masked vectors came, and it takes 7; missing clients 0, 3, 6, 9$"
    with pytest.raises(AggregationError, match=why):
        server.close()
    # And the next begins.
    result = aggregate(FEDERATION.round(PARAMETERS, 2), clients, VECTORS, lost=NUMBERS[:1], silent=NUMBERS[8:])
    np.testing.assert_array_equal(result.total, plain_sum(VECTORS[number] for number in NUMBERS[1:]))


def test_too_few_shares_end_a_round_unless_more_come():
    server, given = opened(lost=NUMBERS[:1])
    for number in NUMBERS[1:7]:
        server.receive_shares(number, given[number])
    why = "the secrets of clients 3, .*, 27 take 7 shares each; no shares came from clients 21, 24, 27$"
    with pytest.raises(AggregationError, match=why):
        server.finish()
    server.receive_shares(24, given[24])
    result = server.finish()
    assert result.silent == (21, 27)
    np.testing.assert_array_equal(result.total, plain_sum(VECTORS[number] for number in NUMBERS[1:]))


def finished(liars, place=0):
    """Finish a round in which some give wrong shares, each with an error of its own."""
    server, given = opened()
    for number, shares in given.items():
        server.receive_shares(number, wrong(shares, place, 1 + number) if number in liars else shares)
    return server.finish()


@pytest.mark.parametrize("holder", [0, 12, 27])
@pytest.mark.parametrize(("place", "owner"), [(0, 0), (40, 3), (319, 27)])
def test_both_ends_of_a_wrong_share_are_named_and_the_sum_is_exact(holder, place, owner):
    result = finished({holder}, place)
    assert result.doubts == ((holder, owner),)
    np.testing.assert_array_equal(result.total, plain_sum(VECTORS.values()))


def test_a_dealer_of_a_wrong_share_does_not_put_the_blame_on_its_holder():
    # The dealer 27 changes what it deals to 6: the holder passes on what it was given.
    server, given = opened()
    for number, shares in given.items():
        server.receive_shares(number, wrong(shares, 32 * 9) if number == 6 else shares)
    assert server.finish().doubts == ((6, 27),)


def test_too_many_wrong_shares_end_the_round():
    with pytest.raises(AggregationError, match="of client 3 do not give what it committed to"):
        finished({12, 18}, 40)


def test_nobody_is_named_where_it_is_not_certain_which_share_is_wrong():
    result = finished({24, 27})
    assert result.doubts == ()
    np.testing.assert_array_equal(result.total, plain_sum(VECTORS.values()))


def test_errors_that_cancel_raise_doubts_about_nobody():
    # The Lagrange weights of the holders 1 to 7 at 0 are all 1, so that equal errors in two of them cancel in the
    # secret, and the polynomial through the seven shares misses those of the other three.
    server, given = opened()
    for number, shares in given.items():
        server.receive_shares(number, wrong(shares) if number in {0, 3} else shares)
    result = server.finish()
    assert result.doubts == ()
    np.testing.assert_array_equal(result.total, plain_sum(VECTORS.values()))


def dealt(unreadable, lost=()):
    """Return a round in its second exchange, and the shares given by holders of which some cannot read one owner's.

    Args:
        unreadable: by owner, the holders to whom it sends bundles that do not open.
        lost: who is lost in the first exchange.
    """
    server, clients = FEDERATION.round(PARAMETERS), FEDERATION.clients()
    for number, masked in masks(server, clients, lost).items():
        bundles = tuple(
            bytes(len(bundle)) if holder in unreadable.get(number, ()) else bundle
            for holder, bundle in zip(NUMBERS, masked.bundles, strict=True)
        )
        server.receive(number, replace(masked, bundles=bundles))
    return server, {number: clients[number].unmask(request) for number, request in server.close().items()}


@pytest.mark.parametrize("lost", [(), (9,)])
def test_bundles_that_do_not_open_cost_the_shares_of_their_owner_alone(lost):
    server, given = dealt({12: (6, 24), 15: (24,)}, lost)
    assert given[24].unreadable == (12, 15)
    for number, shares in given.items():
        server.receive_shares(number, shares)
    result = server.finish()
    assert result.doubts == ((6, 12), (24, 12), (24, 15))
    np.testing.assert_array_equal(result.total, plain_sum(VECTORS[number] for number in given))


def test_an_owner_whose_bundles_too_few_can_read_is_named_and_not_its_holders():
    server, given = dealt({12: NUMBERS[:4]})
    for number, shares in given.items():
        server.receive_shares(number, shares)
    assert not server.enough
    why = (
        "^round 1 has no sum: the secrets of client 12 take 7 shares each; the shares of client 12 could not be read "
        "by clients 0, 3, 6, 9: either may be at fault$"
    )
    with pytest.raises(AggregationError, match=why):
        server.finish()


def test_who_is_silent_is_named_beside_who_cannot_read():
    server, given = dealt({12: NUMBERS[:1]})
    for number in NUMBERS[:7]:
        server.receive_shares(number, given[number])
    why = "of client 12 take .* could not be read by client 0: either .*; no shares came from clients 21, 24, 27$"
    with pytest.raises(AggregationError, match=why):
        server.finish()
    server.receive_shares(21, given[21])
    assert server.finish().doubts == ((0, 12),)


def test_a_holder_that_says_falsely_that_it_can_read_nothing_ends_no_round():
    server, given = opened(lost=NUMBERS[:1])
    for number, shares in given.items():
        lie = UnmaskedShares(own=b"", pairs=b"", unreadable=NUMBERS[1:])
        server.receive_shares(number, lie if number == 27 else shares)
    result = server.finish()
    assert result.doubts == tuple((27, owner) for owner in NUMBERS[1:])
    np.testing.assert_array_equal(result.total, plain_sum(VECTORS[number] for number in NUMBERS[1:]))


@pytest.mark.parametrize("stranger", [0, 1])
def test_what_was_not_sent_cannot_be_unreadable(stranger):
    server, given = opened(lost=NUMBERS[:1])
    with pytest.raises(TransportError, match=f"client 3 could not read shares of client {stranger}, and it was sent"):
        server.receive_shares(3, replace(given[3], unreadable=(stranger,)))
    server.receive_shares(3, given[3])


def test_as_many_wrong_shares_as_half_of_the_surplus_are_named():
    cohort = Federation(20)
    parameters = cohort.parameters(3)
    vectors = vectors_of(parameters, cohort.numbers)
    liars = (0, 30, 57)
    assert (20 - parameters.threshold) // 2 == len(liars)
    result = aggregate(
        cohort.round(parameters),
        cohort.clients(),
        vectors,
        change=lambda number, shares: wrong(shares, 33 + number) if number in liars else shares,
    )
    assert result.doubts == tuple((liar, (33 + liar) // 32 * 3) for liar in liars)
    np.testing.assert_array_equal(result.total, plain_sum(vectors.values()))


def test_a_wrong_share_of_a_pair_is_found_too():
    server, given = opened(lost=NUMBERS[4:5])
    for number, shares in given.items():
        server.receive_shares(number, replace(shares, pairs=bytes(len(shares.pairs))) if number == 6 else shares)
    result = server.finish()
    assert result.doubts == tuple((6, owner) for owner in given)
    np.testing.assert_array_equal(result.total, plain_sum(VECTORS[number] for number in given))


def test_without_a_surplus_one_wrong_share_ends_the_round():
    server, given = opened()
    for number in NUMBERS[:THRESHOLD]:
        server.receive_shares(number, wrong(given[number], 70) if number == 3 else given[number])
    why = "^round 1 has no sum: the shares of the secrets of client 6 do not give .* its holders clients 0, 3, .*, 18$"
    with pytest.raises(AggregationError, match=why):
        server.finish()
    with pytest.raises(TransportError, match="not in its second exchange"):
        server.finish()


def test_a_client_that_committed_to_something_else_is_named():
    server, clients = FEDERATION.round(PARAMETERS), FEDERATION.clients()
    for number, masked in masks(server, clients).items():
        changed = replace(masked, commitments=bytes(32) + masked.commitments[32:]) if number == 12 else masked
        server.receive(number, changed)
    requests = server.close()
    for number, request in requests.items():
        shares = clients[number].unmask(request)
        server.receive_shares(number, wrong(shares) if number == 9 else shares)
    with pytest.raises(
        AggregationError, match=r"secrets of client 12 .* shares of other clients that did not fit came from client 9$"
    ):
        server.finish()


def test_a_survivor_without_enough_holders_is_named():
    cohort = Federation(201, "sparse")
    parameters = cohort.parameters(1)
    server = cohort.round(parameters)
    graph = server._graph
    unlucky = cohort.numbers[7]
    gone = graph.neighbours(unlucky)[: parameters.neighbours + 2 - parameters.threshold]
    empty = MaskedVector(
        words=np.zeros(parameters.width, dtype=np.uint8),
        bundles=(bytes(32 + 16 * parameters.neighbours + 16),) * (parameters.neighbours + 1),
        commitments=bytes(32 * (parameters.neighbours + 1)),
    )
    for number in cohort.numbers:
        if number not in gone:
            server.receive(number, empty)
    with pytest.raises(
        AggregationError, match=r"the secrets of client .* take 58 of its 87 holders, of whom are missing"
    ):
        server.close()


def test_a_flipped_byte_of_a_masked_vector_changes_the_sum_there_only():
    """Nothing in the protocol protects the words: they travel signed."""
    server, clients = FEDERATION.round(PARAMETERS), FEDERATION.clients()
    for number, masked in masks(server, clients).items():
        words = masked.words.copy()
        words[3] ^= number == 0
        server.receive(number, replace(masked, words=words))
    for number, request in server.close().items():
        server.receive_shares(number, clients[number].unmask(request))
    difference = server.finish().total - plain_sum(VECTORS.values())
    assert difference.view(np.int32).tolist() in ([0, 1, 0, 0, 0, 0], [0, -1, 0, 0, 0, 0])
